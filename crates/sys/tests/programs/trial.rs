//! The program that the tests confine: `sterna-sys-trial CASE`. It writes a line per attempt to standard output.
#![allow(
    unsafe_code,
    reason = "tries forbidden system calls, for which there are no safe functions"
)]

use std::collections::HashMap;
use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use sterna_sys::confine::{Confinement, Limits};
use sterna_sys::spawn::inherited;

const MIB: usize = 1 << 20;

fn main() {
    let case = std::env::args().nth(1).expect("a case");
    match case.as_str() {
        "forbidden" => forbidden(),
        "allowed" => allowed(),
        "memory" => memory(),
        "cpu" => cpu(),
        "file" => file(),
        "executable" => executable(),
        "late" => late(),
        other => panic!("no case {other}"),
    }
}

fn confine(limits: Limits) {
    println!("applied: {}", Confinement::new().limits(limits).apply());
}

fn say<T>(what: &str, result: std::io::Result<T>) {
    match result {
        Ok(_) => println!("{what}: done"),
        Err(error) => println!("{what}: {:?}", error.kind()),
    }
}

fn forbidden() {
    let parent = std::os::unix::process::parent_id();
    confine(Limits {
        descriptors: Some(64),
        ..Limits::default()
    });
    say("open", std::fs::File::open("/etc/passwd"));
    say(
        "create",
        std::fs::File::create("/tmp/sterna-sys-trial-must-not-exist"),
    );
    say(
        "remove",
        std::fs::remove_file("/tmp/sterna-sys-trial-must-not-exist"),
    );
    say("metadata", std::fs::metadata("/etc/passwd"));
    say("list", std::fs::read_dir("/"));
    say("tcp", std::net::TcpStream::connect("127.0.0.1:9"));
    say("unix socket", std::os::unix::net::UnixDatagram::unbound());
    say("start", Command::new("/bin/true").spawn());
    say("exec", Err::<(), _>(Command::new("/bin/true").exec()));
    forbidden_calls(i64::from(parent));
}

/// Calls for which there are no safe functions.
fn forbidden_calls(parent: i64) {
    for (what, number, arguments) in [
        ("kill parent", libc::SYS_kill, [parent, 0, 0]),
        ("signal parent", libc::SYS_tgkill, [parent, parent, 0]),
        ("fork", libc::SYS_clone, [i64::from(libc::SIGCHLD), 0, 0]),
        (
            "ptrace",
            libc::SYS_ptrace,
            [i64::from(libc::PTRACE_TRACEME), 0, 0],
        ),
        ("io_uring", libc::SYS_io_uring_setup, [1, 0, 0]),
        ("bpf", libc::SYS_bpf, [0, 0, 0]),
        ("perf", libc::SYS_perf_event_open, [0, 0, 0]),
        ("keys", libc::SYS_keyctl, [0, 0, 0]),
        (
            "unshare",
            libc::SYS_unshare,
            [i64::from(libc::CLONE_NEWUSER), 0, 0],
        ),
        ("mount", libc::SYS_mount, [0, 0, 0]),
        (
            "memory of others",
            libc::SYS_process_vm_readv,
            [parent, 0, 0],
        ),
        (
            "executable memory",
            libc::SYS_mmap,
            [0, 4096, i64::from(libc::PROT_EXEC)],
        ),
        (
            "dumpable again",
            libc::SYS_prctl,
            [i64::from(libc::PR_SET_DUMPABLE), 1, 0],
        ),
        ("seccomp again", libc::SYS_seccomp, [0, 0, 0]),
    ] {
        // SAFETY: 1. Allowed or not, with these arguments none of the calls touches memory of this process.
        let result = unsafe { libc::syscall(number, arguments[0], arguments[1], arguments[2]) };
        say(
            what,
            if result < 0 {
                Err(std::io::Error::last_os_error())
            } else {
                Ok(())
            },
        );
    }
}

