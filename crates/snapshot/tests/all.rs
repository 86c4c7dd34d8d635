//! Snapshots as they are written, pruned, damaged and read again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use proptest::prelude::*;
use sterna_process::{
    Description, Epoch, Image, ImageHeader, MemoryLayout, PAGE_SIZE, PageProvider, PageRun,
    PageSet, ProcessId, ProgramId, Region, RegionId, Sections, Tag,
};
use sterna_snapshot::{
    Details, Folder, Key, SaveError, Shelf, ShelfError, Stored, newest, prune, save,
};

const KEY: Key = Key::from_bytes([5; 32]);
const PAGES: u64 = 2000;

fn image() -> Image {
    let region = Region {
        id: RegionId(0),
        name: "memory".into(),
        pages: PAGES,
        pages_max: PAGES,
    };
    Image {
        header: ImageHeader {
            kind: Tag::new("toy"),
            program: ProgramId::of(b"p"),
            process: ProcessId::from_bytes([1; 16]),
            epoch: Epoch(3),
            layout: MemoryLayout::new(vec![region]).unwrap(),
        },
        description: Description::default(),
        sections: Sections::new(),
    }
}

fn details(output_bytes: u64) -> Details {
    Details {
        process: ProcessId::from_bytes([1; 16]),
        epoch: Epoch(3),
        at_ms: 1,
        output_bytes,
        first_pack: 0,
    }
}

/// Pages with one number each.
type Memory = BTreeMap<u64, u16>;

fn set(memory: &Memory) -> PageSet {
    let mut set = PageSet::new();
    for (page, value) in memory {
        let mut contents = vec![0; PAGE_SIZE];
        contents[7..9].copy_from_slice(&value.to_le_bytes());
        let run = PageRun::page(RegionId(0), *page).unwrap();
        set.insert(run, &contents).unwrap();
    }
    set
}

fn keep(shelf: &dyn Shelf, memory: &Memory, output: u64) -> u64 {
    let set = set(memory);
    let saved = save(shelf, &KEY, &details(output), &image(), &mut &set).unwrap();
    saved.pages_new
}

/// The newest snapshot's output length and memory.
fn restored(shelf: &dyn Shelf) -> Option<(u64, Memory)> {
    let mut before = None;
    loop {
        let found = newest(shelf, &KEY, before).unwrap().ok()?;
        let mut pages = Stored::of(&found.manifest, shelf);
        let mut memory = Memory::new();
        let mut whole = true;
        for run in pages.runs().iter().flat_map(|run| run.pieces(1)) {
            let mut page = vec![0; PAGE_SIZE];
            whole &= pages.read(run, &mut page).is_ok();
            memory.insert(run.first(), u16::from_le_bytes([page[7], page[8]]));
        }
        if whole {
            return Some((found.manifest.output_bytes, memory));
        }
        before = Some(found.manifest.number);
    }
}

fn change() -> impl Strategy<Value = (Memory, usize)> {
    let pages = prop::collection::btree_map(0..PAGES, 0..40_u16, 0..200);
    (pages, 1..4_usize)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is written and pruned, the newest snapshot is what was kept last, and nothing is left that none needs.
    #[test]
    fn the_newest_is_what_was_kept_last(changes in prop::collection::vec(change(), 1..8)) {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Folder::at(directory.path().join("p"));
        let mut memory = Memory::new();
        for (number, (change, kept)) in changes.iter().enumerate() {
            memory.extend(change);
            let new = keep(&shelf, &memory, number as u64);
            prop_assert!(new <= memory.len() as u64);
            prune(&shelf, &KEY, *kept).unwrap();
            prop_assert_eq!(restored(&shelf), Some((number as u64, memory.clone())));
            let manifests = shelf.list().unwrap();
            let manifests = manifests.iter().filter(|name| name.starts_with("manifest-"));
            prop_assert!(manifests.count() <= *kept);
        }
    }

    /// A byte that is changed anywhere is never read as memory: an older snapshot is found, or none.
    #[test]
    fn damage_is_never_read(first in change(), second in change(), which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>()) {
        let directory = tempfile::tempdir().unwrap();
        let shelf = Folder::at(directory.path().join("p"));
        let mut memory = first.0.clone();
        keep(&shelf, &memory, 1);
        let old = memory.clone();
        memory.extend(&second.0);
        keep(&shelf, &memory, 2);
        let names = shelf.list().unwrap();
        let name = which.get(&names);
        let mut bytes = shelf.get(name).unwrap().unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 0x20;
        shelf.put(name, &bytes).unwrap();
        let found = restored(&shelf);
        prop_assert!(
            found.is_none() || found == Some((1, old)) || found == Some((2, memory)),
            "{:?}", found
        );
    }
}

