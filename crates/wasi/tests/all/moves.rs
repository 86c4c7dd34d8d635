//! Capture and restore: descriptors keep their numbers and offsets, and whatever cannot be bound
//! is said before anything runs.

use crate::guest::{BOTH, CREAT, DATA, DIRECTORY, Guest, OUT, READ, Time, WRITE, config, with_dir};
use std::fs;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use sterna_wasi::{
    Binding, DescriptorKind, Directory, Errno, Function, PassedSocket, Rebind, RestoreError, Stdio,
    Unbound, Wasi,
};
use tempfile::tempdir;

fn to(host: &Path) -> Rebind {
    let mut rebind = Rebind::new(Box::new(Time::default()));
    rebind
        .directories
        .push(Directory::open(host, "/data", false).unwrap());
    rebind
}

fn unbound(result: Result<Guest, RestoreError>) -> Vec<Unbound> {
    match result {
        Err(RestoreError::Unbound(problems)) => problems,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was restored"),
    }
}

#[test]
fn files_resume_where_they_stood() {
    let dir = tempdir().unwrap();
    let mut guest = with_dir(dir.path());
    guest
        .on_path(Function::PathCreateDirectory, 3, "sub")
        .unwrap();
    let sub = guest.open(3, "sub", DIRECTORY, BOTH).unwrap();
    let file = guest.open(sub, "../sub/./f", CREAT, BOTH).unwrap_err();
    assert_eq!(file, Errno::PERM);
    let file = guest.open(sub, "f", CREAT, BOTH).unwrap();
    guest.write(file, b"0123456789").unwrap();
    guest.seek(file, 4, 0).unwrap();
    let appender = guest.open_with(3, "sub/f", 0, WRITE, 1, 1).unwrap();
    guest
        .call(Function::FdRenumber, &[appender.into(), 0])
        .unwrap();
    let before = guest.wasi.descriptors();
    let rights = guest.fdstat(file).unwrap();
    let mut guest = guest.moved(to(dir.path())).unwrap();
    assert_eq!(guest.wasi.descriptors(), before);
    assert_eq!(guest.fdstat(file).unwrap(), rights);
    assert_eq!(guest.read(file, 3).unwrap(), b"456");
    guest.write(0, b"end").unwrap();
    assert_eq!(guest.read(0, 1), Err(Errno::BADF));
    let again = guest.open(sub, "f", 0, READ).unwrap();
    assert_eq!(guest.read(again, 100).unwrap(), b"0123456789end");
    guest.call(Function::FdPrestatGet, &[3, OUT]).unwrap();
    assert_eq!(
        guest.call(Function::FdPrestatGet, &[sub.into(), OUT]),
        Err(Errno::BADF)
    );
}

#[test]
fn edited_and_renamed_files_are_the_same_files() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("f");
    fs::write(&path, "0123456789").unwrap();
    let mut guest = with_dir(dir.path());
    let file = guest.open(3, "f", 0, BOTH).unwrap();
    guest.seek(file, 5, 0).unwrap();
    guest.rename(3, "f", 3, "g").unwrap();
    let state = guest.state();
    assert_eq!(state.descriptors()[4].label, "/data/g");
    fs::write(dir.path().join("g"), "abcdefgh").unwrap();
    let mut guest = Guest::of(Wasi::restore(state, to(dir.path())).unwrap());
    assert_eq!(guest.read(file, 10).unwrap(), b"fgh");
}

#[test]
fn files_that_are_not_the_same_are_refused() {
    let dir = tempdir().unwrap();
    for name in ["gone", "replaced", "shorter", "kind", "fine"] {
        fs::write(dir.path().join(name), "0123456789").unwrap();
    }
    let mut guest = with_dir(dir.path());
    for name in ["gone", "replaced", "shorter", "kind", "fine"] {
        let fd = guest.open(3, name, 0, BOTH).unwrap();
        guest.seek(fd, 5, 0).unwrap();
    }
    let state = guest.state();
    fs::remove_file(dir.path().join("gone")).unwrap();
    fs::write(dir.path().join("new"), "0123456789").unwrap();
    fs::rename(dir.path().join("new"), dir.path().join("replaced")).unwrap();
    fs::write(dir.path().join("shorter"), "0123").unwrap();
    fs::remove_file(dir.path().join("kind")).unwrap();
    fs::create_dir(dir.path().join("kind")).unwrap();
    let problems = unbound(Wasi::restore(state, to(dir.path())).map(Guest::of));
    let label = |name: &str| format!("/data/{name}");
    assert_eq!(
        problems,
        [
            Unbound::Unopenable {
                number: 4,
                label: label("gone"),
                errno: Errno::NOENT
            },
            Unbound::Replaced {
                number: 5,
                label: label("replaced")
            },
            Unbound::Shorter {
                number: 6,
                label: label("shorter"),
                size: 4,
                needed: 5
            },
            Unbound::Unopenable {
                number: 7,
                label: label("kind"),
                errno: Errno::ISDIR
            },
        ]
    );
    let said = RestoreError::Unbound(problems).to_string();
    assert!(said.contains("descriptor 4: /data/gone is gone"), "{said}");
}

