//! `poll_oneoff`: waiting for times and descriptors.
//!
//! Relative time-outs become points on the process's own clock when the call is first issued, and
//! are remembered; issued again, the call waits for what is left of them, on this host or another.
//! Wall-clock time-outs are compared with the present host's wall clock.

use crate::abi::{EVENT_BYTES, Errno, Version, clockid};
use crate::clocks::nanoseconds;
use crate::memory::Memory;
use crate::rights::Rights;
use crate::step::{Halt, Interest, Outcome, Wait};
use crate::streams::HostFile;
use crate::table::{Entry, Resource};
use crate::wasi::{Arguments, Pending, Wasi};
use rustix::event::PollFlags;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Subscriptions of one call at most; more is `EINVAL`.
const SUBSCRIPTIONS_MAX: u32 = 16_384;
/// `subclockflags`: the time-out is a point in time.
const ABSTIME: u16 = 1;
/// `eventrwflags`: the other side has hung up.
const HANGUP: u16 = 1;

/// A poll that waits: which call it was, and when each of its time-outs ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PendingPoll {
    arguments: [u32; 4],
    unstable: bool,
    /// Per subscription, nanoseconds on the process's clock; `u64::MAX` where there is none.
    deadlines: Vec<u64>,
}

impl PendingPoll {
    /// Whether it is of this call.
    pub(crate) fn is_of(&self, version: Version, a: Arguments<'_>) -> bool {
        self.unstable == (version == Version::Unstable) && self.arguments == call_arguments(a)
    }
}

fn call_arguments(a: Arguments<'_>) -> [u32; 4] {
    [a.u32(0), a.u32(1), a.u32(2), a.u32(3)]
}

/// One subscription.
struct Subscription {
    user_data: u64,
    on: On,
}

enum On {
    Clock {
        id: u32,
        timeout: u64,
        absolute: bool,
    },
    Descriptor {
        fd: u32,
        interest: Interest,
    },
}

impl Subscription {
    fn get(m: &Memory<'_>, at: u32, version: Version) -> Result<Subscription, Errno> {
        // The unstable version has an identifier in front of the clock's fields.
        let clock = match version {
            Version::Snapshot1 => 16,
            Version::Unstable => 24,
        };
        let on = match m.get_u8(at + 8)? {
            0 => On::Clock {
                id: m.get_u32(at + clock)?,
                timeout: m.get_u64(at + clock + 8)?,
                absolute: match m.get_u16(at + clock + 24)? {
                    0 => false,
                    ABSTIME => true,
                    _ => return Err(Errno::INVAL),
                },
            },
            1 => On::Descriptor {
                fd: m.get_u32(at + 16)?,
                interest: Interest::READ,
            },
            2 => On::Descriptor {
                fd: m.get_u32(at + 16)?,
                interest: Interest::WRITE,
            },
            _ => return Err(Errno::INVAL),
        };
        Ok(Subscription {
            user_data: m.get_u64(at)?,
            on,
        })
    }

    fn event_type(&self) -> u8 {
        match self.on {
            On::Clock { .. } => 0,
            On::Descriptor {
                interest: Interest::READ,
                ..
            } => 1,
            On::Descriptor { .. } => 2,
        }
    }

    /// Where on the process's clock a time-out ends that was asked for `now`.
    fn deadline(&self, now: u64) -> u64 {
        match self.on {
            On::Clock {
                timeout,
                absolute: false,
                ..
            } => now.saturating_add(timeout),
            On::Clock {
                id: clockid::MONOTONIC,
                timeout,
                absolute: true,
            } => timeout,
            _ => u64::MAX,
        }
    }
}

/// What happened to one subscription.
struct Event {
    error: Errno,
    bytes: u64,
    flags: u16,
}

impl Event {
    const PLAIN: Event = Event {
        error: Errno::SUCCESS,
        bytes: 0,
        flags: 0,
    };

    fn failed(error: Errno) -> Event {
        Event {
            error,
            ..Event::PLAIN
        }
    }

