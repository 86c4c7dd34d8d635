//! Memories of guests: address space of our own under wasmtime's memories, so that their pages can be
//! shared copy-on-write with the program's initial image, tracked and carried away.
//!
//! Wasmtime asks for memories one by one while it makes an instance, and does not say for which. Both
//! happen on one thread without a pause, so [`with_images`] leaves the images there beforehand and
//! picks up the reservations afterwards. It may ask for others in between (the heap of a collector), so
//! an image waits for a memory of its size, and a memory is recognised by where it lies.
#![allow(
    unsafe_code,
    reason = "vouches to wasmtime for memory made by sterna-sys"
)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use sterna_sys::memory::{InitialImage, Reservation};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

/// Address space for a memory that may grow beyond 4 GiB and has no maximum, in bytes.
const WIDE_RESERVATION: usize = 64 << 30;

/// What one memory starts from.
#[derive(Debug, Clone)]
pub(crate) struct Initial {
    /// Zeros, without one.
    pub(crate) image: Option<Arc<InitialImage>>,
    /// The memory's initial size, in bytes.
    pub(crate) size: usize,
}

#[derive(Default)]
struct Placing {
    images: VecDeque<Initial>,
    made: Vec<Arc<Reservation>>,
}

thread_local! {
    static PLACING: RefCell<Placing> = RefCell::default();
}

/// Runs `instantiate`, whose own memories start from `images`, one each in their order.
/// Also returns what all its memories lie in.
pub(crate) fn with_images<R>(
    images: impl IntoIterator<Item = Initial>,
    instantiate: impl FnOnce() -> R,
) -> (R, Vec<Arc<Reservation>>) {
    PLACING.set(Placing {
        images: images.into_iter().collect(),
        made: Vec::new(),
    });
    let result = instantiate();
    (result, PLACING.take().made)
}

/// Makes memories for wasmtime.
pub(crate) struct GuestMemoryCreator;

// SAFETY: a reservation never moves, its first `size` bytes are accessible and zero or the image, and
// the rest of it, `guard` bytes at the least, is not accessible.
unsafe impl MemoryCreator for GuestMemoryCreator {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let capacity = reserved
            .unwrap_or_else(|| maximum.unwrap_or(WIDE_RESERVATION).min(WIDE_RESERVATION))
            .max(minimum);
        PLACING.with_borrow_mut(|placing| {
            let next = placing.images.pop_front_if(|next| next.size == minimum);
            let image = next.and_then(|next| next.image);
            let memory =
                Reservation::new(capacity, guard, minimum, image).map_err(|e| e.to_string())?;
            let memory = Arc::new(memory);
            placing.made.push(memory.clone());
            Ok(Box::new(GuestMemory {
                memory,
                known: minimum,
            }) as Box<dyn LinearMemory>)
        })
    }
}

struct GuestMemory {
    memory: Arc<Reservation>,
    /// What wasmtime knows it to be, in bytes. Pages that arrive may have made it larger already.
    known: usize,
}

// SAFETY: as for the creator; growing changes protection only.
unsafe impl LinearMemory for GuestMemory {
    fn byte_size(&self) -> usize {
        self.known
    }

    fn byte_capacity(&self) -> usize {
        self.memory.capacity()
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        if new_size > self.memory.size() {
            self.memory.grow_to(new_size)?;
        }
        self.known = new_size;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.memory.as_ptr()
    }
}
