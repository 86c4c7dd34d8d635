//! What processes exchange data through: words of shared memory ([`SharedWords`]) and POSIX message queues
//! ([`MessageQueue`]). Neither leaves a name behind: both are passed on as descriptors (see `spawn`).
#![allow(
    unsafe_code,
    reason = "maps memory that other processes write, calls mq_overview(7)"
)]

use std::ffi::CString;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use thiserror::Error;

/// Why there is no shared memory.
#[derive(Debug, Error)]
#[error("shared memory could not be had ({step})")]
pub struct SharedWordsError {
    /// What was done.
    pub step: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

/// Words that several processes read and write, and wait for (futex(2), without the private flag). All are 0 at first.
///
/// ```
/// use std::sync::atomic::Ordering;
/// use sterna_sys::exchange::SharedWords;
/// let ours = SharedWords::new(4)?;
/// let theirs = SharedWords::open(ours.descriptor()?)?; // in another process
/// ours[3].store(7, Ordering::Release);
/// assert_eq!(theirs[3].load(Ordering::Acquire), 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct SharedWords {
    start: NonNull<AtomicU32>,
    count: usize,
    file: OwnedFd,
}

// SAFETY: 1. The mapping belongs to the value alone; any thread may unmap it.
unsafe impl Send for SharedWords {}
// SAFETY: 1. It is used as atomic words only.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Makes memory for so many words, at least one.
    ///
    /// # Errors
    /// The kernel is out of memory or descriptors.
    pub fn new(count: usize) -> Result<Self, SharedWordsError> {
        let failed = |step| {
            move |error: rustix::io::Errno| SharedWordsError {
                step,
                source: error.into(),
            }
        };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::NOEXEC_SEAL;
        let file = rustix::fs::memfd_create("sterna-words", flags)
            .or_else(|_| rustix::fs::memfd_create("sterna-words", flags - MemfdFlags::NOEXEC_SEAL))
            .map_err(failed("memfd_create"))?;
        let bytes = (count.max(1) as u64).saturating_mul(size_of::<AtomicU32>() as u64);
        rustix::fs::ftruncate(&file, bytes).map_err(failed("ftruncate"))?;
        // Whoever gets it can rely on its size, and so does not fault.
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(failed("seal"))?;
        Self::open(file)
    }

    /// What another process made and passed on.
    ///
    /// # Errors
    /// It is no such memory: its size is not fixed, or it is empty.
    pub fn open(file: OwnedFd) -> Result<Self, SharedWordsError> {
        let failed = |step, source: io::Error| SharedWordsError { step, source };
        let seals = rustix::fs::fcntl_get_seals(&file).map_err(|e| failed("seals", e.into()))?;
        let size = rustix::fs::fstat(&file).map_err(|e| failed("fstat", e.into()))?;
        let count = usize::try_from(size.st_size).unwrap_or(0) / size_of::<AtomicU32>();
        if !seals.contains(SealFlags::SHRINK) || count == 0 {
            let text = "no memory of a fixed size";
            return Err(failed("seals", io::Error::other(text)));
        }
        // SAFETY: 1. A new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                count * size_of::<AtomicU32>(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                0,
            )
        }
        .map_err(|error| failed("mmap", error.into()))?;
        let start = NonNull::new(start.cast())
            .ok_or_else(|| failed("mmap", io::ErrorKind::OutOfMemory.into()))?;
        Ok(Self { start, count, file })
    }

    /// A descriptor to pass on.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.file.try_clone()
    }
}

impl Deref for SharedWords {
    type Target = [AtomicU32];

