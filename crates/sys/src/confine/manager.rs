//! The system calls that a manager does without, and with it all whom it starts: runners, builders and helpers, which
//! shorten their own lists further.
//!
//! It makes no socket of any family, so it has no network and reaches no service of the machine; pairs of sockets, by which
//! a helper answers, lead nowhere else. What is denied beside is the kernel's own affairs, other processes' memory, and
//! whatever would do such things beside the filter (io_uring). A list of what is *allowed* would have to be that of all
//! children together, in which mounts, namespaces and programs are.

use std::collections::BTreeMap;

use seccompiler::{BackendError, SeccompRule};

const DENIED: &[i64] = &[
    // the network
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    // other processes
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_setns,
    libc::SYS_kcmp,
    // the kernel
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_syslog,
    // the machine
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // files by number, and devices
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    libc::SYS_chroot,
];

/// Calls that only one of the architectures has.
#[cfg(target_arch = "x86_64")]
const OF_THIS_ARCHITECTURE: &[i64] = &[libc::SYS_mknod, libc::SYS_iopl, libc::SYS_ioperm];
#[cfg(target_arch = "aarch64")]
const OF_THIS_ARCHITECTURE: &[i64] = &[];

/// On x86-64 the same calls a second time, by the numbers of programs with short pointers, and those that have numbers
/// of their own there: ptrace, process_vm_readv, process_vm_writev, kexec_load (arch/x86/entry/syscalls/syscall_64.tbl).
#[cfg(target_arch = "x86_64")]
fn other_numbers() -> impl Iterator<Item = i64> {
    const X32: i64 = 0x4000_0000;
    let all = DENIED.iter().chain(OF_THIS_ARCHITECTURE).copied();
    all.chain([521, 539, 540, 528]).map(|call| X32 | call)
}
#[cfg(target_arch = "aarch64")]
fn other_numbers() -> impl Iterator<Item = i64> {
    std::iter::empty()
}

/// The calls to be denied, whatever their arguments.
pub(super) fn deny() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let calls = DENIED.iter().chain(OF_THIS_ARCHITECTURE).copied();
    Ok(calls
        .chain(other_numbers())
        .map(|call| (call, Vec::new()))
        .collect())
}