#[test]
fn a_copy_of_the_directory_will_do() {
    let here = tempdir().unwrap();
    let there = tempdir().unwrap();
    fs::write(here.path().join("f"), "0123456789").unwrap();
    fs::write(there.path().join("f"), "abcdefghij").unwrap();
    let mut guest = with_dir(here.path());
    let file = guest.open(3, "f", 0, READ).unwrap();
    guest.seek(file, 5, 0).unwrap();
    let mut guest = guest.moved(to(there.path())).unwrap();
    assert_eq!(guest.read(file, 9).unwrap(), b"fghij");
}

#[test]
fn directories_must_be_given() {
    let dir = tempdir().unwrap();
    let mut given = config(&Time::default());
    given
        .directories
        .push(Directory::open(dir.path(), "/data\x1b[31m", true).unwrap());
    let guest = Guest::new(given);
    let state = guest.state();
    let needed: Vec<_> = state
        .directories()
        .map(|d| (d.host.to_owned(), d.read_only))
        .collect();
    assert_eq!(needed, [(dir.path().to_owned(), true)]);
    let error = Wasi::restore(state, Rebind::new(Box::new(Time::default())))
        .unwrap_err()
        .to_string();
    assert!(error.contains(r"--dir HOST::/data\u{1b}[31m:ro"), "{error}");
    assert!(!error.contains('\x1b'));
}

#[test]
fn read_only_is_kept_and_can_be_imposed() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("f"), "abc").unwrap();
    let mut given = config(&Time::default());
    given
        .directories
        .push(Directory::open(dir.path(), "/data", true).unwrap());
    let mut guest = Guest::new(given).moved(to(dir.path())).unwrap();
    assert_eq!(guest.open(3, "f", 0, WRITE), Err(Errno::PERM), "kept");
    let mut guest = with_dir(dir.path());
    guest.open(3, "f", 0, READ).unwrap();
    guest.open(3, "f", 0, BOTH).unwrap();
    let mut rebind = Rebind::new(Box::new(Time::default()));
    rebind
        .directories
        .push(Directory::open(dir.path(), "/data", true).unwrap());
    let problems = unbound(guest.moved(rebind));
    assert_eq!(
        problems,
        [Unbound::ReadOnly {
            number: 5,
            label: "/data/f".to_owned()
        }]
    );
}

#[test]
fn a_listing_goes_on_elsewhere() {
    let dir = tempdir().unwrap();
    for i in 0..20 {
        fs::write(dir.path().join(format!("file{i:02}")), "").unwrap();
    }
    let mut guest = with_dir(dir.path());
    let first = guest.readdir(3, 0, 200).unwrap();
    let cookie = first.last().unwrap().1;
    let elsewhere = tempdir().unwrap();
    fs::write(elsewhere.path().join("aaa"), "").unwrap();
    let mut guest = guest.moved(to(elsewhere.path())).unwrap();
    let rest = guest.readdir(3, cookie, 10_000).unwrap();
    assert_eq!(first.len() + rest.len(), 22);
    assert_eq!(rest.last().unwrap().0, "file19");
    assert_eq!(guest.readdir(3, 0, 10_000).unwrap().len(), 3);
}

#[test]
fn what_cannot_move_is_named() {
    let dir = tempdir().unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("pipe"), 0o600.into()).unwrap();
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut given = config(&Time::default());
    given.sockets.push(PassedSocket {
        fd: socket.into(),
        name: "web".to_owned(),
    });
    given
        .directories
        .push(Directory::open(dir.path(), "/data", false).unwrap());
    let mut guest = Guest::new(given);
    guest.open(4, "pipe", 0, READ).unwrap();
    let deleted = guest.open(4, "deleted", CREAT, BOTH).unwrap();
    let replaced = guest.open(4, "replaced", CREAT, BOTH).unwrap();
    guest
        .on_path(Function::PathUnlinkFile, 4, "deleted")
        .unwrap();
    guest
        .on_path(Function::PathUnlinkFile, 4, "replaced")
        .unwrap();
    fs::write(dir.path().join("replaced"), "").unwrap();
    let error = guest.wasi.capture().unwrap_err();
    let named: Vec<_> = error
        .0
        .iter()
        .map(|item| (item.number, &item.label[..]))
        .collect();
    assert_eq!(
        named,
        [
            (3, "web"),
            (5, "/data/pipe"),
            (deleted, "/data/deleted"),
            (replaced, "/data/replaced")
        ]
    );
    assert!(
        error
            .to_string()
            .contains("descriptor 6 (/data/deleted) was deleted or replaced while open")
    );
    let bindings: Vec<_> = guest
        .wasi
        .descriptors()
        .iter()
        .map(|d| (d.kind, d.binding))
        .collect();
    assert_eq!(bindings[3], (DescriptorKind::Socket, Binding::Fixed));
    assert_eq!(bindings[4], (DescriptorKind::Preopened, Binding::ByName));
    assert_eq!(bindings[5], (DescriptorKind::Device, Binding::Fixed));
    // When the program has closed them, it can.
    for fd in [3, 5, deleted, replaced] {
        guest.close(fd).unwrap();
    }
    guest.moved(to(dir.path())).unwrap();
}

