//! [`Log`]: the access log, in the combined format that Apache made and everything reads.
//!
//! Lines are collected and written by a kernel thread of its own, so that no connection waits for the disk or for who
//! reads a pipe. If that is too slow lines are lost, and the log says how many.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::condition;
use super::status::Status;

/// Bytes of lines that wait.
const WAITING_BYTES_MAX: usize = 1024 * 1024;
/// From so many on they are written at once.
const WAITING_BYTES_FULL: usize = 64 * 1024;
/// Otherwise after this.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// For who reads the log at its end: what it has not taken by then is lost.
const END_WITHIN: Duration = Duration::from_secs(2);

/// Who asked for what, and what became of it.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) peer: IpAddr,
    /// The first line of the request, as it came.
    pub(crate) called: Vec<u8>,
    pub(crate) status: Status,
    /// Bytes of the body that were sent.
    pub(crate) bytes: u64,
    pub(crate) referer: Option<Vec<u8>>,
    pub(crate) agent: Option<Vec<u8>>,
}

/// An access log. Dropped, it [ends](Ending::end).
#[derive(Debug)]
pub struct Log {
    ending: Ending,
    to: File,
}

/// The end of a log, for whoever ends the program in the middle of everything.
#[derive(Debug, Clone)]
pub struct Ending(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
    failed: Box<dyn Fn(&io::Error) + Send + Sync>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.waiting.fmt(f)
    }
}

#[derive(Debug, Default)]
struct Waiting {
    lines: String,
    lost: u64,
    ending: bool,
    /// All is written.
    ended: bool,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut to: impl Write) {
        // Once for as long as it lasts.
        let mut is_told = false;
        let mut waiting = self.waiting();
        loop {
            if waiting.lines.len() < WAITING_BYTES_FULL && !waiting.ending {
                let woken = self.changed.wait_timeout(waiting, WRITE_EVERY);
                waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
            let lines = std::mem::take(&mut waiting.lines);
            let (lost, ending) = (std::mem::take(&mut waiting.lost), waiting.ending);
            drop(waiting);
            // That there was nothing to write does not show that a line could be written.
            let is_idle = lines.is_empty() && lost == 0;
            match write(&mut to, &lines, lost) {
                Ok(()) if is_idle => {}
                Ok(()) => is_told = false,
                Err(error) if !std::mem::replace(&mut is_told, true) => (self.failed)(&error),
                Err(_) => {}
            }
            waiting = self.waiting();
            if ending {
                waiting.ended = true;
                return self.changed.notify_all();
            }
        }
    }
}

impl Log {
    /// A log that is written to a file, or to whatever else is open. If that fails, the lines are lost, and `failed` is
    /// called, once until it succeeds again.
    ///
    /// # Errors
    /// The kernel gives no thread or no second descriptor.
    pub fn new(to: File, failed: impl Fn(&io::Error) + Send + Sync + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            failed: Box::new(failed),
        });
        let own = Arc::clone(&shared);
        let own_to = to.try_clone()?;
        let builder = std::thread::Builder::new().name("access-log".to_owned());
        builder.spawn(move || own.write_all(own_to))?;
        let ending = Ending(shared);
        Ok(Self { ending, to })
    }

    /// Its end, which can be had at any time.
    pub fn ending(&self) -> Ending {
        self.ending.clone()
    }

    /// What it is written to, for another process that writes there.
    pub(crate) fn to(&self) -> &File {
        &self.to
    }

    pub(crate) fn add(&self, record: &Record) {
        let mut waiting = self.ending.0.waiting();
        if waiting.lines.len() > WAITING_BYTES_MAX {
            waiting.lost += 1;
            return;
        }
        line(&mut waiting.lines, record, SystemTime::now());
        let full = waiting.lines.len() >= WAITING_BYTES_FULL;
        drop(waiting);
        if full {
            self.ending.0.changed.notify_one();
        }
    }
}

impl Ending {
    /// Writes what there still is, if that is taken; what is added later is lost.
    pub fn end(&self) {
        let Shared {
            changed, failed, ..
        } = &*self.0;
        let mut waiting = self.0.waiting();
        waiting.ending = true;
        changed.notify_all();
        // A reader of a pipe who stands still holds up nobody's end.
        let goes_on = |waiting: &mut Waiting| !waiting.ended;
        let waited = changed.wait_timeout_while(waiting, END_WITHIN, goes_on);
        if waited.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
            let silent = format!("whoever reads it has taken nothing for {END_WITHIN:?}");
            failed(&io::Error::new(io::ErrorKind::TimedOut, silent));
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.ending.end();
    }
}

