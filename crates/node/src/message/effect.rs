//! What requests do where they arrive: [`Effect`].

use sterna_runner::message::FileDeed;

use super::{Deed, DrainOrder, HostingRequest, RegistryRequest, Request, ShelfRequest};

/// What a request does, for whoever gets no answer to it and does not know whether it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing that is not made good by the next: it may be made again, and is given up with its connection.
    None,
    /// The same however often it is made. Once read it is carried out to its end, as is the next.
    Once,
    /// Something each time that it is made.
    EachTime,
}

impl Request {
    pub(crate) const fn effect(&self) -> Effect {
        match self {
            Self::Status | Self::Nodes | Self::RegistryStatus | Self::Paging { .. } => Effect::None,
            // A ticket can be used again by who has used it.
            Self::Admit { .. } | Self::Remove { .. } | Self::RegistryMoved(_) => Effect::Once,
            Self::Invite { .. }
            | Self::Join { .. }
            | Self::Stop { .. }
            | Self::RegistryMove { .. }
            | Self::RegistryTake(_)
            | Self::RegistryBackup { .. }
            | Self::RegistryRestore { .. } => Effect::EachTime,
            Self::Registry(request) => request.effect(),
            Self::Hosting(request) => request.effect(),
        }
    }
}

impl RegistryRequest {
    /// All changes compare what there is, or say how it is to be.
    const fn effect(&self) -> Effect {
        match self {
            Self::Status
            | Self::Roster { .. }
            | Self::Record { .. }
            | Self::Process { .. }
            | Self::Named { .. }
            | Self::Processes { .. }
            | Self::ProcessesOf { .. }
            | Self::Keepings(_)
            | Self::ProcessesChanged { .. } => Effect::None,
            Self::AddTicket { .. }
            | Self::Admit { .. }
            | Self::Announce(_)
            | Self::Remove { .. }
            | Self::CreateRecord { .. }
            | Self::SwapRecord(_)
            | Self::SetExtra { .. }
            | Self::Forget { .. }
            | Self::AnnounceProcesses { .. }
            | Self::SetKeeping { .. } => Effect::Once,
        }
    }
}

impl HostingRequest {
    // long because: a row for each request
    const fn effect(&self) -> Effect {
        match self {
            Self::List { .. }
            | Self::ListPage { .. }
            | Self::Held
            | Self::Find { .. }
            | Self::Describe { .. }
            | Self::Log { .. }
            | Self::LogPart { .. }
            | Self::LogPartBefore { .. }
            | Self::Wait { .. }
            | Self::MoveNews { .. }
            | Self::MoveProgress { .. }
            | Self::Capacity
            | Self::Events { .. }
            | Self::EventsOf { .. }
            | Self::Program { .. }
            | Self::ProgramOf { .. }
            | Self::MayCome { .. }
            | Self::Look { .. }
            | Self::TreesMayCome { .. }
            | Self::Tree { .. }
            | Self::TreePieces { .. }
            | Self::TreesStill { .. }
            | Self::Rooms
            | Self::KeptCopy { .. }
            | Self::File {
                deed: FileDeed::Look { .. } | FileDeed::List { .. } | FileDeed::Read { .. },
                ..
            }
            | Self::Drain {
                order: DrainOrder::News { .. },
                ..
            }
            | Self::Shelf {
                request: ShelfRequest::Get { .. } | ShelfRequest::List,
                ..
            }
            // Its connection is all there is of it.
            | Self::Clients { .. } => Effect::None,
            Self::Steer {
                deed: Deed::Pause | Deed::Resume | Deed::Kill | Deed::Forget,
                ..
            }
            | Self::CancelMove { .. }
            // Moves take messages that come twice.
            | Self::Message { .. }
            | Self::Channel { .. }
            | Self::SaltedChannel(..)
            | Self::Shelf {
                request: ShelfRequest::Remove { .. },
                ..
            }
            | Self::Resize { .. }
            | Self::Forgotten { .. }
            | Self::Drain {
                order: DrainOrder::Cancel,
                ..
            }
            | Self::Listen { .. }
            | Self::TakePort { .. }
            | Self::Unlisten { .. } => Effect::Once,
            Self::Start(_)
            | Self::StartListening { .. }
            | Self::Input { .. }
            | Self::Move { .. }
            | Self::MoveSo { .. }
            | Self::Snapshot { .. }
            | Self::Recover { .. }
            | Self::Clone { .. }
            | Self::Freeze { .. }
            | Self::Thaw(_)
            | Self::ThawAt(..)
            | Self::Adopt { .. }
            | Self::File { .. }
            | Self::Drain {
                order: DrainOrder::Begin { .. },
                ..
            }
            // The first piece of an object begins it anew.
            | Self::Shelf {
                request: ShelfRequest::Put { .. },
                ..
            } => Effect::EachTime,
        }
    }
}
