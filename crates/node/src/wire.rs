//! Frames: how requests and replies lie in a stream of bytes, and how two sides agree on a version.
//!
//! ```text
//! connection   hello ─────────► ◄───────── hello      once
//! hello        │ "STND" │ oldest u16 │ newest u16 │ clock u64: ms since 1970 │     never changes
//! request      │ length u32 │ body │                  answered by a frame of the same form
//! ```
//!
//! Integers outside of the body are little-endian; the body is in
//! [postcard](https://postcard.jamesmunns.com/wire-format), by the schema of the version that both sides have in
//! common. A node speaks the newest version and the one before it, so that a cluster is upgraded node by node.
//! Memory is taken as bytes come, never as they are announced.

use std::io::{self, Read, Write};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sterna_sys::messages;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Versions that this program speaks: the newest and the one before. What is different in 3: messages of moves are in
/// their version 3. Bytes of all that was there before are in the tests.
pub const VERSIONS: RangeInclusive<u16> = 2..=3;
/// Length of a [`Hello`].
pub const HELLO_BYTES: usize = 16;

const MAGIC: [u8; 4] = *b"STND";
const LENGTH_BYTES: usize = 4;
/// So much memory is taken before as many bytes have come.
const PIECE_BYTES: usize = 64 << 10;

/// Why the other end's bytes are not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// It speaks something else.
    #[error("the other end is not a node of Sterna")]
    Foreign,
    /// The two have no version in common.
    #[error(
        "the other end speaks {} of the protocol, this one {}: upgrade sterna {}",
        named(theirs),
        named(ours),
        older(theirs, ours)
    )]
    Version {
        /// What it speaks.
        theirs: RangeInclusive<u16>,
        /// What is spoken here.
        ours: RangeInclusive<u16>,
    },
    /// The frame is longer than its kind may be.
    #[error("a message of {bytes} bytes is too long: {max} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// It ended in the middle.
    #[error("the other end stopped in the middle of a message")]
    CutShort,
    /// It did not come, or was not taken, in time.
    #[error("the other end took longer than {within:?}")]
    TimedOut {
        /// The limit.
        within: Duration,
    },
    /// Its body is no message of this version, or has more than one.
    #[error("a message is not understood")]
    Malformed,
    /// The connection is broken.
    #[error("the connection is broken")]
    Io(#[source] io::Error),
}

impl WireError {
    /// Whether it says something of the connection, and nothing of the message.
    pub(crate) const fn is_of_connection(&self) -> bool {
        matches!(self, Self::Io(_) | Self::TimedOut { .. } | Self::CutShort)
    }
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::CutShort,
            _ => Self::Io(error),
        }
    }
}

fn named(versions: &RangeInclusive<u16>) -> String {
    match versions.start() == versions.end() {
        true => format!("version {}", versions.start()),
        false => format!("versions {} to {}", versions.start(), versions.end()),
    }
}

/// Which end has to be upgraded.
fn older(theirs: &RangeInclusive<u16>, ours: &RangeInclusive<u16>) -> &'static str {
    match theirs.end() < ours.start() {
        true => "there",
        false => "here",
    }
}

/// Versions that a node speaks: some of [`VERSIONS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions(RangeInclusive<u16>);

impl Versions {
    /// All that this program speaks.
    pub const ALL: Self = Self(VERSIONS);

    /// One of them alone, as if this program were an older or a newer one: for tests of upgrades.
    #[must_use]
    pub fn only(version: u16) -> Option<Self> {
        VERSIONS
            .contains(&version)
            .then_some(Self(version..=version))
    }

    /// In which version messages of moves are written at best.
    pub(crate) fn of_moves(&self) -> u16 {
        of_moves(*self.0.end())
    }
}

impl std::ops::Deref for Versions {
    type Target = RangeInclusive<u16>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// In which version messages of moves are written where this version of the protocol is spoken.
pub(crate) const fn of_moves(protocol: u16) -> u16 {
    match protocol {
        2 => 2,
        _ => 3,
    }
}

/// The first thing that each side says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Versions that it speaks.
    pub versions: RangeInclusive<u16>,
    /// What its clock says, in milliseconds since 1970.
    pub now_ms: u64,
}

