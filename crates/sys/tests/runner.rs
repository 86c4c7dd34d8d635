//! A runner that was taken over, seen from outside: an intruder in an enclosure, confined, with two directories handed
//! to it.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use sterna_sys::enclosure;
use sterna_sys::spawn::Spawn;

const SOON: Duration = Duration::from_secs(120);

/// A function that adds its two arguments, by the calling convention of C.
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[0x48, 0x8D, 0x04, 0x37, 0xC3]; // lea rax, [rdi + rsi]; ret
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[0x00, 0x00, 0x01, 0x8B, 0xC0, 0x03, 0x5F, 0xD6]; // add x0, x0, x1; ret

/// A folder with a secret, native code, and two directories to hand over, full of traps, that belongs to `user`.
fn folder(user: Option<u32>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for name in ["programs", "tree", "tree/folder", "fixed", "fixed/folder"] {
        fs::create_dir(path.join(name)).unwrap();
    }
    fs::write(path.join("key"), "secret of the node").unwrap();
    fs::write(path.join("programs/code"), CODE).unwrap();
    for name in ["tree/file", "tree/folder/file", "fixed/file"] {
        fs::write(path.join(name), "inside").unwrap();
    }
    let tree = path.join("tree");
    symlink("file", tree.join("link")).unwrap();
    symlink(path.join("key"), tree.join("absolute")).unwrap();
    symlink("../key", tree.join("relative")).unwrap();
    symlink("/proc/self/status", tree.join("to-proc")).unwrap();
    symlink("..", tree.join("to-folder")).unwrap();
    make_device(&tree.join("null"));
    if let Some(user) = user {
        give(path, user);
    }
    fs::set_permissions(path.join("key"), fs::Permissions::from_mode(0o600)).unwrap();
    folder
}

/// The null device, where this user may make one; else there is nothing that could be opened.
fn make_device(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    let device = rustix::fs::makedev(1, 3);
    let kind = rustix::fs::FileType::CharacterDevice;
    if let Err(error) = rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, device) {
        println!("no device node in the tree: {error}");
    }
}

fn give(path: &Path, user: u32) {
    std::os::unix::fs::lchown(path, Some(user), Some(user)).unwrap();
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path(), user);
        }
    }
}

/// Runs the program; what it wrote.
fn run(folder: &Path, arguments: &[&str]) -> String {
    let (mut output, stdout) = std::io::pipe().unwrap();
    let mut spawn = Spawn::new(env!("CARGO_BIN_EXE_sterna-sys-intruder"))
        .env("FOLDER", folder)
        .stdout(stdout)
        .stderr(std::io::stderr().as_fd().try_clone_to_owned().unwrap())
        .die_with_this_thread();
    for argument in arguments {
        spawn = spawn.arg(argument);
    }
    let child = spawn.start().unwrap();
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    let finished = child.finish(SOON).unwrap();
    std::io::stdout().write_all(text.as_bytes()).unwrap();
    assert!(finished.exit.status.success(), "{:?}", finished.exit);
    text
}

/// Every attack was denied, every need was met, and there were as many.
fn check(text: &str, attacks: usize, needs: usize) {
    if !text.contains("applied: full") {
        return println!("skipped: this kernel does not confine in full");
    }
    let (mut attacked, mut needed) = (0, 0);
    for line in text.lines() {
        if line.starts_with("attack ") {
            attacked += 1;
            assert!(line.contains(": denied, "), "{line}");
        } else if line.starts_with("need ") {
            needed += 1;
            assert!(line.ends_with(": done"), "{line}");
        }
    }
    assert_eq!((attacked, needed), (attacks, needs));
}

fn can_enclose() -> bool {
    if let Err(why) = enclosure::available() {
        println!("skipped: {why}: {}", why.source);
        return false;
    }
    true
}

/// How many there are, so that none is left out by an early end. Eight calls exist on x86-64 only.
const ATTACKS: usize = 371 + if cfg!(target_arch = "x86_64") { 8 } else { 0 };
const NEEDS: usize = 27;
const ATTACKS_WITHOUT_ENCLOSURE: usize = 325 + if cfg!(target_arch = "x86_64") { 8 } else { 0 };

#[test]
fn intruder_in_a_runner_of_this_user_gets_nothing() {
    if can_enclose() {
        let folder = folder(None);
        check(&run(folder.path(), &["service", "runner"]), ATTACKS, NEEDS);
    }
}

/// The same without privilege: the directories are detached by a helper.
#[test]
fn intruder_in_a_runner_of_a_user_without_rights_gets_nothing() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: only root can become another user");
    }
    if can_enclose() {
        let folder = folder(Some(65534));
        let text = run(folder.path(), &["as-nobody", "service", "runner"]);
        check(&text, ATTACKS, NEEDS);
    }
}

/// Where the machine forbids namespaces: Landlock, with a rule for the programs. Directories that come later are of no use.
#[test]
fn intruder_under_landlock_alone_gets_nothing() {
    let folder = folder(None);
    let text = run(folder.path(), &["service", "runner-without-enclosure"]);
    check(&text, ATTACKS_WITHOUT_ENCLOSURE, 7);
}

/// Landlock's rules hold for a directory's detached mounts, too.
#[test]
fn directories_with_rules_can_be_used_under_landlock_alone() {
    let folder = folder(None);
    let text = run(folder.path(), &["landlocked"]);
    // For a file's times Landlock has no right, whatever it denies otherwise.
    let text: String = text
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("attack touch in a fixed tree: "))
        .collect();
    check(&text, 25, 18);
}

/// The same attempts without confinement: that they fail in a runner is the confinement's doing.
#[test]
fn attacks_succeed_where_nothing_is_confined() {
    let folder = folder(None);
    let path = folder.path();
    let text = run(path, &["unconfined"]);
    for attack in [
        "read /etc/passwd",
        "read /proc/self/status",
        "read /proc/self/root/etc/passwd",
        "read /dev/null",
        &format!("read {}/key", path.display()),
        "list the folder",
        "find the secret among open descriptors",
        "leave by an open descriptor",
        "climb out of the tree",
        "read ../key in the tree",
        "read folder/../../key in the tree",
    ] {
        let line = format!("attack {attack}: SUCCEEDED");
        assert!(text.lines().any(|found| found == line), "{attack}");
    }
}

#[test]
fn directories_that_stay_open_are_reported() {
    if !can_enclose() {
        return;
    }
    let folder = folder(None);
    let text = run(folder.path(), &["leaky"]);
    let (leaks, _) = text
        .strip_prefix("leaks: ")
        .and_then(|text| text.split_once(", and"))
        .unwrap();
    let expected = format!(
        "enclosed: partial; no descriptors: descriptors {leaks}: directories of the outside, still open"
    );
    assert_eq!(text.lines().last().unwrap(), expected);
}

#[test]
fn process_with_threads_is_told_why_it_is_not_enclosed() {
    let folder = folder(None);
    let text = run(folder.path(), &["threaded"]);
    assert!(
        text.starts_with("enclosed: none; no namespaces: new namespaces: Invalid argument"),
        "{text}"
    );
}
