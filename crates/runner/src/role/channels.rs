//! Connections to the other runner of a move, as they are handed over.

use std::net::TcpStream;
use std::sync::Arc;

use sterna_migration::{Attempt, NodeId};

use super::{Role, Service};
use crate::channel::{self, End};
use crate::hosted::Stage;
use crate::leaving::{Outgoing, chain};
use crate::message::Secret;
use crate::{arriving, rest};

impl Role {
    /// The source of a move has connected: what it sends is taken if the process comes from there.
    pub(super) fn channel_here(
        self: &Arc<Self>,
        service: &Service,
        (attempt, source, lane): (Attempt, NodeId, bool),
        connection: TcpStream,
        secret: &Secret,
    ) -> Result<(), String> {
        let hosted = self.find(attempt.process)?;
        // What is left of its memory may find it here already.
        let follows = lane && hosted.follows(attempt, source);
        let is_expected = match &hosted.lock().stage {
            Stage::Arriving(arrival) => arrival.attempt == attempt && arrival.comes_from(source),
            _ => follows,
        };
        if !is_expected {
            return Err(format!("no such move comes from node {source}"));
        }
        let both = channel::open(connection, secret, End::Target).map_err(|error| chain(&error))?;
        let taken = match lane {
            true => rest::receive_lane(&hosted, attempt, both.1),
            false => arriving::receive(self, service, &hosted, attempt, both),
        };
        taken.map_err(|error| chain(&error))
    }

    /// There is a connection to the target of a move.
    pub(super) fn channel_away(
        &self,
        attempt: Attempt,
        connection: TcpStream,
        secret: &Secret,
    ) -> Result<(), String> {
        let hosted = self.find(attempt.process)?;
        let failed = |error: crate::channel::ChannelError| chain(&error);
        let (sender, receiver) = channel::open(connection, secret, End::Source).map_err(failed)?;
        let outgoing = Outgoing::start(sender, receiver).map_err(failed)?;
        let before = hosted.lock().outgoing.replace((attempt, outgoing));
        if let Some((_, before)) = before {
            before.hang_up();
        }
        Ok(())
    }

    /// There is one more connection to the target of a move.
    pub(super) fn lane_away(
        &self,
        attempt: Attempt,
        connection: TcpStream,
        secret: &Secret,
    ) -> Result<(), String> {
        let gone = "there is no connection to the target's runner";
        let outgoing = self.find(attempt.process)?.outgoing(attempt).ok_or(gone)?;
        let opened = channel::open(connection, secret, End::Source);
        opened
            .and_then(|(lane, _)| outgoing.add_lane(lane))
            .map_err(|error| chain(&error))
    }
}
