//! The further system calls of a node's service, beside a runner's: sockets of its own, of the families that it speaks,
//! and the files of its data directory, which Landlock keeps it to. The list comes from its sources and from what a
//! kernel saw of them (strace).
//!
//! Not among them: other programs and other processes, code that is mapped, userfaultfd, terminals, mounts and namespaces,
//! signals to others. On x86-64 the C library and the standard library take paths also by the older calls.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompRule,
};

/// Allowed with any arguments.
pub(super) const ALWAYS: &[i64] = &[
    // sockets
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_connect,
    libc::SYS_sendto,
    libc::SYS_sendmmsg,
    libc::SYS_recvmmsg,
    libc::SYS_setsockopt,
    // files
    libc::SYS_flock,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_renameat,
    libc::SYS_getcwd,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    // how much room a disk has
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    // what it runs on
    libc::SYS_uname,
    // the end of its manager; on older kernels, of a runner
    libc::SYS_wait4,
    libc::SYS_pidfd_open,
];

/// Calls that only one of the architectures has.
#[cfg(target_arch = "x86_64")]
pub(super) const OF_THIS_ARCHITECTURE: &[i64] = &[
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_readlink,
    libc::SYS_access,
];
#[cfg(target_arch = "aarch64")]
pub(super) const OF_THIS_ARCHITECTURE: &[i64] = &[];

/// Families of sockets: users, other nodes, and the list of addresses that the C library reads before it resolves a name.
const FAMILIES: &[i32] = &[
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
];

/// `fcntl` commands beside a runner's: locks of open files, by which the registry's file belongs to one.
pub(super) const FCNTL: &[u64] = &[
    libc::F_OFD_GETLK as u64,
    libc::F_OFD_SETLK as u64,
    libc::F_OFD_SETLKW as u64,
];

/// `ioctl` requests: is it a terminal, how much is there, not blocking.
const IOCTL: &[u64] = &[libc::TCGETS, 0x802C_542A, libc::FIONREAD, libc::FIONBIO];

/// Calls allowed for certain arguments.
pub(super) fn conditional() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let any_of = |argument: u8, values: &mut dyn Iterator<Item = u64>| {
        values
            .map(|value| {
                let is = SeccompCondition::new(argument, Len::Dword, Op::Eq, value)?;
                SeccompRule::new(vec![is])
            })
            .collect::<Result<Vec<_>, _>>()
    };
    let families = any_of(0, &mut FAMILIES.iter().map(|family| *family as u64))?;
    Ok(BTreeMap::from([
        (libc::SYS_socket, families.clone()),
        (libc::SYS_socketpair, families),
        (libc::SYS_ioctl, any_of(1, &mut IOCTL.iter().copied())?),
    ]))
}
