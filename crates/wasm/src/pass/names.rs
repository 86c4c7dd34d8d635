//! Under which names the main module exports what continuations and the host need of it.

use super::emit::Entry;
use super::routines::{Helper, Kept};

/// Module name of the one import that the pass adds.
pub(crate) const IMPORT_MODULE: &str = "sterna";
/// How the names of all exports begin that the pass adds.
pub(crate) const EXPORT_PREFIX: &str = "sterna:";
/// Name of the memory with the word and the records.
pub(crate) const CONTROL: &str = "control";
/// Name of the global that counts down the remaining call depth.
pub(crate) const DEPTH: &str = "sterna:depth";
/// Name of the program's start function.
pub(crate) const START: &str = "sterna:start";
/// Name of the global that counts the kept references.
pub(crate) const KEPT_COUNT: &str = "sterna:kept";

pub(crate) fn function(index: u32) -> String {
    format!("sterna:f{index}")
}

/// The function that stands for a reference to an imported one.
pub(crate) fn wrapper(index: u32) -> String {
    format!("sterna:w{index}")
}

pub(crate) fn memory(index: u32) -> String {
    format!("sterna:m{index}")
}

pub(crate) fn table(index: u32) -> String {
    format!("sterna:t{index}")
}

pub(crate) fn global(index: u32) -> String {
    format!("sterna:g{index}")
}

/// The table of kept references.
pub(crate) fn kept(kept: Kept) -> &'static str {
    match kept {
        Kept::Functions => "sterna:kept-functions",
        Kept::Externals => "sterna:kept-externals",
    }
}

/// The global that says whether a data segment has been dropped.
pub(crate) fn data_dropped(index: u32) -> String {
    format!("sterna:data-dropped{index}")
}

/// The global that says whether an element segment has been dropped.
pub(crate) fn element_dropped(index: u32) -> String {
    format!("sterna:element-dropped{index}")
}

pub(crate) fn helper(helper: Helper) -> String {
    match helper {
        Helper::Fill { memory } => format!("sterna:fill{memory}"),
        Helper::Copy { to, from } => format!("sterna:copy{to}-{from}"),
        Helper::Keep(Kept::Functions) => "sterna:keep-function".into(),
        Helper::Keep(Kept::Externals) => "sterna:keep-external".into(),
        Helper::MemoryInit { data, memory } => format!("sterna:memory-init{data}-{memory}"),
        Helper::DataDrop { data } => format!("sterna:data-drop{data}"),
        Helper::TableInit { element, table } => format!("sterna:table-init{element}-{table}"),
        Helper::ElementDrop { element } => format!("sterna:element-drop{element}"),
        Helper::Reference { function } => format!("sterna:reference{function}"),
    }
}

/// The helper that drops a data segment.
pub(crate) fn helper_data_drop(data: u32) -> String {
    helper(Helper::DataDrop { data })
}

/// The helper that drops an element segment.
pub(crate) fn helper_element_drop(element: u32) -> String {
    helper(Helper::ElementDrop { element })
}

/// The continuation of `function` for `entry`.
pub(crate) fn continuation(function: u32, entry: Entry) -> String {
    match entry {
        Entry::Start => format!("sterna:f{function}"),
        Entry::At(op) => format!("sterna:at{function}-{op}"),
        Entry::After(op) => format!("sterna:after{function}-{op}"),
    }
}
