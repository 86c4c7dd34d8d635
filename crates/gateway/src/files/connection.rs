//! [`Connection`]: one connection as a state machine without I/O. It is the same under every model: a model asks for the
//! next [`Step`], does it in its own way, and says what came of it.
//!
//! ```text
//!              ┌────────────────────── kept ───────────────────────┐
//!              ▼                                                    │
//!          Receiving ──a head──► Finding ──an answer──► Sending ────┤
//!              │                                           ▲        └─closed─► Finishing ──► Lingering
//!              └───────── refused, or out of time ─────────┘
//! ```
//! From everywhere, a client that is gone leads to `Closed`, and one that takes too long there by `GivingUp`.

use std::borrow::Cow;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sterna_threads::Cancelled;

use super::answer::{Answer, Outgoing};
use super::log::Record;
use super::request::{self, Method, Read, Refusal, Request};
use super::site::{Patience, Site, WouldWait};
use super::status::Status;

/// After a last response, for so long and so much what the client still sends is read and thrown away. Otherwise the
/// kernel would reset the connection, and the response might be lost (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// Bytes that the kernels of both sides hold at most between a server and a client that takes them (`tcp_wmem` and
/// `tcp_rmem` in tcp(7), as they usually are). While a client takes of these, nothing is seen of it.
const HELD_MAX: u64 = 8 * 1024 * 1024;

pub(crate) struct Connection {
    site: Arc<Site>,
    peer: IpAddr,
    /// What has arrived and was not looked at, or is the beginning of a head.
    input: Vec<u8>,
    /// Bytes of a body that are still to be thrown away.
    skip: u64,
    /// The connection goes on after the response.
    keep: bool,
    /// The client sends no more.
    ended: bool,
    state: State,
    deadline: Instant,
}

enum State {
    Receiving,
    Finding(Arc<Request>),
    Sending(Box<Sending>),
    Finishing,
    Lingering { left: usize },
    GivingUp,
    Closed,
}

struct Sending {
    answer: Answer,
    record: Option<Record>,
    /// Bytes that the kernel has taken, head included.
    taken: u64,
    /// Until all of it must be sent.
    until: Instant,
}

/// What to do next.
pub(crate) enum Step<'a> {
    /// Wait for bytes: [`received`](Connection::received), [`ended`](Connection::ended).
    Receive,
    /// Look a file up: [`found`](Connection::found).
    Find(Inquiry<'a>),
    /// Send as much as can be sent: [`sent`](Connection::sent), [`fell_short`](Connection::fell_short).
    Send(Outgoing<'a>),
    /// End the direction that is written: [`finished`](Connection::finished).
    Finish,
    /// Let the end of the socket be a reset: [`gave_up`](Connection::gave_up). What the kernel still holds for a client
    /// that takes nothing is thrown away with it.
    Reset,
    Close,
}

/// A look-up that is to be made. A clone can be made elsewhere, while the connection waits.
#[derive(Clone)]
pub(crate) struct Inquiry<'a> {
    site: Cow<'a, Arc<Site>>,
    request: Cow<'a, Arc<Request>>,
    keep: bool,
}

impl Inquiry<'_> {
    pub(crate) fn into_owned(self) -> Inquiry<'static> {
        Inquiry {
            site: Cow::Owned(self.site.into_owned()),
            request: Cow::Owned(self.request.into_owned()),
            keep: self.keep,
        }
    }

    /// However long it takes.
    pub(crate) fn make(&self) -> Answer {
        self.find(Patience::Any)
            .unwrap_or_else(|WouldWait| self.failed())
    }

    /// Without waiting for the disk, if that can be done.
    pub(crate) fn try_make(&self) -> Option<Answer> {
        self.find(Patience::None).ok()
    }

    fn find(&self, patience: Patience) -> Result<Answer, WouldWait> {
        let find = || self.site.find(&self.request, self.keep, patience);
        unless_it_panics(find).unwrap_or_else(|| Ok(self.failed()))
    }

    fn failed(&self) -> Answer {
        let status = Status::INTERNAL_SERVER_ERROR;
        Answer::refusal(status, self.request.method, self.keep)
    }
}