#[test]
fn only_what_has_changed_is_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let shelf = Folder::at(directory.path().join("p"));
    let mut memory: Memory = (0..PAGES).map(|page| (page, page as u16 + 1)).collect();
    assert_eq!(keep(&shelf, &memory, 0), PAGES);
    assert_eq!(keep(&shelf, &memory, 1), 0);
    memory.insert(3, 9999);
    assert_eq!(keep(&shelf, &memory, 2), 1);
    assert_eq!(restored(&shelf), Some((2, memory)));
}

#[test]
fn a_snapshot_whose_pages_are_gone_is_passed_over_and_not_built_upon() {
    let directory = tempfile::tempdir().unwrap();
    let shelf = Folder::at(directory.path().join("p"));
    let old: Memory = (0..600).map(|page| (page, 1 + page as u16)).collect();
    keep(&shelf, &old, 1);
    let new: Memory = (0..600).map(|page| (page, 1000 + page as u16)).collect();
    keep(&shelf, &new, 2);
    let names = shelf.list().unwrap();
    let last = names.iter().rev().find(|name| name.starts_with("pack-"));
    shelf.remove(last.unwrap()).unwrap();
    assert_eq!(restored(&shelf), Some((1, old)));
    assert_eq!(keep(&shelf, &new, 3), 600);
    assert_eq!(restored(&shelf), Some((3, new)));
}

#[test]
fn what_was_kept_under_names_without_epochs_is_built_upon() {
    let directory = tempfile::tempdir().unwrap();
    let shelf = Folder::at(directory.path().join("p"));
    let memory: Memory = (0..600).map(|page| (page, 1 + page as u16)).collect();
    keep(&shelf, &memory, 1);
    let name = shelf.list().unwrap().remove(0);
    let manifest = shelf.get(&name).unwrap().unwrap();
    shelf.remove(&name).unwrap();
    shelf
        .put(&format!("manifest-{:020}", 0), &manifest)
        .unwrap();
    assert_eq!(restored(&shelf), Some((1, memory.clone())));
    assert_eq!(keep(&shelf, &memory, 2), 0);
    prune(&shelf, &KEY, 1).unwrap();
    assert_eq!(restored(&shelf), Some((2, memory)));
}

/// A folder into which somebody else writes once, before its next use but so many.
struct Shared<'a> {
    folder: &'a Folder,
    before: Cell<usize>,
    other: RefCell<Option<Box<dyn FnOnce() + 'a>>>,
}

impl Shared<'_> {
    fn used(&self) -> &Folder {
        match self.before.get() {
            0 => {
                if let Some(other) = self.other.take() {
                    other();
                }
            }
            before => self.before.set(before - 1),
        }
        self.folder
    }
}

impl Shelf for Shared<'_> {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ShelfError> {
        self.used().put(name, bytes)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, ShelfError> {
        self.used().get(name)
    }

    fn list(&self) -> Result<Vec<String>, ShelfError> {
        self.used().list()
    }

    fn remove(&self, name: &str) -> Result<(), ShelfError> {
        self.used().remove(name)
    }
}

