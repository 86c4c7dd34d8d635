//! Calls that take paths, where nobody means ill.

use crate::guest::{BOTH, CREAT, DATA, DIRECTORY, EXCL, Guest, OUT, READ, TRUNC, WRITE, with_dir};
use std::fs;
use std::os::unix::fs::symlink;
use sterna_wasi::{Errno, Function, Rights};
use tempfile::tempdir;

#[test]
fn opening_flags() {
    let dir = tempdir().unwrap();
    let mut guest = with_dir(dir.path());
    assert_eq!(guest.open(3, "f", 0, BOTH), Err(Errno::NOENT));
    let fd = guest.open(3, "f", CREAT | EXCL, WRITE).unwrap();
    guest.write(fd, b"abc").unwrap();
    assert_eq!(guest.open(3, "f", CREAT | EXCL, BOTH), Err(Errno::EXIST));
    assert_eq!(guest.open(3, "f", DIRECTORY, READ), Err(Errno::NOTDIR));
    assert_eq!(
        guest.open(3, ".", CREAT | DIRECTORY, READ),
        Err(Errno::INVAL)
    );
    assert_eq!(guest.open(3, "f", 16, READ), Err(Errno::INVAL));
    // Creating without asking for writing: an existing file is untouched, a new one is made.
    let fd = guest.open(3, "f", CREAT, READ).unwrap();
    assert_eq!(guest.read(fd, 10).unwrap(), b"abc");
    guest.open(3, "g", CREAT, READ).unwrap();
    assert!(dir.path().join("g").exists());
    guest.open(3, "f", TRUNC, READ).unwrap();
    assert_eq!(fs::read(dir.path().join("f")).unwrap(), b"");
    // A directory can be opened to read it, not to write it.
    assert_eq!(guest.open(3, ".", 0, BOTH), Err(Errno::ISDIR));
    let fd = guest.open(3, ".", 0, READ).unwrap();
    assert_eq!(guest.fdstat(fd).unwrap().0, 3);
    assert_eq!(guest.open(3, "", 0, READ), Err(Errno::NOENT));
    assert_eq!(guest.open(1, "f", 0, READ), Err(Errno::NOTDIR));
    assert_eq!(guest.open(9, "f", 0, READ), Err(Errno::BADF));
    assert_eq!(
        guest.open(3, &"x".repeat(4000), 0, READ),
        Err(Errno::NAMETOOLONG)
    );
    guest.put(DATA, b"\xff\xfe");
    let arguments = [3, 0, DATA, 2, 0, READ.bits(), 0, 0, OUT];
    assert_eq!(
        guest.call(Function::PathOpen, &arguments),
        Err(Errno::ILSEQ)
    );
    assert_eq!(guest.open(3, "a\0b", 0, READ), Err(Errno::INVAL));
}

#[test]
fn making_and_removing() {
    let dir = tempdir().unwrap();
    let mut guest = with_dir(dir.path());
    guest
        .on_path(Function::PathCreateDirectory, 3, "d")
        .unwrap();
    assert_eq!(
        guest.on_path(Function::PathCreateDirectory, 3, "d"),
        Err(Errno::EXIST)
    );
    let sub = guest.open(3, "d", DIRECTORY, BOTH).unwrap();
    guest.open(sub, "f", CREAT, BOTH).unwrap();
    assert_eq!(
        guest.on_path(Function::PathRemoveDirectory, 3, "d"),
        Err(Errno::NOTEMPTY)
    );
    assert_eq!(
        guest.on_path(Function::PathUnlinkFile, 3, "d"),
        Err(Errno::ISDIR)
    );
    assert_eq!(
        guest.on_path(Function::PathRemoveDirectory, sub, "f"),
        Err(Errno::NOTDIR)
    );
    guest.rename(sub, "f", 3, "g").unwrap();
    guest.link(3, "g", sub, "h").unwrap();
    assert_eq!(guest.stat(3, "d/h", false), Ok((4, 0)));
    guest.on_path(Function::PathUnlinkFile, 3, "d/h").unwrap();
    guest
        .on_path(Function::PathRemoveDirectory, 3, "d")
        .unwrap();
    assert_eq!(guest.stat(3, "d", false), Err(Errno::NOENT));
    assert!(dir.path().join("g").exists());
}