#[test]
fn standard_streams_are_those_of_the_thaw() {
    let output = Arc::new(Mutex::new(Vec::new()));
    let mut given = config(&Time::default());
    given.stdio = [
        Stdio::Input(b"left behind".to_vec()),
        Stdio::Output(output.clone()),
        Stdio::Null,
    ];
    let mut guest = Guest::new(given);
    guest.write(1, b"one ").unwrap();
    guest.close(2).unwrap();
    let mut rebind = Rebind::new(Box::new(Time::default()));
    rebind.stdio = [
        Stdio::Closed,
        Stdio::Output(output.clone()),
        Stdio::Output(output.clone()),
    ];
    let mut guest = guest.moved(rebind).unwrap();
    assert_eq!(guest.read(0, 10).unwrap(), b"", "closed counts as empty");
    guest.write(1, b"two").unwrap();
    assert_eq!(
        guest.write(2, b"x"),
        Err(Errno::BADF),
        "closed stays closed"
    );
    assert_eq!(*output.lock().unwrap(), b"one two");
    assert_eq!(guest.wasi.output_bytes(), 7);
}

#[test]
fn a_renumbered_stream_keeps_its_slot() {
    let (one, two) = (
        Arc::new(Mutex::new(Vec::new())),
        Arc::new(Mutex::new(Vec::new())),
    );
    let dir = tempdir().unwrap();
    let mut guest = with_dir(dir.path());
    let file = guest.open(3, "f", CREAT, BOTH).unwrap();
    guest.call(Function::FdRenumber, &[2, file.into()]).unwrap();
    let mut rebind = to(dir.path());
    rebind.stdio = [
        Stdio::Null,
        Stdio::Output(one.clone()),
        Stdio::Output(two.clone()),
    ];
    let mut guest = guest.moved(rebind).unwrap();
    guest.write(file, b"error").unwrap();
    assert_eq!(
        (&one.lock().unwrap()[..], &two.lock().unwrap()[..]),
        (&b""[..], &b"error"[..])
    );
}

#[test]
fn the_same_input_file_is_read_on() {
    let mut input = tempfile::NamedTempFile::new().unwrap();
    input.write_all(b"0123456789").unwrap();
    let open = || Stdio::Inherit(fs::File::open(input.path()).unwrap().into());
    let mut given = config(&Time::default());
    given.stdio[0] = open();
    let mut guest = Guest::new(given);
    guest.read(0, 4).unwrap();
    let mut rebind = Rebind::new(Box::new(Time::default()));
    rebind.stdio[0] = open();
    let mut guest = guest.moved(rebind).unwrap();
    assert_eq!(guest.read(0, 4).unwrap(), b"4567");
    let mut other = tempfile::tempfile().unwrap();
    other.write_all(b"abc").unwrap();
    other.rewind().unwrap();
    let mut rebind = Rebind::new(Box::new(Time::default()));
    rebind.stdio[0] = Stdio::Inherit(other.into());
    let mut guest = guest.moved(rebind).unwrap();
    assert_eq!(
        guest.read(0, 4).unwrap(),
        b"abc",
        "another file from its start"
    );
    // The rights are those of what the stream is now.
    let mut guest = guest.moved(Rebind::new(Box::new(Time::default()))).unwrap();
    assert_eq!(guest.seek(0, 0, 1), Err(Errno::SPIPE));
}

#[test]
fn clocks_and_random_fillings_go_on() {
    let time = Time::default();
    let mut guest = Guest::new(config(&time));
    guest.memory = vec![0; 6 << 20];
    time.pass(Duration::from_secs(3));
    time.set(2, Duration::from_secs(2));
    guest.step(Function::RandomGet, &[0, 6 << 20]);
    let there = Time::default();
    let mut guest = guest.moved(Rebind::new(Box::new(there.clone()))).unwrap();
    guest.call(Function::RandomGet, &[0, 6 << 20]).unwrap();
    there.set(2, Duration::from_secs(1));
    guest.call(Function::ClockTimeGet, &[2, 0, OUT]).unwrap();
    assert_eq!(guest.u64(OUT), 3_000_000_000);
    guest.call(Function::ClockTimeGet, &[1, 0, OUT]).unwrap();
    assert_eq!(guest.u64(OUT), 3_000_000_000);
}

