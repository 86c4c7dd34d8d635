//! On real memories: over an image, over nothing, and with threads that wait.

use std::os::fd::AsRawFd;
use std::thread;

use super::*;
use crate::memory::InitialImage;
use crate::memory::pagemap::last_errno;

const SECOND: Duration = Duration::from_secs(1);

fn run(first: u64, count: u64) -> PageRun {
    PageRun { first, count }
}

/// Eight pages of an image full of ones, of which the fourth is a hole, then eight of zeros; each written to before.
fn memory() -> Arc<Reservation> {
    let ones = [1; 4 * PAGE_BYTES];
    let image = InitialImage::build([
        (0, &ones[..]),
        (5 * PAGE_BYTES as u64, &ones[..3 * PAGE_BYTES]),
    ]);
    let size = 16 * PAGE_BYTES;
    let memory = Reservation::new(2 * size, 0, size, Some(Arc::new(image.unwrap()))).unwrap();
    for page in 0..16 {
        memory.write(page * PAGE_BYTES, b"stale").unwrap();
    }
    Arc::new(memory)
}

/// The tests are about what kernels can; one that cannot says so.
fn started(memories: &[(Arc<Reservation>, &[PageRun])]) -> Option<MissingPages> {
    if let Err(why) = available() {
        println!("skipped: {why}");
        return None;
    }
    Some(MissingPages::start(memories).unwrap())
}

fn first_bytes(memory: &Reservation, pages: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let mut byte = [0];
    let mut read = |page| {
        memory.read(page as usize * PAGE_BYTES, &mut byte).unwrap();
        byte[0]
    };
    pages.into_iter().map(&mut read).collect()
}

/// Serves touched pages until somebody wakes it: with their number, but for those that are none of ours.
fn serve(missing: &MissingPages, ours: &[PageRun], over: impl Fn() -> bool) -> Vec<u64> {
    let mut asked = Vec::new();
    while !over() {
        for touched in missing.touched(SECOND).unwrap() {
            asked.push(touched.page);
            let own = ours
                .iter()
                .any(|run| (run.first..run.end()).contains(&touched.page));
            match own {
                true => missing
                    .give(
                        touched.memory,
                        touched.page,
                        &[100 + touched.page as u8; PAGE_BYTES],
                    )
                    .unwrap(),
                false => missing.give_initial(touched).unwrap(),
            }
        }
    }
    asked
}

#[test]
fn who_touches_a_missing_page_waits_for_it_and_for_no_other() {
    let memory = memory();
    let runs = [run(1, 2), run(4, 1), run(7, 3), run(12, 1)];
    let Some(missing) = started(&[(memory.clone(), &runs)]) else {
        return;
    };
    let asked = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let seen = first_bytes(&memory, 0..16);
            missing.wake();
            seen
        });
        let asked = serve(&missing, &runs, || reader.is_finished());
        let stale = b's';
        let expected = [
            stale, 101, 102, stale, 104, stale, stale, 107, 108, 109, stale, stale, 112, stale,
            stale, stale,
        ];
        assert_eq!(reader.join().unwrap(), expected);
        asked
    });
    assert_eq!(asked, [1, 2, 4, 7, 8, 9, 12]);
}

