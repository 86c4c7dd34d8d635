//! Everything that takes a path. A path never leads out of the directory it is relative to,
//! whatever links or renames it meets: `EPERM`, as in wasmtime.
//!
//! In a directory given read-only every change is `EPERM` too; rights that a descriptor does not
//! have are `ENOTCAPABLE`.

use crate::abi::{Errno, LOOKUP_SYMLINK_FOLLOW, Version, fdflags, fstflags, oflags};
use crate::filestat::Filestat;
use crate::memory::Memory;
use crate::rights::Rights;
use crate::step::Outcome;
use crate::streams::{HostFile, HostKind};
use crate::table::{Entry, OpenDirectory, Place, Resource};
use crate::wasi::{Arguments, Wasi};
use cap_fs_ext::{
    DirExt, FollowSymlinks, OpenOptionsFollowExt, OpenOptionsMaybeDirExt, SystemTimeSpec,
};
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt};
use rustix::fs::OFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// How a file is to be opened.
#[derive(Clone, Copy)]
pub(crate) struct Opening {
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) follow: bool,
    /// `oflags`.
    pub(crate) create: u16,
    /// `fdflags`.
    pub(crate) flags: u16,
}

impl Opening {
    /// Opens beneath `dir`. Never blocks on a named pipe, never takes a terminal for its own.
    pub(crate) fn open(self, dir: &Dir, path: &str) -> Result<OwnedFd, Errno> {
        let create = self.create & oflags::CREAT != 0;
        let exclusive = create && self.create & oflags::EXCL != 0;
        let truncate = self.create & oflags::TRUNC != 0;
        if create && !exclusive && !truncate && !self.write {
            // Creating takes write access here; an existing file is opened without.
            let existing = Opening {
                create: self.create & !oflags::CREAT,
                ..self
            };
            match existing.open(dir, path) {
                Err(Errno::NOENT) => {}
                other => return other,
            }
        }
        let mut extra = OFlags::NONBLOCK | OFlags::NOCTTY;
        extra.set(OFlags::DIRECTORY, self.create & oflags::DIRECTORY != 0);
        extra.set(OFlags::APPEND, self.flags & fdflags::APPEND != 0);
        extra.set(OFlags::DSYNC, self.flags & fdflags::DSYNC != 0);
        extra.set(
            OFlags::SYNC,
            self.flags & (fdflags::SYNC | fdflags::RSYNC) != 0,
        );
        let write = self.write || create || truncate;
        let mut options = OpenOptions::new();
        options
            .read(self.read || !write)
            .write(write)
            .create(create && !exclusive)
            .create_new(exclusive)
            .truncate(truncate)
            .custom_flags(extra.bits() as i32)
            .follow(if self.follow {
                FollowSymlinks::Yes
            } else {
                FollowSymlinks::No
            })
            .maybe_dir(!write);
        Ok(dir.open_with(path, &options)?.into_std().into())
    }
}

/// A directory descriptor and a path relative to it.
struct At<'a> {
    directory: &'a OpenDirectory,
    entry: &'a Entry,
    path: &'a str,
}

impl At<'_> {
    fn dir(&self) -> &Dir {
        &self.directory.dir
    }
}

