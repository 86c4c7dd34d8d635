//! Random trees, changed and moved, against what the standard library and `cp -a` say; and trees of enemies.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::message::{TreeEntry, TreeNode};

/// What a directory holds, by paths: kind and mode, time, contents.
type World = BTreeMap<String, (u32, i64, Vec<u8>)>;

fn world(root: &Path) -> World {
    fn walk(root: &Path, at: &Path, to: &mut World) {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let about = fs::symlink_metadata(&path).unwrap();
            let contents = match about.file_type() {
                sort if sort.is_dir() => Vec::new(),
                sort if sort.is_symlink() => fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes(),
                _ => fs::read(&path).unwrap(),
            };
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            let time = about.mtime() * 1_000_000_000 + about.mtime_nsec();
            to.insert(name, (about.mode(), time, contents));
            if about.is_dir() {
                walk(root, &path, to);
            }
        }
    }
    let mut all = World::new();
    walk(root, root, &mut all);
    all
}

fn opened(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

fn writer(path: &Path) -> Writer {
    Writer::new(opened(path))
}

/// A change of a tree, of which numbers choose the place.
#[derive(Debug, Clone)]
enum Change {
    Write {
        place: usize,
        bytes: Vec<u8>,
        seconds: u64,
    },
    Sparse {
        place: usize,
    },
    Directory {
        place: usize,
    },
    Link {
        place: usize,
        to: usize,
    },
    Remove {
        place: usize,
    },
    Rename {
        from: usize,
        to: usize,
    },
    Mode {
        place: usize,
        mode: u32,
    },
}

const PLACES: [&str; 9] = ["a", "a/b", "a/b/c", "a-b", "d", "d/e", "d/e/f", "g", "0"];
const LINKS: [&str; 4] = ["a", "../d/e", "/etc/passwd", "../../outside"];

fn change() -> impl Strategy<Value = Change> {
    let place = || 0..PLACES.len();
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        (0..200_000_usize).prop_map(|length| vec![7; length]),
    ];
    prop_oneof![
        6 => (place(), bytes, 0..3_u64)
            .prop_map(|(place, bytes, seconds)| Change::Write { place, bytes, seconds }),
        1 => place().prop_map(|place| Change::Sparse { place }),
        4 => place().prop_map(|place| Change::Directory { place }),
        1 => (place(), 0..LINKS.len()).prop_map(|(place, to)| Change::Link { place, to }),
        2 => place().prop_map(|place| Change::Remove { place }),
        2 => (place(), place()).prop_map(|(from, to)| Change::Rename { from, to }),
        1 => (place(), prop::sample::select(vec![0o600_u32, 0o644, 0o755, 0o700]))
            .prop_map(|(place, mode)| Change::Mode { place, mode }),
    ]
}

/// What cannot be done is not done.
fn apply(root: &Path, change: &Change) {
    let at = |place: &usize| root.join(PLACES[*place]);
    let is_link = |path: &Path| fs::symlink_metadata(path).is_ok_and(|about| about.is_symlink());
    let _ = match change {
        // The test itself follows no link out of its folder.
        Change::Write { place, .. } | Change::Sparse { place } | Change::Mode { place, .. }
            if is_link(&at(place)) =>
        {
            Ok(())
        }
        Change::Write {
            place,
            bytes,
            seconds,
        } => fs::write(at(place), bytes).and_then(|()| {
            // Also times that do not tell one version from the other.
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + seconds);
            File::options()
                .write(true)
                .open(at(place))?
                .set_times(FileTimes::new().set_modified(time))
        }),
        Change::Sparse { place } => File::create(at(place)).and_then(|file| file.set_len(3 << 20)),
        Change::Directory { place } => fs::create_dir(at(place)),
        Change::Link { place, to } => symlink(LINKS[*to], at(place)),
        Change::Remove { place } => match fs::remove_file(at(place)) {
            Err(_) if !is_link(&at(place)) => fs::remove_dir_all(at(place)),
            other => other,
        },
        Change::Rename { from, to } => fs::rename(at(from), at(to)),
        Change::Mode { place, mode } => {
            let directory = if at(place).is_dir() { 0o700 } else { 0 };
            fs::set_permissions(at(place), PermissionsExt::from_mode(mode | directory))
        }
    };
}