fn write(to: &mut impl Write, lines: &str, lost: u64) -> io::Result<()> {
    to.write_all(lines.as_bytes())?;
    if lost > 0 {
        writeln!(to, "# {lost} lines were lost: the log was too slow")?;
    }
    to.flush()
}

fn line(to: &mut String, record: &Record, now: SystemTime) {
    // Writing to a string does not fail.
    let _ = write!(to, "{} - - [", record.peer);
    time(to, now);
    to.push_str("] \"");
    quote(to, &record.called);
    let _ = write!(to, "\" {} {} \"", record.status.0, record.bytes);
    quote(to, record.referer.as_deref().unwrap_or(b"-"));
    to.push_str("\" \"");
    quote(to, record.agent.as_deref().unwrap_or(b"-"));
    to.push_str("\"\n");
}

/// What comes from outside can neither end the quotes nor the line, nor act on a terminal.
fn quote(to: &mut String, text: &[u8]) {
    for &byte in text {
        match byte {
            b'"' | b'\\' | ..b' ' | 0x7f.. => {
                let _ = write!(to, "\\x{byte:02X}");
            }
            plain => to.push(char::from(plain)),
        }
    }
}

/// As `06/Nov/1994:08:49:37 +0000`.
fn time(to: &mut String, now: SystemTime) {
    // `Sun, 06 Nov 1994 08:49:37 GMT`
    let date = condition::named(now);
    let mut words = date.split(' ').skip(1);
    let mut word = || words.next().unwrap_or_default();
    let (day, month, year, clock) = (word(), word(), word(), word());
    let _ = write!(to, "{day}/{month}/{year}:{clock} +0000");
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom};
    use std::os::fd::OwnedFd;
    use std::sync::mpsc;

    use super::*;

    fn record(called: impl AsRef<[u8]>) -> Record {
        Record {
            peer: IpAddr::from([192, 0, 2, 1]),
            called: called.as_ref().to_owned(),
            status: Status::OK,
            bytes: 42,
            referer: None,
            agent: Some(b"tester".to_vec()),
        }
    }

    #[test]
    fn lines_have_the_combined_format() {
        let mut text = String::new();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        line(&mut text, &record("GET / HTTP/1.1"), now);
        let expected = "192.0.2.1 - - [06/Nov/1994:08:49:37 +0000] \"GET / HTTP/1.1\" 200 42 \"-\" \"tester\"\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn nothing_from_outside_breaks_a_line() {
        let mut text = String::new();
        line(
            &mut text,
            &record(b"GET /\"\n\x1b[2J\xC3\xA9\xFF\x7F\\"),
            SystemTime::UNIX_EPOCH,
        );
        assert!(text.contains("\"GET /\\x22\\x0A\\x1B[2J\\xC3\\xA9\\xFF\\x7F\\x5C\" 200"));
        assert_eq!(text.matches('\n').count(), 1);
    }

    #[test]
    fn nobody_waits_for_who_does_not_read() {
        let (reader, writer) = std::io::pipe().unwrap();
        let (told, failures) = mpsc::channel();
        let told = move |error: &io::Error| told.send(error.kind()).unwrap();
        let log = Log::new(File::from(OwnedFd::from(writer)), told).unwrap();
        let longer_than_a_pipe = "x".repeat(WAITING_BYTES_MAX);
        log.add(&record(longer_than_a_pipe));
        drop(log);
        assert_eq!(failures.recv(), Ok(io::ErrorKind::TimedOut));
        drop(reader);
    }

    /// Takes nothing, and says when a turn of the writer had nothing for it.
    struct Full(mpsc::Sender<()>);

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.send(()).map_err(io::Error::other)
        }
    }

    #[test]
    fn who_has_a_log_hears_once_that_it_cannot_be_written() {
        let (told, failures) = mpsc::channel();
        let (idle, turns) = mpsc::channel();
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            failed: Box::new(move |error| told.send(error.kind()).unwrap()),
        });
        let own = Arc::clone(&shared);
        let writer = std::thread::spawn(move || own.write_all(Full(idle)));
        let add = || {
            shared.waiting().lines.push('x');
            shared.changed.notify_all();
        };
        add();
        assert_eq!(failures.recv(), Ok(io::ErrorKind::StorageFull));
        // Nobody comes for a while: the writer wakes all the same, and has nothing to write.
        turns.recv().unwrap();
        add();
        Ending(shared).end();
        writer.join().unwrap();
        assert_eq!(failures.try_iter().next(), None);
    }

    #[test]
    fn a_log_that_ends_has_written_all() {
        let mut file = tempfile::tempfile().unwrap();
        let log = Log::new(file.try_clone().unwrap(), |_| ()).unwrap();
        for number in 0..1000 {
            log.add(&record(number.to_string()));
        }
        drop(log);
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text.lines().count(), 1000);
    }
}