impl Wasi {
    /// Resolves a descriptor and the path at argument `index`, for a call that needs `right`.
    fn at<'a>(
        &'a self,
        fd: u32,
        m: &'a Memory<'_>,
        path: (u32, u32),
        right: Rights,
    ) -> Result<At<'a>, Errno> {
        let entry = self.table.get(fd)?;
        let directory = entry.directory()?;
        let path = m.string(path.0, path.1)?;
        entry.require(right)?;
        match path {
            "" => Err(Errno::NOENT),
            path => Ok(At {
                directory,
                entry,
                path,
            }),
        }
    }

    /// The same for a call that changes something.
    fn at_changing<'a>(
        &'a self,
        fd: u32,
        m: &'a Memory<'_>,
        path: (u32, u32),
        right: Rights,
    ) -> Result<At<'a>, Errno> {
        let at = self.at(fd, m, path, right)?;
        if at.directory.place.root.read_only {
            Err(Errno::PERM)
        } else {
            Ok(at)
        }
    }

    /// `path_create_directory(fd, path, path_len)`
    pub(crate) fn path_create_directory(
        &mut self,
        a: Arguments<'_>,
        m: &mut Memory<'_>,
    ) -> Outcome {
        let at = self.at_changing(
            a.u32(0),
            m,
            (a.u32(1), a.u32(2)),
            Rights::PATH_CREATE_DIRECTORY,
        )?;
        Ok(at.dir().create_dir(at.path)?)
    }

    /// `path_remove_directory(fd, path, path_len)`
    pub(crate) fn path_remove_directory(
        &mut self,
        a: Arguments<'_>,
        m: &mut Memory<'_>,
    ) -> Outcome {
        let at = self.at_changing(
            a.u32(0),
            m,
            (a.u32(1), a.u32(2)),
            Rights::PATH_REMOVE_DIRECTORY,
        )?;
        Ok(at.dir().remove_dir(at.path)?)
    }

    /// `path_unlink_file(fd, path, path_len)`
    pub(crate) fn path_unlink_file(&mut self, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        let at = self.at_changing(a.u32(0), m, (a.u32(1), a.u32(2)), Rights::PATH_UNLINK_FILE)?;
        Ok(at.dir().remove_file(at.path)?)
    }

    /// `path_filestat_get(fd, lookupflags, path, path_len, filestat*)`
    pub(crate) fn path_filestat_get(
        &mut self,
        a: Arguments<'_>,
        m: &mut Memory<'_>,
        version: Version,
    ) -> Outcome {
        m.check(a.u32(4), version.filestat_bytes())?;
        let at = self.at(a.u32(0), m, (a.u32(2), a.u32(3)), Rights::PATH_FILESTAT_GET)?;
        let metadata = match follows(a.u32(1))? {
            true => at.dir().metadata(at.path)?,
            false => at.dir().symlink_metadata(at.path)?,
        };
        Ok(Filestat::of_metadata(&metadata).put(m, a.u32(4), version)?)
    }

    /// `path_filestat_set_times(fd, lookupflags, path, path_len, atim, mtim, fstflags)`
    pub(crate) fn path_filestat_set_times(
        &mut self,
        a: Arguments<'_>,
        m: &mut Memory<'_>,
    ) -> Outcome {
        let flags = a.flags(6, fstflags::ALL)?;
        let at = self.at_changing(
            a.u32(0),
            m,
            (a.u32(2), a.u32(3)),
            Rights::PATH_FILESTAT_SET_TIMES,
        )?;
        let accessed = time_spec(
            a.u64(4),
            flags & fstflags::ATIM != 0,
            flags & fstflags::ATIM_NOW != 0,
        )?;
        let modified = time_spec(
            a.u64(5),
            flags & fstflags::MTIM != 0,
            flags & fstflags::MTIM_NOW != 0,
        )?;
        match follows(a.u32(1))? {
            true => at.dir().set_times(at.path, accessed, modified)?,
            false => at.dir().set_symlink_times(at.path, accessed, modified)?,
        }
        Ok(())
    }

    /// `path_link(old_fd, old_flags, old_path, old_len, new_fd, new_path, new_len)`. Following a
    /// link at the old path is `EINVAL`, as in wasmtime. Linking out of a read-only directory is
    /// a change to it: it could be written through the new name.
    pub(crate) fn path_link(&mut self, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        if follows(a.u32(1))? {
            return Err(Errno::INVAL.into());
        }
        let old = self.at_changing(a.u32(0), m, (a.u32(2), a.u32(3)), Rights::PATH_LINK_SOURCE)?;
        let new = self.at_changing(a.u32(4), m, (a.u32(5), a.u32(6)), Rights::PATH_LINK_TARGET)?;
        Ok(old.dir().hard_link(old.path, new.dir(), new.path)?)
    }

    /// `path_rename(fd, old_path, old_len, new_fd, new_path, new_len)`
    pub(crate) fn path_rename(&mut self, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        let old = self.at_changing(
            a.u32(0),
            m,
            (a.u32(1), a.u32(2)),
            Rights::PATH_RENAME_SOURCE,
        )?;
        let new = self.at_changing(
            a.u32(3),
            m,
            (a.u32(4), a.u32(5)),
            Rights::PATH_RENAME_TARGET,
        )?;
        Ok(old.dir().rename(old.path, new.dir(), new.path)?)
    }

    /// `path_symlink(old_path, old_len, fd, new_path, new_len)`. A link to an absolute path is
    /// `EPERM`.
    pub(crate) fn path_symlink(&mut self, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        let target = m.string(a.u32(0), a.u32(1))?;
        let at = self.at_changing(a.u32(2), m, (a.u32(3), a.u32(4)), Rights::PATH_SYMLINK)?;
        Ok(at.dir().symlink(target, at.path)?)
    }

    /// `path_readlink(fd, path, path_len, buf, buf_len, bufused*)`. What does not fit is cut off.
    pub(crate) fn path_readlink(&mut self, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        m.check(a.u32(3), a.u32(4))?;
        m.check(a.u32(5), 4)?;
        let at = self.at(a.u32(0), m, (a.u32(1), a.u32(2)), Rights::PATH_READLINK)?;
        let target = at.dir().read_link(at.path)?;
        let bytes = target.as_os_str().as_bytes();
        let used = bytes.len().min(a.u32(4) as usize);
        m.put(a.u32(3), &bytes[..used])?;
        Ok(m.put_u32(a.u32(5), used as u32)?)
    }

    /// `path_open(fd, lookupflags, path, path_len, oflags, rights, inheriting, fdflags, fd*)`
    pub(crate) fn path_open(&mut self, a: Arguments<'_>, m: &mut Memory<'_>) -> Outcome {
        let follow = follows(a.u32(1))?;
        let create = a.flags(4, oflags::ALL)?;
        let flags = a.flags(7, fdflags::ALL)?;
        m.check(a.u32(8), 4)?;
        let mut needed = Rights::PATH_OPEN;
        if create & oflags::CREAT != 0 {
            needed = needed.and(Rights::PATH_CREATE_FILE);
        }
        if create & oflags::TRUNC != 0 {
            needed = needed.and(Rights::PATH_FILESTAT_SET_SIZE);
        }
        let at = self.at(a.u32(0), m, (a.u32(2), a.u32(3)), needed)?;
        let rights = Rights::from_bits(a.u64(5));
        if !at.entry.inheriting.contains(rights) {
            return Err(Errno::NOTCAPABLE.into());
        }
        // What it passes on cannot be more than what its directory passes on; programs ask for all.
        let inheriting = Rights::from_bits(a.u64(6)).only(at.entry.inheriting);
        let must_be_directory = create & oflags::DIRECTORY != 0;
        if must_be_directory && create & (oflags::CREAT | oflags::EXCL | oflags::TRUNC) != 0 {
            return Err(Errno::INVAL.into());
        }
        let write = rights.contains(Rights::FD_WRITE) && !must_be_directory;
        let changes = write || create & (oflags::CREAT | oflags::TRUNC) != 0;
        if changes && at.directory.place.root.read_only {
            return Err(Errno::PERM.into());
        }
        self.table.check_room()?;
        let read = rights.contains(Rights::FD_READ) || must_be_directory;
        let fd = Opening {
            read,
            write,
            follow,
            create,
            flags,
        }
        .open(at.dir(), at.path)?;
        let place = Place {
            root: at.directory.place.root.clone(),
            path: at.directory.place.path.join(at.path),
        };
        let entry = opened(fd, place, rights, inheriting, flags)?;
        let number = self.table.insert(entry)?;
        Ok(m.put_u32(a.u32(8), number)?)
    }
}

