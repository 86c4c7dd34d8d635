//! What an intruder tries.
#![allow(
    unsafe_code,
    reason = "tries forbidden system calls, for which there are no safe functions"
)]

use std::ffi::CStr;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// What the file that nobody but its owner may read begins with; it lies in the folder, beside the trees.
const SECRET: &[u8] = b"secret";

fn attack<T>(name: &str, result: rustix::io::Result<T>) {
    match result {
        Ok(_) => println!("attack {name}: SUCCEEDED"),
        Err(error) => println!("attack {name}: denied, {error:?}"),
    }
}

/// An attack that has succeeded if this is true.
fn must_not_hold(name: &str, succeeded: bool) {
    attack(
        name,
        if succeeded {
            Ok(())
        } else {
            Err(Errno::ACCESS)
        },
    );
}

fn read(directory: BorrowedFd<'_>, path: impl rustix::path::Arg) -> rustix::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, path, flags, Mode::empty())?;
    let mut bytes = vec![0; 64];
    let count = rustix::io::read(&file, &mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}

fn list(directory: BorrowedFd<'_>, path: &str) -> rustix::io::Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(directory, path, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.retain(|name| name != "." && name != "..");
    Ok(names)
}

/// `folder`: the real path of what holds the trees and the secret.
pub(crate) fn on_files(folder: &CStr, tree: BorrowedFd<'_>, fixed: BorrowedFd<'_>, enclosed: bool) {
    let folder = folder.to_str().unwrap();
    look_around(folder);
    for path in ["/x", "/tmp/x", "/dev/shm/x", &format!("{folder}/x")] {
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let made = rustix::fs::openat(CWD, path, flags, Mode::RWXU);
        attack(&format!("create {path}"), made);
    }
    if enclosed {
        on_the_root();
        upwards("the tree", tree);
        upwards("the fixed tree", fixed);
        on_tree(folder, tree, fixed);
        on_fixed_tree(fixed);
    } else {
        // Under Landlock alone, detached mounts are of no use.
        attack("use a tree", read(tree, "file"));
        attack("use a fixed tree", read(fixed, "file"));
        attack("climb out of a tree", read(tree, "../key"));
    }
}

/// What reads only: these succeed where nothing is confined.
pub(crate) fn look_around(folder: &str) {
    let key = format!("{folder}/key");
    let elsewhere = [
        "/etc/passwd",
        "/etc/shadow",
        "/root/.bashrc",
        "/proc/self/status",
        "/proc/self/mem",
        "/proc/1/environ",
        "/proc/self/root/etc/passwd",
        "/proc/self/cwd/etc/passwd",
        "/dev/null",
        "/sys/kernel/notes",
        "../../../../../etc/passwd",
        &key,
    ];
    for path in elsewhere {
        attack(&format!("read {path}"), read(CWD, path));
    }
    attack("list the folder", list(CWD, folder));
    on_descriptors();
}

/// Everything that is open: is it the secret, does it lead upwards?
fn on_descriptors() {
    let (mut secrets, mut ways_out, mut open) = (0, 0, 0);
    for number in 0..1024 {
        // SAFETY: 1. Borrowed for these calls; a number that is not open is answered with an error.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let Ok(stat) = rustix::fs::fstat(descriptor) else {
            continue;
        };
        open += 1;
        let mut bytes = [0; SECRET.len()];
        if rustix::io::pread(descriptor, &mut bytes, 0).is_ok_and(|_| bytes == SECRET) {
            secrets += 1;
        }
        let above = rustix::fs::statat(descriptor, "..", AtFlags::empty());
        let leads = above.is_ok_and(|above| above.st_ino != stat.st_ino)
            && read(descriptor, "../../../../../../../../etc/passwd").is_ok();
        if leads || read(descriptor, "../key").is_ok() {
            ways_out += 1;
        }
    }
    assert!(open > 3);
    must_not_hold("learn physical addresses", shows_physical_addresses());
    must_not_hold("find the secret among open descriptors", secrets > 0);
    must_not_hold("leave by an open descriptor", ways_out > 0);
}

/// Whether an open `/proc/self/pagemap` gives the frame of a page that is surely present (pagemap.rst).
fn shows_physical_addresses() -> bool {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    let here = std::hint::black_box([1u8; 64]);
    let at = here.as_ptr() as u64 / 4096 * 8;
    (0..1024).any(|number| {
        // SAFETY: 1. Borrowed for this call; a number that is not open is answered with an error.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let mut entry = [0; 8];
        let read = rustix::io::pread(descriptor, &mut entry, at);
        let entry = u64::from_ne_bytes(entry);
        read == Ok(8) && entry & PRESENT != 0 && entry & FRAME != 0
    })
}

