//! TLS in which a key is a node: both sides present raw public keys (RFC 7250), and there are no certificates.
//!
//! Whoever dials names the node that it wants and talks to no other. Whoever is dialled learns the other's key
//! and lets the [door](crate::door) decide what it may ask for. Nothing here depends on a clock.

use std::sync::{Arc, OnceLock};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    PeerMisbehaved, ServerConfig, SignatureScheme, version::TLS13,
};

use crate::identity::{NodeId, NodeKey, id_of, public_key};

/// What is spoken inside: so that a stranger's QUIC is refused before anything else.
const ALPN: &[u8] = b"sterna-node";
/// TLS wants a name; nobody looks at this one.
pub(crate) const SERVER_NAME: &str = "node.sterna.invalid";

/// For those who dial in.
pub(crate) fn server(key: &NodeKey) -> QuicServerConfig {
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .expect("ring has TLS 1.3")
        .with_client_cert_verifier(Arc::new(Peer {
            expected: None,
            found: Arc::default(),
            provider,
        }))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own(key))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Each connection proves its key anew.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    QuicServerConfig::try_from(config).expect("ring has the cipher of QUIC's first packets")
}

/// For dialling one node. Who answers is told through `found`.
pub(crate) fn client(
    key: &NodeKey,
    node: NodeId,
    found: &Arc<OnceLock<NodeId>>,
) -> QuicClientConfig {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .expect("ring has TLS 1.3")
        .dangerous() // what rustls calls whatever is not the web's PKI
        .with_custom_certificate_verifier(Arc::new(Peer {
            expected: Some(node),
            found: Arc::clone(found),
            provider,
        }))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(own(key))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    QuicClientConfig::try_from(config).expect("ring has the cipher of QUIC's first packets")
}

/// Who is at the other end of a connection.
pub(crate) fn peer(connection: &quinn::Connection) -> Option<NodeId> {
    let identity = connection.peer_identity()?;
    let keys = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    id_of(keys.first()?)
}

fn own(key: &NodeKey) -> Arc<CertifiedKey> {
    let public = CertificateDer::from(public_key(key.id()));
    Arc::new(CertifiedKey::new(vec![public], key.signing()))
}

/// Accepts the key of one node, or of any; that the other has its secret half is proved by the handshake.
#[derive(Debug)]
struct Peer {
    expected: Option<NodeId>,
    found: Arc<OnceLock<NodeId>>,
    provider: Arc<CryptoProvider>,
}

impl Peer {
    fn check(&self, key: &CertificateDer<'_>) -> Result<(), Error> {
        let id = id_of(key).ok_or(CertificateError::BadEncoding)?;
        if self.expected.is_some() {
            let _ = self.found.set(id);
        }
        match self.expected.is_none_or(|expected| expected == id) {
            true => Ok(()),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
    }

    fn old() -> Error {
        PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into()
    }
}

impl ServerCertVerifier for Peer {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(key).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Self::old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Peer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(key).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Self::old())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
