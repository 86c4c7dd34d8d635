//! What is said on a process's control socket.
//!
//! A message is a length (u32, little-endian) and as many bytes of JSON: an [`Envelope`] with the protocol's
//! version around a [`Request`] or [`Reply`]. A connection carries one request; replies are any number of
//! [`Reply::Progress`] and then one other. Both ends check that the other is the same user.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::geteuid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sterna_process::{Description, MemoryLayout, ProcessId, Stats};

/// Version of the protocol.
const VERSION: u32 = 1;
/// Longest message. Descriptions have a bounded number of frames, but names may be long.
const MESSAGE_BYTES_MAX: u32 = 16 << 20;

/// What is asked of a process's host.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// What it has used.
    Status,
    /// What it is doing.
    Describe,
    /// Write it into a file.
    Freeze(FreezeOrder),
    /// Let it stand still.
    Pause,
    /// Let it run on.
    Resume,
    /// End it.
    Kill,
}

/// How to freeze.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FreezeOrder {
    /// The file, as an absolute path.
    pub(crate) file: PathBuf,
    /// Let the process run on here.
    pub(crate) keep: bool,
    /// Leave the program's bytes out.
    pub(crate) thin: bool,
}

/// What a host answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// So many bytes of so many are written; more will follow.
    Progress { done: u64, total: u64 },
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Describe`].
    Described(Box<Described>),
    /// To [`Request::Freeze`].
    Frozen(FreezeReport),
    /// To the others.
    Done,
    /// It was not done, and why.
    Failed { message: String },
}

/// A process as `ps` shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) stats: Stats,
    /// What its owner is doing with it, e.g. `being frozen`.
    pub(crate) doing: Option<String>,
}

/// A live process as `inspect` shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Described {
    pub(crate) status: Status,
    pub(crate) description: Description,
    pub(crate) layout: MemoryLayout,
    /// The architecture of the processor that it runs on.
    pub(crate) processor: String,
    /// How it came here, if it was thawed.
    pub(crate) thaw: Option<ThawReport>,
}

/// What freezing took. Times are in microseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FreezeReport {
    pub(crate) process: ProcessId,
    pub(crate) name: String,
    pub(crate) file: PathBuf,
    /// Whether the process runs on.
    pub(crate) kept: bool,
    /// Whether the program's bytes were left out.
    pub(crate) thin: bool,
    /// Length of the file.
    pub(crate) image_bytes: u64,
    /// Length of the program in it, not compressed; 0 if it is thin.
    pub(crate) program_bytes: u64,
    /// Pages with contents, of 4096 bytes.
    pub(crate) pages_stored: u64,
    /// Pages of zeros, only named.
    pub(crate) pages_zero: u64,
    /// Calls the process was in.
    pub(crate) frames: u64,
    /// From the request until it stood still. This and the next two are not known of one on a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pause_us: Option<u64>,
    /// Capturing all but the pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) capture_us: Option<u64>,
    /// Copying the pages, if it was to run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) copy_us: Option<u64>,
    /// Writing the file until it was safe on disk.
    pub(crate) write_us: u64,
    /// For how long it stood still; if it does not run on, until the file was safe.
    pub(crate) stopped_us: u64,
}

/// What thawing took. Times are in microseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ThawReport {
    pub(crate) process: ProcessId,
    pub(crate) name: String,
    pub(crate) image_bytes: u64,
    pub(crate) pages: u64,
    /// Opening the file and checking all but the pages.
    pub(crate) open_us: u64,
    /// Getting the program ready: compiling it, if it was not in the cache.
    pub(crate) program_us: u64,
    /// Making room and reading the pages.
    pub(crate) pages_us: u64,
    /// Making the process.
    pub(crate) restore_us: u64,
    /// All of it, until it ran.
    pub(crate) total_us: u64,
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    body: T,
}

/// Sends a message.
pub(crate) fn send(stream: &mut UnixStream, body: &impl Serialize) -> Result<()> {
    let envelope = Envelope {
        version: VERSION,
        body,
    };
    let json = serde_json::to_vec(&envelope).context("could not write a message")?;
    let length = u32::try_from(json.len())
        .ok()
        .filter(|&length| length <= MESSAGE_BYTES_MAX)
        .context("a message is too long")?;
    let mut message = length.to_le_bytes().to_vec();
    message.extend_from_slice(&json);
    Ok(stream.write_all(&message)?)
}

/// Receives a message; `None` if the other end closed the connection before it.
pub(crate) fn receive<T: DeserializeOwned>(stream: &mut UnixStream) -> Result<Option<T>> {
    let mut length = [0; 4];
    match stream.read(&mut length)? {
        0 => return Ok(None),
        got => stream.read_exact(&mut length[got..])?,
    }
    let length = u32::from_le_bytes(length);
    ensure!(
        length <= MESSAGE_BYTES_MAX,
        "a message of {length} bytes is too long"
    );
    let mut json = Vec::new();
    // Memory is taken as bytes come, not as they are announced.
    let got = stream.take(length.into()).read_to_end(&mut json)?;
    if got < length as usize {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let envelope: Envelope<serde_json::Value> =
        serde_json::from_slice(&json).context("a message is not in the form it should have")?;
    if envelope.version != VERSION {
        bail!(
            "the other end speaks version {} of the protocol, this is version {VERSION}: \
             use the version of sterna that runs the process",
            envelope.version
        );
    }
    serde_json::from_value(envelope.body).context("a message is not understood")
}

/// Fails unless the other end is the same user.
pub(crate) fn check_peer(stream: &UnixStream) -> Result<()> {
    let peer = sterna_sys::identity::peer_credentials(stream)?;
    let us = geteuid().as_raw();
    ensure!(
        peer.uid == us,
        "the other end belongs to user {}, we are user {us}",
        peer.uid
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(bytes: &[u8]) -> Result<Option<Request>> {
        let (mut one, mut other) = UnixStream::pair()?;
        one.write_all(bytes)?;
        drop(one);
        receive(&mut other)
    }

    #[test]
    fn messages_arrive_or_are_refused() {
        let (mut one, mut other) = UnixStream::pair().unwrap();
        check_peer(&one).unwrap();
        send(&mut one, &Request::Kill).unwrap();
        assert!(matches!(receive(&mut other).unwrap(), Some(Request::Kill)));

        let framed = |json: &str| [&(json.len() as u32).to_le_bytes(), json.as_bytes()].concat();
        assert!(received(b"").unwrap().is_none());
        let wrong = |bytes: &[u8]| format!("{:#}", received(bytes).unwrap_err());
        assert!(wrong(&u32::MAX.to_le_bytes()).contains("too long"));
        assert!(wrong(b"\x10\0\0\0{}").contains("end of file"));
        assert!(wrong(b"\x10\0").contains("fill whole buffer"));
        assert!(wrong(&framed("{]")).contains("form"));
        assert!(wrong(&framed(r#"{"version":1,"body":"jump"}"#)).contains("not understood"));
        assert!(wrong(&framed(r#"{"version":9,"body":"kill"}"#)).contains("version 9"));
    }
}
