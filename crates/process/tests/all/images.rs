//! Images as bytes: what is written is read, what is changed is refused.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sterna_process::toy::DATA;
use sterna_process::*;

use crate::{PROGRAM, encoded, key, read_all, same_pages, small_image, small_pages};

#[test]
fn what_is_written_is_read() {
    let (image, pages) = (small_image(), small_pages());
    let bytes = encoded(&image, &pages, &key(1));
    let (read, read_pages, provenance) = read_all(&bytes, &key(1)).unwrap();
    assert_eq!(read, image);
    assert!(same_pages(&read_pages, &pages));
    assert_eq!(provenance, Provenance::Own);

    let file = ImageFile::from_source(&bytes[..], &ReadLimits::default(), &key(1)).unwrap();
    assert_eq!(file.program().unwrap().as_deref(), Some(PROGRAM));
    assert_eq!(
        file.page_statistics(),
        image::PageStatistics { stored: 3, zero: 3 }
    );
    assert_eq!(*file.page_runs(), *pages.runs());
    let tags: Vec<_> = file
        .sections()
        .iter()
        .map(|section| section.tag.to_string())
        .collect();
    assert_eq!(tags, ["description", "test.numbers", "test.none"]);
    let part = PageRun::new(DATA, 8, 2).unwrap();
    let mut buffer = vec![1; part.bytes() as usize];
    file.read_pages(part, &mut buffer).unwrap();
    assert_eq!(buffer, [ZERO_PAGE, [2; PAGE_SIZE]].concat());
    assert!(
        file.read_pages(PageRun::new(DATA, 10, 2).unwrap(), &mut buffer)
            .is_err(),
        "11 is not in it"
    );
}

#[test]
fn a_thin_file_has_no_program() {
    let mut bytes = Vec::new();
    let image = small_image();
    ImageWriter::new(&image, &key(1))
        .write_to(&mut bytes, &mut &PageSet::new())
        .unwrap();
    let file = ImageFile::from_source(&bytes[..], &ReadLimits::default(), &key(1)).unwrap();
    assert_eq!(
        (file.program_bytes(), file.program().unwrap()),
        (None, None)
    );
    assert!(file.page_runs().is_empty());
}

#[test]
fn a_file_of_another_key_is_foreign() {
    let bytes = encoded(&small_image(), &small_pages(), &key(1));
    let (.., provenance) = read_all(&bytes, &key(2)).unwrap();
    assert_eq!(provenance, Provenance::Foreign { key: key(1).id() });
}

#[test]
fn another_program_in_the_file_is_noticed() {
    let image = small_image();
    let mut bytes = Vec::new();
    ImageWriter::new(&image, &key(1))
        .with_program(&PackedProgram::pack(b"another").unwrap())
        .write_to(&mut bytes, &mut &PageSet::new())
        .unwrap();
    let file = ImageFile::from_source(&bytes[..], &ReadLimits::default(), &key(1)).unwrap();
    assert!(matches!(
        file.program(),
        Err(ImageReadError::Damaged { part: "program" })
    ));
}

/// Flips every bit of `bytes` in turn and cuts them at every length; all that must be refused by `read`.
fn refuses_all_changes<T>(
    mut bytes: Vec<u8>,
    mut read: impl FnMut(&[u8]) -> Result<T, ImageReadError>,
) {
    assert!(read(&bytes).is_ok());
    for i in 0..bytes.len() {
        for bit in 0..8 {
            bytes[i] ^= 1 << bit;
            assert!(
                read(&bytes).is_err(),
                "bit {bit} of byte {i} was changed and nobody noticed"
            );
            bytes[i] ^= 1 << bit;
        }
        assert!(
            read(&bytes[..i]).is_err(),
            "it was cut at {i} and nobody noticed"
        );
    }
    bytes.push(0);
    assert!(read(&bytes).is_err(), "a byte was added and nobody noticed");
}

#[test]
fn every_changed_bit_and_every_cut_of_a_file_is_refused() {
    let bytes = encoded(&small_image(), &small_pages(), &key(1));
    for reader in [key(1), key(2)] {
        refuses_all_changes(bytes.clone(), |bytes| read_all(bytes, &reader));
    }
}