#[test]
fn limits_of_the_new_host_hold() {
    let mut rebind = Rebind::new(Box::new(Time::default()));
    rebind.limits.descriptors = 2;
    let refused = Guest::new(config(&Time::default())).moved(rebind);
    assert!(matches!(
        refused,
        Err(RestoreError::TooMany { open: 3, limit: 2 })
    ));
    let mut guest = Guest::new(config(&Time::default()));
    guest.write(1, &[0; 100]).unwrap();
    let mut rebind = Rebind::new(Box::new(Time::default()));
    rebind.limits.output_bytes = Some(101);
    let mut guest = guest.moved(rebind).unwrap();
    assert_eq!(guest.write(1, b"ab"), Ok(1));
    assert_eq!(guest.write(1, b"b"), Err(Errno::DQUOT));
}

#[test]
fn a_damaged_state_is_refused_or_harmless() {
    let dir = tempdir().unwrap();
    let mut guest = with_dir(dir.path());
    let file = guest.open(3, "f", CREAT, BOTH).unwrap();
    guest.readdir(3, 0, 1000).unwrap();
    guest.put(DATA, &[0; 48]);
    guest.put(DATA + 24, &u64::MAX.to_le_bytes());
    guest.step(Function::PollOneoff, &[DATA, DATA + 100, 1, OUT]);
    let bytes = postcard::to_stdvec(&guest.state()).unwrap();
    let mut restored = 0;
    for index in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[index] ^= 1 << bit;
            let Ok(state) = postcard::from_bytes(&changed) else {
                continue;
            };
            if let Ok(wasi) = Wasi::restore(state, to(dir.path())) {
                let mut guest = Guest::of(wasi);
                let _ = guest.read_step(file, 10);
                let _ = guest.step(Function::FdReaddir, &[3, DATA, 100, 1, OUT]);
                let _ = guest.step(Function::PollOneoff, &[DATA, DATA + 100, 1, OUT]);
                restored += 1;
            }
        }
    }
    assert!(restored > 0);
}

/// A state as version 1 of its section holds it. If this fails, the layout has changed: that is a
/// new version of the section, and the old one has to stay readable.
#[test]
fn the_layout_is_kept() {
    let sample = include_bytes!("state-v1.bin");
    let state: sterna_wasi::WasiState = postcard::from_bytes(sample).unwrap();
    assert_eq!(postcard::to_stdvec(&state).unwrap(), sample);
    let labels: Vec<_> = state.descriptors().into_iter().map(|d| d.label).collect();
    assert_eq!(
        labels,
        [
            "standard input",
            "standard output",
            "standard error",
            "/data",
            "/data/sub",
            "/data/sub/f"
        ]
    );
    assert_eq!(state.arguments(), [b"program"]);
    assert_eq!(state.elapsed(), Duration::from_secs(5));
    assert_eq!(
        state.directories().next().unwrap().host,
        Path::new("/srv/data")
    );
}

/// Makes the sample of `the_layout_is_kept` anew.
#[test]
#[ignore = "writes the sample; to be run when the layout gets a new version"]
fn make_sample() {
    let dir = tempdir().unwrap();
    let fd = fs::File::open(dir.path()).unwrap();
    let time = Time::default();
    let mut given = config(&time);
    given.arguments = vec![b"program".to_vec()];
    given.environment = vec![b"KEY=value".to_vec()];
    given
        .directories
        .push(Directory::from_fd(fd.into(), "/srv/data", "/data", false));
    let mut guest = Guest::new(given);
    guest
        .on_path(Function::PathCreateDirectory, 3, "sub")
        .unwrap();
    let sub = guest.open(3, "sub", DIRECTORY, BOTH).unwrap();
    let file = guest.open(sub, "f", CREAT, BOTH).unwrap();
    guest.write(file, b"0123456789").unwrap();
    guest.readdir(3, 0, 1000).unwrap();
    time.pass(Duration::from_secs(5));
    guest.put(DATA, &[0; 48]);
    guest.put(DATA + 16, &1u32.to_le_bytes());
    guest.put(DATA + 24, &1_000_000_000u64.to_le_bytes());
    guest.step(Function::PollOneoff, &[DATA, DATA + 100, 1, OUT]);
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/all/state-v1.bin");
    fs::write(
        sample,
        postcard::to_stdvec(&guest.wasi.capture().unwrap()).unwrap(),
    )
    .unwrap();
}
