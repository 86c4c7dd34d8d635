//! What goes wrong: full disks, damaged and foreign images, killed hosts, hostile peers. Nothing is lost.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::world::{Actor, World, guest, skip};

/// A program that answers each line, so that it can be seen that it runs on.
fn echo(world: &World) -> Actor {
    let mut run = world.start(["run", &guest("echo")]);
    run.say("one\n");
    run.out.wait_for("1: one\n");
    run
}

#[track_caller]
fn runs_on(mut run: Actor) {
    run.say("two\n");
    run.out.wait_for("2: two\n");
    run.hang_up();
    run.ended(0);
}

/// The file of a frozen echo.
fn image(world: &World) -> PathBuf {
    let mut run = echo(world);
    world.ask(["freeze", "echo", "-o", "echo.sterna"]).ok();
    run.ended(75);
    world.path("echo.sterna")
}

#[test]
fn on_a_device_that_is_full_or_keeps_nothing_the_program_runs_on() {
    let world = World::new();
    let run = echo(&world);
    for (device, said) in [
        ("/dev/full", "No space left"),
        ("/dev/null", "freeze into a file"),
    ] {
        world
            .ask(["freeze", "echo", "-o", device])
            .fails(1, &[device, said]);
        assert!(!fs::metadata(device).unwrap().is_file());
    }
    runs_on(run);
}

#[test]
fn on_a_full_file_system_the_program_runs_on_and_nothing_is_left() {
    if !rustix::process::geteuid().is_root() {
        skip!("mounting a small file system needs root");
    }
    let world = World::new();
    let small = world.path("small");
    let Some(_mounted) = Mounted::new(&small) else {
        skip!("this machine does not let us mount a tmpfs");
    };
    let run = echo(&world);
    fs::write(small.join("echo.sterna"), "old").unwrap();
    fs::write(small.join("filler"), vec![1; 60 << 10]).unwrap();
    let file = small.join("echo.sterna");
    world
        .ask(["freeze", "echo", "-o", file.to_str().unwrap()])
        .fails(1, &["no room", "echo.sterna", "free some"]);
    assert_eq!(fs::read(&file).unwrap(), b"old");
    assert_eq!(fs::read_dir(&small).unwrap().count(), 2);
    runs_on(run);
}

#[test]
fn a_full_cache_is_only_reported() {
    if !rustix::process::geteuid().is_root() {
        skip!("mounting a small file system needs root");
    }
    let mut world = World::new();
    let small = world.path("small");
    let Some(_mounted) = Mounted::new(&small) else {
        skip!("this machine does not let us mount a tmpfs");
    };
    world.cache = small.join("programs");
    let answer = world.ask(["run", &guest("hello")]);
    assert_eq!(answer.ok(), "hello, world\n");
    assert!(answer.err().contains("not kept"), "{}", answer.err());
}

/// A file system of 64 KiB.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: &Path) -> Option<Self> {
        fs::create_dir(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs"]);
        let mounted = mount.arg(at).status().is_ok_and(|status| status.success());
        mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn where_nothing_can_be_written_the_program_runs_on() {
    let world = World::new();
    let run = echo(&world);
    world
        .ask(["freeze", "echo", "-o", "no/such/place"])
        .fails(1, &["no/such/place"]);
    world.ask(["freeze", "echo", "-o", "."]).fails(1, &[]);
    world
        .ask(["freeze", "echo", "-o", "-"])
        .fails(1, &["into a file"]);
    let socket = world
        .entries()
        .into_iter()
        .find(|name| name.ends_with(".sock"))
        .unwrap();
    let socket = world.path("run").join(socket);
    world
        .ask(["freeze", "echo", "-o", socket.to_str().unwrap()])
        .fails(1, &["pipe or socket"]);
    runs_on(run);
}

#[test]
fn of_several_freezes_at_once_one_succeeds() {
    let world = World::new();
    let mut run = world.start(["run", &guest("fill"), "256", "0"]);
    crate::world::until("the program runs", || {
        world
            .ps()
            .first()
            .is_some_and(|row| row["memory_bytes"].as_u64() > Some(200 << 20))
    });
    let mut freezes: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|file| world.start(["freeze", "fill", "--thin", "-o", file]))
        .collect();
    let codes: Vec<_> = freezes
        .iter_mut()
        .map(|freeze| freeze.end().code().unwrap())
        .collect();
    run.ended(75);
    assert_eq!(
        codes.iter().filter(|&&code| code == 0).count(),
        1,
        "{codes:?}"
    );
    for (freeze, code) in freezes.iter().zip(codes) {
        let err = freeze.err.text();
        let reason = err.contains("being frozen already") || err.contains("just ended");
        assert!(code == 0 || reason, "{err}");
    }
}

#[test]
fn the_entry_of_a_killed_host_is_swept_away() {
    let world = World::new();
    let mut run = echo(&world);
    let pid = run.pid();
    run.signal(Signal::KILL);
    run.end();
    assert_eq!(world.entries().len(), 2, "killed hosts cannot clean up");
    assert!(world.ps().is_empty());
    assert_eq!(world.entries(), [""; 0]);
    world
        .ask(["freeze", &pid, "-o", "x"])
        .fails(1, &["just ended", "killed"]);
}