impl Hello {
    /// What is said by who speaks these.
    #[must_use]
    pub fn of(versions: &RangeInclusive<u16>) -> Self {
        Self {
            versions: versions.clone(),
            now_ms: now_ms(),
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.versions.start().to_le_bytes());
        bytes[6..8].copy_from_slice(&self.versions.end().to_le_bytes());
        bytes[8..].copy_from_slice(&self.now_ms.to_le_bytes());
        bytes
    }

    /// The hello with these bytes.
    ///
    /// # Errors
    /// Not a hello.
    pub fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<Self, WireError> {
        let [m0, m1, m2, m3, o0, o1, n0, n1, now @ ..] = *bytes;
        let versions = u16::from_le_bytes([o0, o1])..=u16::from_le_bytes([n0, n1]);
        match [m0, m1, m2, m3] == MAGIC && !versions.is_empty() {
            true => Ok(Self {
                versions,
                now_ms: u64::from_le_bytes(now),
            }),
            false => Err(WireError::Foreign),
        }
    }

    /// The newest version that it has in common with `ours`.
    ///
    /// # Errors
    /// There is none.
    pub fn version(&self, ours: &RangeInclusive<u16>) -> Result<u16, WireError> {
        let newest = *ours.end().min(self.versions.end());
        match newest >= *ours.start() && newest >= *self.versions.start() {
            true => Ok(newest),
            false => Err(WireError::Version {
                theirs: self.versions.clone(),
                ours: ours.clone(),
            }),
        }
    }

    /// By how much the other clock is ahead of ours, in milliseconds.
    #[must_use]
    pub fn clock_ahead_ms(&self) -> i64 {
        let difference = i128::from(self.now_ms) - i128::from(now_ms());
        let bounds = i128::from(i64::MIN)..=i128::from(i64::MAX);
        difference.clamp(*bounds.start(), *bounds.end()) as i64
    }
}

/// This machine's clock, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let ms = since.unwrap_or_default().as_millis();
    ms.try_into().unwrap_or(u64::MAX)
}

/// A message as a frame.
///
/// # Errors
/// It is too long.
pub fn encode(message: &impl Serialize, max: usize) -> Result<Vec<u8>, WireError> {
    let mut frame = vec![0; LENGTH_BYTES];
    let body = postcard::to_stdvec(message).map_err(|_| WireError::Malformed)?;
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= max);
    let length = length.ok_or(WireError::TooLong {
        bytes: body.len(),
        max,
    })?;
    frame.copy_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// A value as bytes, without a frame.
pub(crate) fn encode_plain(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain values can be written")
}

/// The message with this body; nothing may be left over.
///
/// # Errors
/// It is not one.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        _ => Err(WireError::Malformed),
    }
}

fn announced(length: [u8; LENGTH_BYTES], max: usize) -> Result<u64, WireError> {
    let bytes = u32::from_le_bytes(length);
    match usize::try_from(bytes).is_ok_and(|bytes| bytes <= max) {
        true => Ok(bytes.into()),
        false => Err(WireError::TooLong {
            bytes: bytes as usize,
            max,
        }),
    }
}

/// Reads a frame and the message in it.
///
/// # Errors
/// It is too long, comes too late, ends too early, or is no message.
pub async fn receive<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    max: usize,
    within: Duration,
) -> Result<T, WireError> {
    let body = timeout(within, async {
        let mut length = [0; LENGTH_BYTES];
        from.read_exact(&mut length).await?;
        let bytes = announced(length, max)?;
        let mut body = Vec::new();
        match from.take(bytes).read_to_end(&mut body).await? as u64 == bytes {
            true => Ok(body),
            false => Err(WireError::CutShort),
        }
    });
    decode(&body.await.map_err(|_| WireError::TimedOut { within })??)
}

/// Writes a message as a frame.
///
/// # Errors
/// It is too long, or is not taken in time.
pub async fn send(
    to: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
    max: usize,
    within: Duration,
) -> Result<(), WireError> {
    let frame = encode(message, max)?;
    let written = timeout(within, to.write_all(&frame)).await;
    Ok(written.map_err(|_| WireError::TimedOut { within })??)
}

