//! Snapshots into a shelf and out of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sterna_process::{
    Epoch, Image, MemoryError, PAGE_SIZE, PIECE_PAGES, PageProvider, PageRun, PageRuns, ProcessId,
    ReadLimits, SectionError, ZERO_PAGE,
};

use crate::manifest::{Key, Manifest, ManifestError, Place};
use crate::shelf::{Shelf, ShelfError};

/// Pages of one pack: 2 MiB.
pub const PACK_PAGES: usize = 512;
/// The program's object.
pub const PROGRAM: &str = "program";
/// A pack of which less than this part is still in use is not built upon, so that what is kept for a few pages in it goes
/// with the snapshots that need the others.
const USED_MIN: f64 = 0.25;
const MANIFEST: &str = "manifest-";
const PACK: &str = "pack-";

/// Why a snapshot was not kept. Those before are as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// The shelf did not take it.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// The process's memory did not come.
    #[error("the process's memory could not be read")]
    Memory(#[from] MemoryError),
    /// The image cannot be encoded.
    #[error("could not encode the image")]
    Image(#[from] SectionError),
    /// Another owner of the process has kept a later one meanwhile, or removed what this one builds upon.
    #[error("another node has written snapshots of the process meanwhile")]
    Overtaken,
}

/// Why there is nothing to go on from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The shelf cannot be read.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// A manifest is not right.
    #[error("snapshot {number}: {source}")]
    Manifest {
        /// Which.
        number: u64,
        /// What is wrong.
        source: ManifestError,
    },
    /// The image in a manifest is not right.
    #[error("snapshot {number}: its image is not right")]
    Image {
        /// Which.
        number: u64,
        /// What is wrong.
        source: Box<sterna_process::ImageReadError>,
    },
    /// A pack is missing.
    #[error("snapshot {number}: some of its pages are gone ({pack})")]
    Gone {
        /// Which.
        number: u64,
        /// The pack.
        pack: String,
    },
}

/// What is noted of a process beside its image.
#[derive(Debug, Clone, Copy)]
pub struct Details {
    /// The process.
    pub process: ProcessId,
    /// Its epoch.
    pub epoch: Epoch,
    /// When it was captured, in milliseconds since 1970.
    pub at_ms: u64,
    /// Bytes of output until then.
    pub output_bytes: u64,
    /// By chance: where the numbers of packs begin, so that two who write at the same time, before and after a move say,
    /// have other names.
    pub first_pack: u32,
}

/// What was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The snapshot.
    pub manifest: Manifest,
    /// Pages that were written; the others were there, or are zeros.
    pub pages_new: u64,
    /// Bytes that were written.
    pub bytes_new: u64,
}

/// Keeps a snapshot, built upon the one before if that is whole. One node does not do that twice at once.
///
/// # Errors
/// See [`SaveError`].
pub fn save(
    shelf: &dyn Shelf,
    key: &Key,
    details: &Details,
    image: &Image,
    pages: &mut dyn PageProvider,
) -> Result<Saved, SaveError> {
    let names = shelf.list()?;
    let before = last(shelf, key, &names);
    let mut packing = Packing {
        shelf,
        number: number_after(newest_name(&names)),
        known: before.map_or_else(HashMap::new, |manifest| known(&manifest)),
        pack: Vec::new(),
        next_pack: details.first_pack,
        pages_new: 0,
        bytes_new: 0,
        places: Vec::new(),
    };
    let runs = pages.runs();
    let mut buffer = Vec::new();
    for piece in runs.iter().flat_map(|run| run.pieces(PIECE_PAGES)) {
        buffer.resize(piece.bytes() as usize, 0);
        pages.read(piece, &mut buffer)?;
        for page in buffer.chunks_exact(PAGE_SIZE) {
            packing.add(page)?;
        }
    }
    packing.flush()?;
    let mut manifest = Manifest {
        number: packing.number,
        process: details.process,
        epoch: details.epoch,
        at_ms: details.at_ms,
        output_bytes: details.output_bytes,
        image: image.encode()?,
        runs,
        places: packing.places,
    };
    settle(shelf, key, &names, &mut manifest)?;
    let encoded = manifest.encode(key);
    shelf.put(&manifest_name(&manifest), &encoded)?;
    Ok(Saved {
        pages_new: packing.pages_new,
        bytes_new: packing.bytes_new + encoded.len() as u64,
        manifest,
    })
}

/// Looks what another owner has done since `names` were there: a manifest is the newest one and whole, or is not written.
fn settle(
    shelf: &dyn Shelf,
    key: &Key,
    names: &[String],
    manifest: &mut Manifest,
) -> Result<(), SaveError> {
    let now = shelf.list()?;
    if let Some(theirs) = newest_name(&now).filter(|theirs| Some(*theirs) > newest_name(names)) {
        match read(shelf, key, theirs) {
            Err(LoadError::Shelf(error)) => return Err(error.into()),
            Ok(theirs) if theirs.epoch > manifest.epoch => return Err(SaveError::Overtaken),
            _ => {}
        }
        manifest.number = number_after(Some(theirs));
    }
    match missing(manifest, &now) {
        None => Ok(()),
        Some(_) => Err(SaveError::Overtaken),
    }
}

