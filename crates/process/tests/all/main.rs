//! Tests of the crate as its users see it.

mod files;
mod images;
mod moves;
mod samples;
mod waiting;
mod waypoints;

use std::time::Duration;

use sterna_process::toy::{CODE, DATA};
use sterna_process::*;

/// Long enough that only a mistake exceeds it.
const LONG: Duration = Duration::from_secs(60);

fn key(of: u8) -> ImageKey {
    ImageKey::from_bytes([of; 32])
}

fn paused(running: Running) -> Box<dyn Paused> {
    match running.process.pause(LONG) {
        Pausing::Paused(paused) => paused,
        Pausing::Exited(exit) => panic!("it has ended: {exit}"),
        Pausing::Refused(_, why) => panic!("{why}"),
    }
}

/// An image without a process: two regions, three sections.
fn small_image() -> Image {
    let region = |id, pages| Region {
        id,
        name: format!("region {id}"),
        pages,
        pages_max: 64,
    };
    let mut sections = Sections::new();
    for (tag, version, value) in [
        (Tag::new("test.numbers"), 1, vec![1_u32, 2, 3]),
        (Tag::new("test.none"), 7, vec![]),
    ] {
        sections
            .push(Section::encode(tag, version, &value).unwrap())
            .unwrap();
    }
    let frame = FrameDescription {
        function: 3,
        name: Some("main".into()),
        offset: 44,
        at: FrameKind::Stopped,
    };
    let binding = Binding::new(
        Some(1),
        "standard output",
        binding::By::Type,
        binding::Attachment::Fixed,
    );
    Image {
        header: ImageHeader {
            kind: Tag::new("test"),
            program: ProgramId::of(PROGRAM),
            process: ProcessId::from_bytes([5; 16]),
            epoch: Epoch(2),
            layout: MemoryLayout::new(vec![region(CODE, 4), region(DATA, 32)]).unwrap(),
        },
        description: Description {
            frames: vec![frame],
            bindings: vec![binding],
            notes: vec![("instructions".into(), "12".into())],
            ..Description::default()
        },
        sections,
    }
}

const PROGRAM: &[u8] = b"a program, a program, a program, a program, a program";

/// Pages for it: one stored, some zeros, two stored, in two regions.
fn small_pages() -> PageSet {
    let mut pages = PageSet::new();
    for (region, first, contents) in [
        (CODE, 1, vec![[1; PAGE_SIZE]]),
        (
            DATA,
            7,
            vec![ZERO_PAGE, ZERO_PAGE, [2; PAGE_SIZE], [3; PAGE_SIZE]],
        ),
        (DATA, 31, vec![ZERO_PAGE]),
    ] {
        let run = PageRun::new(region, first, contents.len() as u64).unwrap();
        pages.insert(run, contents.as_flattened()).unwrap();
    }
    pages
}

fn encoded(image: &Image, pages: &PageSet, key: &ImageKey) -> Vec<u8> {
    let mut bytes = Vec::new();
    let written = ImageWriter::new(image, key)
        .with_program(&PackedProgram::pack(PROGRAM).unwrap())
        .write_to(&mut bytes, &mut &*pages)
        .unwrap();
    assert_eq!(written.bytes, bytes.len() as u64);
    bytes
}

/// Reads all there is in a file.
fn read_all(bytes: &[u8], key: &ImageKey) -> Result<(Image, PageSet, Provenance), ImageReadError> {
    let file = ImageFile::from_source(bytes, &ReadLimits::default(), key)?;
    let mut pages = PageSet::new();
    for run in &file.page_runs() {
        let mut buffer = vec![0xEE; run.bytes() as usize];
        file.read_pages(*run, &mut buffer)?;
        pages.insert(*run, &buffer).unwrap();
    }
    file.check_pages()?;
    file.program()?;
    Ok((file.image().clone(), pages, file.provenance()))
}

fn same_pages(a: &PageSet, b: &PageSet) -> bool {
    a.iter().eq(b.iter())
}
