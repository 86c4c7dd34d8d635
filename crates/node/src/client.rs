//! Asks a node of this machine: [`ask`], [`ask_with`] and [`stop`], for commands.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::data::socket_in;
use crate::limits::{FREEZE_WITHIN, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, START_WITHIN};
use crate::message::{Failure, HostingRequest, Remains, Reply, Request};
use crate::wire::{self, WireError};

/// For a node to answer: longer than whatever it may wait for itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// There is no node.
    #[error("no node runs with the data directory {0}: start it with `sterna node start --data {0}`, or say \
             with --node or STERNA_NODE where another one is", path.display())]
    NotRunning {
        /// Which directory.
        path: PathBuf,
    },
    /// It cannot be reached.
    #[error("could not reach the node of {}", path.display())]
    Unreachable {
        /// Which directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It did not answer, or not in a way that is understood.
    #[error("the node did not answer")]
    Wire(#[source] WireError),
    /// It did not do it.
    #[error(transparent)]
    Failed(Failure),
}

/// Asks the node whose data directory this is.
///
/// # Errors
/// See [`AskError`].
pub fn ask(data: &Path, request: &Request) -> Result<Reply, AskError> {
    ask_with(data, request, Vec::<OwnedFd>::new())
}

/// The same, with descriptors that belong to the request. Those that are owned are closed here as soon as it is sent: who
/// waits for the end of a pipe sees it.
///
/// # Errors
/// See [`AskError`].
pub fn ask_with(
    data: &Path,
    request: &Request,
    descriptors: Vec<impl AsFd>,
) -> Result<Reply, AskError> {
    let mut stream = connect(data)?;
    let within = match request {
        Request::Hosting(
            HostingRequest::Start(_)
            | HostingRequest::StartListening { .. }
            | HostingRequest::Snapshot { .. }
            | HostingRequest::Recover { .. }
            | HostingRequest::Clone { .. }
            | HostingRequest::Thaw(_)
            | HostingRequest::ThawAt(..),
        ) => START_WITHIN + PATIENCE,
        Request::Hosting(HostingRequest::Freeze { .. }) => FREEZE_WITHIN + PATIENCE,
        _ => PATIENCE,
    };
    stream
        .set_read_timeout(Some(within))
        .map_err(|error| AskError::Wire(error.into()))?;
    on(&mut stream, request, descriptors)
}

/// Stops the node whose data directory this is. When it returns, another one can use the directory.
///
/// # Errors
/// See [`AskError`].
pub fn stop(data: &Path, remains: Remains) -> Result<(), AskError> {
    let mut stream = connect(data)?;
    on(
        &mut stream,
        &Request::Stop { remains },
        Vec::<OwnedFd>::new(),
    )?;
    // The node keeps this connection until it ends.
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(AskError::Wire(WireError::Malformed)),
        Err(error) => Err(AskError::Wire(error.into())),
    }
}

fn connect(data: &Path) -> Result<UnixStream, AskError> {
    let path = data.to_owned();
    let connected = File::open(data).and_then(|handle| UnixStream::connect(socket_in(&handle)));
    let stream = match connected {
        Ok(stream) => stream,
        Err(error) => {
            return Err(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    AskError::NotRunning { path }
                }
                _ => AskError::Unreachable {
                    path,
                    source: error,
                },
            });
        }
    };
    let timed = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
    match timed {
        Ok(()) => Ok(stream),
        Err(source) => Err(AskError::Unreachable { path, source }),
    }
}

fn on(
    stream: &mut UnixStream,
    request: &Request,
    descriptors: Vec<impl AsFd>,
) -> Result<Reply, AskError> {
    match wire::ask(
        stream,
        request,
        descriptors,
        REQUEST_BYTES_MAX,
        REPLY_BYTES_MAX,
    ) {
        Ok(Reply::Failed(failure)) => Err(AskError::Failed(failure)),
        Ok(reply) => Ok(reply),
        Err(error) => Err(AskError::Wire(error)),
    }
}
