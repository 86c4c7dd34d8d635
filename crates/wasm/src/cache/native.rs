//! Maps files of the cache: native code that a builder made, and plain data.
#![allow(
    unsafe_code,
    reason = "wasmtime cannot check that an artifact is what its compiler wrote, nor anyone that a mapped file stays as it is"
)]

use std::fs::File;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use wasmtime::Module;

use crate::builder::Artifact;
use crate::engine::Engine;

/// A file that was made by a builder for this engine, and has not changed since: see
/// [`Verified`](super::verified::Verified).
pub(super) struct TrustedFile(pub(super) File);

/// Maps an artifact.
pub(super) fn load(engine: &Engine, file: TrustedFile) -> wasmtime::Result<Module> {
    // SAFETY: 1. The bytes are those that `precompile_module` returned for an engine of the same settings: the hash was
    // compared, and only this user could write the file. 2. They do not change while they are mapped: the cache never
    // writes into a file that has its name, it replaces or unlinks it.
    unsafe { Module::deserialize_open_file(engine.wasmtime(), file.0) }
}

/// Takes an artifact that a builder has just made for this engine.
pub(crate) fn take(engine: &Engine, made: &Artifact) -> wasmtime::Result<Module> {
    // SAFETY: 1. An `Artifact` is what `precompile_module` returned, here or in a builder with an engine of the same
    // settings.
    unsafe { Module::deserialize(engine.wasmtime(), made.bytes()) }
}

/// A file mapped for reading.
pub(super) struct Mapped {
    start: NonNull<u8>,
    length: usize,
}

/// Maps all of a file.
pub(super) fn map(file: &TrustedFile) -> std::io::Result<Mapped> {
    let length = usize::try_from(file.0.metadata()?.len()).map_err(std::io::Error::other)?;
    if length == 0 {
        let start = NonNull::dangling();
        return Ok(Mapped { start, length });
    }
    let (protection, flags) = (ProtFlags::READ, MapFlags::PRIVATE | MapFlags::POPULATE);
    // SAFETY: 1. A new mapping at an address of the kernel's choice touches no existing memory.
    let start = unsafe { mmap(std::ptr::null_mut(), length, protection, flags, &file.0, 0) }?;
    let start = NonNull::new(start.cast()).ok_or(std::io::ErrorKind::OutOfMemory)?;
    Ok(Mapped { start, length })
}

impl Mapped {
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: 1. `start` is mapped readable for `length` bytes until drop, or dangling for none. 2. The cache never
        // writes into or shortens a file that has its name, and nobody else may.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: 1. The mapping is ours, and no reference into it outlives it.
            let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
        }
    }
}
