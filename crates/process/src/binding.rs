//! How a process holds on to what is outside of it, and what happens to that on a move: [`Binding`].
//!
//! The vocabulary is that of A. Fuggetta, G. P. Picco and G. Vigna, *Understanding Code Mobility*, IEEE
//! Transactions on Software Engineering 24(5), 1998, as textbooks on distributed systems teach it. How
//! strongly a process refers to a resource ([`By`]) and how strongly the resource sticks to its machine
//! ([`Attachment`]) together say what can be done with the reference when the process moves ([`OnMove`]):
//!
//! | | unattached | fastened | fixed |
//! |---|---|---|---|
//! | **by identifier** | move (or global reference) | global reference (or move) | global reference |
//! | **by value** | copy (or move, global reference) | global reference (or copy) | global reference |
//! | **by type** | rebind (or move, copy) | rebind (or global reference, copy) | rebind (or global reference) |
//!
//! [`OnMove::preferred`] is this table's first choice in each cell, and [`Binding::allows`] the whole cell.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::plain::Plain;

/// How strongly a process refers to a resource: the weaker, the more can stand in for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Exactly this one: a URL, a socket's peer, a file that others read as well.
    Identifier,
    /// Any with the same contents: a library, a read-only data file.
    Value,
    /// Any of the same sort: a terminal, a printer, a source of time or randomness.
    Type,
}

/// How strongly a resource sticks to its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attachment {
    /// Easily moved along: a small file that belongs to the program alone.
    Unattached,
    /// Could be moved or copied, at a high price: a database, a whole file tree.
    Fastened,
    /// Cannot be moved: a device, a terminal, a port.
    Fixed,
}

/// What becomes of a reference when its process moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnMove {
    /// The resource stays, and the process reaches it from afar.
    GlobalReference,
    /// The resource goes along.
    Move,
    /// A copy of the resource goes along.
    Copy,
    /// The reference is tied to another resource at the target.
    Rebind,
}

impl OnMove {
    /// The first choice for a reference of this strength to a resource of this attachment.
    ///
    /// ```
    /// use sterna_process::binding::{Attachment, By, OnMove};
    /// assert_eq!(OnMove::preferred(By::Type, Attachment::Fixed), OnMove::Rebind); // standard input
    /// assert_eq!(OnMove::preferred(By::Value, Attachment::Unattached), OnMove::Copy);
    /// ```
    #[must_use]
    pub const fn preferred(by: By, attachment: Attachment) -> Self {
        match (by, attachment) {
            (By::Identifier, Attachment::Unattached) => Self::Move,
            (By::Value, Attachment::Unattached) => Self::Copy,
            (By::Identifier | By::Value, Attachment::Fastened | Attachment::Fixed) => {
                Self::GlobalReference
            }
            (By::Type, _) => Self::Rebind,
        }
    }
}

/// One thing outside of a process that it refers to, as shown to people and to the target's operator.
///
/// In an image that arrives, a binding is a *request*: what the process really gets at the target is what the
/// caller of [`Incoming::finish`](crate::Incoming::finish) hands over as [`Resources`](crate::Resources), and
/// nothing else. Texts come from a program or an image; `Display` escapes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The descriptor in the process, if it has a number.
    pub descriptor: Option<u32>,
    /// What it is to the process, e.g. `standard input`, `directory /data`, `file /data/x.db`.
    pub what: String,
    /// How strongly the process refers to it.
    pub by: By,
    /// How strongly it sticks to its machine.
    pub attachment: Attachment,
    /// What happens to the reference on a move.
    pub on_move: OnMove,
    /// What else matters, e.g. `read-only, at offset 512`.
    pub detail: String,
}

impl Binding {
    /// A binding with the [preferred](OnMove::preferred) way to move.
    #[must_use]
    pub fn new(
        descriptor: Option<u32>,
        what: impl Into<String>,
        by: By,
        attachment: Attachment,
    ) -> Self {
        let on_move = OnMove::preferred(by, attachment);
        Self {
            descriptor,
            what: what.into(),
            by,
            attachment,
            on_move,
            detail: String::new(),
        }
    }

    /// Whether the table in the [module](self) has this way to move for this binding.
    #[must_use]
    pub const fn allows(&self, on_move: OnMove) -> bool {
        use {Attachment as A, OnMove as M};
        match (self.by, self.attachment, on_move) {
            (By::Identifier, A::Unattached | A::Fastened, M::Move) => true,
            (By::Value | By::Type, A::Unattached, M::Move) => true,
            (By::Value | By::Type, A::Unattached | A::Fastened, M::Copy) => true,
            (By::Type, A::Unattached, M::GlobalReference) => false,
            (_, _, M::GlobalReference) => true,
            (By::Type, _, M::Rebind) => true,
            _ => false,
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Identifier => "by identifier",
            Self::Value => "by value",
            Self::Type => "by type",
        })
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unattached => "unattached",
            Self::Fastened => "fastened",
            Self::Fixed => "fixed",
        })
    }
}

impl fmt::Display for OnMove {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::GlobalReference => "global reference",
            Self::Move => "move",
            Self::Copy => "copy",
            Self::Rebind => "rebind",
        })
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(descriptor) = self.descriptor {
            write!(f, "{descriptor}: ")?;
        }
        write!(
            f,
            "{} ({}, {}; {} on a move)",
            Plain(&self.what),
            self.by,
            self.attachment,
            self.on_move
        )?;
        if !self.detail.is_empty() {
            write!(f, ", {}", Plain(&self.detail))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_way_is_in_its_cell_and_a_fixed_resource_never_moves() {
        for by in [By::Identifier, By::Value, By::Type] {
            for attachment in [
                Attachment::Unattached,
                Attachment::Fastened,
                Attachment::Fixed,
            ] {
                let binding = Binding::new(None, "it", by, attachment);
                assert!(binding.allows(binding.on_move), "{binding}");
                assert_eq!(binding.allows(OnMove::Rebind), by == By::Type);
                if attachment == Attachment::Fixed {
                    assert!(
                        !binding.allows(OnMove::Move) && !binding.allows(OnMove::Copy),
                        "{binding}"
                    );
                }
            }
        }
    }

    #[test]
    fn texts_from_guests_are_escaped() {
        let binding = Binding::new(Some(3), "file \x1b[2J", By::Identifier, Attachment::Fixed);
        assert_eq!(
            binding.to_string(),
            "3: file \\u{1b}[2J (by identifier, fixed; global reference on a move)"
        );
    }
}
