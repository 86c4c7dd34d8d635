//! Tests of memory: contents, growth, reset, images, and the scanner against what was really written.

use std::sync::Arc;
use std::time::Instant;

use super::*;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// A small generator (xorshift64*), so that failures repeat.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound as u64) as usize
    }
}

fn contents(memory: &Reservation) -> Vec<u8> {
    let mut bytes = vec![0; memory.accessible()];
    memory.read(0, &mut bytes).unwrap();
    bytes
}

fn image(pieces: &[(u64, &[u8])]) -> Arc<InitialImage> {
    Arc::new(InitialImage::build(pieces.iter().copied()).unwrap())
}

fn pages(runs: &[PageRun]) -> Vec<u64> {
    runs.iter().flat_map(|run| run.first..run.end()).collect()
}

#[test]
fn image_pieces_overlap_in_order_and_zero_pages_are_holes() {
    let zeros = vec![0u8; 64 * KIB];
    let built = InitialImage::build([
        (0, &zeros[..]),
        (100, b"first"),
        (102, b"xyz"),
        (70_000, b"far"),
        (101, &[0u8][..]),
    ])
    .unwrap();
    assert_eq!(built.data_pages(), 2);
    assert_eq!(&built.page(0).unwrap()[98..107], b"\0\0f\0xyz\0\0");
    assert_eq!(&built.page(17).unwrap()[70_000 - 17 * 4096..][..3], b"far");
    assert!(built.page(5).is_none() && built.page(18).is_none() && built.page(u64::MAX).is_none());
    assert_eq!(built.data_len(), 18 * PAGE_BYTES);
}

#[test]
fn image_written_with_zeros_over_data_reads_zero() {
    let built = InitialImage::build([(0, &[7u8; 8192][..]), (4096, &[0u8; 4096][..])]).unwrap();
    assert!(built.page(0).unwrap().iter().all(|byte| *byte == 7));
    assert!(
        built
            .page(1)
            .is_none_or(|page| page.iter().all(|byte| *byte == 0))
    );
}

#[test]
fn image_is_immutable_and_travels_as_a_descriptor() {
    let built = InitialImage::build([(5, &b"data"[..])]).unwrap();
    assert!(rustix::io::pwrite(built.as_fd(), b"x", 5).is_err());
    assert!(rustix::fs::ftruncate(built.as_fd(), 0).is_err());
    let opened = InitialImage::open(built.as_fd().try_clone_to_owned().unwrap()).unwrap();
    assert_eq!(opened.page(0), built.page(0));
    assert_eq!(
        (opened.data_len(), opened.data_pages()),
        (built.data_len(), 1)
    );
}

