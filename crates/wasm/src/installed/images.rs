//! What a program's memories start from, compactly: whole pages with data, in runs. A module may have tens of thousands
//! of data segments; putting these in place is done once, when it is built.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sterna_sys::memory::{InitialImage, PAGE_BYTES};

use super::InstallError;
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

/// Makes the images that `layouts` and `bytes` say, of memories of `sizes` bytes.
pub(crate) fn build(
    layouts: &[Layout],
    bytes: &[u8],
    sizes: &[u64],
) -> Result<Vec<Initial>, InstallError> {
    let mut rest = bytes;
    let mut images = Vec::new();
    for layout in layouts {
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
        let size = sizes.get(layout.memory as usize);
        images.push(Initial {
            image: Arc::new(InitialImage::build(pieces)?),
            size: *size.ok_or(InstallError::Metadata)? as usize,
        });
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
        let images = build(&layouts, &bytes, &[1 << 16, 0, 2 << 20]).unwrap();
        let first = images[0].image.page(0).unwrap();
        assert_eq!(first[3999..4001], [0, 7]);
        assert_eq!(first[4095], 1);
        assert_eq!(images[0].image.page(1).unwrap()[..3], [2, 3, 7]);
        assert_eq!(images[1].image.page(256).unwrap()[0], 1);
        assert!(build(&layouts, &bytes[1..], &[1 << 16, 0, 2 << 20]).is_err());
        assert!(build(&layouts, &bytes, &[1 << 16]).is_err());
    }
}
