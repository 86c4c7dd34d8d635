//! [`Site`]: what is served. Looks requests up, and reads files.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::{
    Advice, FileType, Mode, OFlags, ResolveFlags, Stat, fadvise, fstat, open, openat2,
};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::answer::{Answer, Content, Head};
use super::condition::{Outcome, Validators};
use super::log::Log;
use super::range::{self, Wanted};
use super::request::Request;
use super::settings::{Settings, Slowness};
use super::status::Status;
use super::stop::Stop;
use super::target::{self, Path};
use super::{listing, media};

/// Bytes read at once into memory.
pub(crate) const BUFFER_BYTES: usize = 64 * 1024;
/// Buffers that are kept for the next who needs one.
const BUFFERS_MAX: usize = 64;
/// Opens that lose a race against somebody who renames directories are tried again so often.
const OPENS_MAX: usize = 8;

/// What is served, and what all connections of a server share.
#[derive(Debug)]
pub struct Site {
    root: OwnedFd,
    pub(crate) settings: Settings,
    pub(crate) log: Option<Log>,
    pub(crate) stop: Stop,
    boundary: String,
    buffers: Mutex<Vec<Box<[u8]>>>,
    pub(crate) counts: Counts,
}

/// What has happened so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connections: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) turned_away: AtomicU64,
}

/// Whether a look-up may wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Only what is in memory.
    None,
    /// As long as it takes.
    Any,
}

/// Not without waiting for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WouldWait;

/// What opening may end with, other than a file.
enum NotOpened {
    WouldWait,
    Status(Status),
}