/// The new root holds what was bound, and nothing can be put there.
fn on_the_root() {
    let names = list(CWD, "/").unwrap();
    must_not_hold("see more at the root", names != ["programs"]);
    attack("mkdir at the root", rustix::fs::mkdir("/x", Mode::RWXU));
    attack("rename at the root", rustix::fs::rename("/programs", "/x"));
    attack("remove at the root", rustix::fs::rmdir("/programs"));
    attack("link at the root", rustix::fs::symlink("/x", "/y"));
}

pub(crate) fn upwards(name: &str, tree: BorrowedFd<'_>) {
    let here = rustix::fs::statat(tree, ".", AtFlags::empty()).unwrap();
    let above = rustix::fs::statat(tree, "../..", AtFlags::empty()).unwrap();
    let other = (here.st_dev, here.st_ino) != (above.st_dev, above.st_ino);
    must_not_hold(&format!("climb out of {name}"), other);
    for path in [
        "../key",
        "folder/../../key",
        "../../../../etc/passwd",
        "../../proc/self/status",
    ] {
        attack(&format!("read {path} in {name}"), read(tree, path));
    }
}

fn on_tree(folder: &str, tree: BorrowedFd<'_>, fixed: BorrowedFd<'_>) {
    // Put there by the test: absolute and relative links, and a device node.
    for name in ["absolute", "relative", "to-proc", "to-folder/key", "null"] {
        attack(&format!("read through {name}"), read(tree, name));
    }
    let write = OFlags::WRONLY | OFlags::CLOEXEC;
    attack(
        "write to a device",
        rustix::fs::openat(tree, "null", write, Mode::empty()),
    );
    // And by the intruder.
    let key = format!("{folder}/key");
    rustix::fs::symlinkat(key.as_str(), tree, "own-absolute").unwrap();
    rustix::fs::symlinkat("../key", tree, "own-relative").unwrap();
    for name in ["own-absolute", "own-relative"] {
        attack(&format!("read through {name}"), read(tree, name));
        let follow = AtFlags::SYMLINK_FOLLOW;
        attack(
            &format!("link through {name}"),
            rustix::fs::linkat(tree, name, tree, "s", follow),
        );
    }
    attack(
        "link the secret",
        rustix::fs::linkat(CWD, key.as_str(), tree, "s", AtFlags::empty()),
    );
    attack(
        "link from above",
        rustix::fs::linkat(tree, "../key", tree, "s", AtFlags::empty()),
    );
    attack(
        "move the secret",
        rustix::fs::renameat(CWD, key.as_str(), tree, "s"),
    );
    attack(
        "move from above",
        rustix::fs::renameat(tree, "../key", tree, "s"),
    );
    attack("move out", rustix::fs::renameat(tree, "file", CWD, "/file"));
    // At the root `..` stays: a rename there would be within the tree.
    let moved = rustix::fs::renameat(tree, "folder", tree, "../../moved");
    let inside = rustix::fs::statat(tree, "moved", AtFlags::empty()).is_ok();
    must_not_hold("move above", moved.is_ok() && !inside);
    if inside {
        rustix::fs::renameat(tree, "moved", tree, "folder").unwrap();
    }
    attack(
        "move between trees",
        rustix::fs::renameat(fixed, "file", tree, "s"),
    );
    attack(
        "link between trees",
        rustix::fs::linkat(fixed, "file", tree, "s", AtFlags::empty()),
    );
    let node = call(
        libc::SYS_mknodat,
        [
            i64::from(tree.as_raw_fd()),
            c"node".as_ptr() as i64,
            i64::from(libc::S_IFCHR | 0o666),
            0x103,
            0,
            0,
        ],
    );
    attack("make a device", node);
}

pub(crate) fn on_fixed_tree(fixed: BorrowedFd<'_>) {
    for (name, flags) in [
        ("write", OFlags::WRONLY),
        ("truncate", OFlags::RDWR | OFlags::TRUNC),
        ("append", OFlags::APPEND | OFlags::WRONLY),
    ] {
        let opened = rustix::fs::openat(fixed, "file", flags, Mode::empty());
        attack(&format!("{name} in a fixed tree"), opened);
    }
    let flags = OFlags::WRONLY | OFlags::CREATE;
    attack(
        "create in a fixed tree",
        rustix::fs::openat(fixed, "x", flags, Mode::RWXU),
    );
    let temporary = OFlags::WRONLY | OFlags::TMPFILE;
    attack(
        "a file without name in a fixed tree",
        rustix::fs::openat(fixed, ".", temporary, Mode::RWXU),
    );
    attack(
        "mkdir in a fixed tree",
        rustix::fs::mkdirat(fixed, "x", Mode::RWXU),
    );
    attack(
        "remove in a fixed tree",
        rustix::fs::unlinkat(fixed, "file", AtFlags::empty()),
    );
    attack(
        "rename in a fixed tree",
        rustix::fs::renameat(fixed, "file", fixed, "x"),
    );
    attack(
        "link in a fixed tree",
        rustix::fs::linkat(fixed, "file", fixed, "x", AtFlags::empty()),
    );
    let now = rustix::fs::Timespec {
        tv_sec: 1,
        tv_nsec: 1,
    };
    let times = rustix::fs::Timestamps {
        last_access: now,
        last_modification: now,
    };
    attack(
        "touch in a fixed tree",
        rustix::fs::utimensat(fixed, "file", &times, AtFlags::empty()),
    );
}