/// A panic is that of one request alone, whoever makes its answer and for whom else. That a thread is cancelled is none.
pub(crate) fn unless_it_panics<T>(make: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(make)) {
        Ok(made) => Some(made),
        Err(payload) if payload.is::<Cancelled>() => resume_unwind(payload),
        Err(_) => None,
    }
}

impl Connection {
    pub(crate) fn new(site: Arc<Site>, peer: IpAddr, now: Instant) -> Self {
        site.counts.connections.fetch_add(1, Ordering::Relaxed);
        Self {
            deadline: now + site.settings.limits.idle_time,
            site,
            peer,
            input: Vec::new(),
            skip: 0,
            keep: true,
            ended: false,
            state: State::Receiving,
        }
    }

    pub(crate) fn step(&self) -> Step<'_> {
        match &self.state {
            State::Receiving | State::Lingering { .. } => Step::Receive,
            State::Finding(request) => Step::Find(Inquiry {
                site: Cow::Borrowed(&self.site),
                request: Cow::Borrowed(request),
                keep: self.keep,
            }),
            State::Sending(sending) => Step::Send(sending.answer.next()),
            State::Finishing => Step::Finish,
            State::GivingUp => Step::Reset,
            State::Closed => Step::Close,
        }
    }

    /// Until when the present step must have made progress.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Between requests, with nothing of the next.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.state, State::Receiving) && self.input.is_empty() && self.skip == 0
    }

    /// Nothing is lost if it ends now: between requests, or after a last response.
    pub(crate) fn may_end(&self) -> bool {
        self.is_idle() || matches!(self.state, State::Lingering { .. })
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Waits for the client to send.
    pub(crate) fn is_receiving(&self) -> bool {
        matches!(self.state, State::Receiving | State::Lingering { .. })
    }

    pub(crate) fn received(&mut self, bytes: &[u8], now: Instant) {
        match &mut self.state {
            State::Lingering { left } => match left.checked_sub(bytes.len()) {
                Some(rest) => *left = rest,
                None => self.state = State::Closed,
            },
            State::Receiving => {
                if self.is_idle() {
                    self.deadline = now + self.site.settings.limits.head_time;
                }
                self.input.extend_from_slice(bytes);
                self.look(now);
            }
            _ => self.input.extend_from_slice(bytes),
        }
    }

    /// The client sends no more. What it has asked for it still gets.
    pub(crate) fn ended(&mut self) {
        self.ended = true;
        if self.is_receiving() {
            self.state = State::Closed;
        }
    }

    /// The deadline has passed.
    pub(crate) fn timed_out(&mut self, now: Instant) {
        if matches!(self.state, State::Receiving) && !self.input.is_empty() {
            self.refuse(Status::REQUEST_TIMEOUT, Vec::new(), now);
        } else if matches!(self.state, State::Sending(_)) {
            self.conclude();
            self.state = State::GivingUp;
        } else {
            self.break_off();
        }
    }

    /// The end will be a reset.
    pub(crate) fn gave_up(&mut self) {
        self.state = State::Closed;
    }

    pub(crate) fn found(&mut self, answer: Answer, now: Instant) {
        if let State::Finding(request) = std::mem::replace(&mut self.state, State::Closed) {
            let record = self
                .site
                .log
                .as_ref()
                .map(|_| self.record(&request, &answer));
            self.send(answer, record, now);
        }
    }

    pub(crate) fn sent(&mut self, bytes: u64, now: Instant) {
        let State::Sending(sending) = &mut self.state else {
            return;
        };
        sending.answer.advance(bytes);
        if sending.answer.is_sent() {
            self.conclude();
            self.go_on(now);
        } else {
            // A client that takes slowly first takes what the kernels hold for it, and meanwhile cannot be told from one
            // that takes nothing.
            sending.taken += bytes;
            let held = sending.taken.min(HELD_MAX);
            let stalled = now + self.site.settings.limits.response_time(held);
            self.deadline = stalled.min(sending.until);
        }
    }

    /// The file is shorter than it was when its length was announced. The client can only be told by ending early.
    pub(crate) fn fell_short(&mut self) {
        self.break_off();
    }

    /// The client is gone, or something else went wrong that cannot be told.
    pub(crate) fn break_off(&mut self) {
        self.conclude();
        self.state = State::Closed;
    }

    /// The direction that is written has ended.
    pub(crate) fn finished(&mut self) {
        self.state = if self.ended {
            State::Closed
        } else {
            State::Lingering {
                left: LINGER_BYTES_MAX,
            }
        };
    }

    /// Looks for the next request in what has arrived.
    fn look(&mut self, now: Instant) {
        if self.skip > 0 {
            let present = self.skip.min(self.input.len() as u64);
            self.input.drain(..present as usize);
            self.skip -= present;
        }
        if self.input.is_empty() {
            // An idle connection is to cost as little as can be.
            self.input = Vec::new();
            if self.skip == 0 {
                self.deadline = now + self.site.settings.limits.idle_time;
            }
            if self.ended || (self.skip == 0 && self.site.stop.is_requested()) {
                self.state = State::Closed;
            }
            return;
        }
        match request::read(&self.input, &self.site.settings.limits) {
            Read::Partial if self.ended => self.state = State::Closed,
            Read::Partial => {}
            Read::Whole { request, length } => {
                self.input.drain(..length);
                self.skip = request.body;
                self.keep = request.keep && !self.site.stop.is_requested();
                self.state = State::Finding(request);
            }
            Read::Refused(Refusal { status, called }) => self.refuse(status, called, now),
        }
    }

    /// Answers what cannot be understood, and ends.
    fn refuse(&mut self, status: Status, called: Vec<u8>, now: Instant) {
        self.keep = false;
        let answer = Answer::refusal(status, Method::Get, false);
        let record = self.site.log.as_ref().map(|_| Record {
            peer: self.peer,
            called,
            status,
            bytes: 0,
            referer: None,
            agent: None,
        });
        self.send(answer, record, now);
    }

    fn send(&mut self, answer: Answer, record: Option<Record>, now: Instant) {
        let limits = &self.site.settings.limits;
        let until = now + limits.response_time(answer.total());
        self.deadline = until.min(now + limits.stall_time);
        self.state = State::Sending(Box::new(Sending {
            answer,
            record,
            taken: 0,
            until,
        }));
    }

    fn record(&self, request: &Request, answer: &Answer) -> Record {
        let method = match request.method {
            Method::Get => "GET",
            Method::Head => "HEAD",
        };
        let version = if request.is_modern { "1.1" } else { "1.0" };
        Record {
            peer: self.peer,
            called: format!("{method} {} HTTP/{version}", request.target).into_bytes(),
            status: answer.status,
            bytes: 0,
            referer: request.referer.clone(),
            agent: request.agent.clone(),
        }
    }

    /// A response has ended, one way or another.
    fn conclude(&mut self) {
        let State::Sending(sending) = &mut self.state else {
            return;
        };
        self.site.counts.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(file) = sending.answer.file() {
            self.site.is_done_with(file);
        }
        if let (Some(log), Some(record)) = (&self.site.log, &mut sending.record) {
            record.bytes = sending.answer.body_sent();
            log.add(record);
        }
    }

    /// After a whole response.
    fn go_on(&mut self, now: Instant) {
        if self.keep {
            self.deadline = now + self.site.settings.limits.head_time;
            self.state = State::Receiving;
            self.look(now);
        } else {
            self.input = Vec::new();
            self.deadline = now + LINGER;
            self.state = State::Finishing;
        }
    }
}

/// Whoever is cut off in the middle of a response is in the log with what they got.
impl Drop for Connection {
    fn drop(&mut self) {
        self.conclude();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_one_requests_and_a_cancelled_thread_ends() {
        assert_eq!(unless_it_panics(|| 7), Some(7));
        let fails = || -> u8 { resume_unwind(Box::new("a fault")) };
        assert_eq!(unless_it_panics(fails), None);
        let cancelled = || -> u8 { resume_unwind(Box::new(Cancelled)) };
        let ended = catch_unwind(|| unless_it_panics(cancelled));
        assert!(ended.unwrap_err().is::<Cancelled>());
    }
}