impl Site {
    /// Opens the root.
    ///
    /// # Errors
    /// It is no directory that can be opened, or the kernel cannot be told to stay beneath it (Linux before 5.6).
    pub fn new(settings: Settings, log: Option<Log>, stop: Stop) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = open(&settings.root, flags, Mode::empty())?;
        Self::beneath(root, settings, log, stop)
    }

    /// With a root that is open already.
    pub(crate) fn beneath(
        root: OwnedFd,
        settings: Settings,
        log: Option<Log>,
        stop: Stop,
    ) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat2(&root, c".", flags, Mode::empty(), ResolveFlags::BENEATH)?;
        let mut random = [0_u8; 16];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self {
            root,
            settings,
            log,
            stop,
            boundary: format!("{:032x}", u128::from_ne_bytes(random)),
            buffers: Mutex::default(),
            counts: Counts::default(),
        })
    }

    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Looks a request up. `keep`: the connection goes on afterwards.
    pub(crate) fn find(
        &self,
        request: &Request,
        keep: bool,
        patience: Patience,
    ) -> Result<Answer, WouldWait> {
        let found = target::path(&request.target, self.settings.hidden)
            .map_err(NotOpened::Status)
            .and_then(|path| self.look(request, &path, keep, patience));
        match found {
            Ok(answer) => Ok(answer),
            Err(NotOpened::WouldWait) => Err(WouldWait),
            Err(NotOpened::Status(status)) => Ok(Answer::refusal(status, request.method, keep)),
        }
    }

    fn look(
        &self,
        request: &Request,
        path: &Path,
        keep: bool,
        patience: Patience,
    ) -> Result<Answer, NotOpened> {
        let (file, about) = self.open(&path.bytes, patience)?;
        match FileType::from_raw_mode(about.st_mode) {
            FileType::RegularFile if !path.is_directory => {
                Ok(self.file(request, keep, &path.bytes, file, &about))
            }
            FileType::Directory if path.is_directory => {
                self.directory(request, path, keep, patience, &file)
            }
            FileType::Directory => Ok(to_directory(request, path, keep)),
            // A file with a slash behind it, or a device, a pipe, a socket.
            _ => Err(NotOpened::Status(Status::NOT_FOUND)),
        }
    }

    /// Opens what is at a path, which no link and no `..` can lead out of the root.
    fn open(&self, path: &[u8], patience: Patience) -> Result<(File, Stat), NotOpened> {
        let path = if path.is_empty() { b"." } else { path };
        // A pipe that nobody writes to is opened at once, and then seen to be no file.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        if patience == Patience::None {
            resolve |= ResolveFlags::CACHED;
        }
        let mut opens = 0;
        let opened = loop {
            opens += 1;
            match openat2(
                &self.root,
                OsStr::from_bytes(path),
                flags,
                Mode::empty(),
                resolve,
            ) {
                Err(Errno::AGAIN) if patience == Patience::Any && opens < OPENS_MAX => {}
                Err(Errno::INTR) => {}
                opened => break opened,
            }
        };
        let file = match opened {
            Ok(file) => file,
            // INVAL: a kernel that cannot look into its memory alone.
            Err(Errno::AGAIN | Errno::INVAL) if patience == Patience::None => {
                return Err(NotOpened::WouldWait);
            }
            Err(errno) => return Err(NotOpened::Status(status(errno))),
        };
        let about = fstat(&file).map_err(|errno| NotOpened::Status(status(errno)))?;
        Ok((File::from(file), about))
    }

    fn directory(
        &self,
        request: &Request,
        path: &Path,
        keep: bool,
        patience: Patience,
        directory: &File,
    ) -> Result<Answer, NotOpened> {
        let mut index = path.bytes.clone();
        if !index.is_empty() {
            index.push(b'/');
        }
        index.extend_from_slice(self.settings.index.as_bytes());
        match self.open(&index, patience) {
            Ok((file, about)) if FileType::from_raw_mode(about.st_mode).is_file() => {
                return Ok(self.file(request, keep, &index, file, &about));
            }
            Ok(_) | Err(NotOpened::Status(Status::NOT_FOUND)) => {}
            Err(other) => return Err(other),
        }
        if !self.settings.listing {
            return Err(NotOpened::Status(Status::FORBIDDEN));
        }
        if patience == Patience::None {
            return Err(NotOpened::WouldWait);
        }
        let page = listing::page(directory, &path.bytes, self.settings.hidden)
            .map_err(|errno| NotOpened::Status(status(errno)))?;
        let head = Head::new(Status::OK, keep).field("Cache-Control", "no-cache");
        let media = "text/html; charset=utf-8";
        Ok(Answer::words(head, request.method, media, page))
    }

    fn file(&self, request: &Request, keep: bool, path: &[u8], file: File, about: &Stat) -> Answer {
        let length = u64::try_from(about.st_size).unwrap_or(0);
        let modified_ns =
            i128::from(about.st_mtime) * 1_000_000_000 + i128::from(about.st_mtime_nsec);
        let now = SystemTime::now();
        let validators = Validators::new(about.st_ino, length, modified_ns, now);
        let head = |status| {
            Head::new(status, keep)
                .field(
                    "Last-Modified",
                    httpdate::HttpDate::from(validators.modified),
                )
                .field("ETag", validators.etag())
        };
        match validators.evaluate(&request.conditions) {
            Outcome::Failed => {
                return Answer::refusal(Status::PRECONDITION_FAILED, request.method, keep);
            }
            Outcome::NotModified => {
                return Answer::new(head(Status::NOT_MODIFIED), None, Vec::new());
            }
            Outcome::Proceed => {}
        }
        let wanted = self.wanted(request, &validators, length);
        let name = String::from_utf8_lossy(path);
        let content = Content {
            file,
            length,
            media: media::of(&name),
            boundary: &self.boundary,
        };
        let (status, parts) = match &wanted {
            Wanted::Whole => (Status::OK, None),
            Wanted::Parts(parts) => (Status::PARTIAL_CONTENT, Some(&parts[..])),
            Wanted::Unsatisfiable => {
                let head = Head::new(Status::RANGE_NOT_SATISFIABLE, keep)
                    .field("Content-Range", format_args!("bytes */{length}"));
                let text = "text/plain; charset=utf-8";
                return Answer::words(head, request.method, text, b"no such range\n".to_vec());
            }
        };
        let head = head(status)
            .field("Accept-Ranges", "bytes")
            .field("X-Content-Type-Options", "nosniff");
        content.answer(head, request, parts)
    }

    /// Ranges mean something for `GET` only (RFC 9110, section 14.2).
    fn wanted(&self, request: &Request, validators: &Validators, length: u64) -> Wanted {
        let if_range = request.conditions.if_range.as_deref();
        match &request.range {
            Some(field)
                if request.method == super::request::Method::Get
                    && validators.allow_range(if_range) =>
            {
                range::wanted(field, length)
            }
            _ => Wanted::Whole,
        }
    }

    /// Reads without waiting for the disk. `None`: that cannot be done now.
    pub(crate) fn read_cached(
        &self,
        file: &File,
        buffer: &mut [u8],
        offset: u64,
    ) -> io::Result<Option<usize>> {
        if let Slowness::Injected(_) = self.settings.slowness {
            return Ok(None);
        }
        let mut buffers = [io::IoSliceMut::new(buffer)];
        match preadv2(file, &mut buffers, offset, ReadWriteFlags::NOWAIT) {
            Ok(count) => Ok(Some(count)),
            // Some file systems cannot.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::INTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reads, however long it takes.
    pub(crate) fn read(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.be_slow();
        loop {
            match rustix::io::pread(file, &mut *buffer, offset) {
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    /// Waits as a slow disk would let a read wait, if that was asked for.
    pub(crate) fn be_slow(&self) {
        if let Slowness::Injected(delay) = self.settings.slowness {
            std::thread::sleep(delay);
        }
    }

    /// A file was sent.
    pub(crate) fn is_done_with(&self, file: &File) {
        if self.settings.slowness == Slowness::Cold {
            // Advice: whatever comes of it.
            let _ = fadvise(file.as_fd(), 0, None, Advice::DontNeed);
        }
    }

    /// Lends a buffer.
    pub(crate) fn with_buffer<R>(&self, f: impl FnOnce(&mut [u8]) -> R) -> R {
        let kept = self.buffers().pop();
        let mut buffer = kept.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice());
        let result = f(&mut buffer);
        let mut buffers = self.buffers();
        if buffers.len() < BUFFERS_MAX {
            buffers.push(buffer);
        }
        result
    }

    fn buffers(&self) -> std::sync::MutexGuard<'_, Vec<Box<[u8]>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn to_directory(request: &Request, path: &Path, keep: bool) -> Answer {
    // Made of the path and not of the target, which may begin with two slashes, and then names another host.
    let query = request.target.split_once('?');
    let query = query.map_or(String::new(), |(_, query)| format!("?{query}"));
    let location = format!("/{}/{query}", target::encode(&path.bytes));
    let head = Head::new(Status::MOVED_PERMANENTLY, keep).field("Location", &location);
    let body = format!("See {location}\n").into_bytes();
    Answer::words(head, request.method, "text/plain; charset=utf-8", body)
}

/// What a client is told when a file could not be opened. That there is something outside of the root is not told.
fn status(errno: Errno) -> Status {
    match errno {
        Errno::NOENT
        | Errno::NOTDIR
        | Errno::NAMETOOLONG
        | Errno::LOOP
        | Errno::XDEV
        | Errno::NXIO => Status::NOT_FOUND,
        Errno::ACCESS | Errno::PERM => Status::FORBIDDEN,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => Status::SERVICE_UNAVAILABLE,
        _ => Status::INTERNAL_SERVER_ERROR,
    }
}
