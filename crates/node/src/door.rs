//! The one door: every request comes with an [`Authority`], and [`permit`] says whether that is enough.
//!
//! | | local user | member | stranger |
//! |---|---|---|---|
//! | status, nodes | yes | yes | |
//! | invite, join, remove, stop | yes | | |
//! | status of the registry, its backups, moving it | yes | | |
//! | be admitted | | yes, to no effect | yes, with a ticket |
//! | registry | | yes; it looks at whose records they are | |
//! | processes | yes | yes, but for finding and listing them and their nodes | |
//! | messages, channels and programs of moves | | yes; only the two nodes of a move are heard | |
//! | open a port for a process; serve its clients | | yes; only the node that has it serves them | |
//! | take a port of a process over | | yes; only from the node that has it | |
//! | take a piece of the registry; follow it | | yes; from its home only; as far as it is signed | |
//!
//! A removed node is nobody, with a ticket or without; but it may read what became of the processes that it had, and let go of them.

use sterna_migration::NodeId;

use crate::message::{Failure, FailureKind, HostingRequest, RegistryRequest, Request, Roster};

/// On whose behalf a request is made, as far as that was proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// A process of this machine, which the kernel says belongs to this user (`SO_PEERCRED`).
    Local {
        /// The user.
        uid: u32,
    },
    /// A node of this cluster, by its key.
    Member(NodeId),
    /// A node that belonged to this cluster and was removed.
    Removed(NodeId),
    /// Somebody who has a key.
    Stranger(NodeId),
}

impl Authority {
    /// What the holder of a key is.
    #[must_use]
    pub fn of_key(key: NodeId, roster: &Roster) -> Self {
        if roster.removed.contains(&key) {
            Self::Removed(key)
        } else if roster.member(key).is_some() {
            Self::Member(key)
        } else {
            Self::Stranger(key)
        }
    }

    /// What a local user is to a node that runs as `node_uid`: nothing, unless it is the same or root.
    ///
    /// # Errors
    /// It is another user.
    pub fn of_user(uid: u32, node_uid: u32) -> Result<Self, Failure> {
        match uid == node_uid || uid == 0 {
            true => Ok(Self::Local { uid }),
            false => Err(forbidden(format!(
                "this node belongs to user {node_uid}, and you are user {uid}"
            ))),
        }
    }
}

/// Whether a request may be made on this authority.
///
/// # Errors
/// It may not.
pub fn permit(authority: Authority, request: &Request) -> Result<(), Failure> {
    use Authority::{Local, Member, Removed, Stranger};
    use Request::{
        Admit, Hosting, Invite, Join, Nodes, Paging, Registry, RegistryBackup, RegistryMove,
        RegistryMoved, RegistryRestore, RegistryStatus, RegistryTake, Remove, Status, Stop,
    };
    match (authority, request) {
        // It lets go of what was given up with it.
        (Removed(_), Registry(RegistryRequest::Record { .. })) => Ok(()),
        (Removed(_), _) => Err(Failure::new(
            FailureKind::Removed,
            "this node was removed from the cluster; to come back it has to be a new node: \
             start it with another data directory, and join again",
        )),
        (Local { .. } | Member(_), Status | Nodes | Paging { .. })
        | (Local { .. }, Invite { .. } | Join { .. } | Remove { .. } | Stop { .. })
        | (
            Local { .. },
            RegistryStatus | RegistryBackup { .. } | RegistryRestore { .. } | RegistryMove { .. },
        )
        | (Member(_) | Stranger(_), Admit { .. })
        | (Member(_), Registry(_) | RegistryTake(_) | RegistryMoved(_)) => Ok(()),
        (Local { .. }, Hosting(request)) if !is_between_nodes(request) => Ok(()),
        (Member(_), Hosting(request)) if !is_for_users(request) => Ok(()),
        (Stranger(_), _) => Err(forbidden(
            "this node does not know you: join its cluster with a ticket of `sterna node invite`",
        )),
        (Member(_), _) => Err(forbidden(
            "only users of the node's own machine may ask that",
        )),
        (
            Local { .. },
            Admit { .. } | Registry(_) | RegistryTake(_) | RegistryMoved(_) | Hosting(_),
        ) => Err(forbidden("only nodes may ask that")),
    }
}

/// What nodes say to each other in a move.
const fn is_between_nodes(request: &HostingRequest) -> bool {
    matches!(
        request,
        HostingRequest::Message { .. }
            | HostingRequest::Channel { .. }
            | HostingRequest::SaltedChannel(..)
            | HostingRequest::Program { .. }
            | HostingRequest::MayCome { .. }
            | HostingRequest::LogPart { .. }
            | HostingRequest::LogPartBefore { .. }
            | HostingRequest::Shelf { .. }
            | HostingRequest::Adopt { .. }
            | HostingRequest::TreesMayCome { .. }
            | HostingRequest::Tree { .. }
            | HostingRequest::TreePieces { .. }
            | HostingRequest::TreesStill { .. }
            | HostingRequest::Forgotten { .. }
            | HostingRequest::Listen { .. }
            | HostingRequest::Unlisten { .. }
            | HostingRequest::Clients { .. }
            | HostingRequest::KeptCopy { .. }
            | HostingRequest::TakePort { .. }
    )
}

