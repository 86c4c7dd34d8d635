//! Checked access to a guest's linear memory.
//!
//! A pointer is the low 32 bits of its argument. Whatever lies outside the memory is `EFAULT`
//! (wasmtime traps instead; here a call never traps), checked for *all* areas a call touches
//! before it has any effect. Alignment is not asked for. Areas may overlap.
//!
//! Parts of a memory may be on their way from another machine, and the kernel does not wait for these:
//! every area is shown to a [`Touch`] before it is given to the kernel.

use crate::abi::Errno;
use std::io::{IoSlice, IoSliceMut};

/// Largest number of scatter/gather vectors of one call; more is `EINVAL`, as `UIO_MAXIOV` has it.
pub(crate) const IOVECS_MAX: u32 = 1024;
/// Vectors handed to the kernel at once.
pub(crate) const IOVECS_AT_ONCE: usize = 32;
/// Bytes moved by one call at most, so that a call ends soon: longer ones are done in part.
pub(crate) const TRANSFER_MAX: usize = 8 << 20;

/// Waits until all of an area is there, by touching it; whether it is. See [`Wasi::call_touching`](crate::Wasi::call_touching).
pub(crate) type Touch<'t> = &'t dyn Fn(&[u8]) -> bool;

/// A guest's memory during one call.
pub(crate) struct Memory<'m>(&'m mut [u8], Option<Touch<'m>>);

/// A checked array of scatter/gather vectors.
#[derive(Clone, Copy)]
pub(crate) struct Iovecs {
    at: u32,
    count: u32,
}

/// Where a transfer stands within an array of vectors.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cursor {
    index: u32,
    done: usize,
}

