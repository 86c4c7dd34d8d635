//! What a process writes to its standard output and error, kept by the node that it is on: [`LogWriter`], [`LogReader`].
//! A [`Mark`] is where a reader was: another one goes on there, and need not pass over all that is before.
//!
//! ```text
//! │ "STERNLOG" │ version u16 │ length u16 │ header │
//! │ stream u8 │ time u64: ms since 1970 │ length u32 │ bytes │   …      stream 3: so many bytes are missing here
//! ```
//!
//! The output of a process is one sequence of bytes from its first start on, and a log holds a part of it: the header
//! says where that begins, and on which node the part before is. Each record is written at once to a file that is open
//! for appending; one that is cut off at the end, by a crash, is not there. Output that found no room, on a full disk, is
//! counted, and named as missing as soon as there is room again. Integers outside of the header are
//! little-endian; the header is in postcard.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sterna_migration::NodeId;
use sterna_process::{Epoch, ProcessId};

use crate::beside::Rewind;
use crate::limits::LOG_RECORD_BYTES_MAX;

const MAGIC: &[u8; 8] = b"STERNLOG";
const VERSION: u16 = 2;
/// Its headers know of no rewinds.
const VERSION_BEFORE: u16 = 1;
const RECORD_HEAD_BYTES: usize = 13;
const OUTPUT: u8 = 1;
const ERROR: u8 = 2;
const LOST: u8 = 3;
const HEADER_BYTES_MAX: u16 = 4096;

/// What a log is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHeader {
    /// Whose output.
    pub process: ProcessId,
    /// In which epoch it began here.
    pub epoch: Epoch,
    /// Bytes of output before.
    pub start: u64,
    /// Where the part before is; `None` if it begins here.
    pub came_from: Option<NodeId>,
    /// Where it went on from copies, oldest first: what is void of the parts before.
    pub rewinds: Vec<Rewind>,
}

/// Which of its streams a process wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

/// Writes a log.
#[derive(Debug)]
pub struct LogWriter {
    file: File,
    /// Length of what was written whole.
    length: u64,
    end: u64,
    /// Bytes of output before `end` that were not written.
    lost: u32,
    record: Vec<u8>,
}

impl LogWriter {
    /// Begins a log in an empty file that is open for appending.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn begin(mut file: File, header: &LogHeader) -> io::Result<Self> {
        let body = postcard::to_stdvec(header).map_err(io::Error::other)?;
        let length = u16::try_from(body.len()).map_err(io::Error::other)?;
        let head = [&MAGIC[..], &VERSION.to_le_bytes(), &length.to_le_bytes()].concat();
        let head = [head, body].concat();
        file.write_all(&head)?;
        Ok(Self {
            file,
            length: head.len() as u64,
            end: header.start,
            lost: 0,
            record: Vec::new(),
        })
    }

    /// Adds output.
    ///
    /// # Errors
    /// The file cannot be written: then the output is counted, and named as missing later.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let mut result = Ok(());
        for piece in bytes.chunks(LOG_RECORD_BYTES_MAX) {
            let letter = match stream {
                Stream::Output => OUTPUT,
                Stream::Error => ERROR,
            };
            self.end += piece.len() as u64;
            let written = match self.lost {
                0 => Ok(()),
                lost => self.record(LOST, lost, &[]).map(|()| self.lost = 0),
            };
            let written = written.and_then(|()| self.record(letter, piece.len() as u32, piece));
            if written.is_err() {
                self.lost = self.lost.saturating_add(piece.len() as u32);
            }
            result = result.and(written);
        }
        result
    }

    fn record(&mut self, letter: u8, length: u32, bytes: &[u8]) -> io::Result<()> {
        self.record.clear();
        self.record.push(letter);
        self.record.extend(now_ms().to_le_bytes());
        self.record.extend(length.to_le_bytes());
        self.record.extend(bytes);
        let written = self.file.write_all(&self.record);
        match written {
            Ok(()) => self.length += self.record.len() as u64,
            // What was written of it would be taken for the beginning of the next.
            Err(_) => self.file.set_len(self.length)?,
        }
        written
    }

    /// Bytes of output until now.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since
        .unwrap_or_default()
        .as_millis()
        .try_into()
        .unwrap_or(u64::MAX)
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Bytes of output before it.
    pub offset: u64,
    /// When it was written, in milliseconds since 1970.
    pub at_ms: u64,
    /// To which stream.
    pub stream: Stream,
    /// What.
    pub bytes: Vec<u8>,
}