#[test]
fn image_refuses_what_is_not_sealed_or_too_large() {
    let open = rustix::fs::memfd_create("open", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    assert!(matches!(
        InitialImage::open(open),
        Err(OpenImageError::NotSealed)
    ));
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    assert!(matches!(
        InitialImage::open(file.into()),
        Err(OpenImageError::NotSealed)
    ));
    let end = InitialImage::build([(IMAGE_BYTES_MAX, &b"x"[..])]).unwrap_err();
    assert!(matches!(end, BuildImageError::TooLarge { end } if end == IMAGE_BYTES_MAX + 1));
    assert!(matches!(
        InitialImage::build([(u64::MAX, &b"x"[..])]),
        Err(BuildImageError::TooLarge { .. })
    ));
}

#[test]
fn empty_image_is_nothing() {
    let empty = image(&[]);
    assert_eq!((empty.data_len(), empty.data_pages()), (0, 0));
    let memory = Reservation::new(64 * KIB, 0, 64 * KIB, Some(empty)).unwrap();
    assert!(contents(&memory).iter().all(|byte| *byte == 0));
}

#[test]
fn pages_that_are_provided_keep_what_they_hold() {
    let start = image(&[(3, b"abc"), (60_000, b"end")]);
    let memory = Reservation::new(1 << 20, 64 * KIB, 128 * KIB, Some(start)).unwrap();
    memory.write(70_000, b"more").unwrap();
    memory.populate(1, 128 * KIB - 1).unwrap();
    let mut all = vec![0; 128 * KIB];
    memory.read(0, &mut all).unwrap();
    assert_eq!(
        (&all[3..6], &all[60_000..60_003]),
        (&b"abc"[..], &b"end"[..])
    );
    assert_eq!(&all[70_000..70_004], b"more");
    assert_eq!(all.iter().filter(|byte| **byte != 0).count(), 10);
    assert!(memory.populate(1, 128 * KIB).is_err());
    assert!(memory.populate(usize::MAX - 1, 1).is_err());
}

#[test]
fn reservation_starts_from_the_image_and_grows_with_zeros() {
    let start = image(&[(3, b"abc"), (60_000, b"end")]);
    let memory = Reservation::new(4 << 30, 2 << 30, 64 * KIB, Some(start)).unwrap();
    memory.name(c"test memory");
    assert_eq!(
        (memory.size(), memory.capacity(), memory.guard()),
        (64 * KIB, 4 << 30, 2 << 30)
    );
    memory.grow_to(3 * MIB + 1).unwrap();
    assert_eq!(
        (memory.size(), memory.accessible()),
        (3 * MIB + 1, 3 * MIB + os_page_bytes())
    );
    let bytes = contents(&memory);
    assert_eq!(
        (&bytes[3..6], &bytes[60_000..60_003]),
        (&b"abc"[..], &b"end"[..])
    );
    assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 6);
    let base = memory.as_ptr() as usize;
    assert!(memory.contains(base) && memory.contains(base + (6 << 30) - 1));
    assert!(!memory.contains(base + (6 << 30)) && !memory.contains(base - 1));
}

#[test]
fn reservation_refuses_sizes_that_cannot_be() {
    assert!(matches!(
        Reservation::new(0, 0, 0, None),
        Err(ReserveError::Size { .. })
    ));
    assert!(matches!(
        Reservation::new(usize::MAX, 1, 0, None),
        Err(ReserveError::Size { .. })
    ));
    assert!(matches!(
        Reservation::new(4096, 0, 4097, None),
        Err(ReserveError::Size { .. })
    ));
    assert!(matches!(
        Reservation::new(1 << 62, 0, 0, None),
        Err(ReserveError::Os { .. })
    ));
    let two = image(&[(MIB as u64, b"x")]);
    assert!(matches!(
        Reservation::new(MIB, 0, MIB, Some(two)),
        Err(ReserveError::ImageTooLarge { .. })
    ));
    let memory = Reservation::new(MIB, 0, 64 * KIB, None).unwrap();
    assert!(matches!(
        memory.grow_to(MIB + 1),
        Err(GrowError::BeyondCapacity { .. })
    ));
    assert!(matches!(memory.grow_to(1), Err(GrowError::Shrink { .. })));
    assert!(
        memory.read(64 * KIB - 1, &mut [0; 2]).is_err() && memory.write(usize::MAX, &[1]).is_err()
    );
    assert!(
        memory
            .zero(PageRun {
                first: u64::MAX,
                count: u64::MAX
            })
            .is_err()
    );
    assert!(memory.reset(2 * MIB).is_err());
}

#[test]
fn instances_of_one_image_do_not_see_each_other_and_reset_brings_it_back() {
    let start = image(&[(0, b"same")]);
    let new = || Reservation::new(MIB, 0, 64 * KIB, Some(start.clone())).unwrap();
    let (one, other) = (new(), new());
    one.write(0, b"mine").unwrap();
    one.grow_to(MIB).unwrap();
    one.write(MIB - 4, b"last").unwrap();
    assert_eq!(&contents(&other)[..4], b"same");
    one.reset(128 * KIB).unwrap();
    assert_eq!(
        (one.size(), &contents(&one)[..4]),
        (128 * KIB, &b"same"[..])
    );
    assert!(one.write(MIB - 4, b"gone").is_err());
    one.grow_to(MIB).unwrap();
    assert!(contents(&one)[4..].iter().all(|byte| *byte == 0));
    assert!(Scanner::new().changed(&one).unwrap().written.is_empty());
}

