//! Attempts to get out of a directory, or to change one that is read-only.

use crate::guest::{BOTH, CREAT, DIRECTORY, Guest, READ, TRUNC, Time, WRITE, config, with_dir};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use sterna_wasi::{Directory, Errno, Function};
use tempfile::tempdir;

/// A directory with a secret, and in it the guest's, with links of all kinds that lead out.
fn trap() -> (tempfile::TempDir, Guest) {
    let outer = tempdir().unwrap();
    fs::write(outer.path().join("secret"), "s").unwrap();
    let inner = outer.path().join("in");
    fs::create_dir_all(inner.join("sub")).unwrap();
    symlink("../secret", inner.join("up")).unwrap();
    symlink(outer.path().join("secret"), inner.join("absolute")).unwrap();
    symlink("..", inner.join("parent")).unwrap();
    symlink("sub/../../secret", inner.join("devious")).unwrap();
    symlink("/proc/self/root", inner.join("magic")).unwrap();
    let guest = with_dir(&inner);
    (outer, guest)
}

fn assert_unharmed(outer: &Path) {
    assert_eq!(fs::read(outer.join("secret")).unwrap(), b"s");
    assert_eq!(fs::read_dir(outer).unwrap().count(), 2);
}

#[test]
fn no_path_leads_out() {
    let (outer, mut guest) = trap();
    let secret = outer.path().join("secret");
    let paths = [
        "../secret",
        "..",
        "../in/../secret",
        "sub/../../secret",
        "/etc/passwd",
        secret.to_str().unwrap(),
        "up",
        "absolute",
        "parent/secret",
        "parent",
        "devious",
        "magic/etc/passwd",
        "./../secret",
        "sub/../..",
    ];
    for path in paths {
        for (oflags, rights) in [
            (0, READ),
            (0, WRITE),
            (CREAT, BOTH),
            (TRUNC, WRITE),
            (DIRECTORY, READ),
        ] {
            let refused = guest.open(3, path, oflags, rights);
            // Before Linux 5.6, which has openat2(2), and under emulators that do not know it, paths are walked by hand. A
            // link out of the directory is then refused as something that is no directory, if one was wanted.
            let is_walked = oflags == DIRECTORY && refused == Err(Errno::NOTDIR);
            assert!(
                refused == Err(Errno::PERM) || is_walked,
                "open {path} {oflags}: {refused:?}"
            );
        }
        assert_eq!(guest.stat(3, path, true), Err(Errno::PERM), "stat {path}");
        assert!(
            guest.rename(3, &format!("{path}/x"), 3, "y").is_err(),
            "rename from {path}"
        );
    }
    assert_unharmed(outer.path());
}

#[test]
fn nothing_is_made_or_removed_outside() {
    let (outer, mut guest) = trap();
    for path in ["../new", "/tmp/new", "parent/new", "sub/../../new"] {
        assert_eq!(
            guest.on_path(Function::PathCreateDirectory, 3, path),
            Err(Errno::PERM),
            "mkdir {path}"
        );
        assert_eq!(
            guest.on_path(Function::PathUnlinkFile, 3, path),
            Err(Errno::PERM),
            "unlink {path}"
        );
        assert_eq!(
            guest.on_path(Function::PathRemoveDirectory, 3, path),
            Err(Errno::PERM),
            "rmdir {path}"
        );
        assert_eq!(
            guest.rename(3, "sub", 3, path),
            Err(Errno::PERM),
            "rename to {path}"
        );
        assert_eq!(
            guest.link(3, "up", 3, path),
            Err(Errno::PERM),
            "link to {path}"
        );
        assert_eq!(
            guest.symlink("sub", 3, path),
            Err(Errno::PERM),
            "symlink at {path}"
        );
    }
    assert_eq!(guest.symlink("/etc", 3, "etc"), Err(Errno::PERM));
    assert_unharmed(outer.path());
}

