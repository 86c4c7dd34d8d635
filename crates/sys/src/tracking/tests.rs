//! Tests of tracking: the answer of every look against the pages really written since the one before.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::time::Instant;

use super::*;
use crate::memory::InitialImage;

const MIB: usize = 1 << 20;

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

fn skip() -> bool {
    let why = available().err();
    if let Some(why) = &why {
        println!("skipped: dirty pages cannot be tracked here: {why} ({why:?})");
    }
    why.is_some()
}

fn pages(runs: &[PageRun]) -> BTreeSet<u64> {
    runs.iter().flat_map(|run| run.first..run.end()).collect()
}

fn memory_with_image(size: usize) -> Arc<Reservation> {
    let data: Vec<u8> = (0..MIB).map(|at| (at % 251) as u8).collect();
    let image = InitialImage::build([(0, &data[..]), (2 * MIB as u64, b"tail")]).unwrap();
    Arc::new(Reservation::new(64 * MIB, MIB, size, Some(Arc::new(image))).unwrap())
}

#[test]
fn takes_exactly_what_was_written_across_growth() {
    if skip() {
        return;
    }
    for seed in 1..=6 {
        let mut random = Seeded(seed * 0x9E37_79B9);
        let memory = memory_with_image(4 * MIB);
        for _ in 0..300 {
            let at = random.below(4 * MIB);
            memory.write(at, &[1]).unwrap();
        }
        let mut tracker = DirtyTracker::start(memory.clone()).unwrap();
        for round in 0..12 {
            if round == 4 || round == 8 {
                memory.grow_to(memory.size() + 3 * MIB + 4096).unwrap();
            }
            let mut written = BTreeSet::new();
            for _ in 0..random.below(400) {
                let at = random.below(memory.size());
                if random.below(3) == 0 {
                    memory.read(at, &mut [0]).unwrap();
                } else {
                    memory.write(at, &[random.below(256) as u8]).unwrap();
                    written.insert((at / PAGE_BYTES) as u64);
                }
            }
            let runs = tracker.take().unwrap();
            assert_eq!(pages(&runs), written, "seed {seed} round {round}");
            assert!(
                runs.windows(2).all(|pair| pair[0].end() < pair[1].first),
                "sorted and merged"
            );
        }
        assert!(tracker.take().unwrap().is_empty());
    }
}

#[test]
fn writes_by_the_kernel_count_too() {
    if skip() {
        return;
    }
    let memory = memory_with_image(4 * MIB);
    let mut tracker = DirtyTracker::start(memory.clone()).unwrap();
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    for offset in [4096, MIB + 8192, 3 * MIB] {
        let to = memory.as_ptr().wrapping_add(offset);
        // SAFETY: 1. The kernel writes 100 bytes into the accessible part; no reference to them exists.
        let got = unsafe { libc::pread(file.as_raw_fd(), to.cast(), 100, 0) };
        assert_eq!(got, 100);
    }
    let expected = BTreeSet::from([1, (MIB / 4096) as u64 + 2, 3 * (MIB / 4096) as u64]);
    assert_eq!(pages(&tracker.take().unwrap()), expected);
}

#[test]
fn no_write_is_lost_while_a_guest_runs() {
    if skip() {
        return;
    }
    let memory = memory_with_image(8 * MIB);
    let mut tracker = DirtyTracker::start(memory.clone()).unwrap();
    // The copy is kept up to date from the dirty pages alone, and must end equal.
    let mut copy = vec![0u8; 8 * MIB];
    memory.read(0, &mut copy).unwrap();
    let mut looks = 0;
    std::thread::scope(|scope| {
        let guest = scope.spawn(|| {
            let mut random = Seeded(77);
            for _ in 0..200_000 {
                let at = random.below(8 * MIB);
                memory.write(at, &[random.below(256) as u8]).unwrap();
            }
        });
        loop {
            let last = guest.is_finished();
            for run in tracker.take().unwrap() {
                let bytes = run.first as usize * PAGE_BYTES..run.end() as usize * PAGE_BYTES;
                memory.read(bytes.start, &mut copy[bytes]).unwrap();
            }
            looks += 1;
            if last {
                break;
            }
        }
    });
    let mut now = vec![0u8; 8 * MIB];
    memory.read(0, &mut now).unwrap();
    assert!(now == copy, "a write was lost");
    println!("{looks} looks while the guest ran");
}

#[test]
fn put_back_rearm_and_stop() {
    if skip() {
        return;
    }
    let memory = memory_with_image(4 * MIB);
    let mut tracker = DirtyTracker::start(memory.clone()).unwrap();
    assert!(
        DirtyTracker::start(memory.clone()).is_err(),
        "one tracker per memory"
    );
    memory.write(0, &[1]).unwrap();
    let runs = tracker.take().unwrap();
    tracker.put_back(&runs);
    memory.write(5 * os_page_bytes(), &[1]).unwrap();
    assert_eq!(tracker.take().unwrap().len(), 2);
    memory.write(0, &[2]).unwrap();
    tracker.rearm(&runs).unwrap();
    assert!(tracker.take().unwrap().is_empty());
    let outside = PageRun {
        first: (4 * MIB / PAGE_BYTES) as u64,
        count: 16,
    };
    assert!(matches!(
        tracker.rearm(&[outside]),
        Err(RearmError::Outside(_))
    ));
    drop(tracker);
    memory.write(0, &[3]).unwrap();
    let mut again = DirtyTracker::start(memory.clone()).unwrap();
    assert!(again.take().unwrap().is_empty());
}

#[test]
fn merging_runs() {
    let run = |first, count| PageRun { first, count };
    let merge = |runs: &[PageRun]| merged(runs.to_vec());
    assert_eq!(merge(&[]), []);
    assert_eq!(
        merge(&[run(5, 1), run(0, 2), run(2, 1), run(7, 3), run(8, 1)]),
        [run(0, 3), run(5, 1), run(7, 3)]
    );
}

#[test]
fn time_of_a_look_at_20_mb() {
    if skip() {
        return;
    }
    let memory = memory_with_image(20 * MIB);
    memory.write(0, &vec![1; 20 * MIB]).unwrap();
    let begin = Instant::now();
    let mut tracker = DirtyTracker::start(memory.clone()).unwrap();
    println!("arming 20 MB: {:?}", begin.elapsed());
    let begin = Instant::now();
    assert!(tracker.take().unwrap().is_empty());
    println!("look, clean: {:?}", begin.elapsed());
    let begin = Instant::now();
    for page in 0..512 {
        memory.write(page * 10 * PAGE_BYTES, &[2]).unwrap();
    }
    println!("512 first writes: {:?}", begin.elapsed());
    let begin = Instant::now();
    assert_eq!(PageRun::total(&tracker.take().unwrap()), 512);
    println!("look, 512 dirty: {:?}", begin.elapsed());
    let begin = Instant::now();
    drop(tracker);
    println!("stopping: {:?}", begin.elapsed());
}
