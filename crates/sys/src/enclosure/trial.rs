//! [`available`]: whether this machine can enclose, found out in a child that does the decisive steps and ends.

use std::io;

use rustix::thread::UnshareFlags;
use thiserror::Error;

/// Why runners cannot be enclosed on this machine, and what would help.
#[derive(Debug, Error)]
#[error("{step} failed{}", remedy.map_or(String::new(), |remedy| format!("; {remedy}")))]
pub struct Unavailable {
    /// The first step that failed.
    pub step: &'static str,
    /// What an administrator can do, if that is known.
    pub remedy: Option<&'static str>,
    /// What the kernel said.
    pub source: io::Error,
}

/// The steps that machines are known to forbid, in order; a child that fails at one says so by its exit code.
const STEPS: [&str; 3] = [
    "making user and mount namespaces",
    "mapping this user into a namespace",
    "making a file system in a namespace",
];

/// Exit codes: 0, or the step in the upper two bits and `errno` in the rest (those up to 63 suffice; others become 63).
const ERRNO_BITS: u8 = 6;

/// Settings that forbid namespaces to users, with the value that does.
const SETTINGS: [(&str, &str, &str); 3] = [
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "allow user namespaces: sysctl user.max_user_namespaces=10000",
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "allow user namespaces to users: sysctl kernel.unprivileged_userns_clone=1",
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "write an AppArmor profile with `userns,` for sterna, or sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
];

/// Whether [`Enclosure::enter`](super::Enclosure::enter) can give all it has on this machine, for this user.
///
/// # Errors
/// Which step fails, why, and the remedy if one is known.
pub fn available() -> Result<(), Unavailable> {
    let failed = |step, source| Unavailable {
        step,
        remedy: remedy(&source),
        source,
    };
    let user = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    let maps = [
        (c"/proc/self/setgroups", "deny".to_owned()),
        (c"/proc/self/uid_map", format!("{user} {user} 1")),
        (c"/proc/self/gid_map", format!("{group} {group} 1")),
    ];
    // SAFETY: 1. The child makes system calls only, on memory made before, and ends by _exit: whatever locks other threads
    // held at the fork, it takes none.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let code = steps(&maps);
        // SAFETY: 1. Ends the child without running anything of its parent's.
        unsafe { libc::_exit(i32::from(code)) };
    }
    if child < 0 {
        return Err(failed("starting a process", io::Error::last_os_error()));
    }
    let status = wait(child).map_err(|error| failed("waiting for a process", error))?;
    if !libc::WIFEXITED(status) {
        let killed = io::Error::other("the trial was killed");
        return Err(failed(STEPS[0], killed));
    }
    let code = libc::WEXITSTATUS(status) as u8;
    if code == 0 {
        return Ok(());
    }
    let step = STEPS[usize::from(code >> ERRNO_BITS).min(STEPS.len() - 1)];
    let errno = i32::from(code & ((1 << ERRNO_BITS) - 1));
    Err(failed(step, io::Error::from_raw_os_error(errno)))
}

fn wait(child: libc::pid_t) -> io::Result<libc::c_int> {
    let mut status = 0;
    loop {
        // SAFETY: 1. `status` is live.
        if unsafe { libc::waitpid(child, &raw mut status, 0) } == child {
            return Ok(status);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Async-signal-safe: system calls only.
fn steps(maps: &[(&std::ffi::CStr, String); 3]) -> u8 {
    let failed = |step: u8, errno: rustix::io::Errno| {
        (step << ERRNO_BITS) | errno.raw_os_error().clamp(1, (1 << ERRNO_BITS) - 1) as u8
    };
    let flags = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS;
    // SAFETY: 1. The table of descriptors is not unshared.
    if let Err(errno) = unsafe { rustix::thread::unshare_unsafe(flags) } {
        return failed(0, errno);
    }
    for (path, text) in maps {
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
        let written = rustix::fs::open(*path, flags, rustix::fs::Mode::empty())
            .and_then(|file| rustix::io::write(file, text.as_bytes()));
        if let Err(errno) = written {
            return failed(1, errno);
        }
    }
    // SAFETY: 1. The name ends in 0.
    let opened = unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), 1) };
    if opened < 0 {
        let error = io::Error::last_os_error();
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        return failed(2, rustix::io::Errno::from_raw_os_error(errno));
    }
    0
}

/// What to do, by the machine's settings.
fn remedy(error: &io::Error) -> Option<&'static str> {
    let set = |path: &str, value: &str| {
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() == value)
    };
    let setting = SETTINGS.iter().find(|(path, value, _)| set(path, value));
    if let Some((_, _, remedy)) = setting {
        return Some(remedy);
    }
    match error.raw_os_error() {
        Some(libc::ENOSPC) => Some("too many namespaces: raise sysctl user.max_user_namespaces"),
        Some(libc::EPERM) => Some("in a container, allow it user namespaces (its seccomp profile)"),
        Some(libc::ENOSYS | libc::EINVAL) => {
            Some("use a kernel with user namespaces, Linux 5.12 or later")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_leaves_this_process_as_it_was() {
        let before = std::fs::read_link("/proc/self/ns/user").unwrap();
        if let Err(why) = available() {
            println!("skipped: {why}: {}", why.source);
            return;
        }
        available().unwrap();
        assert_eq!(std::fs::read_link("/proc/self/ns/user").unwrap(), before);
    }

    #[test]
    fn remedies_are_known_for_what_containers_and_old_kernels_say() {
        for errno in [libc::EPERM, libc::ENOSYS, libc::ENOSPC] {
            assert!(remedy(&io::Error::from_raw_os_error(errno)).is_some());
        }
    }
}