#[test]
fn every_changed_bit_and_every_cut_of_a_message_is_refused() {
    let bytes = small_image().encode().unwrap();
    refuses_all_changes(bytes, |bytes| Image::decode(bytes, &ReadLimits::default()));
}

#[test]
fn other_versions_are_named() {
    let mut bytes = encoded(&small_image(), &small_pages(), &key(1));
    bytes[8] = 2;
    let error = read_all(&bytes, &key(1)).unwrap_err().to_string();
    assert_eq!(
        error,
        "the image is of format version 2, this software reads up to version 1: upgrade it"
    );
    bytes[8] = 0;
    assert!(matches!(
        read_all(&bytes, &key(1)),
        Err(ImageReadError::OlderFormat { found: 0 })
    ));
    assert!(matches!(
        read_all(b"\x7fELF", &key(1)),
        Err(ImageReadError::NotAnImage)
    ));
    assert!(matches!(
        read_all(b"", &key(1)),
        Err(ImageReadError::NotAnImage)
    ));
    assert!(matches!(
        read_all(b"STERNAIM\x01", &key(1)),
        Err(ImageReadError::Truncated { .. })
    ));
}

#[test]
fn limits_hold_before_anything_is_allocated() {
    let bytes = encoded(&small_image(), &small_pages(), &key(1));
    let unlimited = ReadLimits::default();
    for (limits, what) in [
        (
            ReadLimits {
                image_bytes_max: 100,
                ..unlimited.clone()
            },
            "bytes of sections",
        ),
        (
            ReadLimits {
                sections_max: 2,
                ..unlimited.clone()
            },
            "sections",
        ),
        (
            ReadLimits {
                page_table_bytes_max: 100,
                ..unlimited.clone()
            },
            "bytes of page table",
        ),
        (
            ReadLimits {
                program_bytes_max: 10,
                ..unlimited
            },
            "bytes of program",
        ),
    ] {
        match ImageFile::from_source(&bytes[..], &limits, &key(1)) {
            Err(ImageReadError::OverLimit { what: found, .. }) => assert_eq!(found, what),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn pages_outside_of_the_layout_are_not_written() {
    let mut pages = PageSet::new();
    pages
        .insert(PageRun::page(DATA, 32).unwrap(), &[1; PAGE_SIZE])
        .unwrap();
    let result = ImageWriter::new(&small_image(), &key(1)).write_to(&mut Vec::new(), &mut &pages);
    assert!(matches!(
        result,
        Err(ImageWriteError::Memory(MemoryError::OutOfRange { .. }))
    ));
}

#[test]
fn what_nobody_takes_up_is_an_error() {
    let Image { mut sections, .. } = small_image();
    let numbers = sections.require(&Tag::new("test.numbers"), 1..=1).unwrap();
    assert_eq!(numbers.decode::<Vec<u32>>().unwrap(), [1, 2, 3]);
    assert!(
        matches!(sections.finish(), Err(SectionError::NotTaken { tags }) if tags == [Tag::new("test.none")])
    );
}

/// Pages of two regions, many of them zeros, many neighbours.
fn some_pages() -> impl Strategy<Value = PageSet> {
    proptest::collection::vec((0..2_u32, 0..4_u64, 0..3_u8), 0..8).prop_map(|pages| {
        let mut set = PageSet::new();
        for (region, page, contents) in pages {
            let run = PageRun::page(RegionId(region), page).unwrap();
            set.insert(run, &[contents; PAGE_SIZE]).unwrap();
        }
        set
    })
}

/// Names with versions and contents.
fn some_sections() -> impl Strategy<Value = BTreeMap<String, (u16, Vec<u64>)>> {
    let contents = proptest::collection::vec(0..99_u64, 0..50);
    proptest::collection::btree_map("[a-z.]{1,32}", (0..9_u16, contents), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_image_survives(
        pages in some_pages(),
        names in some_sections(),
        epoch: u64,
        process: [u8; 16],
    ) {
        let mut image = small_image();
        image.header.epoch = Epoch(epoch);
        image.header.process = ProcessId::from_bytes(process);
        for (name, (version, value)) in names {
            let tag = Tag::parse(&name).unwrap();
            if tag.as_str() != "description" {
                image.sections.push(Section::encode(tag, version, &value).unwrap()).unwrap();
            }
        }
        let bytes = encoded(&image, &pages, &key(1));
        let (read, read_pages, _) = read_all(&bytes, &key(1)).unwrap();
        prop_assert_eq!(&read, &image);
        prop_assert!(same_pages(&read_pages, &pages));
        prop_assert_eq!(Image::decode(&image.encode().unwrap(), &ReadLimits::default()).unwrap(), image);
    }

    #[test]
    fn any_bytes_are_refused_quietly(mut bytes: Vec<u8>, begins_well: bool) {
        if begins_well {
            bytes.splice(0..0, *b"STERNAIM\x01\0\0\0");
        }
        prop_assert!(read_all(&bytes, &key(1)).is_err());
        prop_assert!(Image::decode(&bytes, &ReadLimits::default()).is_err());
    }

    /// Lengths and numbers are changed and all checksums made right again, as an attacker would.
    #[test]
    fn any_forgery_is_refused_or_read_within_limits(
        at: prop::sample::Index,
        with in proptest::collection::vec(any::<u8>(), 1..9),
    ) {
        let mut bytes = encoded(&small_image(), &small_pages(), &key(1));
        let footer = bytes.len() - 72;
        let at = at.index(footer);
        let length = with.len().min(footer - at);
        bytes[at..at + length].copy_from_slice(&with[..length]);
        reseal(&mut bytes);
        let _ = read_all(&bytes, &key(2));
    }
}

/// Makes a file's seal (and the head's checksum) right again, as far as the file's own lengths make sense.
fn reseal(bytes: &mut [u8]) {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let footer = bytes.len() - 128;
    let (pages, table) = (number(footer + 24), number(footer + 32));
    let head_length = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    if let Some(head) = bytes.get(48..48_usize.saturating_add(head_length)) {
        let hash = *blake3::hash(head).as_bytes();
        bytes[16..48].copy_from_slice(&hash);
    }
    let page_end = footer.saturating_sub(table);
    let page_start = page_end.saturating_sub(pages.saturating_mul(PAGE_SIZE));
    let (covered, end) = bytes.split_at(footer + 56);
    let root = blake3::Hasher::new()
        .update(&covered[..page_start])
        .update(&covered[page_end..])
        .finalize();
    let seal = *blake3::Hasher::new()
        .update(root.as_bytes())
        .update(&end[..32])
        .finalize()
        .as_bytes();
    bytes[footer + 88..footer + 120].copy_from_slice(&seal);
}

#[test]
fn a_resealed_file_is_foreign_or_altered() {
    let mut bytes = encoded(&small_image(), &small_pages(), &key(1));
    let seal = bytes[bytes.len() - 40..bytes.len() - 8].to_vec();
    reseal(&mut bytes);
    assert_eq!(
        seal,
        bytes[bytes.len() - 40..bytes.len() - 8],
        "the test seals as the writer does"
    );
    let mac = bytes.len() - 72;
    bytes[mac] ^= 1;
    reseal(&mut bytes);
    assert!(matches!(
        read_all(&bytes, &key(1)),
        Err(ImageReadError::Altered)
    ));
    assert!(matches!(
        read_all(&bytes, &key(2)),
        Ok((.., Provenance::Foreign { .. }))
    ));
}

#[test]
fn a_forged_page_table_is_refused() {
    let bytes = encoded(&small_image(), &small_pages(), &key(1));
    // The last entry of the table is the page of zeros at 31; it ends where the footer begins.
    let (first, count) = (bytes.len() - 128 - 16, bytes.len() - 128 - 8);
    for (at, number, complaint) in [
        (first, 32, "a page is outside of its memory region"),
        (first, 10, "the pages are not in ascending order"),
        (count, 0, "a run is impossible"),
        (count, u64::MAX, "a run is impossible"),
        (first - 4, 2, "a run is of an unknown kind"),
        (first - 4, 1, "hashes are missing"),
    ] {
        let mut forged = bytes.clone();
        let field = if at < first { 4 } else { 8 };
        forged[at..at + field].copy_from_slice(&u64::to_le_bytes(number)[..field]);
        reseal(&mut forged);
        match read_all(&forged, &key(2)) {
            Err(ImageReadError::Malformed {
                part: "page table",
                reason,
            }) => assert_eq!(reason, complaint),
            other => panic!("{complaint}: {:?}", other.err()),
        }
    }
}
