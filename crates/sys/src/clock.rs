//! CPU time of threads, to account what a guest used.
#![allow(
    unsafe_code,
    reason = "the clock of another thread has no safe interface"
)]

use std::time::Duration;

use rustix::time::ClockId;

/// CPU time the calling thread has used.
pub fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// CPU time the whole process has used.
pub fn process_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The CPU clock of one thread, which any thread may read (pthread_getcpuclockid(3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadClock {
    id: libc::clockid_t,
}

impl ThreadClock {
    /// The calling thread's.
    pub fn of_this_thread() -> ThreadClock {
        let mut id = 0;
        // SAFETY: 1. Takes no argument and cannot fail.
        let this = unsafe { libc::pthread_self() };
        // SAFETY: 1. The calling thread is alive. 2. `id` is a live variable.
        let result = unsafe { libc::pthread_getcpuclockid(this, &raw mut id) };
        assert_eq!(result, 0, "every living thread has a CPU clock");
        ThreadClock { id }
    }

    /// CPU time the thread has used; `None` after its end. (Its id may be given to a new thread after long: keep the clock no
    /// longer than the thread.)
    pub fn read(self) -> Option<Duration> {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: 1. `time` is a live variable. 2. A clock of an ended thread is answered with EINVAL.
        let result = unsafe { libc::clock_gettime(self.id, &raw mut time) };
        (result == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn clock_of_another_thread_runs_with_it_and_ends_with_it() {
        let (to_us, from_thread) = mpsc::channel();
        let (go_on, wait) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let begin = thread_cpu_time();
            while thread_cpu_time() - begin < Duration::from_millis(20) {
                std::hint::spin_loop();
            }
            to_us.send(ThreadClock::of_this_thread()).unwrap();
            wait.recv().unwrap_err();
        });
        let clock = from_thread.recv().unwrap();
        assert!(clock.read().unwrap() >= Duration::from_millis(20));
        assert!(process_cpu_time() >= clock.read().unwrap());
        drop(go_on);
        thread.join().unwrap();
    }
}
