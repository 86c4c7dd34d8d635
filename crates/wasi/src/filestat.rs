//! Metadata of descriptors: what they are, sizes, times, and the given directories' names.

use crate::abi::{Errno, FDSTAT_BYTES, PRESTAT_BYTES, PRESTAT_OTHER, Version, filetype, fstflags};
use crate::memory::Memory;
use crate::rights::Rights;
use crate::step::Outcome;
use crate::streams::HostKind;
use crate::table::{Entry, OpenDirectory, Resource};
use crate::wasi::{Arguments, Wasi};
use rustix::fs::{
    Advice, FallocateFlags, FileType, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, fstat,
};
use std::num::NonZeroU64;

/// What a guest is told of a file. Times in nanoseconds since 1970.
#[derive(Default)]
pub(crate) struct Filestat {
    device: u64,
    inode: u64,
    file_type: u8,
    links: u64,
    size: u64,
    accessed: u64,
    modified: u64,
    changed: u64,
}

impl Filestat {
    pub(crate) fn of(stat: &Stat, file_type: u8) -> Filestat {
        Filestat {
            device: stat.st_dev,
            inode: stat.st_ino,
            file_type,
            // Its type differs between architectures.
            links: stat.st_nlink as _,
            size: stat.st_size.max(0) as u64,
            accessed: nanoseconds(stat.st_atime, stat.st_atime_nsec),
            modified: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            changed: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    pub(crate) fn of_metadata(metadata: &cap_std::fs::Metadata) -> Filestat {
        use cap_std::fs::MetadataExt;
        Filestat {
            device: metadata.dev(),
            inode: metadata.ino(),
            file_type: file_type(FileType::from_raw_mode(metadata.mode())),
            links: metadata.nlink(),
            size: metadata.size(),
            accessed: nanoseconds(metadata.atime(), metadata.atime_nsec() as u64),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec() as u64),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec() as u64),
        }
    }

    pub(crate) fn put(&self, m: &mut Memory<'_>, at: u32, version: Version) -> Result<(), Errno> {
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(&self.device.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.inode.to_le_bytes());
        bytes[16] = self.file_type;
        let rest = match version {
            Version::Snapshot1 => {
                bytes[24..32].copy_from_slice(&self.links.to_le_bytes());
                32
            }
            Version::Unstable => {
                let links = u32::try_from(self.links).unwrap_or(u32::MAX);
                bytes[20..24].copy_from_slice(&links.to_le_bytes());
                24
            }
        };
        for (index, value) in [self.size, self.accessed, self.modified, self.changed]
            .iter()
            .enumerate()
        {
            bytes[rest + index * 8..][..8].copy_from_slice(&value.to_le_bytes());
        }
        m.put(at, &bytes[..version.filestat_bytes() as usize])
    }
}

/// Times before 1970 read as 1970.
fn nanoseconds(seconds: i64, nanoseconds: u64) -> u64 {
    u64::try_from(seconds)
        .unwrap_or(0)
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

/// The WASI `filetype` of a host's.
pub(crate) fn file_type(host: FileType) -> u8 {
    match host {
        FileType::RegularFile => filetype::REGULAR_FILE,
        FileType::Directory => filetype::DIRECTORY,
        FileType::Symlink => filetype::SYMBOLIC_LINK,
        FileType::CharacterDevice => filetype::CHARACTER_DEVICE,
        FileType::BlockDevice => filetype::BLOCK_DEVICE,
        FileType::Socket => filetype::SOCKET_STREAM,
        _ => filetype::UNKNOWN,
    }
}

/// The times a `set_times` call asks for: access, then modification.
pub(crate) fn timestamps(accessed: u64, modified: u64, flags: u16) -> Result<Timestamps, Errno> {
    let one = |time: u64, given: u16, now: u16| match (flags & given != 0, flags & now != 0) {
        (true, true) => Err(Errno::INVAL),
        (true, false) => Ok(Timespec {
            tv_sec: (time / 1_000_000_000) as _,
            tv_nsec: (time % 1_000_000_000) as _,
        }),
        (false, true) => Ok(Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW as _,
        }),
        (false, false) => Ok(Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT as _,
        }),
    };
    Ok(Timestamps {
        last_access: one(accessed, fstflags::ATIM, fstflags::ATIM_NOW)?,
        last_modification: one(modified, fstflags::MTIM, fstflags::MTIM_NOW)?,
    })
}

impl Entry {
    /// Fails unless the call may change the file: `ENOTCAPABLE`, or `EPERM` in a directory given
    /// read-only.
    fn require_change(&self, right: Rights) -> Result<(), Errno> {
        self.require(right)?;
        if self.read_only() {
            Err(Errno::PERM)
        } else {
            Ok(())
        }
    }
}

impl Wasi {
    /// `fd_fdstat_get(fd, fdstat*)`
    pub(crate) fn fd_fdstat_get(&mut self, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        let entry = self.table.get(a.u32(0))?;
        let mut bytes = [0; FDSTAT_BYTES as usize];
        bytes[0] = entry.kind().file_type();
        bytes[2..4].copy_from_slice(&entry.flags.to_le_bytes());
        bytes[8..16].copy_from_slice(&entry.rights.bits().to_le_bytes());
        bytes[16..24].copy_from_slice(&entry.inheriting.bits().to_le_bytes());
        Ok(m.put(a.u32(1), &bytes)?)
    }