#[test]
fn pages_can_be_given_before_anybody_asks_and_twice() {
    let memory = memory();
    let Some(missing) = started(&[(memory.clone(), &[run(0, 16)])]) else {
        return;
    };
    missing.give(0, 2, &[2; 3 * PAGE_BYTES]).unwrap();
    missing.give(0, 0, &[1; 7 * PAGE_BYTES]).unwrap();
    // An image ends in the middle of these.
    missing.give(0, 7, &[1; 3 * PAGE_BYTES]).unwrap();
    missing.give_zeros(0, run(8, 8)).unwrap();
    missing.give_zeros(0, run(0, 16)).unwrap();
    assert_eq!(
        first_bytes(&memory, 0..16),
        [1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    );
    let mut changed = crate::memory::Scanner::new().changed(&memory).unwrap();
    assert_eq!(PageRun::total(&changed.written), 3 + 2); // the twos, and the ones behind the image
    assert_eq!(changed.zeroed.pop(), None);
}

#[test]
fn zeros_over_an_image_are_written() {
    let memory = memory();
    let Some(missing) = started(&[(memory.clone(), &[run(0, 16)])]) else {
        return;
    };
    missing.give_zeros(0, run(0, 10)).unwrap();
    drop(missing);
    let changed = crate::memory::Scanner::new().changed(&memory).unwrap();
    assert_eq!(PageRun::total(&changed.zeroed), 7);
}

/// The reason why system calls are not to be given missing pages.
#[test]
fn the_kernel_does_not_wait_for_a_page() {
    let memory = memory();
    let Some(missing) = started(&[(memory.clone(), &[run(3, 1)])]) else {
        return;
    };
    let zeros = std::fs::File::open("/dev/zero").unwrap();
    let fill = |page: usize| {
        let to = memory.as_ptr().wrapping_add(page * PAGE_BYTES);
        // SAFETY: 1. A page of the reservation, to which nobody has a reference.
        let got = unsafe { libc::read(zeros.as_raw_fd(), to.cast(), PAGE_BYTES) };
        match got < 0 {
            true => Err(last_errno()),
            false => Ok(()),
        }
    };
    assert_eq!(fill(3), Err(Errno::FAULT));
    assert_eq!(fill(2), Ok(()));
    missing.give(0, 3, &[1; PAGE_BYTES]).unwrap();
    assert_eq!(fill(3), Ok(()));
}

#[test]
fn a_drop_lets_those_go_on_who_wait() {
    let memory = memory();
    let Some(missing) = started(&[(memory.clone(), &[run(3, 1), run(12, 1)])]) else {
        return;
    };
    thread::scope(|scope| {
        let reader = scope.spawn(|| first_bytes(&memory, [3, 12]));
        assert_eq!(
            missing.touched(SECOND).unwrap(),
            [Touched { memory: 0, page: 3 }]
        );
        drop(missing);
        assert_eq!(reader.join().unwrap(), [1, 0]);
    });
}

#[test]
fn memories_are_told_apart_and_others_cannot_be_named() {
    let (one, other) = (memory(), memory());
    let Some(missing) = started(&[(one.clone(), &[run(1, 1)]), (other.clone(), &[run(1, 1)])])
    else {
        return;
    };
    missing.give(1, 1, &[8; PAGE_BYTES]).unwrap();
    missing.give(0, 1, &[9; PAGE_BYTES]).unwrap();
    assert_eq!(
        (first_bytes(&one, [1]), first_bytes(&other, [1])),
        (vec![9], vec![8])
    );
    assert!(missing.give(2, 0, &[0; PAGE_BYTES]).is_err());
    assert!(missing.give(0, 15, &[0; 2 * PAGE_BYTES]).is_err());
    assert!(missing.give(0, 1, &[0; 100]).is_err());
    let outside = MissingPages::start(&[(one, &[run(16, 1)])]);
    assert!(matches!(outside, Err(StartMissingError::Outside(_))));
}

/// A page of each two is missing: more ranges than are registered one by one.
#[test]
fn scattered_pages_are_registered_together_and_those_between_stay() {
    let pages = 4 * RANGES_MAX as u64;
    let size = pages as usize * PAGE_BYTES;
    let memory = Arc::new(Reservation::new(size, 0, size, None).unwrap());
    memory.write(3 * PAGE_BYTES, b"kept").unwrap();
    let runs: Vec<PageRun> = (0..pages / 2).map(|page| run(2 * page, 1)).collect();
    assert!(ranges(&runs).len() <= RANGES_MAX);
    let Some(missing) = started(&[(memory.clone(), &runs)]) else {
        return;
    };
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let seen = first_bytes(&memory, 0..6);
            missing.wake();
            seen
        });
        serve(&missing, &runs, || reader.is_finished());
        assert_eq!(reader.join().unwrap(), [100, 0, 102, b'k', 104, 0]);
    });
}