/// The entry of a file or directory just opened, with those of the rights that apply to it.
pub(crate) fn opened(
    fd: OwnedFd,
    place: Place,
    rights: Rights,
    inheriting: Rights,
    flags: u16,
) -> Result<Entry, Errno> {
    let kind = HostKind::of(fd.as_fd(), &rustix::fs::fstat(&fd)?);
    Ok(match kind {
        HostKind::Directory => {
            let dir = Dir::from_std_file(std::fs::File::from(fd));
            Entry {
                resource: Resource::Directory(Box::new(OpenDirectory {
                    dir,
                    place,
                    preopened: false,
                    listing: None,
                })),
                rights: rights.only(Rights::DIRECTORY),
                inheriting,
                flags,
            }
        }
        HostKind::SocketStream | HostKind::SocketDatagram | HostKind::Unknown => {
            return Err(Errno::NXIO);
        }
        kind => {
            let applicable = if kind.seeks() {
                Rights::FILE
            } else {
                Rights::STREAM
            };
            Entry {
                resource: Resource::File {
                    host: HostFile::owned(fd, kind),
                    place,
                },
                rights: rights.only(applicable),
                inheriting: Rights::NONE,
                flags,
            }
        }
    })
}

fn follows(lookup_flags: u32) -> Result<bool, Errno> {
    match lookup_flags {
        0 => Ok(false),
        LOOKUP_SYMLINK_FOLLOW => Ok(true),
        _ => Err(Errno::INVAL),
    }
}

fn time_spec(time: u64, given: bool, now: bool) -> Result<Option<SystemTimeSpec>, Errno> {
    match (given, now) {
        (true, true) => Err(Errno::INVAL),
        (true, false) => {
            let time = std::time::UNIX_EPOCH + Duration::from_nanos(time);
            Ok(Some(SystemTimeSpec::Absolute(
                cap_std::time::SystemTime::from_std(time),
            )))
        }
        (false, true) => Ok(Some(SystemTimeSpec::SymbolicNow)),
        (false, false) => Ok(None),
    }
}