/// The directory of native code: nothing to write, and above it there is the empty root.
pub(crate) fn on_programs(programs: BorrowedFd<'_>) {
    let names = list(programs, "..").unwrap_or_default();
    must_not_hold("see more above the programs", names != ["programs"]);
    attack("read above the programs", read(programs, "../key"));
    let write = OFlags::WRONLY | OFlags::CLOEXEC;
    attack(
        "change a program",
        rustix::fs::openat(programs, "code", write, Mode::empty()),
    );
    let create = OFlags::WRONLY | OFlags::CREATE;
    attack(
        "add a program",
        rustix::fs::openat(programs, "x", create, Mode::RWXU),
    );
    attack(
        "remove a program",
        rustix::fs::unlinkat(programs, "code", AtFlags::empty()),
    );
}

fn call(number: libc::c_long, a: [i64; 6]) -> rustix::io::Result<()> {
    // SAFETY: 1. If it were allowed, with these arguments none of the calls would touch memory of this process, but make a
    // process or a mapping, or end this one.
    let result = unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) };
    if result == 0 && [libc::SYS_clone, libc::SYS_clone3].contains(&number) {
        // SAFETY: 1. A second process, which must not go on.
        unsafe { libc::_exit(0) };
    }
    if result < 0 {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap())
    } else {
        Ok(())
    }
}

/// A call that the filter must deny: any other error means that the kernel went on to look at its arguments.
fn forbidden(name: &str, number: libc::c_long, arguments: [i64; 6]) {
    match call(number, arguments) {
        Err(Errno::PERM) => println!("attack {name}: denied, by the filter"),
        Err(Errno::NOSYS) if number == libc::SYS_clone3 => {
            println!("attack {name}: denied, as unknown");
        }
        other => println!("attack {name}: LOOKED AT, {other:?}"),
    }
}

macro_rules! forbid {
    ($($name:ident($($argument:expr),*);)*) => {
        $(
            let given: &[i64] = &[$($argument as i64),*];
            let mut arguments = [0; 6];
            arguments[..given.len()].copy_from_slice(given);
            // The call's name does for the attack's.
            forbidden(
                &format!("{}{given:?}", &stringify!($name)[4..]),
                libc::$name,
                arguments,
            );
        )*
    };
}

pub(crate) fn on_the_system() {
    sockets();
    processes();
    namespaces();
    the_rest();
    code();
    #[cfg(target_arch = "x86_64")]
    {
        forbid! {
            SYS_fork(); SYS_vfork(); SYS_open(c"/etc/passwd".as_ptr(), 0); SYS_iopl(3); SYS_ioperm(0x80, 1, 1);
            SYS_modify_ldt(1); SYS_chmod(c"/x".as_ptr(), 0o777); SYS_setrlimit(libc::RLIMIT_NOFILE, 0);
        }
    }
}

fn sockets() {
    for family in 0..=45 {
        for kind in [
            libc::SOCK_STREAM,
            libc::SOCK_DGRAM,
            libc::SOCK_RAW,
            libc::SOCK_SEQPACKET,
        ] {
            let name = format!("socket of family {family}, kind {kind}");
            forbidden(
                &name,
                libc::SYS_socket,
                [family, i64::from(kind), 0, 0, 0, 0],
            );
        }
    }
    // Any descriptor will do.
    forbid! {
        SYS_socketpair(libc::AF_UNIX, libc::SOCK_DGRAM); SYS_socketpair(libc::AF_INET, libc::SOCK_STREAM); SYS_connect(1); SYS_bind(1); SYS_listen(1, 1);
        SYS_setsockopt(1, 1, 1); SYS_sendmmsg(1); SYS_recvmmsg(1); SYS_sendto(1, 0, 0, 0, 1, 16);
    }
}