/// Where a reader was: after a record, by which the place is known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Device and number of the file.
    file: (u64, u64),
    last: Last,
    place: u64,
    offset: u64,
}

/// The record before a place: where in the file it begins, and its head, which says when it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Last {
    place: u64,
    head: [u8; RECORD_HEAD_BYTES],
}

/// The head of a record, and what it says.
struct Head {
    bytes: [u8; RECORD_HEAD_BYTES],
    /// `None`: the output is missing, and so many bytes long.
    stream: Option<Stream>,
    at_ms: u64,
    length: u32,
}

impl Mark {
    /// Bytes of output before it.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }
}

/// Reads a log, also while it is being written: after the end there may be more later.
#[derive(Debug)]
pub struct LogReader {
    file: BufReader<File>,
    identity: (u64, u64),
    header: LogHeader,
    /// Where in the file the next record begins.
    place: u64,
    end: u64,
    last: Option<Last>,
}

impl LogReader {
    /// A log from its beginning.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn open(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let mut file = BufReader::new(file);
        let mut head = [0; 12];
        file.read_exact(&mut head)?;
        let (version, length) = (
            u16::from_le_bytes([head[8], head[9]]),
            u16::from_le_bytes([head[10], head[11]]),
        );
        let is_known = (VERSION_BEFORE..=VERSION).contains(&version);
        if head[..8] != MAGIC[..] || !is_known || length > HEADER_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "not a log, or one of a newer version",
            ));
        }
        let mut body = vec![0; usize::from(length)];
        file.read_exact(&mut body)?;
        if version == VERSION_BEFORE {
            body.push(0); // no rewinds
        }
        let header: LogHeader = postcard::from_bytes(&body)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Self {
            identity: (metadata.dev(), metadata.ino()),
            place: head.len() as u64 + u64::from(length),
            end: header.start,
            last: None,
            file,
            header,
        })
    }

    /// What it is of.
    #[must_use]
    pub const fn header(&self) -> &LogHeader {
        &self.header
    }

    /// Where in the process's output the next record begins.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.end
    }

    /// Where it is; `None` before the first record.
    #[must_use]
    pub fn mark(&self) -> Option<Mark> {
        self.last.map(|last| Mark {
            file: self.identity,
            last,
            place: self.place,
            offset: self.end,
        })
    }

    /// Goes on from a mark, if that still is a place in this log; otherwise stays where it is. Whether it went.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn go_on(&mut self, mark: &Mark) -> io::Result<bool> {
        let mut head = [0; RECORD_HEAD_BYTES];
        let is_known = mark.file == self.identity
            && match self
                .file
                .get_ref()
                .read_exact_at(&mut head, mark.last.place)
            {
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
                read => read.is_ok() && head == mark.last.head,
            };
        if is_known {
            self.file.seek(SeekFrom::Start(mark.place))?;
            (self.place, self.end, self.last) = (mark.place, mark.offset, Some(mark.last));
        }
        Ok(is_known)
    }

    /// The next record that ends after `offset`; those before are passed over without reading what is in them.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged from here on.
    pub fn next_after(&mut self, offset: u64) -> io::Result<Option<Record>> {
        loop {
            let Some(head) = self.head()? else {
                return Ok(None);
            };
            let (begin, end) = (self.end, self.end + u64::from(head.length));
            let Some(stream) = head.stream else {
                self.pass(&head, 0);
                continue;
            };
            if end <= offset {
                self.file.seek_relative(i64::from(head.length))?;
                self.pass(&head, head.length);
                continue;
            }
            let mut bytes = vec![0; head.length as usize];
            if !self.fill(&mut bytes)? {
                return Ok(None);
            }
            self.pass(&head, head.length);
            let skip = offset.saturating_sub(begin);
            bytes.drain(..skip as usize);
            return Ok(Some(Record {
                offset: begin + skip,
                at_ms: head.at_ms,
                stream,
                bytes,
            }));
        }
    }

    /// A record with so many bytes in the file lies behind.
    fn pass(&mut self, head: &Head, bytes: u32) {
        self.last = Some(Last {
            place: self.place,
            head: head.bytes,
        });
        self.place += RECORD_HEAD_BYTES as u64 + u64::from(bytes);
        self.end += u64::from(head.length);
    }

    /// Whether the file has so much; if not, it is read again from the record's beginning the next time.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        match self.file.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.file.seek(SeekFrom::Start(self.place))?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn head(&mut self) -> io::Result<Option<Head>> {
        let mut bytes = [0; RECORD_HEAD_BYTES];
        if !self.fill(&mut bytes)? {
            return Ok(None);
        }
        let [stream, t0, t1, t2, t3, t4, t5, t6, t7, l0, l1, l2, l3] = bytes;
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the log is damaged");
        let stream = match stream {
            OUTPUT => Some(Stream::Output),
            ERROR => Some(Stream::Error),
            LOST => None,
            _ => return Err(damaged()),
        };
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if stream.is_some() && length as usize > LOG_RECORD_BYTES_MAX {
            return Err(damaged());
        }
        Ok(Some(Head {
            bytes,
            stream,
            at_ms: u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]),
            length,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::path::Path;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn header(start: u64) -> LogHeader {
        LogHeader {
            process: ProcessId::from_bytes([7; 16]),
            epoch: Epoch(3),
            start,
            came_from: None,
            rewinds: Vec::new(),
        }
    }

    /// So many bytes were lost before, and so many are written.
    type Piece = (u32, usize);

    fn add(writer: &mut LogWriter, pieces: &[Piece]) {
        for (lost, length) in pieces {
            (writer.lost, writer.end) = (*lost, writer.end + u64::from(*lost));
            let bytes: Vec<u8> = (0..*length)
                .map(|at| (writer.end as usize + at) as u8)
                .collect();
            writer.write(Stream::Output, &bytes).unwrap();
        }
    }

    fn begin(path: &Path) -> LogWriter {
        let file = OpenOptions::new().create(true).append(true).open(path);
        LogWriter::begin(file.unwrap(), &header(100)).unwrap()
    }

    fn open(path: &Path) -> LogReader {
        LogReader::open(File::open(path).unwrap()).unwrap()
    }

    fn rest(mut reader: LogReader, offset: u64) -> Vec<Record> {
        std::iter::from_fn(|| reader.next_after(offset).unwrap()).collect()
    }

    /// One after each record.
    fn marks(path: &Path) -> Vec<Mark> {
        let mut reader = open(path);
        let mark = || {
            reader.next_after(0).unwrap()?;
            reader.mark()
        };
        std::iter::from_fn(mark).collect()
    }

    /// From each mark on the same is read as from the beginning on. How many were good.
    fn are_places(marks: &[Mark], path: &Path) -> usize {
        let mut good = 0;
        for (mark, beyond) in marks
            .iter()
            .flat_map(|mark| [0, 7, 1000].map(|by| (mark, by)))
        {
            let (mut reader, offset) = (open(path), mark.offset + beyond);
            good += usize::from(reader.go_on(mark).unwrap() && beyond == 0);
            assert_eq!(rest(reader, offset), rest(open(path), offset));
        }
        good
    }

    proptest! {
        #[test]
        fn a_mark_is_a_place_in_its_log_or_none(
            before in vec((prop_oneof![Just(0), 0..50u32], 1..40usize), 1..12),
            after in vec((prop_oneof![Just(0), 0..50u32], 1..40usize), 0..12),
            which in any::<prop::sample::Index>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("log");
            let mut writer = begin(&path);
            add(&mut writer, &before);
            let marks = marks(&path);
            prop_assert_eq!(marks.len(), before.len());
            prop_assert_eq!(are_places(&marks, &path), marks.len());
            add(&mut writer, &after);
            prop_assert_eq!(are_places(&marks, &path), marks.len());
            // The file was changed, or cut off.
            let one = marks[which.index(marks.len())];
            let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
            let changed = one.last.head[1] ^ 1;
            file.write_all_at(&[changed], one.last.place + 1).unwrap();
            prop_assert_eq!(are_places(&marks, &path), marks.len() - 1);
            file.set_len(one.last.place + 1).unwrap();
            prop_assert!(!open(&path).go_on(&one).unwrap());
            prop_assert!(are_places(&marks, &path) < marks.len());
            // Another file is in its place.
            let other = folder.path().join("other");
            add(&mut begin(&other), &after);
            std::fs::rename(&other, &path).unwrap();
            prop_assert_eq!(are_places(&marks, &path), 0);
        }
    }

    /// A reader that came to the end while a record was being written has it later.
    /// As version 1 wrote it: the header without its last field.
    #[test]
    fn a_log_of_the_version_before_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut writer = begin(&path);
        writer.write(Stream::Output, b"text").unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let length = usize::from(u16::from_le_bytes([bytes[10], bytes[11]]));
        assert_eq!(bytes.remove(12 + length - 1), 0);
        bytes[8..12].copy_from_slice(&[1, 0, length as u8 - 1, 0]);
        std::fs::write(&path, bytes).unwrap();
        let reader = open(&path);
        assert_eq!(*reader.header(), header(100));
        let records = rest(reader, 100);
        assert_eq!((records[0].offset, &*records[0].bytes), (100, &b"text"[..]));
    }

    #[test]
    fn half_a_record_is_read_again_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        add(&mut begin(&path), &[(0, 5), (0, 5)]);
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..RECORD_HEAD_BYTES + 5 {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            let mut reader = open(&path);
            assert_eq!(reader.next_after(0).unwrap().unwrap().offset, 100);
            assert_eq!(reader.next_after(0).unwrap(), None);
            std::fs::write(&path, &whole).unwrap();
            assert_eq!(reader.next_after(0).unwrap().unwrap().offset, 105);
        }
    }

    #[test]
    fn what_was_written_is_read_from_anywhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let appending = || OpenOptions::new().create(true).append(true).open(&path);
        let mut writer = LogWriter::begin(appending().unwrap(), &header(100)).unwrap();
        writer.write(Stream::Output, b"abc").unwrap();
        writer.write(Stream::Error, b"defg").unwrap();
        assert_eq!(writer.end(), 107);
        let read = |from: u64| {
            let mut reader = LogReader::open(File::open(&path).unwrap()).unwrap();
            assert_eq!(*reader.header(), header(100));
            let mut found = Vec::new();
            while let Some(record) = reader.next_after(from).unwrap() {
                found.push((record.offset, record.stream, record.bytes));
            }
            found
        };
        let all = read(0);
        assert_eq!(all[0], (100, Stream::Output, b"abc".to_vec()));
        assert_eq!(all[1], (103, Stream::Error, b"defg".to_vec()));
        assert_eq!(read(105), [(105, Stream::Error, b"fg".to_vec())]);
        assert_eq!(read(107), []);
        // A record that was cut off is not there, at whichever byte.
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..RECORD_HEAD_BYTES + 4 {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            assert_eq!(read(0), all[..1]);
        }
    }
}
