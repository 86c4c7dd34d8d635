//! Names and signatures against the witx's, as WASI's own Rust bindings declare them; arguments,
//! environment, clocks, randomness and exit.

use crate::guest::{Guest, OUT, Time, config};
use std::time::Duration;
use sterna_wasi::{ConfigError, Errno, Function, Limits, Rights, Step, ValType, Wasi};

#[test]
fn names_resolve_in_their_modules() {
    for &function in Function::ALL {
        let now = Function::by_name("wasi_snapshot_preview1", function.name());
        let old = Function::by_name("wasi_unstable", function.name());
        assert!(
            now == Some(function) || old == Some(function),
            "{function:?}"
        );
    }
    assert_eq!(
        Function::by_name("wasi_snapshot_preview1", "fd_seek"),
        Some(Function::FdSeek)
    );
    assert_eq!(
        Function::by_name("wasi_unstable", "fd_seek"),
        Some(Function::FdSeekUnstable)
    );
    assert_eq!(
        Function::by_name("wasi_unstable", "fd_read"),
        Some(Function::FdRead)
    );
    assert_eq!(Function::by_name("wasi_unstable", "sock_accept"), None);
    assert_eq!(
        Function::by_name("wasi_snapshot_preview1", "thread_spawn"),
        None
    );
    assert_eq!(Function::by_name("env", "fd_read"), None);
    let published = Function::ALL
        .iter()
        .filter(|f| Function::by_name("wasi_snapshot_preview1", f.name()) == Some(**f));
    assert_eq!(published.count(), 46);
}

#[test]
fn signatures() {
    use ValType::{I32, I64};
    assert_eq!(
        Function::PathOpen.signature(),
        (
            &[I32, I32, I32, I32, I32, I64, I64, I32, I32][..],
            &[I32][..]
        )
    );
    assert_eq!(Function::ProcExit.signature(), (&[I32][..], &[][..]));
    assert_eq!(Function::SchedYield.signature(), (&[][..], &[I32][..]));
    assert_eq!(
        Function::FdReaddir.signature(),
        (&[I32, I32, I32, I64, I32][..], &[I32][..])
    );
}

#[test]
fn arguments_and_environment() {
    let mut given = config(&Time::default());
    given.arguments = vec![b"prog".to_vec(), b"\xff".to_vec()];
    given.environment = vec![b"A=1".to_vec()];
    let mut guest = Guest::new(given);
    guest.call(Function::ArgsSizesGet, &[OUT, OUT + 4]).unwrap();
    assert_eq!((guest.u32(OUT), guest.u32(OUT + 4)), (2, 7));
    guest.call(Function::ArgsGet, &[OUT, 0x400]).unwrap();
    assert_eq!((guest.u32(OUT), guest.u32(OUT + 4)), (0x400, 0x405));
    assert_eq!(guest.bytes(0x400, 7), b"prog\0\xff\0");
    guest.call(Function::EnvironGet, &[OUT, 0x400]).unwrap();
    assert_eq!(guest.bytes(0x400, 4), b"A=1\0");
    // The strings may end where the memory ends, and not behind it.
    let end = guest.memory.len() as u64;
    guest.call(Function::ArgsGet, &[OUT, end - 7]).unwrap();
    assert_eq!(
        guest.call(Function::ArgsGet, &[OUT, end - 6]),
        Err(Errno::FAULT)
    );
}

#[test]
fn clocks() {
    let time = Time::default();
    time.set(0, Duration::from_secs(1_000_000));
    time.set(1, Duration::from_secs(500));
    let mut guest = Guest::new(config(&time));
    time.pass(Duration::from_millis(7));
    time.set(2, Duration::from_micros(3));
    let mut read = |id| {
        guest.call(Function::ClockTimeGet, &[id, 0, OUT])?;
        Ok::<_, Errno>(guest.u64(OUT))
    };
    assert_eq!(read(0), Ok(1_000_000_007_000_000));
    assert_eq!(read(1), Ok(7_000_000), "the process's clock starts with it");
    assert_eq!(read(2), Ok(3000));
    assert_eq!(read(3), Ok(3000));
    assert_eq!(read(4), Err(Errno::INVAL));
    guest.call(Function::ClockResGet, &[1, OUT]).unwrap();
    assert_eq!(guest.u64(OUT), 1);
}

