//! Image files on disk: private, whole or not at all.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use sterna_process::*;

use crate::{key, small_image, small_pages};

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_is_private_and_replaces_another_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.image");
    fs::write(&path, "something else").unwrap();
    let (image, pages) = (small_image(), small_pages());
    let written = ImageWriter::new(&image, &key(1))
        .write_file(&path, &mut &pages)
        .unwrap();
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(
        (metadata.permissions().mode() & 0o777, metadata.len()),
        (0o600, written.bytes)
    );
    assert_eq!(names(directory.path()), ["a.image"]);
    let file = ImageFile::open(&path, &ReadLimits::default(), &key(1)).unwrap();
    assert_eq!(file.image(), &image);
    file.check_pages().unwrap();
}

/// Pages of which the second cannot be read.
struct Unreadable;

impl PageProvider for Unreadable {
    fn runs(&self) -> PageRuns {
        [PageRun::page(RegionId(0), 0), PageRun::page(RegionId(1), 0)]
            .into_iter()
            .flatten()
            .collect()
    }

    fn read(&mut self, run: PageRun, buffer: &mut [u8]) -> Result<(), MemoryError> {
        buffer.fill(1);
        if run.region() == RegionId(1) {
            Err(MemoryError::OutOfRange { run })
        } else {
            Ok(())
        }
    }
}

#[test]
fn nothing_is_left_of_a_file_that_was_not_completed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.image");
    fs::write(&path, "the one before").unwrap();
    let error = ImageWriter::new(&small_image(), &key(1))
        .write_file(&path, &mut Unreadable)
        .unwrap_err();
    assert!(matches!(error, ImageWriteError::Memory(_)));
    assert_eq!(names(directory.path()), ["a.image"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "the one before");
}

#[test]
fn errors_name_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let (image, pages) = (small_image(), small_pages());
    let key = key(1);
    let writer = ImageWriter::new(&image, &key);
    for path in [
        directory.path().join("missing/a.image"),
        directory.path().to_owned(),
    ] {
        let error = writer.write_file(&path, &mut &pages).unwrap_err();
        assert!(matches!(&error, ImageWriteError::File { path: named, .. } if *named == path));
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }
    assert!(names(directory.path()).is_empty());
    let error = ImageFile::open(directory.path(), &ReadLimits::default(), &key).unwrap_err();
    assert!(matches!(error, ImageReadError::File { .. }));
}

/// A file system of 64 KiB, unmounted at the end; `None` where that is not allowed.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
            .arg(directory.path())
            .output();
        mount
            .is_ok_and(|output| output.status.success())
            .then_some(Self(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_leaves_nothing_behind_and_is_named() {
    let Some(disk) = SmallDisk::new() else {
        println!("skipped: mounting a small tmpfs needs root");
        return;
    };
    let path = disk.0.path().join("a.image");
    fs::write(&path, "the one before").unwrap();
    let mut pages = PageSet::new();
    let run = PageRun::new(RegionId(1), 0, 32).unwrap();
    pages.insert(run, &[1; 32 * PAGE_SIZE]).unwrap();
    let error = ImageWriter::new(&small_image(), &key(1))
        .write_file(&path, &mut &pages)
        .unwrap_err();
    assert!(matches!(error, ImageWriteError::NoRoom { .. }), "{error}");
    let expected = format!(
        "no room for the image {}: free some, or write it elsewhere",
        path.display()
    );
    assert_eq!(error.to_string(), expected);
    assert_eq!(names(disk.0.path()), ["a.image"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "the one before");
}

#[test]
fn a_full_device_is_an_error() {
    let mut full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let error = ImageWriter::new(&small_image(), &key(1))
        .write_to(&mut full, &mut &small_pages())
        .unwrap_err();
    assert!(matches!(error, ImageWriteError::Output(_)));
}