fn processes() {
    let parent = crate::PARENT.get().copied().unwrap_or(1);
    forbid! {
        SYS_execve(c"/programs/code".as_ptr()); SYS_execveat(-1, c"/programs/code".as_ptr());
        SYS_clone(libc::SIGCHLD); SYS_clone(libc::CLONE_NEWUSER | libc::SIGCHLD); SYS_clone(libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD);
        SYS_clone3();
        SYS_kill(parent, 0); SYS_kill(-1, 0); SYS_tkill(parent, 0); SYS_tgkill(parent, parent, 0);
        SYS_rt_sigqueueinfo(parent); SYS_rt_tgsigqueueinfo(parent, parent);
        SYS_pidfd_open(parent); SYS_pidfd_send_signal(1); SYS_pidfd_getfd(1);
        SYS_ptrace(libc::PTRACE_ATTACH, parent); SYS_ptrace(libc::PTRACE_SEIZE, parent); SYS_ptrace(libc::PTRACE_TRACEME);
        SYS_process_vm_readv(parent); SYS_process_vm_writev(parent); SYS_process_madvise(1); SYS_kcmp(parent, parent);
        SYS_prlimit64(0, libc::RLIMIT_NOFILE, 1); SYS_prlimit64(parent, libc::RLIMIT_NOFILE, 1);
        SYS_setpriority(0, 0, -20); SYS_sched_setscheduler(0); SYS_sched_setattr(0); SYS_sched_setaffinity(0);
        SYS_setuid(0); SYS_setgid(0); SYS_setresuid(0); SYS_setgroups(0); SYS_setfsuid(0); SYS_capset(); SYS_setpgid(0, 0); SYS_setsid();
        SYS_prctl(libc::PR_SET_DUMPABLE, 1); SYS_prctl(libc::PR_SET_SECCOMP, 1); SYS_prctl(libc::PR_CAPBSET_DROP, 1); SYS_prctl(libc::PR_SET_PTRACER, -1);
        SYS_seccomp(); SYS_personality(0); SYS_fcntl(1, libc::F_SETOWN, parent);
    }
}

fn namespaces() {
    let unshared = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
    forbid! {
        SYS_unshare(libc::CLONE_NEWUSER); SYS_unshare(libc::CLONE_NEWNS); SYS_unshare(unshared); SYS_unshare(libc::CLONE_FS);
        SYS_setns(1, 0); SYS_mount(); SYS_umount2(); SYS_pivot_root(); SYS_chroot(c"/programs".as_ptr()); SYS_fchdir(1);
        SYS_fsopen(c"tmpfs".as_ptr()); SYS_fsconfig(); SYS_fsmount(); SYS_fspick(); SYS_move_mount(); SYS_open_tree(-100, c"/".as_ptr(), 1);
        SYS_mount_setattr(); SYS_open_by_handle_at(1); SYS_name_to_handle_at(); SYS_quotactl(); SYS_swapon(); SYS_sethostname();
    }
}

fn the_rest() {
    forbid! {
        SYS_keyctl(0); SYS_add_key(); SYS_request_key(); SYS_bpf(); SYS_perf_event_open(); SYS_userfaultfd(0);
        SYS_io_uring_setup(1); SYS_io_uring_enter(1); SYS_io_uring_register(1); SYS_io_setup(1);
        SYS_init_module(); SYS_finit_module(1); SYS_delete_module(); SYS_kexec_load(); SYS_reboot(); SYS_acct(); SYS_syslog(3);
        SYS_clock_settime(0); SYS_settimeofday(); SYS_adjtimex(); SYS_fanotify_init(); SYS_inotify_init1(0);
        SYS_shmget(0, 1, 0x200); SYS_semget(0, 1, 0x200); SYS_msgget(0, 0x200); SYS_mq_open(c"x".as_ptr(), 0x40);
        SYS_fchmodat(-100, c"/".as_ptr(), 0o777); SYS_fchmod(1, 0o777); SYS_fchown(1, 0, 0); SYS_fchownat(-100, c"/".as_ptr()); SYS_setxattr(); SYS_fsetxattr(1);
        SYS_ioctl(0, libc::TIOCSTI); SYS_ioctl(0, TIOCLINUX); SYS_ioctl(0, libc::TIOCSCTTY); SYS_ioctl(0, libc::TIOCSETD); SYS_ioctl(0, libc::TCSETS);
        SYS_ioctl(0, libc::TIOCEXCL); SYS_ioctl(0, libc::TIOCSTI | 1 << 32);
    }
}

/// `TIOCLINUX`, of `include/uapi/asm-generic/ioctls.h`.
const TIOCLINUX: i64 = 0x541C;

/// Code that no file holds.
fn code() {
    let (write, exec) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::PROT_READ | libc::PROT_EXEC,
    );
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    forbid! {
        SYS_mmap(0, 4096, exec, anonymous, -1, 0); SYS_mmap(0, 4096, write | exec, anonymous, -1, 0);
        SYS_mmap(0, 4096, write | exec, libc::MAP_PRIVATE, 1, 0); SYS_mprotect(0, 0, write | exec);
    }
    // Names are no way to the standard library's own files either.
    let mut text = String::new();
    let own =
        std::fs::File::open("/proc/self/exe").and_then(|mut file| file.read_to_string(&mut text));
    must_not_hold("read the program itself", own.is_ok());
}