#[test]
fn a_renamed_directory_stays_inside() {
    let outer = tempdir().unwrap();
    fs::write(outer.path().join("secret"), "s").unwrap();
    fs::create_dir_all(outer.path().join("in/a/b")).unwrap();
    let mut guest = with_dir(&outer.path().join("in"));
    // Open deep, then move it up: ".." is counted from where a path begins, not from the root.
    let deep = guest.open(3, "a/b", DIRECTORY, BOTH).unwrap();
    guest.rename(3, "a/b", 3, "c").unwrap();
    for path in ["..", "../..", "../../secret", "../secret"] {
        assert_eq!(guest.open(deep, path, 0, READ), Err(Errno::PERM), "{path}");
    }
    // A link put in place of a directory, and a directory renamed over.
    guest.symlink("../..", 3, "a/up").unwrap();
    assert_eq!(guest.open(3, "a/up/secret", 0, READ), Err(Errno::PERM));
    guest.rename(3, "a/up", 3, "up").unwrap();
    assert_eq!(guest.open(3, "up/secret", 0, READ), Err(Errno::PERM));
    fs::rename(outer.path().join("in/c"), outer.path().join("c")).unwrap();
    assert_eq!(
        guest.open(deep, "../secret", 0, READ),
        Err(Errno::PERM),
        "moved out by someone else"
    );
}

#[test]
fn read_only_means_all_of_it() {
    let dir = tempdir().unwrap();
    let free = tempdir().unwrap();
    fs::write(dir.path().join("f"), "abc").unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    let mut given = config(&Time::default());
    given
        .directories
        .push(Directory::open(dir.path(), "/ro", true).unwrap());
    given
        .directories
        .push(Directory::open(free.path(), "/rw", false).unwrap());
    let mut guest = Guest::new(given);
    let refused = Err(Errno::PERM);
    assert_eq!(guest.open(3, "f", 0, BOTH), Err(Errno::PERM));
    assert_eq!(guest.open(3, "f", TRUNC, READ), Err(Errno::PERM));
    assert_eq!(guest.open(3, "new", CREAT, READ), Err(Errno::PERM));
    assert_eq!(
        guest.on_path(Function::PathCreateDirectory, 3, "new"),
        refused
    );
    assert_eq!(
        guest.on_path(Function::PathRemoveDirectory, 3, "d"),
        refused
    );
    assert_eq!(guest.on_path(Function::PathUnlinkFile, 3, "f"), refused);
    assert_eq!(guest.symlink("f", 3, "l"), refused);
    assert_eq!(guest.rename(3, "f", 4, "f"), refused);
    assert_eq!(
        guest.link(3, "f", 4, "f"),
        refused,
        "it could be written through the new name"
    );
    let [at, len] = guest.path("f");
    assert_eq!(
        guest.call(Function::PathFilestatSetTimes, &[3, 0, at, len, 0, 0, 8]),
        refused
    );
    let file = guest.open(3, "f", 0, READ).unwrap();
    assert_eq!(guest.read(file, 9).unwrap(), b"abc");
    assert_eq!(guest.write(file, b"x"), Err(Errno::BADF));
    assert_eq!(
        guest.call(Function::FdFilestatSetSize, &[file.into(), 0]),
        refused
    );
    assert_eq!(
        guest.call(Function::FdFilestatSetTimes, &[file.into(), 0, 0, 8]),
        refused
    );
    assert_eq!(
        guest.call(Function::FdFilestatSetTimes, &[3, 0, 0, 8]),
        refused
    );
    assert_eq!(
        guest.call(Function::FdAllocate, &[file.into(), 0, 100]),
        refused
    );
    let sub = guest.open(3, "d", DIRECTORY, BOTH).unwrap();
    assert_eq!(
        guest.open(sub, "x", CREAT, WRITE),
        Err(Errno::PERM),
        "directories in it too"
    );
    guest.open(4, "x", CREAT, WRITE).unwrap();
    assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"abc");
}

#[test]
fn named_pipes_and_devices_do_not_block() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
    let mut guest = with_dir(dir.path());
    assert_eq!(guest.open(3, "pipe", 0, WRITE), Err(Errno::NXIO));
    let reader = guest.open(3, "pipe", 0, READ).unwrap();
    let writer = guest.open(3, "pipe", 0, WRITE).unwrap();
    guest.read_waits(reader);
    guest.write(writer, b"through").unwrap();
    assert_eq!(guest.read(reader, 100).unwrap(), b"through");
    assert_eq!(guest.fdstat(reader).unwrap().0, 0);
}
