//! Rolling snapshots of a process: an image and its pages, of which only those are written that the last snapshot has not.
//!
//! ```text
//! FOLDER/manifest-NUMBER-EPOCH image, list of pages, where each is: pack, place, hash; marked with a key
//! FOLDER/pack-NUMBER-INDEX     pages that were new in snapshot NUMBER, one after the other; INDEX begins by chance
//! FOLDER/program               the program, so that nothing else is needed to go on
//! ```
//!
//! A manifest is written last, so what has one is whole. A folder is written by the owner of the process, and read by
//! whoever has the key. After a move the owner before may still be writing: whatever the two do one after the other, the
//! newest snapshot is whole. Pages are recognised by hash within the folder alone: what one process has
//! in its memory says nothing about another's.
//!
//! - [`Shelf`]: where a folder is kept, e.g. another node; [`Folder`]: a directory here
//! - [`Manifest`]: what a snapshot consists of
//! - [`save`], [`prune`]: writing; [`newest`], [`Stored`]: reading
//!
//! This crate knows no node and no network.

mod manifest;
mod shelf;
mod store;

pub use manifest::{Key, Manifest, ManifestError, Place};
pub use shelf::{Folder, NAME_BYTES_MAX, Shelf, ShelfError, is_name};
pub use store::{
    Details, Found, LoadError, PACK_PAGES, PROGRAM, SaveError, Saved, Stored, newest, prune, save,
};