impl<'m> Memory<'m> {
    pub(crate) fn new(bytes: &'m mut [u8], touch: Option<Touch<'m>>) -> Memory<'m> {
        Memory(bytes, touch)
    }

    /// Fails with `EFAULT` unless `len` bytes from `at` are inside.
    pub(crate) fn check(&self, at: u32, len: u32) -> Result<(), Errno> {
        self.area(at, len).map(drop)
    }

    pub(crate) fn bytes(&self, at: u32, len: u32) -> Result<&[u8], Errno> {
        let area = self.area(at, len)?;
        self.touch(area)?;
        Ok(area)
    }

    pub(crate) fn bytes_mut(&mut self, at: u32, len: u32) -> Result<&mut [u8], Errno> {
        self.touch(self.area(at, len)?)?;
        let start = at as usize;
        self.0
            .get_mut(start..start + len as usize)
            .ok_or(Errno::FAULT)
    }

    fn area(&self, at: u32, len: u32) -> Result<&[u8], Errno> {
        let start = at as usize;
        self.0.get(start..start + len as usize).ok_or(Errno::FAULT)
    }

    fn touch(&self, area: &[u8]) -> Result<(), Errno> {
        match self.1.is_none_or(|touch| touch(area)) {
            true => Ok(()),
            false => Err(Errno::FAULT),
        }
    }

    /// A path or name: at most `PATH_MAX` bytes of UTF-8 (`EILSEQ` else).
    pub(crate) fn string(&self, at: u32, len: u32) -> Result<&str, Errno> {
        const PATH_MAX: u32 = 4096;
        let bytes = self.bytes(at, len)?;
        if len > PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        std::str::from_utf8(bytes).map_err(|_| Errno::ILSEQ)
    }

    pub(crate) fn get_u8(&self, at: u32) -> Result<u8, Errno> {
        Ok(self.bytes(at, 1)?[0])
    }

    pub(crate) fn get_u16(&self, at: u32) -> Result<u16, Errno> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub(crate) fn get_u32(&self, at: u32) -> Result<u32, Errno> {
        self.array(at).map(u32::from_le_bytes)
    }

    pub(crate) fn get_u64(&self, at: u32) -> Result<u64, Errno> {
        self.array(at).map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&self, at: u32) -> Result<[u8; N], Errno> {
        self.0
            .get(at as usize..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .ok_or(Errno::FAULT)
    }

    pub(crate) fn put(&mut self, at: u32, bytes: &[u8]) -> Result<(), Errno> {
        let start = at as usize;
        self.0
            .get_mut(start..start + bytes.len())
            .ok_or(Errno::FAULT)?
            .copy_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn put_u32(&mut self, at: u32, value: u32) -> Result<(), Errno> {
        self.put(at, &value.to_le_bytes())
    }

    pub(crate) fn put_u64(&mut self, at: u32, value: u64) -> Result<(), Errno> {
        self.put(at, &value.to_le_bytes())
    }

    /// Checks an array of vectors and every area it names.
    pub(crate) fn iovecs(&self, at: u32, count: u32) -> Result<Iovecs, Errno> {
        if count > IOVECS_MAX {
            return Err(Errno::INVAL);
        }
        self.check(at, count * 8)?;
        let vectors = Iovecs { at, count };
        for index in 0..count {
            let (start, len) = self.iovec(vectors, index)?;
            self.check(start, len)?;
        }
        Ok(vectors)
    }

    fn iovec(&self, vectors: Iovecs, index: u32) -> Result<(u32, u32), Errno> {
        let at = vectors.at + index * 8;
        Ok((self.get_u32(at)?, self.get_u32(at + 4)?))
    }

    /// The next areas to write out from `cursor` on, at most `limit` bytes. Returns how many areas
    /// and bytes were gathered.
    pub(crate) fn gather<'a>(
        &'a self,
        vectors: Iovecs,
        mut cursor: Cursor,
        limit: usize,
        areas: &mut [IoSlice<'a>; IOVECS_AT_ONCE],
    ) -> Result<(usize, usize), Errno> {
        let (mut count, mut total) = (0, 0);
        while cursor.index < vectors.count && count < IOVECS_AT_ONCE && total < limit {
            let (start, len) = self.iovec(vectors, cursor.index)?;
            let area = self.area(start, len)?;
            let rest = area.get(cursor.done..).unwrap_or_default();
            let taken = &rest[..rest.len().min(limit - total)];
            self.touch(taken)?;
            if !taken.is_empty() {
                areas[count] = IoSlice::new(taken);
                count += 1;
                total += taken.len();
            }
            cursor = Cursor {
                index: cursor.index + 1,
                done: 0,
            };
        }
        Ok((count, total))
    }

    /// The next area to read into from `cursor` on, and the one after it if the two are disjoint:
    /// C libraries read into the caller's buffer and their own with one call.
    pub(crate) fn scatter(
        &mut self,
        vectors: Iovecs,
        cursor: &mut Cursor,
        limit: usize,
    ) -> Result<[IoSliceMut<'_>; 2], Errno> {
        let mut found = [(0usize, 0usize); 2];
        let mut count = 0;
        let mut at = *cursor;
        let mut left = limit;
        while at.index < vectors.count && count < 2 && left > 0 {
            let (start, len) = self.iovec(vectors, at.index)?;
            let rest = (len as usize).saturating_sub(at.done);
            if rest > 0 {
                let taken = rest.min(left);
                found[count] = (start as usize + at.done, taken);
                left -= taken;
                count += 1;
            } else if count == 0 {
                *cursor = Cursor {
                    index: at.index + 1,
                    done: 0,
                };
            }
            at = Cursor {
                index: at.index + 1,
                done: 0,
            };
        }
        for (start, len) in found {
            self.touch(self.0.get(start..start + len).ok_or(Errno::FAULT)?)?;
        }
        self.split(found[0], found[1]).ok_or(Errno::FAULT)
    }

    /// Two areas as slices; the second is empty if they overlap.
    fn split(&mut self, one: (usize, usize), two: (usize, usize)) -> Option<[IoSliceMut<'_>; 2]> {
        let (one_end, two_end) = (one.0 + one.1, two.0 + two.1);
        let (first, second) = if one_end <= two.0 {
            let (low, high) = self.0.split_at_mut_checked(two.0)?;
            (low.get_mut(one.0..one_end)?, high.get_mut(..two.1)?)
        } else if two_end <= one.0 {
            let (low, high) = self.0.split_at_mut_checked(one.0)?;
            (high.get_mut(..one.1)?, low.get_mut(two.0..two_end)?)
        } else {
            (self.0.get_mut(one.0..one_end)?, Default::default())
        };
        Some([IoSliceMut::new(first), IoSliceMut::new(second)])
    }

    /// Moves `cursor` on by `bytes`.
    pub(crate) fn advance(
        &self,
        vectors: Iovecs,
        cursor: &mut Cursor,
        mut bytes: usize,
    ) -> Result<(), Errno> {
        while bytes > 0 && cursor.index < vectors.count {
            let (_, len) = self.iovec(vectors, cursor.index)?;
            let rest = (len as usize).saturating_sub(cursor.done);
            if bytes < rest {
                cursor.done += bytes;
                return Ok(());
            }
            bytes -= rest;
            *cursor = Cursor {
                index: cursor.index + 1,
                done: 0,
            };
        }
        Ok(())
    }
}
