//! Proof that the registry has moved: [`Handover`], signed by the node that served it before.
//!
//! Whoever knows the old home believes the new one on this, from whomever it hears it, even if the old one is gone.
//! Handovers are numbered for the whole cluster, so an old one is not followed again.

use rustls::SignatureScheme;
use rustls::crypto::ring;
use serde::{Deserialize, Serialize};
use sterna_migration::NodeId;

use crate::identity::NodeKey;

const CONTEXT: &[u8] = b"sterna node v1: the registry moves\0";

/// The registry of a cluster goes from one node to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// Who served it.
    pub from: NodeId,
    /// Who serves it from then on.
    pub to: NodeId,
    /// Greater than that of all before: its time in milliseconds since 1970, or one more than the last.
    pub number: u64,
    /// Ed25519, by the key of `from`.
    signature: Vec<u8>,
}

impl Handover {
    /// One of this key's node.
    ///
    /// # Panics
    /// Never: the key is an Ed25519 key.
    #[must_use]
    pub fn sign(key: &NodeKey, to: NodeId, number: u64) -> Self {
        let signer = key.signing().choose_scheme(&[SignatureScheme::ED25519]);
        let signer = signer.expect("an Ed25519 key signs so");
        let signature = signer.sign(&said(key.id(), to, number));
        Self {
            from: key.id(),
            to,
            number,
            signature: signature.expect("an Ed25519 key signs anything"),
        }
    }

    /// Whether `from` has signed it.
    #[must_use]
    pub fn is_genuine(&self) -> bool {
        let algorithms = ring::default_provider().signature_verification_algorithms;
        let said = said(self.from, self.to, self.number);
        algorithms
            .mapping
            .iter()
            .filter(|(scheme, _)| *scheme == SignatureScheme::ED25519)
            .flat_map(|(_, algorithms)| *algorithms)
            .any(|algorithm| {
                let key = self.from.as_bytes();
                algorithm
                    .verify_signature(key, &said, &self.signature)
                    .is_ok()
            })
    }
}

/// Where handovers lead from a home that has had so many: all that are to be followed, in order.
#[must_use]
pub fn route(mut home: NodeId, mut number: u64, handovers: &[Handover]) -> Vec<Handover> {
    let mut route = Vec::new();
    while let Some(next) = handovers
        .iter()
        .filter(|next| next.from == home && next.number > number && next.is_genuine())
        .min_by_key(|next| next.number)
    {
        (home, number) = (next.to, next.number);
        route.push(next.clone());
    }
    route
}

fn said(from: NodeId, to: NodeId, number: u64) -> Vec<u8> {
    [
        CONTEXT,
        from.as_bytes(),
        to.as_bytes(),
        &number.to_le_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_old_home_can_hand_over_and_each_time_once() {
        let (a, b, c) = (NodeKey::random(), NodeKey::random(), NodeKey::random());
        let first = Handover::sign(&a, b.id(), 1);
        let back = Handover::sign(&b, a.id(), 2);
        let on = Handover::sign(&a, c.id(), 3);
        let all = [on.clone(), first.clone(), back.clone()];
        assert_eq!(
            route(a.id(), 0, &all),
            [first.clone(), back.clone(), on.clone()]
        );
        assert_eq!(route(b.id(), 1, &all), [back, on.clone()]);
        assert_eq!(route(c.id(), 3, &all), []);
        // Nobody goes back to where it was after the first.
        assert_eq!(route(a.id(), 2, std::slice::from_ref(&first)), []);
        for forged in [
            Handover {
                to: c.id(),
                ..first.clone()
            },
            Handover {
                number: 9,
                ..first.clone()
            },
            Handover {
                from: a.id(),
                ..Handover::sign(&c, b.id(), 1)
            },
            Handover {
                signature: Vec::new(),
                ..first
            },
        ] {
            assert!(!forged.is_genuine());
            assert_eq!(route(a.id(), 0, &[forged]), []);
        }
    }
}
