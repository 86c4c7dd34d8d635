//! A guest's control memory: the word that stops it, and the records that it leaves behind.
//! [`crate::pass`] says how it is laid out.
#![allow(unsafe_code, reason = "reads memory that the guest writes")]

use std::sync::atomic::{AtomicU32, Ordering};

use sterna_sys::memory::PollPage;
use wasmtime::{MemoryType, SharedMemory};

use crate::pass::record;

const _: () = assert!(sterna_sys::memory::POLL_COPIES as u64 == record::COPIES);

/// The control memory of one guest.
pub(crate) struct Control {
    page: PollPage,
    // After `page`, which points into it.
    memory: SharedMemory,
}

impl Control {
    /// Makes a control memory of `pages` WebAssembly pages.
    pub(crate) fn new(engine: &wasmtime::Engine, pages: u32) -> wasmtime::Result<Control> {
        let memory = SharedMemory::new(engine, MemoryType::shared(pages, pages))?;
        let base = memory.data().as_ptr().cast::<u8>().cast_mut();
        // SAFETY: 1. The memory has at least a page and lives as long as the handle. 2. Nobody makes
        // references into its first page; the guest's load of the word is a plain aligned one, for
        // which the machine is atomic. 3. Only this handle protects it.
        let page = unsafe { PollPage::new(base) };
        let page =
            page.ok_or_else(|| wasmtime::format_err!("the control memory is not page aligned"))?;
        let control = Control { page, memory };
        control.clear();
        Ok(control)
    }

    pub(crate) fn memory(&self) -> &SharedMemory {
        &self.memory
    }

    /// The word and its page.
    pub(crate) fn page(&self) -> &PollPage {
        &self.page
    }

    /// Whether the guest left records.
    pub(crate) fn has_records(&self) -> bool {
        self.end() > record::RECORDS
    }

    /// Takes the records out: one behind another, innermost frame first.
    pub(crate) fn take_records(&self) -> Vec<u8> {
        let cells = self.memory.data();
        let end = (self.end() as usize).min(cells.len());
        let cells = cells.get(record::RECORDS as usize..end).unwrap_or_default();
        let mut records = vec![0; cells.len()];
        // SAFETY: both are valid for this many bytes and do not overlap. The guest, which alone writes
        // here, stands still: its call has returned.
        unsafe {
            std::ptr::copy_nonoverlapping(
                cells.as_ptr().cast::<u8>(),
                records.as_mut_ptr(),
                records.len(),
            )
        };
        self.clear();
        records
    }

    fn clear(&self) {
        self.end_cell().store(record::RECORDS, Ordering::Release);
    }

    fn end(&self) -> u32 {
        self.end_cell().load(Ordering::Acquire)
    }

    fn end_cell(&self) -> &AtomicU32 {
        let cell = self.memory.data()[record::END as usize].get().cast::<u32>();
        // SAFETY: it lies in the memory, is aligned (page start), and is accessed atomically or by a guest
        // that does not run meanwhile.
        unsafe { AtomicU32::from_ptr(cell) }
    }
}