#[test]
fn scanner_finds_what_differs_by_every_method() {
    for method in [
        ScanMethod::PagemapScan,
        ScanMethod::PagemapRead,
        ScanMethod::CompareAll,
    ] {
        for seed in 1..=8 {
            scan_after_seeded_writes(method, seed);
        }
    }
}

fn scan_after_seeded_writes(method: ScanMethod, seed: u64) {
    let mut random = Seeded(seed * 0x9E37_79B9);
    let data: Vec<u8> = (0..MIB)
        .map(|at| {
            if (at / PAGE_BYTES).is_multiple_of(3) {
                0
            } else {
                1 + (at % 251) as u8
            }
        })
        .collect();
    let start = image(&[(0, &data)]);
    let memory = Reservation::new(8 * MIB, MIB, 2 * MIB, Some(start)).unwrap();
    let mut initial = data;
    initial.resize(4 * MIB, 0);
    for round in 0..400 {
        if round == 200 {
            memory.grow_to(4 * MIB).unwrap();
        }
        let page = random.below(memory.size() / PAGE_BYTES);
        let at = page * PAGE_BYTES + random.below(PAGE_BYTES);
        match random.below(4) {
            0 => memory.write(at, &[random.below(256) as u8]).unwrap(),
            1 => memory.write(at, &initial[at..=at]).unwrap(), // written, not changed
            2 => memory
                .zero(PageRun {
                    first: page as u64,
                    count: 1,
                })
                .unwrap(),
            _ => memory.read(at, &mut [0]).unwrap(),
        }
    }
    let now = contents(&memory);
    let differs = |page: &usize| {
        now[page * PAGE_BYTES..][..PAGE_BYTES] != initial[page * PAGE_BYTES..][..PAGE_BYTES]
    };
    let is_zero = |page: &usize| {
        now[page * PAGE_BYTES..][..PAGE_BYTES]
            .iter()
            .all(|byte| *byte == 0)
    };
    let (zeroed, written): (Vec<usize>, Vec<usize>) = (0..now.len() / PAGE_BYTES)
        .filter(differs)
        .partition(is_zero);
    let as_u64 = |list: Vec<usize>| list.into_iter().map(|page| page as u64).collect::<Vec<_>>();
    let scanner = Scanner::with_method(method).unwrap();
    let changed = match scanner.changed(&memory) {
        Ok(changed) => changed,
        Err(error) => return println!("skipped: {method:?} does not work here: {error:?}"),
    };
    assert_eq!(
        pages(&changed.written),
        as_u64(written),
        "{method:?} seed {seed}"
    );
    assert_eq!(
        pages(&changed.zeroed),
        as_u64(zeroed),
        "{method:?} seed {seed}"
    );
    assert!(
        changed
            .written
            .windows(2)
            .all(|pair| pair[0].end() < pair[1].first),
        "runs are merged"
    );
    assert!(!contents(&memory).is_empty());
}

#[test]
fn scanner_time_for_2_mb_dirty_of_20() {
    let data: Vec<u8> = (0..10 * MIB).map(|at| (at % 255) as u8 + 1).collect();
    let start = image(&[(0, &data)]);
    let memory = Reservation::new(4 << 30, 2 << 30, 20 * MIB, Some(start)).unwrap();
    for page in 0..512 {
        memory.write(page * 10 * PAGE_BYTES + 17, &[0, 1]).unwrap();
    }
    for method in [
        ScanMethod::PagemapScan,
        ScanMethod::PagemapRead,
        ScanMethod::CompareAll,
    ] {
        let scanner = Scanner::with_method(method).unwrap();
        let mut best = u128::MAX;
        for _ in 0..20 {
            let begin = Instant::now();
            let Ok(changed) = scanner.changed(&memory) else {
                break;
            };
            best = best.min(begin.elapsed().as_micros());
            assert_eq!(PageRun::total(&changed.written), 512);
        }
        match best {
            u128::MAX => println!("skipped: {method:?} does not work here"),
            _ => println!("2 MB dirty of 20 MB, {method:?}: {best} µs"),
        }
    }
    println!("chosen here: {:?}", Scanner::new().method());
}