    fn deref(&self) -> &[AtomicU32] {
        // SAFETY: 1. `count` words from `start` are mapped, readable and writable, until drop; the file cannot shrink (it
        // is sealed). 2. Whoever else has them mapped may write at any time, which atomics allow.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        let bytes = self.count * size_of::<AtomicU32>();
        // SAFETY: 1. The mapping was made by `open` with this size, and nothing borrowed from it is left.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

/// A queue of messages (mq_overview(7)) without a name.
#[derive(Debug)]
pub struct MessageQueue {
    queue: OwnedFd,
}

impl MessageQueue {
    /// A queue for so many messages of at most so many bytes.
    ///
    /// # Errors
    /// More than `/proc/sys/fs/mqueue` allows, or the kernel has no message queues.
    pub fn new(messages: usize, bytes: usize) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("/sterna-{}-{number}", std::process::id());
        let name = CString::new(name).map_err(io::Error::from)?;
        // SAFETY: 1. All zeros is a valid mq_attr: numbers.
        let mut attributes: libc::mq_attr = unsafe { std::mem::zeroed() };
        attributes.mq_maxmsg = messages as libc::c_long;
        attributes.mq_msgsize = bytes as libc::c_long;
        // SAFETY: 1. The name ends in 0 and the attributes are those that O_CREAT reads; both live to the end of the call.
        let queue = unsafe {
            libc::mq_open(
                name.as_ptr(),
                libc::O_CREAT | libc::O_EXCL | libc::O_RDWR | libc::O_CLOEXEC,
                0o600 as libc::c_uint,
                &raw const attributes,
            )
        };
        if queue < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: 1. Just opened, and nobody else's: on Linux a queue is a descriptor.
        let queue = unsafe { OwnedFd::from_raw_fd(queue) };
        // SAFETY: 1. The name ends in 0.
        if unsafe { libc::mq_unlink(name.as_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { queue })
    }

    /// A descriptor to pass on.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.queue.try_clone()
    }

    /// Sends, waiting for room until `deadline`.
    ///
    /// # Errors
    /// [`TimedOut`](io::ErrorKind::TimedOut), a message that is too long, or the descriptor is no queue.
    pub fn send(&self, message: &[u8], deadline: SystemTime) -> io::Result<()> {
        let deadline = since_epoch(deadline);
        loop {
            // SAFETY: 1. The message and the time live to the end of the call, which reads them only.
            let sent = unsafe {
                libc::mq_timedsend(
                    self.queue.as_raw_fd(),
                    message.as_ptr().cast(),
                    message.len(),
                    0,
                    &raw const deadline,
                )
            };
            if sent == 0 {
                return Ok(());
            }
            interrupted_or_failed()?;
        }
    }

    /// Receives the oldest message and says how long it is, waiting for one until `deadline`.
    ///
    /// # Errors
    /// [`TimedOut`](io::ErrorKind::TimedOut), a buffer that is shorter than the queue's longest message, or the descriptor
    /// is no queue.
    pub fn receive(&self, buffer: &mut [u8], deadline: SystemTime) -> io::Result<usize> {
        let deadline = since_epoch(deadline);
        loop {
            // SAFETY: 1. The buffer is writable for the length that is given, and nobody else's. 2. Priorities are not asked for.
            let received = unsafe {
                libc::mq_timedreceive(
                    self.queue.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    std::ptr::null_mut(),
                    &raw const deadline,
                )
            };
            if received >= 0 {
                return Ok(received as usize);
            }
            interrupted_or_failed()?;
        }
    }
}

/// What another process made and passed on.
impl From<OwnedFd> for MessageQueue {
    fn from(queue: OwnedFd) -> Self {
        Self { queue }
    }
}

impl AsFd for MessageQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}

/// The error of the call just made, unless a signal interrupted it.
fn interrupted_or_failed() -> io::Result<()> {
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    }
}

/// A time as the kernel's clock of the day has it.
fn since_epoch(time: SystemTime) -> libc::timespec {
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    libc::timespec {
        tv_sec: since.as_secs().min(i64::MAX as u64) as libc::time_t,
        tv_nsec: since.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAST: SystemTime = SystemTime::UNIX_EPOCH;

    fn later() -> SystemTime {
        SystemTime::now() + Duration::from_secs(60)
    }

    #[test]
    fn words_are_shared_and_waited_for() {
        use rustix::thread::futex::{Flags, wait, wake};
        let ours = SharedWords::new(1025).unwrap();
        let theirs = SharedWords::open(ours.descriptor().unwrap()).unwrap();
        assert_eq!((ours.len(), theirs.len()), (1025, 1025));
        assert!(theirs.iter().all(|word| word.load(Ordering::Relaxed) == 0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while theirs[1024].load(Ordering::Acquire) == 0 {
                    let _ = wait(&theirs[1024], Flags::empty(), 0, None);
                }
                theirs[0].store(2, Ordering::Release);
            });
            ours[1024].store(1, Ordering::Release);
            wake(&ours[1024], Flags::empty(), 1).unwrap();
        });
        assert_eq!(ours[0].load(Ordering::Acquire), 2);
    }

    #[test]
    fn memory_that_may_shrink_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        assert!(SharedWords::open(file.into()).is_err());
        let open = rustix::fs::memfd_create("t", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&open, 4096).unwrap();
        assert!(SharedWords::open(open).is_err());
        let sealed = SharedWords::new(1024).unwrap();
        assert!(rustix::fs::ftruncate(&sealed.file, 0).is_err());
    }

    #[test]
    fn messages_keep_their_order_and_bounds() {
        let queue = match MessageQueue::new(2, 16) {
            Ok(queue) => queue,
            Err(error) => {
                println!("SKIPPED: no message queues: {error}");
                return;
            }
        };
        let other = MessageQueue::from(queue.descriptor().unwrap());
        queue.send(b"first", later()).unwrap();
        queue.send(b"second", later()).unwrap();
        let full = queue.send(b"third", PAST).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::TimedOut);
        let mut buffer = [0; 16];
        for expected in [&b"first"[..], b"second"] {
            let length = other.receive(&mut buffer, later()).unwrap();
            assert_eq!(&buffer[..length], expected);
        }
        let empty = other.receive(&mut buffer, PAST).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::TimedOut);
        assert!(queue.send(&[0; 17], later()).is_err());
        assert!(queue.receive(&mut [0; 15], later()).is_err());
    }

    #[test]
    fn no_name_is_left() {
        let folder = std::path::Path::new("/dev/mqueue");
        let Ok(_queue) = MessageQueue::new(1, 1) else {
            println!("SKIPPED: no message queues");
            return;
        };
        let Ok(entries) = folder.read_dir() else {
            println!("SKIPPED: /dev/mqueue is not mounted");
            return;
        };
        let own = format!("sterna-{}-", std::process::id());
        let names = entries.map(|entry| entry.unwrap().file_name());
        assert!(
            !names
                .into_iter()
                .any(|name| name.to_string_lossy().starts_with(&own))
        );
    }
}
