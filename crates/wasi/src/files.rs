//! Reading, writing and seeking by descriptor.
//!
//! Reading without `FD_READ`, and writing without `FD_WRITE`, is `EBADF`, as in POSIX; other
//! missing rights are `ENOTCAPABLE`. A long transfer is done in part, 8 MiB at most at a time.

use crate::abi::{Errno, Version, fdflags};
use crate::memory::{Cursor, IOVECS_AT_ONCE, Memory, TRANSFER_MAX};
use crate::rights::Rights;
use crate::step::{Halt, Outcome};
use crate::streams::HostKind;
use crate::table::{Entry, Resource};
use crate::wasi::{Arguments, Wasi};
use rustix::fs::{OFlags, SeekFrom};
use rustix::io::retry_on_intr;
use std::io::{IoSlice, IoSliceMut};

impl Entry {
    fn require_transfer(&self, right: Rights) -> Result<(), Errno> {
        if self.rights.contains(right) {
            Ok(())
        } else {
            Err(Errno::BADF)
        }
    }

    /// A wait, or `EAGAIN` if the guest made the descriptor non-blocking.
    pub(crate) fn or_again<T>(&self, outcome: Outcome<T>) -> Outcome<T> {
        match outcome {
            Err(Halt::Wait(_)) if self.flags & fdflags::NONBLOCK != 0 => Err(Errno::AGAIN.into()),
            other => other,
        }
    }

