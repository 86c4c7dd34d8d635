//! Mounts by descriptor (the kernel's calls since Linux 5.2, `mount_setattr` since 5.12), and user namespaces in which
//! they may be used without privilege. For `enclosure` and `trees`.
#![allow(
    unsafe_code,
    reason = "system calls that libc and rustix's present features do not have, and unshare"
)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::UnshareFlags;

// `include/uapi/linux/mount.h`, the same on all architectures.
const OPEN_TREE_CLONE: libc::c_int = 1;
const OPEN_TREE_CLOEXEC: libc::c_int = libc::O_CLOEXEC;
const AT_RECURSIVE: libc::c_int = 0x8000;
const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const MOUNT_ATTR_NODEV: u64 = 0x4;
#[cfg(feature = "enclosure")]
const MOUNT_ATTR_NOEXEC: u64 = 0x8;
#[cfg(feature = "enclosure")]
const MOVE_MOUNT_EMPTY_FROM: libc::c_int = 0x4;
#[cfg(feature = "enclosure")]
const FSCONFIG_SET_STRING: libc::c_int = 1;
#[cfg(feature = "enclosure")]
const FSCONFIG_CMD_CREATE: libc::c_int = 6;

/// `struct mount_attr`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// A detached copy of the mount below `directory`, with what is mounted further below: nothing leads out of it upwards.
pub(crate) fn clone_tree(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: 1. The path is an empty text. 2. The call touches no other memory.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_open_tree,
            directory.as_raw_fd(),
            c"".as_ptr(),
            OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH | AT_RECURSIVE,
        )
    };
    descriptor(answer)
}

/// Takes set-user-id programs, device nodes and perhaps writing from a mount and all below it, and lets no mount made
/// elsewhere appear there.
pub(crate) fn restrict(mount: BorrowedFd<'_>, read_only: bool) -> io::Result<()> {
    let mut set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    if read_only {
        set |= MOUNT_ATTR_RDONLY;
    }
    set_attributes(mount, c"", libc::AT_EMPTY_PATH | AT_RECURSIVE, set)
}

/// Lets no mount made outside of this mount namespace appear in it, nor the other way round.
#[cfg(feature = "enclosure")]
pub(crate) fn cut_propagation() -> io::Result<()> {
    set_attributes(rustix::fs::CWD, c"/", AT_RECURSIVE, 0)
}

fn set_attributes(
    directory: BorrowedFd<'_>,
    path: &CStr,
    flags: libc::c_int,
    set: u64,
) -> io::Result<()> {
    let attributes = MountAttributes {
        set,
        clear: 0,
        propagation: libc::MS_PRIVATE,
        user_namespace: 0,
    };
    // SAFETY: 1. The path ends in 0. 2. The structure is live and has the size that is stated.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    done(answer)
}

/// A new file system in memory, not mounted anywhere yet, for `bytes` of contents and `files` files.
#[cfg(feature = "enclosure")]
pub(crate) fn memory_file_system(bytes: u64, files: u64) -> io::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: libc::c_int = 1;
    const FSMOUNT_CLOEXEC: libc::c_int = 1;
    // SAFETY: 1. The name ends in 0.
    let context =
        descriptor(unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), FSOPEN_CLOEXEC) })?;
    let configure = |command: libc::c_int, key: Option<&CStr>, value: &str| {
        let value = std::ffi::CString::new(value)?;
        let (key, value) = match key {
            Some(key) => (key.as_ptr(), value.as_ptr()),
            None => (std::ptr::null(), std::ptr::null()),
        };
        // SAFETY: 1. The texts end in 0 and are live, or are null where the command has none.
        done(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                context.as_raw_fd(),
                command,
                key,
                value,
                0,
            )
        })
    };
    configure(FSCONFIG_SET_STRING, Some(c"size"), &bytes.to_string())?;
    configure(FSCONFIG_SET_STRING, Some(c"nr_inodes"), &files.to_string())?;
    configure(FSCONFIG_SET_STRING, Some(c"mode"), "0755")?;
    configure(FSCONFIG_CMD_CREATE, None, "")?;
    // SAFETY: 1. The call takes numbers only.
    descriptor(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
        )
    })
}

/// Mounts a detached mount on a directory, named from another.
#[cfg(feature = "enclosure")]
pub(crate) fn attach(mount: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    // SAFETY: 1. Both paths end in 0.
    done(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            to.as_raw_fd(),
            path.as_ptr(),
            MOVE_MOUNT_EMPTY_FROM,
        )
    })
}

/// Makes the mount `root` the root and the working directory of this process and unmounts everything else, which the
/// mount namespace must be alone with (pivot_root(2), "pivot_root(".", ".")").
#[cfg(feature = "enclosure")]
pub(crate) fn change_root(root: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    // The old root now lies upon the new one.
    // SAFETY: 1. The path ends in 0.
    done(i64::from(unsafe {
        libc::umount2(c".".as_ptr(), libc::MNT_DETACH)
    }))?;
    Ok(rustix::process::chdir("/")?)
}

/// A new user namespace and others with it, in which this user and group, and no others, exist, under their own numbers. The
/// process has all capabilities there, and none outside. It must have one thread and be dumpable.
pub(crate) fn new_namespaces(others: UnshareFlags) -> Result<(), (&'static str, io::Error)> {
    let user = rustix::process::geteuid();
    let group = rustix::process::getegid();
    // SAFETY: 1. The table of descriptors, whose sharing I/O safety rests on, is not unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | others) }
        .map_err(|error| ("new namespaces", error.into()))?;
    let write = |file: &'static str, text: String| {
        std::fs::write(file, text).map_err(|error| (file, error))
    };
    // Without this, an unprivileged process may not map its group (user_namespaces(7)).
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("{0} {0} 1", user.as_raw()))?;
    write("/proc/self/gid_map", format!("{0} {0} 1", group.as_raw()))
}

/// Opens a directory again, in this process's present mount namespace. By its path, which somebody may have put something
/// else at; so what is found is compared.
///
/// # Errors
/// What has the path is not the same directory, or there is no path that leads to it.
pub(crate) fn reopen(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::open(&path, flags, Mode::empty())?;
    let (given, same) = (rustix::fs::fstat(directory)?, rustix::fs::fstat(&found)?);
    if (given.st_dev, given.st_ino) != (same.st_dev, same.st_ino) {
        return Err(io::Error::other(format!(
            "{} is another directory by now",
            path.display()
        )));
    }
    Ok(found)
}

fn descriptor(answer: libc::c_long) -> io::Result<OwnedFd> {
    done(answer)?;
    // SAFETY: 1. The calls that answer with a descriptor make a new one, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(answer as libc::c_int) })
}

fn done(answer: libc::c_long) -> io::Result<()> {
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Whether the mount that `directory` lies in forbids writing.
#[cfg(feature = "trees")]
pub(crate) fn is_read_only(directory: BorrowedFd<'_>) -> io::Result<bool> {
    let flags = rustix::fs::fstatvfs(directory)?.f_flag;
    Ok(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}