fn newest_name(names: &[String]) -> Option<&String> {
    names.iter().rev().find(|name| name.starts_with(MANIFEST))
}

/// Counted from manifests alone: one who writes at the same time has the same number, and nobody removes its packs as older.
fn number_after(manifest: Option<&String>) -> u64 {
    let number = manifest.and_then(|name| number_of(name));
    number.map_or(0, |number| number.saturating_add(1))
}

/// The last snapshot, if all that it needs is there.
fn last(shelf: &dyn Shelf, key: &Key, names: &[String]) -> Option<Manifest> {
    let name = newest_name(names)?;
    let bytes = shelf.get(name).ok()??;
    let manifest = Manifest::decode(&bytes, key).ok()?;
    missing(&manifest, names).is_none().then_some(manifest)
}

/// Pages that need not be written again, by their hashes.
fn known(manifest: &Manifest) -> HashMap<[u8; 32], Place> {
    let used = manifest.packs();
    let worth = |number: u64, pack: u32| {
        let used = used.get(&(number, pack)).copied().unwrap_or(0);
        used as f64 >= USED_MIN * PACK_PAGES as f64 || number == manifest.number
    };
    let places = manifest.places.iter().filter_map(|place| match place {
        Place::Pack {
            number, pack, hash, ..
        } if worth(*number, *pack) => Some((*hash, *place)),
        _ => None,
    });
    places.collect()
}

struct Packing<'a> {
    shelf: &'a dyn Shelf,
    number: u64,
    known: HashMap<[u8; 32], Place>,
    pack: Vec<u8>,
    next_pack: u32,
    pages_new: u64,
    bytes_new: u64,
    places: Vec<Place>,
}

