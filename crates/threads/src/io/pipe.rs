//! Pipes.

use std::io;
use std::os::fd::OwnedFd;

use super::source::Source;
use super::{descriptor, read, write};

/// The end of a pipe that is read.
#[derive(Debug)]
pub struct PipeReader {
    source: Source<OwnedFd>,
}

/// The end of a pipe that is written.
#[derive(Debug)]
pub struct PipeWriter {
    source: Source<OwnedFd>,
}

descriptor!(PipeReader, OwnedFd);
descriptor!(PipeWriter, OwnedFd);
read!(PipeReader, |inner, buffer| rustix::io::read(inner, buffer));
write!(PipeWriter, rustix::io::write);

/// A pipe. To give one end to a child process, make it of the standard library's `std::io::pipe` and keep the other by
/// `from_std`.
///
/// # Errors
/// As the kernel says.
pub fn pipe() -> io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = std::io::pipe()?;
    Ok((
        PipeReader::from_std(reader.into())?,
        PipeWriter::from_std(writer.into())?,
    ))
}