#[test]
fn links() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("f"), "abc").unwrap();
    let mut guest = with_dir(dir.path());
    guest.symlink("f", 3, "l").unwrap();
    assert_eq!(guest.stat(3, "l", true), Ok((4, 3)));
    assert_eq!(guest.stat(3, "l", false), Ok((7, 1)));
    assert_eq!(guest.open_with(3, "l", 0, READ, 0, 0), Err(Errno::LOOP));
    guest.open_with(3, "l", 0, READ, 0, 1).unwrap();
    assert_eq!(readlink(&mut guest, "l", 100).unwrap(), b"f");
    guest.symlink("a-longer-name", 3, "m").unwrap();
    assert_eq!(readlink(&mut guest, "m", 4).unwrap(), b"a-lo");
    assert_eq!(readlink(&mut guest, "f", 4), Err(Errno::INVAL));
    let [at, len] = guest.path("l");
    let second = 1_000_000_000;
    guest
        .call(
            Function::PathFilestatSetTimes,
            &[3, 1, at, len, 0, 3 * second, 4],
        )
        .unwrap();
    guest
        .call(
            Function::PathFilestatSetTimes,
            &[3, 0, at, len, 0, 4 * second, 4],
        )
        .unwrap();
    guest.stat(3, "f", true).unwrap();
    assert_eq!(guest.u64(OUT + 48), 3 * second);
    guest.stat(3, "l", false).unwrap();
    assert_eq!(guest.u64(OUT + 48), 4 * second);
    assert_eq!(
        guest.call(Function::PathFilestatSetTimes, &[3, 2, at, len, 0, 0, 4]),
        Err(Errno::INVAL)
    );
    let hard_through_link = [3, 1, at, len, 3, at, len];
    assert_eq!(
        guest.call(Function::PathLink, &hard_through_link),
        Err(Errno::INVAL)
    );
    symlink("loop", dir.path().join("loop")).unwrap();
    assert_eq!(guest.stat(3, "loop", true), Err(Errno::LOOP));
}

fn readlink(guest: &mut Guest, path: &str, room: u64) -> Result<Vec<u8>, Errno> {
    let [at, len] = guest.path(path);
    guest.call(Function::PathReadlink, &[3, at, len, DATA, room, OUT])?;
    Ok(guest.bytes(DATA, guest.u32(OUT) as usize).to_vec())
}

#[test]
fn every_change_needs_its_right() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("f"), "abc").unwrap();
    let mut guest = with_dir(dir.path());
    let (_, _, base, inheriting) = guest.fdstat(3).unwrap();
    let changes = Rights::PATH_CREATE_DIRECTORY
        .and(Rights::PATH_CREATE_FILE)
        .and(Rights::PATH_UNLINK_FILE)
        .and(Rights::PATH_REMOVE_DIRECTORY)
        .and(Rights::PATH_RENAME_SOURCE)
        .and(Rights::PATH_LINK_TARGET)
        .and(Rights::PATH_FILESTAT_SET_SIZE)
        .and(Rights::PATH_SYMLINK);
    guest
        .call(
            Function::FdFdstatSetRights,
            &[3, base.without(changes).bits(), inheriting.bits()],
        )
        .unwrap();
    let refused = Err(Errno::NOTCAPABLE);
    assert_eq!(
        guest.on_path(Function::PathCreateDirectory, 3, "d"),
        refused
    );
    assert_eq!(guest.on_path(Function::PathUnlinkFile, 3, "f"), refused);
    assert_eq!(
        guest.on_path(Function::PathRemoveDirectory, 3, "f"),
        refused
    );
    assert_eq!(guest.rename(3, "f", 3, "g"), refused);
    assert_eq!(guest.link(3, "f", 3, "g"), refused);
    assert_eq!(guest.symlink("f", 3, "g"), refused);
    assert_eq!(guest.open(3, "g", CREAT, BOTH), Err(Errno::NOTCAPABLE));
    assert_eq!(guest.open(3, "f", TRUNC, BOTH), Err(Errno::NOTCAPABLE));
    guest.open(3, "f", 0, BOTH).unwrap();
}