fn allowed() {
    let mut file = std::fs::File::from(inherited("FILE").unwrap());
    assert!(inherited("FILE").is_err(), "taken once");
    let limits = Limits {
        address_space_bytes: Some(2048 * MIB as u64),
        cpu_seconds: Some(60),
        descriptors: Some(64),
        file_bytes: Some(64 * MIB as u64),
    };
    confine(limits);
    let mut text = String::new();
    say("read", file.read_to_string(&mut text));
    say("length", file.seek(std::io::SeekFrom::End(0)));
    say("rewind", file.rewind());
    say("write", file.write_all(b"confined"));
    say("truncate", file.set_len(8));
    say("sync", file.sync_all());
    say("threads", threads());
    say("sleep", {
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    });
    say("parallelism", std::thread::available_parallelism());
    let random: HashMap<u32, u32> = (0..100).map(|number| (number, number)).collect();
    println!("chance: {}", random.len());
    std::panic::set_hook(Box::new(|_| {}));
    println!(
        "panic: {}",
        std::panic::catch_unwind(|| panic!("on purpose")).is_err()
    );
    println!(
        "clock: {}",
        Instant::now().elapsed() < Duration::from_secs(1)
    );
    println!("input was {text:?}");
}

/// Several threads that allocate, grow, wait for each other and free.
fn threads() -> std::io::Result<()> {
    let arrived = (Mutex::new(0), Condvar::new());
    std::thread::scope(|scope| {
        for number in 0..8usize {
            std::thread::Builder::new()
                .name(format!("worker {number}"))
                .spawn_scoped(scope, {
                    let arrived = &arrived;
                    move || {
                        let mut bytes = vec![number as u8; 16 * MIB];
                        bytes.resize(24 * MIB, 1);
                        let small: Vec<Box<usize>> = (0..10_000).map(Box::new).collect();
                        assert_eq!(small.len() + bytes.len(), 10_000 + 24 * MIB);
                        *arrived.0.lock().unwrap() += 1;
                        arrived.1.notify_all();
                        drop(
                            arrived
                                .1
                                .wait_while(arrived.0.lock().unwrap(), |count| *count < 8)
                                .unwrap(),
                        );
                    }
                })?;
        }
        Ok(())
    })
}

fn memory() {
    confine(Limits {
        address_space_bytes: Some(256 * MIB as u64),
        ..Limits::default()
    });
    let mut small: Vec<u8> = Vec::new();
    println!(
        "under the limit: {}",
        small.try_reserve_exact(64 * MIB).is_ok()
    );
    let mut large: Vec<u8> = Vec::new();
    println!(
        "over the limit: {}",
        large.try_reserve_exact(512 * MIB).is_ok()
    );
    println!("last step");
    let beyond = vec![1u8; 512 * MIB]; // aborts
    println!("not reached: {}", beyond.len());
}

fn cpu() {
    confine(Limits {
        cpu_seconds: Some(1),
        ..Limits::default()
    });
    loop {
        std::hint::spin_loop();
    }
}

fn file() {
    let mut file = std::fs::File::from(inherited("FILE").unwrap());
    confine(Limits {
        file_bytes: Some(1000),
        ..Limits::default()
    });
    say("under the limit", file.write_all(&[1; 1000]));
    say("over the limit", file.write_all(&[1; 1])); // SIGXFSZ
}

fn executable() {
    let applied = Confinement::new()
        .executable_memory()
        .also_allow(&[libc::SYS_getppid, libc::SYS_openat])
        .apply();
    println!("applied: {applied}");
    // SAFETY: 1. A new mapping touches no existing memory.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    println!("executable memory: {}", page != libc::MAP_FAILED);
    println!("also allowed: {}", std::os::unix::process::parent_id() > 0);
    // Past the filter of system calls: Landlock's own answer.
    let error = std::fs::File::open("/etc/passwd").err();
    println!(
        "denied: {}",
        error.is_some_and(|error| error.raw_os_error() == Some(libc::EACCES))
    );
}

/// Confined with a thread running already.
fn late() {
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        wait.recv().unwrap_err();
        say(
            "open by the older thread",
            std::fs::File::open("/etc/passwd"),
        );
    });
    confine(Limits::default());
    drop(go_on);
    thread.join().unwrap();
}
