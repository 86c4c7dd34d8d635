//! Real mounts, in process where that is allowed. The helper, and everything a runner tries, is in `tests/runner.rs`.

use std::fs::File;
use std::io::{Read, Write};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::*;

/// A folder with `tree/file`, and its tree detached; `None`, with a note, where that needs a helper.
fn detached(access: Access) -> Option<(tempfile::TempDir, OwnedFd)> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("tree")).unwrap();
    std::fs::write(folder.path().join("tree/file"), "inside").unwrap();
    std::fs::write(folder.path().join("outside"), "outside").unwrap();
    let directory = File::open(folder.path().join("tree")).unwrap();
    match detach(directory.as_fd(), access) {
        Err(DetachError::Privilege(error)) => {
            println!("skipped: this user may not mount: {error}");
            None
        }
        tree => Some((folder, tree.unwrap())),
    }
}

fn open(tree: &OwnedFd, path: &str, flags: OFlags) -> rustix::io::Result<File> {
    rustix::fs::openat(tree, path, flags | OFlags::CLOEXEC, Mode::RWXU).map(File::from)
}

#[test]
fn changes_are_seen_on_both_sides_and_nothing_leads_upwards() {
    let Some((folder, tree)) = detached(Access::Change) else {
        return;
    };
    let flags = OFlags::WRONLY | OFlags::CREATE;
    open(&tree, "new", flags)
        .unwrap()
        .write_all(b"new")
        .unwrap();
    let text = std::fs::read_to_string(folder.path().join("tree/new")).unwrap();
    assert_eq!(text, "new");
    std::fs::write(folder.path().join("tree/file"), "changed").unwrap();
    let mut text = String::new();
    let mut file = open(&tree, "../file", OFlags::RDONLY).unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "changed");
    assert_eq!(
        open(&tree, "../outside", OFlags::RDONLY).err(),
        Some(Errno::NOENT)
    );
}

#[test]
fn what_is_only_to_be_read_cannot_be_written() {
    let Some((folder, tree)) = detached(Access::Read) else {
        return;
    };
    assert_eq!(open(&tree, "file", OFlags::WRONLY).err(), Some(Errno::ROFS));
    let removed = rustix::fs::unlinkat(&tree, "file", AtFlags::empty());
    assert_eq!(removed, Err(Errno::ROFS));
    // The directory itself is as it was.
    std::fs::write(folder.path().join("tree/file"), "changed").unwrap();
    // Nor can it be had back by detaching the tree once more.
    match detach(tree.as_fd(), Access::Change) {
        Ok(again) => assert_eq!(
            open(&again, "file", OFlags::WRONLY).err(),
            Some(Errno::ROFS)
        ),
        // Linux before 6.15 clones no detached mount.
        Err(error) => assert!(matches!(
            error,
            DetachError::Os {
                step: "open_tree",
                ..
            }
        )),
    }
}

#[test]
fn only_directories_are_detached() {
    let file = tempfile::tempfile().unwrap();
    let error = detach(file.as_fd(), Access::Read).unwrap_err();
    assert!(matches!(error, DetachError::Os { step: "fstat", .. }));
}

#[test]
fn a_directory_is_found_again_only_if_it_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one");
    std::fs::create_dir(&path).unwrap();
    let directory = File::open(&path).unwrap();
    mounts::reopen(directory.as_fd()).unwrap();
    // Somebody puts another directory, and then a link to one, in its place.
    let moved = folder.path().join("moved");
    std::fs::rename(&path, &moved).unwrap();
    mounts::reopen(directory.as_fd()).unwrap();
    std::fs::remove_dir(&moved).unwrap();
    std::fs::create_dir(&moved).unwrap();
    assert!(mounts::reopen(directory.as_fd()).is_err());
    std::fs::remove_dir(&moved).unwrap();
    std::os::unix::fs::symlink("/etc", &moved).unwrap();
    assert!(mounts::reopen(directory.as_fd()).is_err());
}

#[test]
fn a_helper_that_says_nothing_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let directory = File::open(folder.path()).unwrap();
    let helper = Spawn::new("/bin/true");
    let error = detach_with_helper(helper, directory.as_fd(), Access::Read).unwrap_err();
    assert!(matches!(error, DetachError::NoAnswer(_)), "{error}");
}
