//! The further system calls of a runner: files below directories it has, readiness, memory of guests, sockets that were
//! handed to it. The list comes from its sources and from what a kernel saw of them (strace); `tests/runner.rs` keeps
//! both sides of it.
//!
//! Not among them: making sockets and giving them addresses, other programs, other processes, mounts and namespaces, keys,
//! io_uring (which would do all that beside the filter), changing limits, and controlling terminals (a character pushed
//! into one is typed into the shell behind it).
//!
//! What a filter cannot see: the address in a `sendmsg`. Hand over connected sockets only. On x86-64 paths are taken by
//! the calls that name a directory alone (`openat`, not `open`), as the C library makes them.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompRule,
};

/// Allowed with any arguments.
pub(super) const ALWAYS: &[i64] = &[
    // files, by directory and path: the enclosure or Landlock says which
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_readlinkat,
    libc::SYS_utimensat,
    libc::SYS_fadvise64,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    // readiness
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    // memory
    libc::SYS_memfd_create,
    // sockets that were handed over
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    // what is in a pipe, without taking it out
    libc::SYS_tee,
    libc::SYS_accept4,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    // who it is
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
];

/// Calls that only one of the architectures has.
#[cfg(target_arch = "x86_64")]
pub(super) const OF_THIS_ARCHITECTURE: &[i64] =
    &[libc::SYS_renameat, libc::SYS_epoll_wait, libc::SYS_dup2];
#[cfg(target_arch = "aarch64")]
pub(super) const OF_THIS_ARCHITECTURE: &[i64] = &[];

/// `fcntl` commands beside those of every confined process: appending and not blocking, and sealing of memory files.
pub(super) const FCNTL: &[u64] = &[
    libc::F_SETFL as u64,
    libc::F_ADD_SEALS as u64,
    libc::F_GET_SEALS as u64,
];

/// `ioctl` requests, none of which changes what a terminal does.
const IOCTL: &[u64] = &[
    // terminals: is it one, how large
    libc::TCGETS,
    TCGETS2,
    libc::TIOCGWINSZ,
    // terminals whose masters were handed over: how large they are to be, and their other end
    libc::TIOCSWINSZ,
    libc::TIOCGPTPEER,
    // a line that is being typed is taken out of them
    libc::TCFLSH,
    // pipes and sockets: how much is there, not blocking
    libc::FIONREAD,
    libc::FIONBIO,
    // userfaultfd: API, REGISTER, UNREGISTER, WAKE, COPY, ZEROPAGE, WRITEPROTECT, CONTINUE, POISON
    0xC018_AA3F,
    0xC020_AA00,
    0x8010_AA01,
    0x8010_AA02,
    0xC028_AA03,
    0xC020_AA04,
    0xC018_AA06,
    0xC020_AA07,
    0xC020_AA08,
    // PAGEMAP_SCAN
    0xC060_6610,
];

/// `_IOR('T', 0x2A, struct termios2)`, which newer C libraries ask first.
const TCGETS2: u64 = 0x802C_542A;

/// Options of sockets, by level and name: for how long to wait, how much to hold, and not to hold packets back.
const SOCKET_OPTIONS: &[(u64, u64)] = &[
    (libc::SOL_SOCKET as u64, libc::SO_SNDBUF as u64),
    (libc::SOL_SOCKET as u64, libc::SO_RCVTIMEO as u64),
    (libc::SOL_SOCKET as u64, libc::SO_SNDTIMEO as u64),
    (libc::IPPROTO_TCP as u64, libc::TCP_NODELAY as u64),
];

/// `SOCK_TYPE_MASK` of the kernel: the kind of a socket, without flags.
const SOCKET_KIND: u64 = 0xf;

/// `UFFD_USER_MODE_ONLY`: faults of the kernel cannot be held up, as an unprivileged process may not in any case.
const UFFD_USER_MODE_ONLY: u64 = 1;

/// Calls allowed for certain arguments.
pub(super) fn conditional() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let is = |argument, value| SeccompCondition::new(argument, Len::Dword, Op::Eq, value);
    let requests = IOCTL
        .iter()
        .map(|request| SeccompRule::new(vec![is(1, *request)?]));
    let user_mode = Op::MaskedEq(UFFD_USER_MODE_ONLY);
    let connected = SeccompCondition::new(4, Len::Qword, Op::Eq, 0)?;
    let options = SOCKET_OPTIONS
        .iter()
        .map(|(level, name)| SeccompRule::new(vec![is(1, *level)?, is(2, *name)?]));
    Ok(BTreeMap::from([
        // Ends that are connected to each other for good: a socket for datagrams could be addressed elsewhere.
        (
            libc::SYS_socketpair,
            [libc::SOCK_STREAM, libc::SOCK_SEQPACKET]
                .into_iter()
                .map(|kind| {
                    let masked = Op::MaskedEq(SOCKET_KIND);
                    let of_kind = SeccompCondition::new(1, Len::Dword, masked, kind as u64)?;
                    SeccompRule::new(vec![is(0, libc::AF_UNIX as u64)?, of_kind])
                })
                .collect::<Result<_, _>>()?,
        ),
        (libc::SYS_setsockopt, options.collect::<Result<_, _>>()?),
        (libc::SYS_ioctl, requests.collect::<Result<_, _>>()?),
        (
            libc::SYS_userfaultfd,
            vec![SeccompRule::new(vec![SeccompCondition::new(
                0,
                Len::Dword,
                user_mode,
                UFFD_USER_MODE_ONLY,
            )?])?],
        ),
        // No address: only where the socket is connected to.
        (libc::SYS_sendto, vec![SeccompRule::new(vec![connected])?]),
    ]))
}

/// `mmap` and `mprotect`: code is mapped from files, and never writable while it is executable. That is order and no wall: a
/// filter cannot see what `mprotect` is for, so memory that was written may be made executable afterwards.
pub(super) fn code_from_files() -> Result<[(i64, Vec<SeccompRule>); 2], BackendError> {
    let exec = libc::PROT_EXEC as u64;
    let both = exec | libc::PROT_WRITE as u64;
    let anonymous = libc::MAP_ANONYMOUS as u64;
    let masked = |argument, mask, value| {
        SeccompCondition::new(argument, Len::Dword, Op::MaskedEq(mask), value)
    };
    Ok([
        (
            libc::SYS_mmap,
            vec![
                SeccompRule::new(vec![masked(2, exec, 0)?])?,
                SeccompRule::new(vec![masked(2, both, exec)?, masked(3, anonymous, 0)?])?,
            ],
        ),
        (
            libc::SYS_mprotect,
            vec![
                SeccompRule::new(vec![masked(2, exec, 0)?])?,
                SeccompRule::new(vec![masked(2, both, exec)?])?,
            ],
        ),
    ])
}