/// Says hello and hears it, in that order: for both ends, of which this one speaks `ours`.
///
/// # Errors
/// The other end is something else, has no version in common, or takes too long.
pub async fn greet(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    ours: &RangeInclusive<u16>,
    within: Duration,
) -> Result<Hello, WireError> {
    let both = timeout(within, async {
        to.write_all(&Hello::of(ours).encode()).await?;
        let mut bytes = [0; HELLO_BYTES];
        from.read_exact(&mut bytes).await?;
        Hello::decode(&bytes)
    });
    let hello = both.await.map_err(|_| WireError::TimedOut { within })??;
    hello.version(ours).map(|_| hello)
}

/// [`greet`] for a thread that may wait.
///
/// # Errors
/// As of that.
pub fn greet_now(stream: &mut UnixStream, within: Duration) -> Result<Hello, WireError> {
    stream.set_read_timeout(Some(within))?;
    stream.set_write_timeout(Some(within))?;
    stream.write_all(&Hello::of(&VERSIONS).encode())?;
    let mut bytes = [0; HELLO_BYTES];
    stream.read_exact(&mut bytes).map_err(timed(within))?;
    let hello = Hello::decode(&bytes)?;
    hello.version(&VERSIONS).map(|_| hello)
}

/// [`receive`] for a thread that may wait, with the descriptors that come beside the message.
///
/// # Errors
/// As of that.
pub fn receive_now<T: DeserializeOwned>(
    stream: &UnixStream,
    max: usize,
    within: Duration,
) -> Result<(T, Vec<OwnedFd>), WireError> {
    let until = Instant::now() + within;
    let mut descriptors = Vec::new();
    let mut fill = |mut buffer: &mut [u8]| -> Result<(), WireError> {
        while !buffer.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(WireError::TimedOut { within });
            }
            stream.set_read_timeout(Some(left))?;
            match messages::receive(stream, buffer, &mut descriptors) {
                Ok(0) => return Err(WireError::CutShort),
                Ok(got) => buffer = &mut buffer[got..],
                Err(messages::ReceiveError::Os(error)) => return Err(timed(within)(error)),
                Err(_) => return Err(WireError::Malformed),
            }
        }
        Ok(())
    };
    let mut length = [0; LENGTH_BYTES];
    fill(&mut length)?;
    // Memory is taken as bytes come.
    let mut left = announced(length, max)? as usize;
    let mut body = Vec::new();
    while left > 0 {
        let start = body.len();
        body.resize(start + left.min(PIECE_BYTES), 0);
        fill(&mut body[start..])?;
        left -= body.len() - start;
    }
    Ok((decode(&body)?, descriptors))
}

/// What a time-out of a socket is to who waits.
fn timed(within: Duration) -> impl Fn(io::Error) -> WireError {
    move |error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => WireError::TimedOut { within },
        _ => error.into(),
    }
}

/// Says hello, asks something with descriptors, lets go of them, and reads the answer. Time-outs are those of the stream.
///
/// # Errors
/// As of [`greet`], [`send`] and [`receive`].
pub fn ask<Q: Serialize, A: DeserializeOwned>(
    stream: &mut UnixStream,
    question: &Q,
    descriptors: Vec<impl AsFd>,
    question_max: usize,
    answer_max: usize,
) -> Result<A, WireError> {
    stream.write_all(&Hello::of(&VERSIONS).encode())?;
    let mut hello = [0; HELLO_BYTES];
    stream.read_exact(&mut hello)?;
    Hello::decode(&hello)?.version(&VERSIONS)?;
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let sent = messages::send(stream, &encode(question, question_max)?, &borrowed);
    drop(descriptors);
    sent.map_err(|error| match error {
        messages::SendError::Os { source, .. } => source.into(),
        _ => WireError::Malformed,
    })?;
    let mut length = [0; LENGTH_BYTES];
    stream.read_exact(&mut length)?;
    let bytes = announced(length, answer_max)?;
    let mut body = Vec::new();
    match stream.take(bytes).read_to_end(&mut body)? as u64 == bytes {
        true => decode(&body),
        false => Err(WireError::CutShort),
    }
}