impl Packing<'_> {
    fn add(&mut self, page: &[u8]) -> Result<(), ShelfError> {
        if page == ZERO_PAGE {
            self.places.push(Place::Zero);
            return Ok(());
        }
        let hash = *blake3::hash(page).as_bytes();
        let new = Place::Pack {
            number: self.number,
            pack: self.next_pack,
            at: (self.pack.len() / PAGE_SIZE) as u32,
            hash,
        };
        let place = *self.known.entry(hash).or_insert(new);
        self.places.push(place);
        if place == new {
            self.pack.extend_from_slice(page);
            self.pages_new += 1;
            if self.pack.len() == PACK_PAGES * PAGE_SIZE {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ShelfError> {
        if !self.pack.is_empty() {
            self.shelf
                .put(&pack_name(self.number, self.next_pack), &self.pack)?;
            self.bytes_new += self.pack.len() as u64;
            self.pack.clear();
            self.next_pack = self.next_pack.wrapping_add(1);
        }
        Ok(())
    }
}

/// Removes all but the newest `keep` snapshots, and the pages that were needed only by such as were removed before: who
/// builds upon one of those that go now, and has not written its manifest, finds its pages.
///
/// # Errors
/// The shelf cannot be used. What was not removed is removed the next time.
pub fn prune(shelf: &dyn Shelf, key: &Key, keep: usize) -> Result<(), LoadError> {
    let names = shelf.list()?;
    let manifests: Vec<&String> = names
        .iter()
        .filter(|name| name.starts_with(MANIFEST))
        .collect();
    let (old, kept) = manifests.split_at(manifests.len().saturating_sub(keep.max(1)));
    let newest = kept.last().and_then(|name| number_of(name));
    let mut needed = BTreeSet::new();
    for (place, name) in manifests.iter().enumerate() {
        match read(shelf, key, name) {
            Ok(manifest) => {
                let packs = manifest.packs().into_keys();
                needed.extend(packs.map(|(number, pack)| pack_name(number, pack)));
            }
            Err(LoadError::Shelf(error)) => return Err(error.into()),
            Err(_) if place < old.len() => {}
            // It may need anything.
            Err(_) => return Ok(()),
        }
    }
    for name in old {
        shelf.remove(name)?;
    }
    // Of later ones the manifests are yet to come.
    let is_before = |name: &String| name.starts_with(PACK) && number_of(name) < newest;
    for name in names.iter().filter(|name| is_before(name)) {
        if !needed.contains(name) {
            shelf.remove(name)?;
        }
    }
    Ok(())
}

/// The newest snapshot that is whole, and what is wrong with newer ones.
#[derive(Debug)]
pub struct Found {
    /// The snapshot.
    pub manifest: Manifest,
    /// Its image.
    pub image: Image,
    /// Newer ones that are not whole.
    pub passed_over: Vec<LoadError>,
}

/// Looks for the newest snapshot whose manifest is right and whose packs are there. That each page is what it should be
/// shows when it is read. `before`: only those with lower numbers.
///
/// # Errors
/// The shelf cannot be read. `Ok(Err(…))`: there is none, and what is wrong with those that there are.
pub fn newest(
    shelf: &dyn Shelf,
    key: &Key,
    before: Option<u64>,
) -> Result<Result<Found, Vec<LoadError>>, ShelfError> {
    let names = shelf.list()?;
    let mut passed_over = Vec::new();
    let manifests = names.iter().rev().filter(|name| name.starts_with(MANIFEST));
    for name in manifests {
        if before.is_some_and(|before| number_of(name).is_none_or(|number| number >= before)) {
            continue;
        }
        let whole = read(shelf, key, name).and_then(|manifest| {
            let number = manifest.number;
            match missing(&manifest, &names) {
                Some(pack) => Err(LoadError::Gone { number, pack }),
                None => Ok(manifest),
            }
        });
        let decoded = whole.and_then(|manifest| {
            match Image::decode(&manifest.image, &ReadLimits::default()) {
                Ok(image) => Ok((manifest, image)),
                Err(source) => Err(LoadError::Image {
                    number: manifest.number,
                    source: Box::new(source),
                }),
            }
        });
        match decoded {
            Ok((manifest, image)) => {
                return Ok(Ok(Found {
                    manifest,
                    image,
                    passed_over,
                }));
            }
            Err(LoadError::Shelf(error)) => return Err(error),
            Err(error) => passed_over.push(error),
        }
    }
    Ok(Err(passed_over))
}

fn read(shelf: &dyn Shelf, key: &Key, name: &str) -> Result<Manifest, LoadError> {
    let number = number_of(name).unwrap_or(u64::MAX);
    let bytes = shelf.get(name)?.unwrap_or_default();
    let manifest =
        Manifest::decode(&bytes, key).map_err(|source| LoadError::Manifest { number, source })?;
    match manifest.number == number {
        true => Ok(manifest),
        false => Err(LoadError::Manifest {
            number,
            source: ManifestError::Damaged,
        }),
    }
}

/// A pack that a snapshot needs and that is not there.
fn missing(manifest: &Manifest, names: &[String]) -> Option<String> {
    let packs = manifest.packs().into_keys();
    packs
        .map(|(number, pack)| pack_name(number, pack))
        .find(|name| names.binary_search(name).is_err())
}

/// The pages of a snapshot, checked as they are read.
pub struct Stored<'a> {
    shelf: &'a dyn Shelf,
    runs: PageRuns,
    places: BTreeMap<(u32, u64), Place>,
    /// The pack that was read last.
    pack: Option<((u64, u32), Vec<u8>)>,
}

impl<'a> Stored<'a> {
    /// Those of a snapshot on this shelf.
    #[must_use]
    pub fn of(manifest: &Manifest, shelf: &'a dyn Shelf) -> Self {
        let pages = manifest
            .runs
            .iter()
            .flat_map(|run| run.pages().map(|page| (run.region().0, page)));
        Self {
            shelf,
            runs: manifest.runs.clone(),
            places: pages.zip(manifest.places.iter().copied()).collect(),
            pack: None,
        }
    }

    fn fill(&mut self, place: Place, page: &mut [u8]) -> Result<(), String> {
        let Place::Pack {
            number,
            pack,
            at,
            hash,
        } = place
        else {
            page.fill(0);
            return Ok(());
        };
        let name = pack_name(number, pack);
        if self
            .pack
            .as_ref()
            .is_none_or(|(had, _)| *had != (number, pack))
        {
            let bytes = self.shelf.get(&name).map_err(|error| error.to_string())?;
            let bytes = bytes.ok_or_else(|| format!("{name} is gone"))?;
            self.pack = Some(((number, pack), bytes));
        }
        let bytes = self.pack.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        let start = at as usize * PAGE_SIZE;
        let found = bytes.get(start..).and_then(|rest| rest.get(..PAGE_SIZE));
        match found {
            Some(found) if blake3::hash(found) == hash => {
                page.copy_from_slice(found);
                Ok(())
            }
            _ => Err(format!("{name} is damaged")),
        }
    }
}

impl PageProvider for Stored<'_> {
    fn runs(&self) -> PageRuns {
        self.runs.clone()
    }

    fn read(&mut self, run: PageRun, buffer: &mut [u8]) -> Result<(), MemoryError> {
        MemoryError::check_length(&[run], buffer.len())?;
        for (page, contents) in run.pages().zip(buffer.chunks_exact_mut(PAGE_SIZE)) {
            let place = self.places.get(&(run.region().0, page)).copied();
            let place = place.ok_or(MemoryError::OutOfRange { run })?;
            self.fill(place, contents)
                .map_err(|what| MemoryError::System {
                    doing: "read pages of the snapshot",
                    source: std::io::Error::other(what),
                })?;
        }
        Ok(())
    }
}

/// Of two owners with one number the later one's is after the other's.
fn manifest_name(manifest: &Manifest) -> String {
    format!("{MANIFEST}{:020}-{:020}", manifest.number, manifest.epoch.0)
}

fn pack_name(number: u64, pack: u32) -> String {
    format!("{PACK}{number:020}-{pack:06}")
}

/// The snapshot that an object belongs to.
fn number_of(name: &str) -> Option<u64> {
    let rest = name
        .strip_prefix(MANIFEST)
        .or_else(|| name.strip_prefix(PACK))?;
    rest.split('-').next()?.parse().ok()
}