#[test]
fn a_stopped_host_is_told_from_a_lost_one() {
    let world = World::new();
    let run = echo(&world);
    run.signal(Signal::STOP);
    crate::world::until("it is stopped", || world.ps()[0]["state"] == "stopped");
    for request in [&["freeze", "echo", "-o", "x.sterna"][..], &["kill", "echo"]] {
        world.ask(request).fails(1, &["stopped", "kill -CONT"]);
    }
    run.signal(Signal::CONT);
    runs_on(run);
    assert!(!world.path("x.sterna").exists());
}

#[test]
fn what_nobody_waits_for_any_more_is_not_done() {
    let world = World::new();
    let mut run = echo(&world);
    let socket = world
        .entries()
        .into_iter()
        .find(|name| name.ends_with(".sock"));
    let socket = world.path("run").join(socket.unwrap());
    run.signal(Signal::STOP);
    crate::world::until("it is stopped", || world.ps()[0]["state"] == "stopped");
    let ask_to_kill = || {
        let mut asking = UnixStream::connect(&socket).unwrap();
        let request = br#"{"version":1,"body":"kill"}"#;
        let length = u32::try_from(request.len()).unwrap().to_le_bytes();
        asking.write_all(&[&length[..], request].concat()).unwrap();
        asking
    };
    drop(ask_to_kill());
    run.signal(Signal::CONT);
    world.ask(["inspect", "echo"]).ok();
    run.say("two\n");
    run.out.wait_for("2: two\n");
    let mut waiting = ask_to_kill();
    waiting.read_exact(&mut [0; 4]).unwrap();
    run.ended(137);
}

#[test]
fn foreign_images_are_shown_and_confirmed() {
    let world = World::new();
    let image = image(&world);
    let elsewhere = World::new();
    let image = image.to_str().unwrap();
    // Without a terminal nobody can be asked.
    let mut command = Command::new("setsid");
    let thaw = elsewhere.command(["thaw", image]);
    command
        .arg("-w")
        .arg(thaw.get_program())
        .args(thaw.get_args());
    command.envs(
        thaw.get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let mut refused = Actor::start(command);
    refused.ended(125);
    let said = refused.err.text();
    for text in ["someone else", "standard input", "--yes"] {
        assert!(said.contains(text), "{text}: {said}");
    }
    assert!(
        elsewhere
            .ask(["inspect", image])
            .ok()
            .contains("someone else")
    );
    assert!(
        elsewhere
            .ask(["thaw", "--yes", image])
            .ok()
            .contains("1 lines")
    );
}

#[test]
fn directories_of_foreign_images_must_be_given() {
    let world = World::new();
    let dir = format!("{}::/data", world.directory.path().display());
    let mut run = world.start(["run", "--dir", &dir, &guest("echo")]);
    run.say("one\n");
    run.out.wait_for("1: one");
    world.ask(["freeze", "echo", "-o", "echo.sterna"]).ok();
    run.ended(75);
    let image = world.path("echo.sterna");
    let image = image.to_str().unwrap();
    let elsewhere = World::new();
    elsewhere
        .ask(["thaw", "--yes", image])
        .fails(125, &["--dir HOST::/data"]);
    assert!(
        elsewhere
            .ask(["thaw", "--yes", "--dir", &dir, image])
            .ok()
            .contains("lines")
    );
}

#[test]
fn damaged_and_cut_images_are_refused() {
    let world = World::new();
    let image = image(&world);
    let whole = fs::read(&image).unwrap();
    let wrong = |bytes: &[u8], said: &[&str]| {
        let file = world.file("wrong.sterna", bytes);
        world.ask(["thaw", &file]).fails(125, said);
        let inspected = world.ask(["inspect", "--check", &file]);
        inspected.fails(1, said);
    };
    for length in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
        wrong(&whole[..length], &["wrong.sterna"]);
    }
    for at in (3..whole.len()).step_by(whole.len() / 7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        wrong(&bytes, &["wrong.sterna"]);
    }
    let mut newer = whole.clone();
    newer[8] = 200;
    wrong(&newer, &["200"]);
    let program = fs::read(guest("hello")).unwrap();
    wrong(&program, &["not"]);
    world
        .ask(["thaw", "missing.sterna"])
        .fails(125, &["missing.sterna", "No such file"]);
    let file = world.file("whole.sterna", &whole);
    world.ask(["run", &file]).fails(125, &["sterna thaw"]);
    assert!(world.ask(["thaw", &file]).ok().contains("lines"));
}

#[test]
fn a_hostile_peer_does_not_disturb() {
    let world = World::new();
    let run = echo(&world);
    let socket = world
        .entries()
        .into_iter()
        .find(|name| name.ends_with(".sock"))
        .unwrap();
    let socket = world.path("run").join(socket);
    let answer = |bytes: &[u8]| {
        let mut stream = connect(&socket);
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert!(answer(&u32::MAX.to_le_bytes()).contains("too long"));
    assert!(answer(b"\x05\0\0\0hello").contains("form"));
    assert!(answer(&framed(r#"{"version":7,"body":"kill"}"#)).contains("version 7"));
    assert!(answer(&framed(r#"{"version":1,"body":"explode"}"#)).contains("not understood"));
    assert!(answer(b"\x05\0\0").contains("failed"));
    let idle: Vec<_> = (0..40).map(|_| connect(&socket)).collect();
    drop(idle);
    runs_on(run);
}

fn framed(json: &str) -> Vec<u8> {
    [&(json.len() as u32).to_le_bytes(), json.as_bytes()].concat()
}

/// By way of a short path: a socket's has 107 bytes at most.
fn connect(socket: &Path) -> UnixStream {
    UnixStream::connect(socket).unwrap()
}
