//! Who a node is: [`NodeKey`], an Ed25519 key made at its first start, and [`NodeId`], its public half.
//!
//! The id is shown as 64 hexadecimal digits, in tables by its first eight; any beginning that is unambiguous
//! can stand for the whole.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::SigningKey;
pub use sterna_migration::NodeId;

/// An Ed25519 public key as RFC 8410 writes it: this, and 32 bytes.
const PUBLIC_HEAD: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// An Ed25519 private key as RFC 8410 writes it: this, and 32 bytes.
const PRIVATE_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// What the secret of resets is derived for.
const RESETS: &str = "sterna 2026-11-30 stateless resets";
const FILE_HEAD: &str = "sterna node key 1";
const FILE_BYTES_MAX: u64 = 1024;

/// Why a node's key could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("could not {what} the node's key {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can read it.
    #[error("the node's key {} is open to other users (mode {mode:o}): whoever has read it can pose as this node; \
             if nobody has, close it with `chmod 600 {}`", path.display(), path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is not a key.
    #[error("the node's key {} is damaged or of a newer version: restore it; without it this node has \
             to be removed from its cluster and to join again as a new one", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
}

/// The secret by which a node proves who it is. Its text and `Debug` show the id only.
#[derive(Clone)]
pub struct NodeKey {
    id: NodeId,
    signing: Arc<dyn SigningKey>,
    resets: [u8; 32],
}

impl NodeKey {
    /// The key in a file, which is made if it is not there, readable by its owner alone.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn load_or_make(path: &Path) -> Result<Self, KeyError> {
        let failed = |what| {
            move |source| KeyError::File {
                what,
                path: path.to_owned(),
                source,
            }
        };
        let made = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(path);
        match made {
            Ok(mut file) => {
                let text = format!("{FILE_HEAD}\n{}\n", hex(&random::<32>()));
                let written = file.write_all(text.as_bytes());
                written
                    .and_then(|()| file.sync_all())
                    .map_err(failed("write"))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make")(error)),
        }
        let file = File::open(path).map_err(failed("open"))?;
        let mode = file.metadata().map_err(failed("open"))?.mode() & 0o777;
        if mode & 0o077 != 0 {
            let path = path.to_owned();
            return Err(KeyError::Open { path, mode });
        }
        let mut text = String::new();
        file.take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(failed("read"))?;
        let seed = match text.lines().collect::<Vec<_>>()[..] {
            [FILE_HEAD, digits] => unhex(digits),
            _ => None,
        };
        seed.map(|seed| Self::from_seed(&seed))
            .ok_or_else(|| KeyError::Damaged {
                path: path.to_owned(),
            })
    }

    /// A key of its own for whoever has no file.
    #[must_use]
    pub fn random() -> Self {
        Self::from_seed(&random())
    }

    fn from_seed(seed: &[u8; 32]) -> Self {
        let private = [&PRIVATE_HEAD[..], seed].concat();
        let signing = any_eddsa_type(&PrivatePkcs8KeyDer::from(private))
            .expect("any 32 bytes are an Ed25519 key");
        let public = signing.public_key();
        let id = public
            .and_then(|public| id_of(&public))
            .expect("an Ed25519 key has an Ed25519 public key");
        Self {
            id,
            signing,
            resets: blake3::derive_key(RESETS, seed),
        }
    }

    /// The node that has this key.
    #[must_use]
    pub const fn id(&self) -> NodeId {
        self.id
    }

    pub(crate) fn signing(&self) -> Arc<dyn SigningKey> {
        Arc::clone(&self.signing)
    }

    /// By which others learn that a connection which this node no longer knows was its own (RFC 9000, 10.3): the same
    /// after each start.
    pub(crate) const fn resets(&self) -> &[u8; 32] {
        &self.resets
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({}, secret)", self.id)
    }
}

/// The node whose public key this is, in the encoding of RFC 8410; nothing else is taken.
pub(crate) fn id_of(public: &[u8]) -> Option<NodeId> {
    let key = public.strip_prefix(&PUBLIC_HEAD)?;
    Some(NodeId::from_bytes(key.try_into().ok()?))
}

/// The public key of a node, encoded.
pub(crate) fn public_key(id: NodeId) -> Vec<u8> {
    [&PUBLIC_HEAD[..], id.as_bytes()].concat()
}

/// The whole id, as 64 digits.
#[must_use]
pub fn text(id: NodeId) -> String {
    hex(id.as_bytes())
}

/// The id of which this is the whole text.
#[must_use]
pub fn parse(text: &str) -> Option<NodeId> {
    unhex(text).map(NodeId::from_bytes)
}

/// Bytes from the kernel's random generator (`getrandom(2)`).
pub(crate) fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let mut filled = 0;
    while filled < BYTES {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut bytes[filled..], flags)
            .expect("the kernel has randomness for whoever waits");
    }
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&digits[index * 2..][..2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_private_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.key");
        let key = NodeKey::load_or_make(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(NodeKey::load_or_make(&path).unwrap().id(), key.id());
        assert_eq!(parse(&text(key.id())), Some(key.id()));
        let secret = fs::read_to_string(&path).unwrap();
        assert!(!secret.contains(&text(key.id())));
        assert!(!format!("{key:?}").contains(secret.lines().nth(1).unwrap()));

        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            NodeKey::load_or_make(&path),
            Err(KeyError::Open { mode: 0o640, .. })
        ));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        for damaged in [
            "",
            "sterna node key 1\nxyz\n",
            &secret[..60],
            "sterna node key 2\n",
        ] {
            fs::write(&path, damaged).unwrap();
            assert!(matches!(
                NodeKey::load_or_make(&path),
                Err(KeyError::Damaged { .. })
            ));
        }
    }

    #[test]
    fn ids_are_public_keys() {
        // RFC 8032, section 7.1, test 1.
        let seed =
            unhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let id = NodeKey::from_seed(&seed).id();
        let expected = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(text(id), expected);
        assert_eq!(id_of(&public_key(id)), Some(id));
        assert_eq!(id_of(&public_key(id)[..43]), None);
        assert_eq!(parse("d75a"), None);
    }
}
