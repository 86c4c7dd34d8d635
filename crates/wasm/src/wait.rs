//! Waiting of guests in host calls: for descriptors, for time, or to be interrupted.
//!
//! One thread of the process watches for all guests; it is tokio's reactor. The guests themselves run on
//! [`crate::pool`].
#![allow(
    unsafe_code,
    reason = "vouches to tokio for descriptors that stay open"
)]

use std::future::poll_fn;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use sterna_wasi::{Interest, Wait};
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// The longest that a guest sleeps without looking at its clock again.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// The reactor's handle; its thread is started with the first guest that waits.
pub(crate) fn reactor() -> &'static Handle {
    static REACTOR: OnceLock<Handle> = OnceLock::new();
    REACTOR.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.expect("the kernel gives a process an epoll descriptor");
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new().name("sterna-wait".into());
        thread
            .spawn(move || runtime.block_on(std::future::pending::<()>()))
            .expect("the kernel gives a process a second thread");
        handle
    })
}

struct Watched(Arc<OwnedFd>);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Waits until something of `wait` has come (its deadline is on the clock that reads `now`), or
/// `interrupt` is notified. A wake-up for nothing is possible.
pub(crate) async fn wait(wait: &Wait, now: Duration, interrupt: &Notify) {
    let entered = reactor().enter();
    let watched: Result<Vec<_>, _> = wait
        .descriptors
        .iter()
        .map(|(descriptor, interest)| {
            let both = match *interest {
                Interest {
                    read: true,
                    write: false,
                } => tokio::io::Interest::READABLE,
                Interest {
                    read: false,
                    write: true,
                } => tokio::io::Interest::WRITABLE,
                _ => tokio::io::Interest::READABLE | tokio::io::Interest::WRITABLE,
            };
            // SAFETY: the descriptor stays open, and the same, while its owner is held here.
            let watched =
                unsafe { AsyncFd::register_with_interest(Watched(descriptor.clone()), both) };
            watched.map(|fd| (fd, *interest))
        })
        .collect();
    // What cannot be watched is always ready.
    let Ok(watched) = watched else { return };
    let sleep = wait
        .deadline
        .map(|at| at.saturating_sub(now).min(SLEEP_MAX))
        .map(tokio::time::sleep);
    drop(entered);
    let mut sleep = sleep.map(Box::pin);
    let mut interrupted = pin!(interrupt.notified());
    poll_fn(|context| {
        if interrupted.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        if sleep
            .as_mut()
            .is_some_and(|sleep| sleep.as_mut().poll(context).is_ready())
        {
            return Poll::Ready(());
        }
        for (descriptor, interest) in &watched {
            let read = interest.read && descriptor.poll_read_ready(context).is_ready();
            let write = interest.write && descriptor.poll_write_ready(context).is_ready();
            if read || write {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    })
    .await;
}