/// What a target does with a list, and contents that come from there; the number of bytes that came.
fn bring(from: &Path, list: &Tree, have: &Tree, to: &Path) -> (Tree, u64) {
    let names: Vec<String> = PLACES.iter().map(|name| (*name).to_owned()).collect();
    let uppermost =
        |entry: &TreeEntry| !entry.path.contains(&b'/') && entry.what != TreeNode::Directory;
    // A tree of this test has files at its top, which that of a process has not.
    assert_eq!(
        Tree::of_another(list.entries().to_vec(), &names).is_ok(),
        !list.entries().iter().any(uppermost)
    );
    let want = Arc::new(list.clone());
    let mut making = Making::begin(writer(to), have, Arc::clone(&want)).unwrap();
    let (source, mut came) = (opened(from), 0);
    for wish in making.wishes().into_iter().flatten() {
        let entry = &want.entries()[wish.entry as usize];
        let bytes = piece_bytes(entry.bytes(), wish.offset);
        let piece = read_piece(source.as_fd(), &entry.path, wish.offset, bytes).unwrap();
        came += piece.len() as u64;
        making.take(wish, piece).unwrap();
    }
    let (have, other) = making.end().unwrap();
    assert!(other.is_none(), "{other:?}");
    (have, came)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// There and back, and changed in between: what a node has is what the process has made. Then it all goes back to
    /// where it came from.
    #[test]
    fn a_tree_is_the_same_after_every_move(
        at_first in prop::collection::vec(change(), 0..30),
        moves in prop::collection::vec(
            (prop::collection::vec(change(), 0..6), prop::collection::vec(change(), 0..4)),
            1..5,
        ),
    ) {
        let origin = TempDir::new().unwrap();
        for change in &at_first {
            apply(origin.path(), change);
        }
        let oracle = TempDir::new().unwrap();
        let copied = Command::new("cp")
            .arg("-a")
            .arg(origin.path().join("."))
            .arg(oracle.path())
            .status();
        prop_assert!(copied.unwrap().success());
        let mut here = TempDir::new().unwrap();
        let base = copy(opened(origin.path()).as_fd(), &writer(here.path())).unwrap();
        prop_assert_eq!(world(here.path()), world(oracle.path()));
        for (running, still) in &moves {
            let there = TempDir::new().unwrap();
            let first = scan(opened(here.path()).as_fd(), &Scan::default()).unwrap();
            let (have, _) = bring(here.path(), &first.tree, &Tree::default(), there.path());
            for change in running.iter().chain(still) {
                apply(here.path(), change);
                apply(oracle.path(), change);
            }
            let last = scan(opened(here.path()).as_fd(), &first).unwrap();
            let anew = scan(opened(here.path()).as_fd(), &Scan::default()).unwrap();
            prop_assert_eq!(&last.tree, &anew.tree);
            let (_, came) = bring(here.path(), &last.tree, &have, there.path());
            let changed = last.tree.entries().iter().filter(|entry| {
                first.tree.find(&entry.path).is_none_or(|had| had.what != entry.what)
            });
            prop_assert_eq!(came, changed.map(TreeEntry::bytes).sum::<u64>());
            let contents = |world: World| -> Vec<_> {
                world.into_iter().map(|(path, (mode, _, contents))| (path, mode, contents)).collect()
            };
            prop_assert_eq!(world(there.path()), world(here.path()));
            prop_assert_eq!(contents(world(there.path())), contents(world(oracle.path())));
            here = there;
        }
        let returned = give_back(opened(here.path()).as_fd(), &base, opened(origin.path())).unwrap();
        let left: Vec<_> = returned.conflicts.clone();
        let without_time = |root: &Path| -> Vec<_> {
            let all = world(root).into_iter();
            // A link that leads out, or took another one's place, stays in the copy.
            let back = all.filter(|(path, _)| !left.contains(&path.clone().into_bytes()));
            back.map(|(path, (mode, _, contents))| (path, mode, contents)).collect()
        };
        prop_assert_eq!(without_time(origin.path()), without_time(here.path()));
        let is_link = |path: &Vec<u8>| {
            let path = here.path().join(std::str::from_utf8(path).unwrap());
            fs::symlink_metadata(path).is_ok_and(|about| about.is_symlink())
        };
        prop_assert!(left.iter().all(is_link), "{left:?}");
    }
}

