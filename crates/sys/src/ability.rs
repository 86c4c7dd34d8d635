//! What this kernel can do, asked without changing anything.
#![allow(unsafe_code, reason = "asks for Landlock's version")]

use std::io;

/// Which version of Landlock the kernel has (landlock(7)).
///
/// # Errors
/// It has none, or it is switched off.
pub fn landlock_version() -> io::Result<u32> {
    const VERSION: libc::c_long = 1; // LANDLOCK_CREATE_RULESET_VERSION
    // SAFETY: 1. With this flag the call takes no memory from us, and makes nothing.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            VERSION,
        )
    };
    u32::try_from(answer).map_err(|_| io::Error::last_os_error())
}

/// What a seccomp filter may do to a system call (seccomp(2)), by name.
///
/// # Errors
/// The kernel has no filters, or there is no `/proc`.
pub fn seccomp_actions() -> io::Result<Vec<String>> {
    let text = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail")?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_agree_with_the_kernels_own_lists() {
        if let Ok(version) = landlock_version() {
            assert!(version >= 1);
        }
        if let Ok(actions) = seccomp_actions() {
            assert!(
                actions.iter().any(|action| action == "allow"),
                "{actions:?}"
            );
        }
    }
}
