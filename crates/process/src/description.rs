//! What a process is doing, in words that do not depend on its kind: [`Description`].
//!
//! It is in every image and can be asked of a live process, so that both can be looked at by those who cannot
//! run it. It is for people and for decisions made by people; nothing is restored from it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::binding::Binding;
use crate::plain::Plain;

/// A process as it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The calls it is in, innermost first; for several threads, one after the other.
    pub frames: Vec<FrameDescription>,
    /// How many further frames there are that are not described.
    pub frames_omitted: u64,
    /// What it refers to outside of itself.
    pub bindings: Vec<Binding>,
    /// What else its kind has to say, as names and values, e.g. `("globals", "12")`.
    pub notes: Vec<(String, String)>,
}

impl Description {
    /// Most frames that a description should hold; the rest is counted in
    /// [`frames_omitted`](Description::frames_omitted).
    pub const MAX_FRAMES: usize = 1000;

    /// The frames as a back-trace, one a line, with names escaped for terminals.
    #[must_use]
    pub fn back_trace(&self) -> BackTrace<'_> {
        BackTrace(self)
    }
}

/// One call that a process is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameDescription {
    /// The function's index in its program.
    pub function: u32,
    /// The function's name, if the program has one. Escape it before printing; `Display` does.
    pub name: Option<String>,
    /// How far into the function, in the program's own terms: for wasm, the operator's number.
    pub offset: u64,
    /// Why it stands there.
    pub at: FrameKind,
}

/// Why a frame stands where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameKind {
    /// It was stopped between two instructions and goes on with the one at its offset.
    Stopped,
    /// It called the frame before it in the list and waits for its results.
    Calling,
    /// It called its host for something that was not finished; that is issued again.
    HostCall,
}

impl fmt::Display for FrameDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{}", Plain(name))?,
            None => write!(f, "function {}", self.function)?,
        }
        write!(f, " at {}", self.offset)?;
        match self.at {
            FrameKind::Stopped | FrameKind::Calling => Ok(()),
            FrameKind::HostCall => f.write_str(", in a host call"),
        }
    }
}

/// The frames of a [`Description`] for people to read.
#[derive(Debug, Clone, Copy)]
pub struct BackTrace<'a>(&'a Description);

impl fmt::Display for BackTrace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, frame) in self.0.frames.iter().enumerate() {
            writeln!(f, "{depth:>4}: {frame}")?;
        }
        match self.0.frames_omitted {
            0 => Ok(()),
            omitted => writeln!(f, "      and {omitted} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_back_trace_reads_well_and_is_harmless() {
        let frame = |name: Option<&str>, at| FrameDescription {
            function: 7,
            name: name.map(str::to_owned),
            offset: 12,
            at,
        };
        let description = Description {
            frames: vec![
                frame(None, FrameKind::HostCall),
                frame(Some("ma\x07in"), FrameKind::Calling),
            ],
            frames_omitted: 3,
            ..Description::default()
        };
        let expected =
            "   0: function 7 at 12, in a host call\n   1: ma\\u{7}in at 12\n      and 3 more\n";
        assert_eq!(description.back_trace().to_string(), expected);
    }
}