#[test]
fn time_of_making_and_resetting_an_instance() {
    const ROUNDS: u32 = 2000;
    let start = image(&[(0, &[1u8; 64 * KIB])]);
    let new = || Reservation::new(4 << 30, 32 * MIB, MIB, Some(start.clone())).unwrap();
    let dirty = |memory: &Reservation| {
        (0..8).for_each(|page| memory.write(page * 8192, b"changed").unwrap())
    };
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        dirty(&new());
    }
    println!(
        "new, 8 pages written, dropped: {:?} each",
        begin.elapsed() / ROUNDS
    );
    let memory = new();
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        dirty(&memory);
        memory.reset(MIB).unwrap();
    }
    println!(
        "8 pages written, reset: {:?} each",
        begin.elapsed() / ROUNDS
    );
}

#[test]
fn poll_page_is_protected_and_carries_the_word_back() {
    let memory = Reservation::new(64 * KIB, 0, 64 * KIB, None).unwrap();
    let page = memory.as_ptr().wrapping_add(os_page_bytes());
    let address = page as usize;
    assert!(poll_page(page.wrapping_add(4)).is_none() && poll_page(std::ptr::null_mut()).is_none());
    let poll = poll_page(page).unwrap();
    assert!(poll.contains(address) && poll.contains(address + os_page_bytes() - 1));
    assert!(!poll.contains(address - 1) && !poll.contains(address + os_page_bytes()));
    poll.store(7);
    poll.protect().unwrap();
    assert!(!readable(address));
    poll.unprotect_with(1).unwrap();
    assert!(readable(address));
    assert_eq!(poll.load(), 1);
    poll.unprotect().unwrap();
    assert_eq!(poll.load(), 1);
}

#[test]
fn two_that_change_a_poll_page_at_once_do_not_fault() {
    let memory = Reservation::new(64 * KIB, 0, 64 * KIB, None).unwrap();
    let poll = poll_page(memory.as_ptr()).unwrap();
    std::thread::scope(|threads| {
        threads.spawn(|| (0..20_000).for_each(|_| poll.protect().unwrap()));
        (0..20_000).for_each(|word| poll.unprotect_with(word).unwrap());
    });
    poll.unprotect_with(7).unwrap();
    assert_eq!(poll.load(), 7);
}

#[allow(unsafe_code, reason = "the constructor under test")]
fn poll_page(page: *mut u8) -> Option<PollPage> {
    // SAFETY: 1. The tests pass null, an unaligned pointer, or a page of a reservation that outlives the handle.
    unsafe { PollPage::new(page) }
}

/// Whether the kernel can read a byte at `address`: without a fault, write(2) says EFAULT.
#[allow(
    unsafe_code,
    reason = "asks the kernel about an address that must not be touched"
)]
fn readable(address: usize) -> bool {
    let (_reader, writer) = rustix::pipe::pipe().unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&writer);
    // SAFETY: 1. The kernel checks the address and answers EFAULT.
    unsafe { libc::write(fd, address as *const libc::c_void, 1) == 1 }
}

/// Bytes that are mapped within a range, as the kernel has it. Of use in a process of its own only, as each test has: others map.
fn mapped(range: std::ops::Range<usize>) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let within = maps.lines().map(|line| {
        let (addresses, _) = line.split_once(' ').unwrap();
        let (start, end) = addresses.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).unwrap());
        end.min(range.end).saturating_sub(start.max(range.start))
    });
    within.sum()
}

#[test]
fn all_of_a_memory_is_given_back_however_much_it_holds() {
    const MIB: usize = 1 << 20;
    for (held, guard) in [(0, 0), (MIB / 2, MIB), (3 * MIB + 5000, MIB), (8 * MIB, 0)] {
        let memory = Reservation::new(8 * MIB, guard, held, None).unwrap();
        memory.write(0, &vec![1; held]).unwrap();
        let base = memory.as_ptr() as usize;
        let range = base..base + 8 * MIB + guard;
        assert_eq!(mapped(range.clone()), 8 * MIB + guard);
        drop(memory);
        assert_eq!(mapped(range), 0, "{held} of 8 MiB, {guard} behind it");
    }
}
