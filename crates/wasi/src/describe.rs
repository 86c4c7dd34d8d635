//! What people are shown of descriptors, and how untrusted text is made safe to show.

use crate::rights::Rights;
use std::fmt::{self, Write};

/// One descriptor of a process, for `inspect`. Strings are raw: print them through [`Escaped`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescriptorDescription {
    /// The guest's number for it.
    pub number: u32,
    /// What it is.
    pub kind: DescriptorKind,
    /// The path as the guest would name it, or what stands for it.
    pub label: String,
    /// Where the next read or write happens, in bytes; none if it cannot seek.
    pub offset: Option<u64>,
    /// WASI `fdflags`: append 1, dsync 2, nonblock 4, rsync 8, sync 16.
    pub flags: u16,
    /// What it may be used for.
    pub rights: Rights,
    /// What becomes of it on a move.
    pub binding: Binding,
}

/// What a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DescriptorKind {
    /// A standard stream.
    Stdio,
    /// A directory given to the process.
    Preopened,
    /// A directory the process opened.
    Directory,
    /// A file the process opened.
    File,
    /// A named pipe or device the process opened.
    Device,
    /// A socket.
    Socket,
}

/// How a descriptor is bound to its resource on a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Rebound to the same kind of thing: a standard stream to the thawing process's.
    ByType,
    /// Rebound to the directory given under the same name.
    ByName,
    /// Opened again at its path, which must still be the same file.
    ByPath,
    /// Goes on with the same client, whose connection others keep.
    Kept,
    /// Cannot move: the process cannot be captured while it is open.
    Fixed,
}

impl fmt::Display for DescriptorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            DescriptorKind::Stdio => "stdio",
            DescriptorKind::Preopened => "given directory",
            DescriptorKind::Directory => "directory",
            DescriptorKind::File => "file",
            DescriptorKind::Device => "device",
            DescriptorKind::Socket => "socket",
        })
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Binding::ByType => "rebound by type",
            Binding::ByName => "rebound by name",
            Binding::ByPath => "opened again",
            Binding::Kept => "goes on",
            Binding::Fixed => "fixed",
        })
    }
}

/// Shows text from a guest or an image without letting it control a terminal: control characters,
/// and characters that reorder or hide text, are written as escapes.
///
/// ```
/// assert_eq!(sterna_wasi::Escaped("a\x1b[31m").to_string(), r"a\u{1b}[31m");
/// ```
#[derive(Clone, Copy)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
            {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}
