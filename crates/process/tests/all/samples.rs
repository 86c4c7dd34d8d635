//! Images that were written by released versions stay readable.
//!
//! After a change of format, `STERNA_WRITE_SAMPLES=1 cargo test -p sterna-process samples` writes a sample
//! of the new version beside the old ones; old ones are never written again.

use std::fs;
use std::path::PathBuf;

use sterna_process::*;

use crate::{PROGRAM, encoded, key, read_all, same_pages, small_image, small_pages};

fn sample(version: u32) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/samples/v{version}.image"))
}

#[test]
fn samples_of_all_versions_are_read() {
    let newest = sample(image::FORMAT_NEWEST);
    if std::env::var_os("STERNA_WRITE_SAMPLES").is_some() && !newest.exists() {
        fs::write(&newest, encoded(&small_image(), &small_pages(), &key(1))).unwrap();
    }
    for version in image::FORMAT_OLDEST..=image::FORMAT_NEWEST {
        let bytes = fs::read(sample(version)).unwrap();
        let (image, pages, provenance) = read_all(&bytes, &key(1)).unwrap();
        assert_eq!(image, small_image(), "version {version}");
        assert!(same_pages(&pages, &small_pages()), "version {version}");
        assert_eq!(provenance, Provenance::Own, "version {version}");
        let file = ImageFile::from_source(&bytes[..], &ReadLimits::default(), &key(1)).unwrap();
        assert_eq!(
            file.program().unwrap().as_deref(),
            Some(PROGRAM),
            "version {version}"
        );
    }
}

#[test]
fn what_is_written_today_is_the_newest_sample() {
    let sample = fs::read(sample(image::FORMAT_NEWEST)).unwrap();
    let today = encoded(&small_image(), &small_pages(), &key(1));
    assert!(
        sample == today,
        "the format changed: raise FORMAT_NEWEST and write a new sample"
    );
}