#[test]
fn a_stopped_clock_stands_still() {
    let time = Time::default();
    let mut wasi = Wasi::new(config(&time)).unwrap();
    time.pass(Duration::from_secs(1));
    wasi.stop_clock();
    wasi.stop_clock();
    time.pass(Duration::from_secs(50));
    assert_eq!(wasi.now(), Duration::from_secs(1));
    wasi.start_clock();
    wasi.start_clock();
    time.pass(Duration::from_secs(2));
    assert_eq!(wasi.now(), Duration::from_secs(3));
}

#[test]
fn randomness_comes_in_steps() {
    let mut guest = Guest::new(config(&Time::default()));
    guest.call(Function::RandomGet, &[0x1000, 64]).unwrap();
    assert_ne!(guest.bytes(0x1000, 64), [0; 64]);
    guest.memory = vec![0; 9 << 20];
    let arguments = [0, 9 << 20];
    let mut steps = 1;
    while let Step::Wait(wait) = guest.step(Function::RandomGet, &arguments) {
        assert!(wait.descriptors.is_empty() && wait.deadline == Some(guest.wasi.now()));
        steps += 1;
    }
    assert_eq!(steps, 3);
    assert!(
        guest
            .memory
            .chunks(64)
            .all(|chunk| chunk.iter().any(|&byte| byte != 0))
    );
    assert_eq!(
        guest.call(Function::RandomGet, &[1, 9 << 20]),
        Err(Errno::FAULT)
    );
}

#[test]
fn exit_and_the_rest() {
    let mut guest = Guest::new(config(&Time::default()));
    assert!(matches!(
        guest.step(Function::ProcExit, &[7]),
        Step::Exit(7)
    ));
    assert_eq!(guest.call(Function::ProcRaise, &[9]), Err(Errno::NOTSUP));
    assert_eq!(guest.call(Function::SchedYield, &[]), Ok(()));
}

#[test]
fn what_a_process_cannot_be_given() {
    let time = Time::default();
    let mut given = config(&time);
    given.arguments = vec![b"a".to_vec(), b"b\0c".to_vec()];
    assert!(matches!(
        Wasi::new(given),
        Err(ConfigError::Nul {
            what: "argument",
            index: 1
        })
    ));
    let mut given = config(&time);
    given.limits.descriptors = Limits::DESCRIPTORS_MAX + 1;
    assert!(matches!(
        Wasi::new(given),
        Err(ConfigError::LimitTooHigh(_))
    ));
    let mut given = config(&time);
    given.limits.descriptors = 2;
    assert!(matches!(
        Wasi::new(given),
        Err(ConfigError::TooMany {
            wanted: 3,
            limit: 2
        })
    ));
}

#[test]
fn only_directories_are_given_as_directories() {
    let file = tempfile::tempfile().unwrap();
    let mut given = config(&Time::default());
    given.directories.push(sterna_wasi::Directory::from_fd(
        file.into(),
        "/srv",
        "/",
        false,
    ));
    assert!(matches!(
        Wasi::new(given),
        Err(ConfigError::Unusable { .. })
    ));
}

#[test]
fn it_can_be_handed_to_another_thread() {
    fn check<T: Send>() {}
    check::<Wasi>();
    check::<Step>();
}

#[test]
fn rights_have_names() {
    let names: Vec<_> = Rights::FD_READ.and(Rights::SOCK_ACCEPT).names().collect();
    assert_eq!(names, ["FD_READ", "SOCK_ACCEPT"]);
    assert_eq!(Rights::from_bits(u64::MAX), Rights::ALL);
}
