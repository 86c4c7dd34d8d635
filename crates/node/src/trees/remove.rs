//! Removes a tree of this user's, whatever the permissions in it: [`remove`].

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, chmod, openat};
use rustix::io::Errno;

/// Removes a directory with all that is in it, if it is there. Into directories that came with permissions which forbid
/// that even to their owner, it lets itself first.
///
/// # Errors
/// Some of it is still there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let is_gone = |done: io::Result<()>| match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    };
    match is_gone(fs::remove_dir_all(path)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(CWD, path)?;
            is_gone(fs::remove_dir_all(path))
        }
        done => done,
    }
}

/// Lets the owner into a directory and all beneath. Whoever still writes there may put a link in the place of a directory:
/// that is not followed, since permissions are set on what was opened (`/proc/self/fd`, as chmod(2) has no other way for a
/// directory that may not be read).
fn open_up(parent: impl AsFd, name: impl rustix::path::Arg) -> Result<(), Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match openat(parent, name, flags | OFlags::PATH, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let itself = format!("/proc/self/fd/{}", directory.as_raw_fd());
    chmod(itself, Mode::RWXU)?;
    let directory = openat(&directory, ".", flags | OFlags::RDONLY, Mode::empty())?;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let is_directory = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
        if is_directory && ![c".", c".."].contains(&entry.file_name()) {
            open_up(&directory, entry.file_name())?;
        }
    }
    Ok(())
}