    fn read(&mut self, areas: &mut [IoSliceMut<'_>]) -> Outcome<usize> {
        let outcome = match &mut self.resource {
            Resource::Stdio { stream, .. } => stream.read(areas),
            Resource::File { host, .. } | Resource::Socket { host, .. } => host.read(areas),
            Resource::Connection(connection) => connection.host.read(areas),
            Resource::Listener { .. } => Err(Errno::NOTCONN.into()),
            Resource::Directory(_) => Err(Errno::BADF.into()),
        };
        self.or_again(outcome)
    }

    fn write(&mut self, areas: &[IoSlice<'_>]) -> Outcome<usize> {
        let outcome = match &mut self.resource {
            Resource::Stdio { stream, .. } => stream.write(areas),
            Resource::File { host, .. } | Resource::Socket { host, .. } => host.write(areas),
            Resource::Connection(connection) => connection.host.write(areas),
            Resource::Listener { .. } => Err(Errno::NOTCONN.into()),
            Resource::Directory(_) => Err(Errno::BADF.into()),
        };
        self.or_again(outcome)
    }

    fn write_max(&self) -> usize {
        match &self.resource {
            Resource::Stdio { stream, .. } => stream.write_max(),
            Resource::File { host, .. } | Resource::Socket { host, .. } => host.write_max(),
            Resource::Connection(connection) => connection.host.write_max(),
            Resource::Listener { .. } | Resource::Directory(_) => TRANSFER_MAX,
        }
    }

    /// Fails unless the descriptor has an offset: `ESPIPE` for streams, `EBADF` for directories.
    fn require_seekable(&self) -> Result<&std::sync::Arc<std::os::fd::OwnedFd>, Errno> {
        if self.kind() == HostKind::Directory {
            return Err(Errno::BADF);
        }
        match self.host() {
            Some(host) if host.kind().seeks() => Ok(host.fd()),
            _ => Err(Errno::SPIPE),
        }
    }
}

impl Wasi {
    /// `fd_read(fd, iovs, iovs_len, nread*)`
    pub(crate) fn fd_read(&mut self, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        let entry = self.table.get_mut(a.u32(0))?;
        entry.require_transfer(Rights::FD_READ)?;
        let vectors = m.iovecs(a.u32(1), a.u32(2))?;
        m.check(a.u32(3), 4)?;
        let regular = entry.kind() == HostKind::Regular;
        let (mut cursor, mut total) = (Cursor::default(), 0);
        while total < TRANSFER_MAX {
            let mut areas = m.scatter(vectors, &mut cursor, TRANSFER_MAX - total)?;
            let wanted: usize = areas.iter().map(|area| area.len()).sum();
            if wanted == 0 {
                break;
            }
            let got = match entry.read(&mut areas) {
                Err(_) if total > 0 => break,
                got => got?,
            };
            total += got;
            if got < wanted || !regular {
                break;
            }
            m.advance(vectors, &mut cursor, got)?;
        }
        Ok(m.put_u32(a.u32(3), total as u32)?)
    }

    /// `fd_write(fd, iovs, iovs_len, nwritten*)`
    pub(crate) fn fd_write(&mut self, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        let entry = self.table.get_mut(a.u32(0))?;
        entry.require_transfer(Rights::FD_WRITE)?;
        let vectors = m.iovecs(a.u32(1), a.u32(2))?;
        m.check(a.u32(3), 4)?;
        let regular = entry.kind() == HostKind::Regular;
        let (mut cursor, mut total) = (Cursor::default(), 0);
        while total < TRANSFER_MAX {
            let mut areas = [IoSlice::new(&[]); IOVECS_AT_ONCE];
            let limit = entry.write_max().min(TRANSFER_MAX - total);
            let (mut count, mut wanted) = m.gather(vectors, cursor, limit, &mut areas)?;
            if wanted == 0 {
                break;
            }
            let allowed = match self.output.allowance(wanted) {
                Err(_) if total > 0 => break,
                allowed => allowed?,
            };
            if allowed < wanted {
                areas = [IoSlice::new(&[]); IOVECS_AT_ONCE];
                (count, wanted) = m.gather(vectors, cursor, allowed, &mut areas)?;
            }
            let written = match entry.write(&areas[..count]) {
                Err(_) if total > 0 => break,
                written => written?,
            };
            self.output.charge(written as u64);
            total += written;
            if written < wanted || !regular {
                break;
            }
            m.advance(vectors, &mut cursor, written)?;
        }
        Ok(m.put_u32(a.u32(3), total as u32)?)
    }

    /// `fd_pread(fd, iovs, iovs_len, offset, nread*)`
    pub(crate) fn fd_pread(&mut self, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        let entry = self.table.get(a.u32(0))?;
        entry.require_transfer(Rights::FD_READ)?;
        let fd = entry.require_seekable()?;
        entry.require(Rights::FD_SEEK)?;
        let vectors = m.iovecs(a.u32(1), a.u32(2))?;
        m.check(a.u32(4), 4)?;
        let (mut cursor, mut total) = (Cursor::default(), 0);
        while total < TRANSFER_MAX {
            let mut areas = m.scatter(vectors, &mut cursor, TRANSFER_MAX - total)?;
            let wanted: usize = areas.iter().map(|area| area.len()).sum();
            if wanted == 0 {
                break;
            }
            let offset = a.u64(3).checked_add(total as u64).ok_or(Errno::INVAL)?;
            let got = match retry_on_intr(|| rustix::io::preadv(fd, &mut areas, offset)) {
                Err(_) if total > 0 => break,
                got => got?,
            };
            total += got;
            if got < wanted {
                break;
            }
            m.advance(vectors, &mut cursor, got)?;
        }
        Ok(m.put_u32(a.u32(4), total as u32)?)
    }

    /// `fd_pwrite(fd, iovs, iovs_len, offset, nwritten*)`
    pub(crate) fn fd_pwrite(&mut self, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        let entry = self.table.get(a.u32(0))?;
        entry.require_transfer(Rights::FD_WRITE)?;
        let fd = entry.require_seekable()?;
        entry.require(Rights::FD_SEEK)?;
        let vectors = m.iovecs(a.u32(1), a.u32(2))?;
        m.check(a.u32(4), 4)?;
        let (mut cursor, mut total) = (Cursor::default(), 0);
        while total < TRANSFER_MAX {
            let allowed = match self.output.allowance(TRANSFER_MAX - total) {
                Err(_) if total > 0 => break,
                // Writing nothing is allowed at any time.
                allowed => allowed,
            };
            let mut areas = [IoSlice::new(&[]); IOVECS_AT_ONCE];
            let (count, wanted) = m.gather(vectors, cursor, allowed.unwrap_or(1), &mut areas)?;
            if wanted == 0 {
                break;
            }
            allowed?;
            let offset = a.u64(3).checked_add(total as u64).ok_or(Errno::INVAL)?;
            let written = match retry_on_intr(|| rustix::io::pwritev(fd, &areas[..count], offset)) {
                Err(_) if total > 0 => break,
                written => written?,
            };
            self.output.charge(written as u64);
            total += written;
            if written < wanted {
                break;
            }
            m.advance(vectors, &mut cursor, written)?;
        }
        Ok(m.put_u32(a.u32(4), total as u32)?)
    }

    /// `fd_seek(fd, offset, whence, newoffset*)`. The order of `whence` is the one difference of
    /// the unstable version here.
    pub(crate) fn fd_seek(
        &mut self,
        a: Arguments<'_>,
        m: &mut Memory<'_>,
        version: Version,
    ) -> Outcome {
        let entry = self.table.get(a.u32(0))?;
        let fd = entry.require_seekable()?;
        let offset = a.u64(1) as i64;
        let from = match (version, a.u32(2)) {
            (Version::Snapshot1, 0) | (Version::Unstable, 2) => {
                SeekFrom::Start(u64::try_from(offset).map_err(|_| Errno::INVAL)?)
            }
            (Version::Snapshot1, 1) | (Version::Unstable, 0) => SeekFrom::Current(offset),
            (Version::Snapshot1, 2) | (Version::Unstable, 1) => SeekFrom::End(offset),
            _ => return Err(Errno::INVAL.into()),
        };
        // Asking where one is takes the lesser right.
        let telling = from == SeekFrom::Current(0) && entry.rights.contains(Rights::FD_TELL);
        if !telling {
            entry.require(Rights::FD_SEEK.and(Rights::FD_TELL))?;
        }
        m.check(a.u32(3), 8)?;
        Ok(m.put_u64(a.u32(3), rustix::fs::seek(fd, from)?)?)
    }

    /// `fd_tell(fd, offset*)`
    pub(crate) fn fd_tell(&mut self, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        let entry = self.table.get(a.u32(0))?;
        let fd = entry.require_seekable()?;
        entry.require(Rights::FD_TELL)?;
        Ok(m.put_u64(a.u32(1), rustix::fs::tell(fd)?)?)
    }

    /// `fd_sync(fd)`, `fd_datasync(fd)`. What cannot be synchronised (a pipe) counts as done, as
    /// programs flush standard output this way.
    pub(crate) fn fd_sync(&mut self, a: Arguments<'_>, data_only: bool) -> Outcome {
        let entry = self.table.get(a.u32(0))?;
        if entry.kind() == HostKind::Directory || entry.require_seekable().is_ok() {
            entry.require(if data_only {
                Rights::FD_DATASYNC
            } else {
                Rights::FD_SYNC
            })?;
        }
        let synced = match (&entry.resource, entry.host()) {
            (Resource::Directory(directory), _) => rustix::fs::openat(
                &directory.dir,
                ".",
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            )
            .and_then(rustix::fs::fsync),
            (_, Some(host)) if data_only => rustix::fs::fdatasync(host.fd()),
            (_, Some(host)) => rustix::fs::fsync(host.fd()),
            (_, None) => Ok(()),
        };
        match synced {
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::ROFS) => Ok(()),
            other => Ok(other?),
        }
    }

    /// `fd_fdstat_set_flags(fd, flags)`. Append and non-blocking can be changed; the flags of
    /// synchronous writing are those a file was opened with (`ENOTSUP` else).
    pub(crate) fn fd_fdstat_set_flags(&mut self, a: Arguments<'_>) -> Outcome {
        const SYNCHRONOUS: u16 = fdflags::DSYNC | fdflags::RSYNC | fdflags::SYNC;
        let flags = a.flags(1, fdflags::ALL)?;
        let entry = self.table.get_mut(a.u32(0))?;
        entry.require(Rights::FD_FDSTAT_SET_FLAGS)?;
        if (flags ^ entry.flags) & SYNCHRONOUS != 0 {
            return Err(Errno::NOTSUP.into());
        }
        if let Resource::File { host, .. } = &entry.resource {
            let mut host_flags = rustix::fs::fcntl_getfl(host.fd())?;
            host_flags.set(OFlags::APPEND, flags & fdflags::APPEND != 0);
            rustix::fs::fcntl_setfl(host.fd(), host_flags)?;
        } else if (flags ^ entry.flags) & fdflags::APPEND != 0 && entry.kind() == HostKind::Regular
        {
            // A redirected stream: its flags are shared with the caller.
            return Err(Errno::NOTSUP.into());
        }
        entry.flags = flags;
        Ok(())
    }

    /// `fd_fdstat_set_rights(fd, base, inheriting)`: rights can only be dropped.
    pub(crate) fn fd_fdstat_set_rights(&mut self, a: Arguments<'_>) -> Outcome {
        let entry = self.table.get_mut(a.u32(0))?;
        let (base, inheriting) = (a.u64(1), a.u64(2));
        if base & !entry.rights.bits() != 0 || inheriting & !entry.inheriting.bits() != 0 {
            return Err(Errno::NOTCAPABLE.into());
        }
        entry.rights = Rights::from_bits(base);
        entry.inheriting = Rights::from_bits(inheriting);
        Ok(())
    }
}