fn entry(path: &str, what: TreeNode) -> TreeEntry {
    TreeEntry {
        path: path.into(),
        what,
        mode: 0o644,
        modified_ns: 1,
    }
}

fn file(path: &str, bytes: u64) -> TreeEntry {
    let hash = [1; 32];
    entry(path, TreeNode::File { bytes, hash })
}

fn directory(path: &str) -> TreeEntry {
    entry(path, TreeNode::Directory)
}

fn link(path: &str, to: &str) -> TreeEntry {
    entry(path, TreeNode::Link { to: to.into() })
}

#[test]
fn a_list_of_an_enemy_is_not_taken() {
    let taken = |entries: Vec<TreeEntry>| Tree::of_another(entries, &["0".into()]).is_ok();
    assert!(taken(vec![
        directory("0"),
        file("0/a", 1),
        directory("0/b"),
        file("0/b/c", 0)
    ]));
    let long = format!("0/{}", "n".repeat(256));
    let deep = format!("0{}", "/d".repeat(2100));
    let refused = [
        vec![file("0", 1)],
        vec![directory("1")],
        vec![directory("..")],
        vec![directory("0"), file("0/../../etc/passwd", 1)],
        vec![directory("0"), file("/etc/passwd", 1)],
        vec![directory("0"), file("0//a", 1)],
        vec![directory("0"), file("0/.", 1)],
        vec![directory("0"), file("0/a\0b", 1)],
        vec![directory("0"), file(&long, 1)],
        vec![directory("0"), file(&deep, 1)],
        // Through a link, or a file; before its directory; twice; into nothing.
        vec![directory("0"), link("0/a", "/etc"), file("0/a/passwd", 1)],
        vec![directory("0"), file("0/a", 1), file("0/a/b", 1)],
        vec![directory("0"), file("0/b/c", 1), directory("0/b")],
        vec![directory("0"), file("0/a", 1), link("0/a", "x")],
        vec![directory("0"), link("0/a", "")],
        // More than may come, also where a sum would begin anew.
        vec![directory("0"), file("0/a", u64::MAX), file("0/b", 2)],
    ];
    for entries in refused {
        assert!(!taken(entries.clone()), "{entries:?}");
    }
    let mut many = vec![directory("0")];
    many.extend((0..TREE_ENTRIES_MAX).map(|number| file(&format!("0/{number:06}"), 0)));
    assert!(!taken(many));
}

#[test]
fn contents_are_those_that_were_listed_and_no_more() {
    let to = TempDir::new().unwrap();
    let hash = blake3::hash(b"four").into();
    let want = Tree::own(vec![entry("a", TreeNode::File { bytes: 4, hash })]);
    let wish = crate::message::TreeWish {
        entry: 0,
        offset: 0,
    };
    let making =
        || Making::begin(writer(to.path()), &Tree::default(), Arc::new(want.clone())).unwrap();
    let mut longer = making();
    assert!(longer.take(wish, b"four and more".to_vec()).is_err());
    let mut other = making();
    other.take(wish, b"five".to_vec()).unwrap();
    let (have, why) = other.end().unwrap();
    assert!(have.entries().is_empty() && why.is_some());
    assert!(
        world(to.path()).is_empty(),
        "what was not listed is not kept"
    );
    let mut right = making();
    right.take(wish, b"four".to_vec()).unwrap();
    assert_eq!(right.end().unwrap().0, want);
}

