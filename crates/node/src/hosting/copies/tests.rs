//! Room for copies, and what is left of them.

use std::os::unix::fs::{PermissionsExt, symlink};

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use sterna_migration::MoveId;
use sterna_process::Epoch;

use super::*;
use crate::tests::captive::Prison;

fn copies(folder: &Path, bytes_max: u64) -> Copies {
    Copies::new(folder.join("copies"), bytes_max, Prison::new().0)
}

fn opened(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

fn files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| 1 + files(&entry.path())).sum()
}

#[test]
fn room_is_kept_for_all_and_given_back_with_what_it_was_for() {
    let (folder, given) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(given.path().join("file"), [1; 600]).unwrap();
    let here = copies(folder.path(), 1500);
    let [one, two, three] = [(); 3].map(|()| ProcessId::random());
    for process in [one, two] {
        here.take(process, 0, opened(given.path()), true).unwrap();
    }
    let refused = here.take(three, 0, opened(given.path()), true).unwrap_err();
    for said in ["600 bytes in 1 files", "takes 300 bytes more", "--copies"] {
        assert!(refused.contains(said), "{refused}");
    }
    // A second directory of one process counts with the first.
    assert!(here.take(two, 1, opened(given.path()), true).is_err());
    here.remove(one);
    here.take(three, 0, opened(given.path()), true).unwrap();
    let nearly_all = Size {
        bytes: u64::MAX / 2,
        entries: 1,
    };
    let refused = copies(folder.path(), u64::MAX)
        .room_for(one, nearly_all)
        .unwrap_err();
    assert!(refused.contains("bytes free for them"), "{refused}");
    // What the next service finds counts, and goes with its process.
    let next = copies(folder.path(), 1500);
    assert!(next.has(two) && next.has(three) && !next.has(one));
    assert!(next.take(one, 0, opened(given.path()), true).is_err());
    for process in [two, three] {
        next.remove(process);
    }
    assert_eq!(
        files(&folder.path().join("copies")),
        1,
        "an empty folder for what is gone"
    );
}

#[test]
fn what_comes_finds_an_empty_place_and_is_known_by_its_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let here = copies(folder.path(), 1500);
    let process = ProcessId::random();
    let attempt = |number| Attempt {
        process,
        epoch: Epoch::FIRST,
        move_id: MoveId::from_bytes([number; 16]),
    };
    here.make_place(process).unwrap();
    fs::write(here.of(process).join("old"), "of an earlier try").unwrap();
    here.make_place(process).unwrap();
    assert_eq!(files(&here.of(process)), 0);
    here.arrive(attempt(1), Tree::default());
    here.arrive(attempt(2), Tree::default());
    assert!(here.is_arriving(attempt(2)) && here.arrived(attempt(1)).is_none());
    here.has_arrived(attempt(1));
    assert_eq!(here.all_arriving(), [attempt(2)]);
    here.has_arrived(attempt(2));
    assert!(here.all_arriving().is_empty());
}

/// From here on this thread is stopped by permissions, as a service is.
fn obey_permissions() {
    let mut mine = capabilities(None).unwrap();
    mine.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    set_capabilities(None, mine).unwrap();
}

#[test]
fn copies_with_directories_that_nobody_may_write_into_are_removed() {
    obey_permissions();
    let folder = tempfile::tempdir().unwrap();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let closed = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    closed(&outside, 0o555);
    let here = copies(folder.path(), 1500);
    let [one, two] = [(); 2].map(|()| ProcessId::random());
    let make = |process: ProcessId| {
        here.make_place(process).unwrap();
        let copy = here.of(process).join("0");
        for (directory, mode) in [("listed", 0o555), ("searched", 0o111), ("none", 0)] {
            let path = copy.join(directory).join("deeper");
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("file"), [1; 10]).unwrap();
            symlink(&outside, path.join("link")).unwrap();
            closed(&path, mode);
            closed(path.parent().unwrap(), mode);
        }
        closed(&copy, 0o555);
        copy
    };
    let copy = make(one);
    assert!(
        fs::remove_dir_all(copy).is_err(),
        "permissions say nothing here"
    );
    here.remove(one);
    make(two);
    here.remove_one(two, 0);
    let copies = folder.path().join("copies");
    assert_eq!(files(&copies), 1, "an empty folder for what is gone");
    // What a service before could not remove goes at the next start.
    let left = make(one);
    fs::rename(left.parent().unwrap(), copies.join("gone/left")).unwrap();
    drop(Copies::new(copies.clone(), 1500, Prison::new().0));
    assert_eq!(files(&copies), 0);
    let mode = fs::metadata(&outside).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o555, "a link was followed");
}