    fn put(&self, m: &mut Memory<'_>, at: u32, subscription: &Subscription) -> Result<(), Errno> {
        let mut bytes = [0; EVENT_BYTES as usize];
        bytes[..8].copy_from_slice(&subscription.user_data.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.error.raw().to_le_bytes());
        bytes[10] = subscription.event_type();
        bytes[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[24..26].copy_from_slice(&self.flags.to_le_bytes());
        m.put(at, &bytes)
    }
}

impl Wasi {
    /// `poll_oneoff(in, out, nsubscriptions, nevents*)`
    pub(crate) fn poll_oneoff(
        &mut self,
        a: Arguments<'_>,
        m: &mut Memory<'_>,
        version: Version,
    ) -> Outcome {
        let [input, output, count, events_count] = call_arguments(a);
        if count == 0 || count > SUBSCRIPTIONS_MAX {
            return Err(Errno::INVAL.into());
        }
        let stride = version.subscription_bytes();
        m.check(input, count * stride)?;
        m.check(output, count * EVENT_BYTES)?;
        m.check(events_count, 4)?;
        let subscriptions = (0..count)
            .map(|index| Subscription::get(m, input + index * stride, version))
            .collect::<Result<Vec<_>, _>>()?;

        let now = nanoseconds(self.clocks.now());
        let deadlines = match self.pending.take() {
            Some(Pending::Poll(poll)) if poll.deadlines.len() == subscriptions.len() => {
                poll.deadlines
            }
            _ => subscriptions
                .iter()
                .map(|subscription| subscription.deadline(now))
                .collect(),
        };
        let mut wait = Wait::default();
        let mut written = 0;
        let mut ready = self.ready(&subscriptions).into_iter();
        for (subscription, &deadline) in subscriptions.iter().zip(&deadlines) {
            let event = match subscription.on {
                On::Clock {
                    id,
                    timeout,
                    absolute,
                } => {
                    let deadline = match (id, absolute) {
                        (clockid::REALTIME, true) => {
                            let left = timeout.saturating_sub(nanoseconds(self.clocks.realtime()));
                            Ok(now.saturating_add(left))
                        }
                        (clockid::REALTIME | clockid::MONOTONIC, _) => Ok(deadline),
                        (clockid::PROCESS_CPUTIME | clockid::THREAD_CPUTIME, _) => {
                            Err(Errno::NOTSUP)
                        }
                        _ => Err(Errno::INVAL),
                    };
                    clock_event(deadline, now, &mut wait)
                }
                On::Descriptor { fd, interest } => {
                    self.descriptor_event(fd, interest, &mut ready, &mut wait)
                }
            };
            if let Some(event) = event {
                event.put(m, output + written * EVENT_BYTES, subscription)?;
                written += 1;
            }
        }
        if written > 0 {
            return Ok(m.put_u32(events_count, written)?);
        }
        self.pending = Some(Pending::Poll(PendingPoll {
            arguments: call_arguments(a),
            unstable: version == Version::Unstable,
            deadlines,
        }));
        Err(Halt::Wait(wait))
    }

    /// What of all descriptors is ready that the kernel has to be asked about, in their order.
    fn ready(&self, subscriptions: &[Subscription]) -> Vec<PollFlags> {
        let of = |subscription: &Subscription| match subscription.on {
            On::Descriptor { fd, interest } => {
                let host = self.polled(fd).ok()?.host()?;
                Some((host, interest))
            }
            On::Clock { .. } => None,
        };
        let all: Vec<_> = subscriptions.iter().filter_map(of).collect();
        HostFile::all_ready(&all)
    }

    fn polled(&self, fd: u32) -> Result<&Entry, Errno> {
        let entry = self.table.get(fd)?;
        entry.require(Rights::POLL_FD_READWRITE)?;
        Ok(entry)
    }

    /// What is to be said of a descriptor now; if nothing, adds it to what is waited for.
    fn descriptor_event(
        &self,
        fd: u32,
        interest: Interest,
        ready: &mut impl Iterator<Item = PollFlags>,
        wait: &mut Wait,
    ) -> Option<Event> {
        let entry = match self.polled(fd) {
            Ok(entry) => entry,
            Err(errno) => return Some(Event::failed(errno)),
        };
        let Some(host) = entry.host() else {
            let bytes = match &entry.resource {
                Resource::Stdio { stream, .. } if interest.read => stream.bytes_ready(),
                _ => 0,
            };
            return Some(Event {
                bytes,
                ..Event::PLAIN
            });
        };
        let ready = ready.next()?;
        if ready.is_empty() {
            wait.add(host.fd(), interest);
            return None;
        }
        if ready.contains(PollFlags::NVAL) {
            return Some(Event::failed(Errno::BADF));
        }
        let hangup = ready.intersects(PollFlags::HUP | PollFlags::ERR);
        Some(Event {
            error: Errno::SUCCESS,
            bytes: if interest.read { host.bytes_ready() } else { 0 },
            flags: if hangup { HANGUP } else { 0 },
        })
    }
}

/// What is to be said of a time-out now; if nothing, adds it to what is waited for.
fn clock_event(deadline: Result<u64, Errno>, now: u64, wait: &mut Wait) -> Option<Event> {
    match deadline {
        Err(errno) => Some(Event::failed(errno)),
        Ok(deadline) if deadline <= now => Some(Event::PLAIN),
        Ok(u64::MAX) => None,
        Ok(deadline) => {
            let deadline = Duration::from_nanos(deadline);
            wait.deadline = Some(
                wait.deadline
                    .map_or(deadline, |sooner| sooner.min(deadline)),
            );
            None
        }
    }
}