/// Somebody puts a link where a directory was, between two looks.
#[test]
fn nothing_is_written_or_read_through_a_link() {
    let (inside, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::write(outside.path().join("secret"), "secret").unwrap();
    symlink(outside.path(), inside.path().join("d")).unwrap();
    symlink(outside.path().join("secret"), inside.path().join("f")).unwrap();
    let writer = writer(inside.path());
    assert!(writer.file(b"d/new").is_err());
    assert!(writer.directory(b"d/new").is_err());
    assert!(writer.link(b"d/new", b"x").is_err());
    assert!(writer.remove(b"d/secret").is_err());
    assert!(writer.file(b"../new").is_err());
    assert!(writer.finish(&file("f", 6)).is_err());
    for path in [&b"f"[..], b"d/secret", b"../secret"] {
        let read = read_piece(opened(inside.path()).as_fd(), path, 0, 10);
        assert!(read.is_err() || read.unwrap().is_empty());
    }
    // A link itself is removed, not what it leads to.
    writer.remove(b"d").unwrap();
    assert_eq!(world(outside.path()).len(), 1);
}

#[test]
fn what_is_no_file_is_left_out_and_limits_hold() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let at = |name: &str| from.path().join(name);
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let pipe = Command::new("mkfifo").arg(at("pipe")).status();
    assert!(pipe.unwrap().success());
    fs::write(at("file"), "x").unwrap();
    fs::hard_link(at("file"), at("again")).unwrap();
    fs::set_permissions(at("file"), PermissionsExt::from_mode(0o4755)).unwrap();
    fs::write(at(&"n".repeat(255)), "long").unwrap();
    copy(opened(from.path()).as_fd(), &writer(to.path())).unwrap();
    let copied = world(to.path());
    assert_eq!(copied.len(), 3);
    assert_eq!(
        copied["file"].0 & 0o7777,
        0o755,
        "not the right to be another user"
    );
    fs::write(to.path().join("file"), "y").unwrap();
    assert_eq!(
        fs::read(to.path().join("again")).unwrap(),
        b"x",
        "two files now"
    );
    let hole = File::create(at("hole")).unwrap();
    if hole.set_len(TREE_BYTES_MAX).is_ok() {
        let refused = measure(opened(from.path()).as_fd())
            .unwrap_err()
            .to_string();
        assert!(refused.contains(":shared"), "{refused}");
    }
}

#[test]
fn what_others_have_changed_is_not_written_over() {
    let (origin, here) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for name in ["mine", "theirs", "both", "gone", "kept"] {
        fs::write(origin.path().join(name), "old").unwrap();
    }
    fs::create_dir(origin.path().join("d")).unwrap();
    let base = copy(opened(origin.path()).as_fd(), &writer(here.path())).unwrap();
    let at = |name: &str| here.path().join(name);
    fs::write(at("mine"), "new").unwrap();
    fs::write(at("both"), "new").unwrap();
    fs::write(at("same"), "the same").unwrap();
    fs::remove_file(at("gone")).unwrap();
    fs::remove_file(at("kept")).unwrap();
    fs::remove_dir(at("d")).unwrap();
    symlink("../../etc/passwd", at("trap")).unwrap();
    let theirs = |name: &str, text: &str| fs::write(origin.path().join(name), text).unwrap();
    theirs("theirs", "changed");
    theirs("both", "changed");
    theirs("kept", "changed");
    theirs("same", "the same");
    theirs("d/new", "changed");
    let returned = give_back(opened(here.path()).as_fd(), &base, opened(origin.path())).unwrap();
    let mut conflicts = returned.conflicts;
    conflicts.sort();
    assert_eq!(conflicts, [&b"both"[..], b"d", b"kept", b"trap"]);
    assert_eq!(returned.changes, 2);
    let texts: Vec<(String, Vec<u8>)> = world(origin.path())
        .into_iter()
        .map(|(path, (_, _, contents))| (path, contents))
        .collect();
    let expected = [
        ("both", "changed"),
        ("d", ""),
        ("d/new", "changed"),
        ("kept", "changed"),
        ("mine", "new"),
        ("same", "the same"),
        ("theirs", "changed"),
    ];
    let expected = expected.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()));
    assert_eq!(texts, expected);
}
