//! How a world comes to rest, and what must be true then.

use std::collections::VecDeque;

use super::{Broken, NODES, QUIET_ROUNDS, SETTLE_MAX, State, World};
use crate::world::{User, check};

impl World {
    /// Nothing gets lost any more, and everybody finishes: the process runs at one node, and all that was sent is there.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        self.under_way.clear();
        let owner = self.record.owner;
        match self.nodes.get_mut(&owner) {
            Some(held) => {
                held.state = match held.state {
                    State::Ready { from } if from == self.record => {
                        return Err("it is ready where it is owned".into());
                    }
                    _ => State::Running {
                        epoch: self.record.epoch,
                    },
                };
                for id in held.back.open().collect::<Vec<_>>() {
                    held.deliver(id);
                }
            }
            None => return Err("it is nowhere".into()),
        }
        for node in 0..NODES {
            if node != owner {
                if let (Some(held), Broken::Nothing) = (self.nodes.get(&node), self.broken)
                    && matches!(held.state, State::Running { .. })
                {
                    return Err("it runs where it is not owned".into());
                }
                self.forget(node);
            }
        }
        self.attach(owner, self.record.epoch);
        let mut quiet = 0;
        for _ in 0..SETTLE_MAX {
            if let Some(held) = self.nodes.get_mut(&owner) {
                for (id, process) in self.process.iter_mut().filter(|(_, user)| !user.gone) {
                    let (unread, end) = held.pairs.entry(*id).or_default();
                    let read: Vec<u8> = unread.drain(..).collect();
                    let saw_end = *end;
                    check(*id, false, process, &read)?;
                    process.saw_end |= saw_end;
                    held.deliver(*id);
                }
            }
            self.pass_on()?;
            self.see_to_events()?;
            let idle = !self.front.has_something()
                && self.nodes.values().all(|held| !held.back.has_something())
                && self
                    .link
                    .iter()
                    .all(|link| link.ways.iter().all(VecDeque::is_empty));
            quiet = if idle { quiet + 1 } else { 0 };
            if quiet == QUIET_ROUNDS {
                return self.compare();
            }
        }
        Err("it does not come to rest".into())
    }

    fn compare(&self) -> Result<(), String> {
        let default = User::default();
        for (id, client) in self.clients.iter().filter(|(_, client)| !client.broke) {
            let process = self.process.get(id).unwrap_or(&default);
            let to_client = client.received == process.sent && client.saw_end == process.has_ended;
            let to_process = process.received == client.sent && process.saw_end == client.has_ended;
            let is_right = self.process.contains_key(id)
                && to_client
                && (process.gone || to_process)
                && client.gone == process.gone;
            if !is_right {
                return Err(format!("{id:?}: client {client:?}, process {process:?}"));
            }
        }
        Ok(())
    }
}