    /// `fd_filestat_get(fd, filestat*)`
    pub(crate) fn fd_filestat_get(
        &mut self,
        a: Arguments<'_>,
        m: &mut Memory<'_>,
        version: Version,
    ) -> Outcome {
        let entry = self.table.get(a.u32(0))?;
        entry.require(Rights::FD_FILESTAT_GET)?;
        let file_type = entry.kind().file_type();
        let stat = match (&entry.resource, entry.host()) {
            (Resource::Directory(directory), _) => Filestat::of(&fstat(&directory.dir)?, file_type),
            (_, Some(host)) => Filestat::of(&fstat(host.fd())?, file_type),
            (_, None) => Filestat {
                file_type,
                ..Filestat::default()
            },
        };
        Ok(stat.put(m, a.u32(1), version)?)
    }

    /// `fd_filestat_set_size(fd, size)`
    pub(crate) fn fd_filestat_set_size(&mut self, a: Arguments<'_>) -> Outcome {
        let entry = self.table.get(a.u32(0))?;
        entry.require_change(Rights::FD_FILESTAT_SET_SIZE)?;
        let host = entry.host().ok_or(Errno::INVAL)?;
        Ok(rustix::fs::ftruncate(host.fd(), a.u64(1))?)
    }

    /// `fd_filestat_set_times(fd, atim, mtim, flags)`
    pub(crate) fn fd_filestat_set_times(&mut self, a: Arguments<'_>) -> Outcome {
        let flags = a.flags(3, fstflags::ALL)?;
        let times = timestamps(a.u64(1), a.u64(2), flags)?;
        let entry = self.table.get(a.u32(0))?;
        entry.require_change(Rights::FD_FILESTAT_SET_TIMES)?;
        match (&entry.resource, entry.host()) {
            // The directory itself may be held by a descriptor that only names it.
            (Resource::Directory(directory), _) => {
                rustix::fs::utimensat(&directory.dir, ".", &times, rustix::fs::AtFlags::empty())?
            }
            (_, Some(host)) => rustix::fs::futimens(host.fd(), &times)?,
            (_, None) => return Err(Errno::BADF.into()),
        }
        Ok(())
    }

    /// `fd_advise(fd, offset, len, advice)`
    pub(crate) fn fd_advise(&mut self, a: Arguments<'_>) -> Outcome {
        let advice = match a.u32(3) {
            0 => Advice::Normal,
            1 => Advice::Sequential,
            2 => Advice::Random,
            3 => Advice::WillNeed,
            4 => Advice::DontNeed,
            5 => Advice::NoReuse,
            _ => return Err(Errno::INVAL.into()),
        };
        let entry = self.table.get(a.u32(0))?;
        match entry.host() {
            _ if entry.kind() == HostKind::Directory => Err(Errno::BADF.into()),
            Some(host) if host.kind() == HostKind::Regular => {
                entry.require(Rights::FD_ADVISE)?;
                Ok(rustix::fs::fadvise(
                    host.fd(),
                    a.u64(1),
                    NonZeroU64::new(a.u64(2)),
                    advice,
                )?)
            }
            _ => Err(Errno::SPIPE.into()),
        }
    }

    /// `fd_allocate(fd, offset, len)`. What the file grows by counts as output.
    pub(crate) fn fd_allocate(&mut self, a: Arguments<'_>) -> Outcome {
        let entry = self.table.get(a.u32(0))?;
        entry.require_change(Rights::FD_ALLOCATE)?;
        let host = match entry.host() {
            Some(host) if host.kind() == HostKind::Regular => host,
            _ => return Err(Errno::BADF.into()),
        };
        let (offset, len) = (a.u64(1), a.u64(2));
        let end = offset
            .checked_add(len)
            .filter(|_| len > 0)
            .ok_or(Errno::INVAL)?;
        let before = fstat(host.fd())?.st_size.max(0) as u64;
        let growth = end.saturating_sub(before);
        let left = self
            .output
            .limit
            .map_or(u64::MAX, |limit| limit.saturating_sub(self.output.used));
        if growth > left {
            return Err(Errno::DQUOT.into());
        }
        rustix::fs::fallocate(host.fd(), FallocateFlags::empty(), offset, len)?;
        self.output.charge(growth);
        Ok(())
    }

    /// `fd_prestat_get(fd, prestat*)`
    pub(crate) fn fd_prestat_get(&mut self, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        if let Resource::Listener { .. } = self.table.get(a.u32(0))?.resource {
            // Not a directory. C libraries look at one descriptor after the other from 3 on, pass over what is of a sort
            // that they do not know, and end at an error.
            let mut bytes = [0; PRESTAT_BYTES as usize];
            bytes[0] = PRESTAT_OTHER;
            return Ok(m.put(a.u32(1), &bytes)?);
        }
        let name = &self.preopened(a.u32(0))?.place.root.guest;
        let mut bytes = [0; PRESTAT_BYTES as usize];
        bytes[4..].copy_from_slice(&(name.len() as u32).to_le_bytes());
        Ok(m.put(a.u32(1), &bytes)?)
    }

    /// `fd_prestat_dir_name(fd, path, path_len)`
    pub(crate) fn fd_prestat_dir_name(&mut self, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        let name = &self.preopened(a.u32(0))?.place.root.guest;
        if (a.u32(2) as usize) < name.len() {
            return Err(Errno::NAMETOOLONG.into());
        }
        Ok(m.put(a.u32(1), name.as_bytes())?)
    }

    fn preopened(&self, fd: u32) -> Result<&OpenDirectory, Errno> {
        match &self.table.get(fd)?.resource {
            Resource::Directory(directory) if directory.preopened => Ok(directory),
            _ => Err(Errno::BADF),
        }
    }
}
