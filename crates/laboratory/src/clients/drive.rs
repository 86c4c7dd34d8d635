//! The thread of all clients: [`Driver`].

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::connection::Client;
use super::{Answer, ClientsError, Orders, Pace, Shared, us};

const EVENTS_MAX: usize = 256;
/// How often it is looked whether the load ends, and whether what did not fit fits now.
const TICK: Duration = Duration::from_millis(5);
/// How long answers are waited for at the end. What has none by then has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two attempts to connect again.
const CONNECT_EVERY: Duration = Duration::from_millis(10);

pub(super) struct Driver {
    clients: Vec<Client>,
    epoll: OwnedFd,
    pace: Pace,
    begun: Instant,
    shared: Arc<Shared>,
    /// Requests that were due until now.
    due: u64,
    connect_again_at: Instant,
    /// Of this turn.
    answers: Vec<Answer>,
    failed: u64,
    faults: Vec<String>,
}

impl Driver {
    pub(super) fn new(
        orders: &Orders,
        begun: Instant,
        shared: Arc<Shared>,
    ) -> Result<Self, ClientsError> {
        let epoll =
            epoll::create(CreateFlags::CLOEXEC).map_err(|e| ClientsError::Start(e.into()))?;
        let keys = orders.keys / orders.clients.max(1) as u64;
        let connect = |number| {
            let client = Client::connect(number, orders.address, keys as usize);
            client.map_err(ClientsError::Connect)
        };
        let clients = (0..orders.clients.max(1) as u32).map(connect);
        let driver = Self {
            clients: clients.collect::<Result<_, _>>()?,
            epoll,
            pace: orders.pace,
            begun,
            shared,
            due: 0,
            connect_again_at: begun,
            answers: Vec::new(),
            failed: 0,
            faults: Vec::new(),
        };
        for number in 0..driver.clients.len() {
            driver
                .watch(number)
                .map_err(|errno| ClientsError::Start(errno.into()))?;
        }
        Ok(driver)
    }

    fn watch(&self, number: usize) -> rustix::io::Result<()> {
        let Some(stream) = self.clients[number].stream() else {
            return Ok(());
        };
        let data = EventData::new_u64(number as u64);
        epoll::add(&self.epoll, stream, data, EventFlags::IN)
    }

    pub(super) fn run(mut self) {
        if self.pace == Pace::Closed {
            (0..self.clients.len()).for_each(|number| self.ask(number, self.now_us()));
        }
        let mut ends_at = None;
        loop {
            if self.shared.ends.load(Ordering::Relaxed) {
                let until = *ends_at.get_or_insert_with(|| Instant::now() + PATIENCE);
                if self.clients.iter().all(Client::is_idle) || Instant::now() > until {
                    break;
                }
            }
            let wake = match (self.pace, ends_at) {
                (Pace::Open(rate), None) => self.let_due(rate),
                _ => TICK,
            };
            self.see_to_connections();
            self.wait(wake, ends_at.is_some());
            self.publish();
        }
        for number in 0..self.clients.len() {
            if !self.clients[number].is_idle() {
                self.lose(number, "no answer");
            }
        }
        self.publish();
    }

    fn now_us(&self) -> u64 {
        us(self.begun.elapsed())
    }

    /// Asks for all that is due by now. How long until the next is.
    fn let_due(&mut self, rate: f64) -> Duration {
        let due_us = |number: u64| (number as f64 * 1e6 / rate) as u64;
        while due_us(self.due) <= self.now_us() {
            let number = (self.due % self.clients.len() as u64) as usize;
            self.ask(number, due_us(self.due));
            self.due += 1;
        }
        TICK.min(Duration::from_micros(
            due_us(self.due).saturating_sub(self.now_us()),
        ))
    }

    fn ask(&mut self, number: usize, due_us: u64) {
        let client = &mut self.clients[number];
        if client.stream().is_none() {
            self.failed += 1;
            return;
        }
        client.ask(due_us);
        if let Err(error) = client.send() {
            self.lose(number, &error.to_string());
        }
    }

    /// Waits for answers, or so long.
    fn wait(&mut self, wake: Duration, ends: bool) {
        let mut events = Vec::<Event>::with_capacity(EVENTS_MAX);
        let timeout = wake.try_into().ok();
        let buffer = rustix::buffer::spare_capacity(&mut events);
        // An interrupted wait is a turn in which nothing came.
        let _ = epoll::wait(&self.epoll, buffer, timeout.as_ref());
        for event in &events {
            self.receive(event.data.u64() as usize, ends);
        }
    }

    fn receive(&mut self, number: usize, ends: bool) {
        let (at_us, before) = (self.now_us(), self.answers.len());
        let (answers, faults) = (&mut self.answers, &mut self.faults);
        let received = self.clients[number].receive(&mut |checked| match checked {
            Ok(due_us) => answers.push(Answer {
                client: number as u32,
                due_us,
                at_us,
            }),
            Err(fault) => faults.push(fault),
        });
        if let Err(error) = received {
            self.lose(number, &error.to_string());
        }
        if self.pace == Pace::Closed && !ends {
            for _ in before..self.answers.len() {
                self.ask(number, at_us);
            }
        }
    }

    /// A connection is gone. That has failed, too, if there was no request on it.
    fn lose(&mut self, number: usize, why: &str) {
        let lost = self.clients[number].broke() as u64;
        self.failed += lost.max(1);
        let first = &mut self.shared.seen().tally.first_fault;
        first.get_or_insert_with(|| format!("client {number}, {lost} requests: {why}"));
    }

    /// Sends what did not fit, and connects those again whose connection broke.
    fn see_to_connections(&mut self) {
        let connects = Instant::now() >= self.connect_again_at;
        for number in 0..self.clients.len() {
            let client = &mut self.clients[number];
            if client.is_full()
                && let Err(error) = client.send()
            {
                self.lose(number, &error.to_string());
            }
            if !connects || self.clients[number].stream().is_some() {
                continue;
            }
            self.connect_again_at = Instant::now() + CONNECT_EVERY;
            if self.clients[number].connect_again().is_err() || self.watch(number).is_err() {
                return;
            }
            if self.pace == Pace::Closed {
                self.ask(number, self.now_us());
            }
        }
    }

    fn publish(&mut self) {
        let seen = &mut *self.shared.seen();
        seen.tally.answered += self.answers.len() as u64;
        seen.tally.failed += std::mem::take(&mut self.failed);
        seen.tally.wrong += self.faults.len() as u64;
        seen.answers.append(&mut self.answers);
        for fault in self.faults.drain(..) {
            seen.tally.first_fault.get_or_insert(fault);
        }
    }
}
