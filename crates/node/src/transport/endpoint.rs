//! What a transport speaks and is spoken to through: sockets, and QUIC's endpoints on them.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::crypto::{CryptoError, HmacKey};
use quinn::{Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig};
use quinn_proto::HashedConnectionIdGenerator;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use crate::identity::NodeKey;
use crate::limits::{IDLE_MAX, REQUESTS_MAX};
use crate::tls;

/// The port of nodes, unless another is named.
pub const DEFAULT_PORT: u16 = 7355;
/// Of a stream and of a connection: bytes that a peer may send before they are read.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// What a node speaks and is spoken to through, before it does.
pub(crate) struct Sockets {
    listening: UdpSocket,
    dialling: UdpSocket,
    /// Where it listens.
    pub(crate) bound: SocketAddr,
}

impl Sockets {
    /// Listens. Without an address on all of them, at the default port.
    pub(crate) fn bind(address: Option<SocketAddr>) -> io::Result<Self> {
        let listening = match address {
            Some(address) => listen(address)?,
            None => {
                let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, DEFAULT_PORT));
                let old = SocketAddr::from((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT));
                // Only a machine without IPv6 has another reason than a taken port.
                listen(all).or_else(|error| match error.kind() {
                    io::ErrorKind::AddrInUse => Err(error),
                    _ => listen(old),
                })?
            }
        };
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let dialling = listen(any).or_else(|_| listen((Ipv4Addr::UNSPECIFIED, 0).into()))?;
        let bound = listening.local_addr()?;
        Ok(Self {
            listening,
            dialling,
            bound,
        })
    }

    /// Where others dial in, and from where this node dials.
    pub(super) fn endpoints(self, key: &NodeKey) -> io::Result<[Endpoint; 2]> {
        let mut server = ServerConfig::with_crypto(Arc::new(tls::server(key)));
        server.transport_config(Arc::new(limits()));
        let endpoint = |config, server, socket| {
            let runtime = Arc::new(TokioRuntime);
            Endpoint::new(config, server, socket, runtime)
        };
        Ok([
            endpoint(resetting(key), Some(server), self.listening)?,
            endpoint(EndpointConfig::default(), None, self.dialling)?,
        ])
    }
}

/// What tokens of resets are derived from.
struct ResetKey([u8; 32]);

impl ResetKey {
    fn hash(&self, data: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(&self.0, data)
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(self.hash(data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // In constant time.
        match self.hash(data) == *signature {
            true => Ok(()),
            false => Err(CryptoError),
        }
    }
}

/// An endpoint that knows the connections of the one before it as such, and resets them: so others notice at once that
/// a node was started again, and do not wait for answers that will not come.
fn resetting(key: &NodeKey) -> EndpointConfig {
    let secret = ResetKey(*key.resets());
    // Their hash is a weak one, and must not tell anything of that.
    let ids = secret.hash(b"ids");
    let ids = u64::from_le_bytes(*ids.as_bytes().first_chunk().expect("it has 32"));
    let mut config = EndpointConfig::new(Arc::new(secret));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
    config
}

/// What QUIC itself lets a peer do.
pub(super) fn limits() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(REQUESTS_MAX.into())
        .max_concurrent_uni_streams(0_u8.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(CONNECTION_WINDOW_BYTES.into())
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(IDLE_MAX.try_into().ok())
        .keep_alive_interval(Some(IDLE_MAX / 3));
    config
}

/// A UDP socket that, if it is bound to all of IPv6, takes IPv4 as well, whatever the system's default is.
fn listen(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &address)?;
    Ok(socket.into())
}

/// Where others can reach a socket that is bound so: the addresses of this machine that lead outside, and if there
/// is none, itself.
pub(crate) fn reachable_at(bound: SocketAddr) -> Vec<SocketAddr> {
    if !bound.ip().is_unspecified() {
        return vec![bound];
    }
    let port = bound.port();
    // Addresses of documentation (RFC 5737, RFC 3849). Connecting a UDP socket sends nothing, and tells the route.
    let routes = [
        ("0.0.0.0:0", "192.0.2.1:9", true),
        ("[::]:0", "[2001:db8::1]:9", bound.is_ipv6()),
    ];
    let mut found = Vec::new();
    for (from, to, usable) in routes {
        let local = || {
            let socket = UdpSocket::bind(from)?;
            socket.connect(to)?;
            socket.local_addr()
        };
        if let (true, Ok(local)) = (usable, local())
            && !local.ip().is_unspecified()
        {
            found.push(SocketAddr::new(local.ip(), port));
        }
    }
    if found.is_empty() {
        found.push((Ipv4Addr::LOCALHOST, port).into());
    }
    found
}