/// What each node's users ask that node, which asks the others what it needs.
const fn is_for_users(request: &HostingRequest) -> bool {
    matches!(
        request,
        HostingRequest::List { .. }
            | HostingRequest::ListPage { .. }
            | HostingRequest::Find { .. }
            | HostingRequest::EventsOf { .. }
            | HostingRequest::Rooms
            | HostingRequest::Thaw(_)
    )
}

fn forbidden(message: impl ToString) -> Failure {
    Failure::new(FailureKind::Forbidden, message)
}

#[cfg(test)]
mod tests {
    use sterna_process::{Epoch, Limits, ProcessId, ProgramId, Tag};

    use super::*;
    use crate::message::{Candidate, DrainOrder, Remains, ThawOrder, TicketText};
    use crate::ticket::Secret;

    // long because: a row for each request
    #[test]
    fn the_table_holds() {
        let id = NodeId::from_bytes([7; 32]);
        let candidate = Candidate {
            name: "n".into(),
            addresses: vec![],
            software: "1".into(),
            confinement: "full".into(),
        };
        let thaw = Box::new(ThawOrder {
            process: ProcessId::from_bytes([1; 16]),
            epoch: Epoch::FIRST,
            grant: None,
            kind: Tag::new("wasm"),
            program: ProgramId::of(b""),
            file: String::new(),
            name: None,
            limits: Limits::default(),
            is_bound: false,
        });
        let requests = [
            (Request::Status, "lm"),
            (Request::Nodes, "lm"),
            (Request::Paging { node: id }, "lm"),
            (Request::Invite { valid_ms: 1 }, "l"),
            (
                Request::Join {
                    ticket: TicketText(String::new()),
                },
                "l",
            ),
            (Request::Remove { node: id }, "l"),
            (
                Request::Stop {
                    remains: Remains::Left,
                },
                "l",
            ),
            (Request::RegistryStatus, "l"),
            (Request::RegistryMove { to: id }, "l"),
            (Request::RegistryMoved(Vec::new()), "m"),
            (
                Request::RegistryTake(crate::message::Piece {
                    number: 1,
                    total: 1,
                    offset: 0,
                    hash: [0; 32],
                    bytes: vec![0],
                }),
                "m",
            ),
            (Request::RegistryBackup { file: "/x".into() }, "l"),
            (Request::RegistryRestore { file: "/x".into() }, "l"),
            (
                Request::Admit {
                    secret: Secret::random(),
                    candidate,
                },
                "ms",
            ),
            (Request::Registry(RegistryRequest::Roster { after: 0 }), "m"),
            (
                Request::Registry(RegistryRequest::Record {
                    process: ProcessId::from_bytes([1; 16]),
                }),
                "mr",
            ),
            (Request::Hosting(HostingRequest::Held), "lm"),
            (Request::Hosting(HostingRequest::List { ended: false }), "l"),
            (Request::Hosting(HostingRequest::Rooms), "l"),
            (Request::Hosting(HostingRequest::Thaw(thaw.clone())), "l"),
            (Request::Hosting(HostingRequest::ThawAt(thaw, id)), "lm"),
            (
                Request::Hosting(HostingRequest::Drain {
                    node: id,
                    order: DrainOrder::Cancel,
                }),
                "lm",
            ),
            (
                Request::Hosting(HostingRequest::Message { bytes: vec![] }),
                "m",
            ),
            (
                Request::Hosting(HostingRequest::Forgotten {
                    process: ProcessId::from_bytes([1; 16]),
                }),
                "m",
            ),
            (
                Request::Hosting(HostingRequest::Clients {
                    process: ProcessId::from_bytes([1; 16]),
                    index: 0,
                    port: 1,
                }),
                "m",
            ),
            (
                Request::Hosting(HostingRequest::KeptCopy {
                    process: ProcessId::from_bytes([1; 16]),
                }),
                "m",
            ),
        ];
        let authorities = [
            ('l', Authority::Local { uid: 1 }),
            ('m', Authority::Member(id)),
            ('s', Authority::Stranger(id)),
            ('r', Authority::Removed(id)),
        ];
        for (request, allowed) in requests {
            for (letter, authority) in authorities {
                let permitted = permit(authority, &request).is_ok();
                assert_eq!(
                    permitted,
                    allowed.contains(letter),
                    "{authority:?} {request:?}"
                );
            }
        }
    }

    #[test]
    fn other_users_are_nobody() {
        assert!(Authority::of_user(1000, 1000).is_ok());
        assert!(Authority::of_user(0, 1000).is_ok());
        assert!(Authority::of_user(1001, 1000).is_err());
        assert!(Authority::of_user(1000, 0).is_err());
    }
}
