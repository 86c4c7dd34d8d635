//! Tests of the gate: its states one by one, a stress against a counting guest, and a real guest that faults on its poll page.
#![allow(unsafe_code, reason = "installs a signal handler, as the engine does")]

use std::sync::atomic::AtomicU64;
use std::thread;

use super::*;

const SOON: Duration = Duration::from_secs(20);

#[test]
fn nobody_asked_so_the_guest_passes() {
    let gate = Gate::new();
    assert!(!gate.is_requested());
    assert_eq!(gate.arrive(None), Verdict::Continue);
    assert_eq!(gate.release(Verdict::Unwind), Err(NotStopped));
    assert!(!gate.withdraw());
}

#[test]
fn request_is_exclusive_can_be_withdrawn_and_times_out() {
    let gate = Gate::new();
    gate.request().unwrap();
    assert_eq!(gate.request(), Err(RequestError::Busy));
    assert_eq!(
        gate.wait_stopped(Duration::from_millis(1)),
        Arrival::TimedOut
    );
    assert!(gate.is_requested() && gate.withdraw() && !gate.is_requested());
    assert_eq!(gate.arrive(None), Verdict::Continue);
    gate.request().unwrap();
}

#[test]
fn guest_that_ends_is_not_waited_for() {
    let gate = Gate::new();
    gate.request().unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| gate.wait_stopped(SOON));
        gate.close();
        assert_eq!(waiting.join().unwrap(), Arrival::Closed);
    });
    assert_eq!(gate.request(), Err(RequestError::Closed));
    assert_eq!(gate.arrive(None), Verdict::Continue);
}

#[test]
fn stopped_guest_shows_its_registers_until_released() {
    let gate = Gate::new();
    let at = Registers {
        pc: 1,
        fp: 2,
        sp: 3,
    };
    gate.request().unwrap();
    thread::scope(|scope| {
        let guest = scope.spawn(|| gate.arrive(Some(at)));
        assert_eq!(gate.wait_stopped(SOON), Arrival::Stopped);
        assert_eq!(gate.stopped_at(), Some(at));
        assert!(!gate.withdraw());
        assert_eq!(gate.request(), Err(RequestError::Busy));
        gate.release(Verdict::Unwind).unwrap();
        // The next request need not wait for the guest to leave, and survives its leaving.
        gate.request().unwrap();
        assert_eq!(guest.join().unwrap(), Verdict::Unwind);
        assert!(gate.is_requested());
        assert_eq!(gate.stopped_at(), None);
    });
}

/// A guest counts; while it is stopped the count must stand still, and every verdict must reach it in order.
#[test]
fn stress_stops_really_stop_and_verdicts_arrive_in_order() {
    for seed in 1..=4u64 {
        let gate = Gate::new();
        let count = AtomicU64::new(0);
        let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let given: Vec<Verdict> = (0..3000)
            .map(|_| {
                if next() % 2 == 0 {
                    Verdict::Continue
                } else {
                    Verdict::Unwind
                }
            })
            .collect();
        thread::scope(|scope| {
            let guest = scope.spawn(|| {
                let mut got = Vec::new();
                while got.len() < given.len() {
                    count.fetch_add(1, Ordering::Relaxed);
                    if gate.is_requested() {
                        let before = got.len();
                        got.push(gate.arrive(Some(Registers {
                            pc: before + 1,
                            fp: 0,
                            sp: 0,
                        })));
                    }
                }
                got
            });
            for (number, verdict) in given.iter().enumerate() {
                gate.request().unwrap();
                for _ in 0..next() % 64 {
                    std::hint::spin_loop();
                }
                assert_eq!(gate.wait_stopped(SOON), Arrival::Stopped);
                let before = count.load(Ordering::Relaxed);
                assert_eq!(gate.stopped_at().unwrap().pc, number + 1);
                for _ in 0..next() % 256 {
                    std::hint::spin_loop();
                }
                assert_eq!(count.load(Ordering::Relaxed), before);
                gate.release(*verdict).unwrap();
            }
            assert_eq!(guest.join().unwrap(), given);
        });
    }
}