/// What the owner in an epoch does, who keeps one snapshot.
fn own(shelf: &dyn Shelf, memory: &Memory, epoch: u64) -> Result<(), SaveError> {
    let details = Details {
        epoch: Epoch(epoch),
        // Far from each other, and over the end.
        first_pack: (epoch as u32).wrapping_mul(1 << 30).wrapping_sub(1),
        ..details(epoch)
    };
    let pages = set(memory);
    save(shelf, &KEY, &details, &image(), &mut &pages)?;
    prune(shelf, &KEY, 1).unwrap();
    Ok(())
}

/// Whether the newest snapshot is of an epoch.
fn is_of(shelf: &dyn Shelf, epoch: u64) -> bool {
    let found = newest(shelf, &KEY, None).unwrap().unwrap();
    found.manifest.epoch == Epoch(epoch)
}

/// Packs of the newest snapshot.
fn packs(shelf: &dyn Shelf) -> BTreeMap<(u64, u32), u64> {
    newest(shelf, &KEY, None).unwrap().unwrap().manifest.packs()
}

/// While the owner in the first of two epochs keeps a snapshot, the one in the other does, at each moment.
fn check_two_owners([first, second]: [u64; 2]) {
    let memory: Memory = (0..1200).map(|page| (page, 1 + page as u16)).collect();
    let changed = |epoch: u64| -> Memory {
        let pages = 0..1100 - 100 * epoch;
        let pages = pages.map(|page| (page, (2000 * epoch + page) as u16));
        memory.clone().into_iter().chain(pages).collect()
    };
    for before in 0.. {
        let began_after = Cell::new(false);
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::at(directory.path().join("p"));
        own(&folder, &memory, 1).unwrap();
        let shared = Shared {
            folder: &folder,
            before: Cell::new(before),
            other: RefCell::new(Some(Box::new(|| {
                began_after.set(before == 0 || is_of(&folder, first));
                own(&folder, &changed(second), second).unwrap();
            }))),
        };
        let kept = own(&shared, &changed(first), first);
        if shared.other.take().is_some() {
            assert!(before > 8, "there were only {before} moments");
            return;
        }
        let Some((epoch, found)) = restored(&folder) else {
            panic!("nothing is whole, after {before} uses");
        };
        assert_eq!(found, changed(epoch), "after {before} uses");
        // The later owner's is the newest unless one of them began when the other had ended.
        assert!(
            epoch == 3 || began_after.get(),
            "after {before} uses: {epoch}"
        );
        assert!(first == 2 || kept.is_ok(), "after {before} uses");
        assert!(kept.is_ok() || epoch == 3, "after {before} uses");
        // And goes on with what there is.
        own(&folder, &memory, 4).unwrap();
        let mut needed = packs(&folder);
        own(&folder, &memory, 4).unwrap();
        assert_eq!(restored(&folder), Some((4, memory.clone())));
        needed.extend(packs(&folder));
        let left = folder.list().unwrap().len() - 1;
        assert!(left <= needed.len(), "{left} packs of {}", needed.len());
    }
}

#[test]
fn an_owner_that_writes_beside_the_next_one_leaves_it_whole() {
    check_two_owners([2, 3]);
}

#[test]
fn an_owner_beside_which_the_one_before_writes_goes_on() {
    check_two_owners([3, 2]);
}

#[test]
fn another_key_finds_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let shelf = Folder::at(directory.path().join("p"));
    keep(&shelf, &Memory::from([(1, 1)]), 1);
    let other = Key::from_bytes([6; 32]);
    let found = newest(&shelf, &other, None).unwrap();
    assert_eq!(found.unwrap_err().len(), 1);
}

#[test]
fn names_are_never_paths() {
    let directory = tempfile::tempdir().unwrap();
    let shelf = Folder::at(directory.path().join("p"));
    for name in ["", "..", "a/b", "/x", "A", "a.b", &"a".repeat(65)] {
        assert!(shelf.put(name, b"x").is_err(), "{name}");
        assert!(shelf.get(name).is_err(), "{name}");
    }
}
