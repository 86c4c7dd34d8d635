//! What a program's memories start from, compactly: whole pages with data, in runs. A module may have tens of thousands
//! of data segments; putting these in place is done once, when it is built.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sterna_sys::memory::{InitialImage, PAGE_BYTES};

use super::{InstallError, Metadata};
use crate::memory::Initial;
use crate::pass::Piece;

/// Where the data of one memory goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layout {
    memory: u32,
    /// First page and number of pages of [`PAGE_BYTES`], ascending.
    runs: Vec<(u64, u64)>,
}

/// Puts data segments in their places: where each memory's pages go, and all their bytes one behind another.
pub(crate) fn lay_out(module: &[u8], pieces: &[Piece]) -> (Vec<Layout>, Vec<u8>) {
    let mut memories: BTreeMap<u32, BTreeMap<u64, Box<[u8]>>> = BTreeMap::new();
    for piece in pieces {
        let pages = memories.entry(piece.memory).or_default();
        let (mut at, mut bytes) = (piece.at, &module[piece.bytes.clone()]);
        while !bytes.is_empty() {
            let start = (at % PAGE_BYTES as u64) as usize;
            let (now, rest) = bytes.split_at(bytes.len().min(PAGE_BYTES - start));
            let page = pages
                .entry(at / PAGE_BYTES as u64)
                .or_insert_with(|| vec![0; PAGE_BYTES].into());
            page[start..start + now.len()].copy_from_slice(now);
            (at, bytes) = (at + now.len() as u64, rest);
        }
    }
    let mut all = Vec::new();
    let layouts = memories.into_iter().map(|(memory, pages)| {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (number, page) in pages {
            if page.iter().all(|byte| *byte == 0) {
                continue;
            }
            all.extend_from_slice(&page);
            match runs.last_mut() {
                Some((first, count)) if *first + *count == number => *count += 1,
                _ => runs.push((number, 1)),
            }
        }
        Layout { memory, runs }
    });
    let layouts: Vec<Layout> = layouts.filter(|layout| !layout.runs.is_empty()).collect();
    (layouts, all)
}

/// Makes what the memories that the program makes itself start from, one entry each, out of the `bytes` that
/// [`lay_out`] gave.
pub(crate) fn build(metadata: &Metadata, bytes: &[u8]) -> Result<Vec<Initial>, InstallError> {
    let mut rest = bytes;
    let mut images = Vec::new();
    for memory in metadata.imported_memories..metadata.memories {
        let size = metadata.memory_bytes.get(memory as usize);
        let size = *size.ok_or(InstallError::Metadata)? as usize;
        let layout = metadata
            .images
            .iter()
            .find(|layout| layout.memory == memory);
        let Some(layout) = layout else {
            images.push(Initial { image: None, size });
            continue;
        };
        let mut pieces = Vec::with_capacity(layout.runs.len());
        for &(first, count) in &layout.runs {
            let length = usize::try_from(count).ok();
            let length = length.and_then(|count| count.checked_mul(PAGE_BYTES));
            let run = length.and_then(|length| rest.split_at_checked(length));
            let (run, left) = run.ok_or(InstallError::Metadata)?;
            let at = first.checked_mul(PAGE_BYTES as u64);
            pieces.push((at.ok_or(InstallError::Metadata)?, run));
            rest = left;
        }
        let image = Some(Arc::new(InitialImage::build(pieces)?));
        images.push(Initial { image, size });
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_segments_win_and_zeros_take_no_room() {
        let module: Vec<u8> = [vec![0; 9000], vec![7; 5000], vec![1, 2, 3]].concat();
        let piece = |memory, at, bytes| Piece { memory, at, bytes };
        let pieces = [
            piece(0, 4000, 9000..14000),
            piece(0, 4095, 14000..14003),
            piece(0, 50_000, 0..9000),
            piece(2, 1 << 20, 14000..14001),
        ];
        let (layouts, bytes) = lay_out(&module, &pieces);
        let runs: Vec<_> = layouts.iter().map(|l| (l.memory, l.runs.clone())).collect();
        assert_eq!(runs, [(0, vec![(0, 3)]), (2, vec![(256, 1)])]);
        assert_eq!(bytes.len(), 4 * PAGE_BYTES);
    }
}