/// Requests withdrawn at random moments leave no guest behind and none parked.
#[test]
fn stress_withdrawals_race_with_arrivals() {
    let gate = Gate::new();
    let done = std::sync::atomic::AtomicBool::new(false);
    let (mut withdrawn, mut stopped) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                gate.arrive(None);
            }
            gate.close();
        });
        for round in 0..20_000u32 {
            gate.request().unwrap();
            for _ in 0..round % 97 {
                std::hint::spin_loop();
            }
            if gate.withdraw() {
                withdrawn += 1;
            } else {
                assert_eq!(gate.wait_stopped(Duration::ZERO), Arrival::Stopped);
                gate.release(Verdict::Continue).unwrap();
                stopped += 1;
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    println!("{withdrawn} withdrawn in time, {stopped} stopped");
    assert_eq!(gate.request(), Err(RequestError::Closed));
}

#[test]
fn notifier_wakes_once_raised() {
    let notifier = Notifier::new().unwrap();
    assert!(!notifier.wait(Duration::ZERO).unwrap() && !notifier.clear());
    thread::scope(|scope| {
        let waiting = scope.spawn(|| notifier.wait(SOON).unwrap());
        notifier.raise();
        assert!(waiting.join().unwrap());
    });
    notifier.raise();
    assert!(notifier.clear() && !notifier.clear() && !notifier.wait(Duration::ZERO).unwrap());
}

#[cfg(feature = "memory")]
mod fault {
    //! A thread that polls a word in machine code, stopped by protecting the word's page.

    use std::ffi::c_void;
    use std::sync::OnceLock;

    use super::*;
    use crate::memory::{PollPage, Reservation, os_page_bytes};

    static GATE: Gate = Gate::new();
    static PAGE: OnceLock<PollPage> = OnceLock::new();
    static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
    static VERDICTS: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];

    extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: 1. Arguments of this running handler, installed for SIGSEGV with SA_SIGINFO.
        let address = unsafe { fault_address(info) };
        if PAGE.get().is_some_and(|page| page.contains(address)) {
            // SAFETY: 1. As above.
            let registers = unsafe { registers(context) };
            let verdict = GATE.arrive(Some(registers));
            VERDICTS[verdict as usize].fetch_add(1, Ordering::Relaxed);
            return;
        }
        // A fault of something else: back to whoever handled it before, at the retried instruction.
        let previous = PREVIOUS
            .get()
            .expect("stored before the handler is installed");
        // SAFETY: 1. `previous` came from sigaction itself.
        unsafe { libc::sigaction(signal, previous, std::ptr::null_mut()) };
    }

    fn install() {
        // SAFETY: 1. All zeros is a valid sigaction: default action, no flags, empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let mut previous = action;
        // SAFETY: 1. A null new action only reads the current one into `previous`.
        unsafe { libc::sigaction(libc::SIGSEGV, std::ptr::null(), &raw mut previous) };
        let _ = PREVIOUS.set(previous);
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: 1. The handler is async-signal-safe and has the signature SA_SIGINFO asks for.
        let result =
            unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut()) };
        assert_eq!(result, 0);
    }

    #[test]
    fn guest_stops_at_its_poll_and_goes_on_or_unwinds() {
        let page_bytes = os_page_bytes();
        let memory = Reservation::new(page_bytes, 0, page_bytes, None).unwrap();
        // SAFETY: 1. A whole page of a reservation that is leaked below, so it stays mapped. 2. and 3. Only this test uses it.
        let page = unsafe { PollPage::new(memory.as_ptr()) }.unwrap();
        std::mem::forget(memory);
        PAGE.set(page).unwrap();
        install();
        let page = PAGE.get().unwrap();
        let polls = AtomicU64::new(0);
        let mut worst = Duration::ZERO;
        thread::scope(|scope| {
            scope.spawn(|| {
                while page.load() == 0 {
                    polls.fetch_add(1, Ordering::Relaxed);
                }
                GATE.close();
            });
            for _ in 0..200 {
                let begin = Instant::now();
                GATE.request().unwrap();
                page.protect().unwrap();
                assert_eq!(GATE.wait_stopped(SOON), Arrival::Stopped);
                worst = worst.max(begin.elapsed());
                let at = GATE.stopped_at().unwrap();
                assert!(at.pc != 0 && at.sp != 0);
                let before = polls.load(Ordering::Relaxed);
                thread::yield_now();
                assert_eq!(polls.load(Ordering::Relaxed), before);
                page.unprotect().unwrap();
                GATE.release(Verdict::Continue).unwrap();
            }
            GATE.request().unwrap();
            page.protect().unwrap();
            assert_eq!(GATE.wait_stopped(SOON), Arrival::Stopped);
            page.unprotect_with(1).unwrap();
            GATE.release(Verdict::Unwind).unwrap();
        });
        println!("slowest of 200 stops: {worst:?}");
        assert_eq!(VERDICTS[0].load(Ordering::Relaxed), 200);
        assert_eq!(VERDICTS[1].load(Ordering::Relaxed), 1);
    }
}
