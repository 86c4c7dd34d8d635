//! Which locals are live at each point: the usual backward data-flow analysis over basic blocks
//! (Aho, Lam, Sethi, Ullman, *Compilers*, 2nd ed., section 9.2.5).

use wasmparser::Operator;

use super::InstrumentError;
use super::plan::{FrameKind, Plan};

/// Words of bit set that one function's analysis may take (64 locals a word, a set per block).
const WORDS_MAX: usize = 1 << 27;

/// A basic block: operators `start..end`, all live, with one way in.
struct Block {
    start: usize,
    end: usize,
    next: Vec<u32>,
}

/// Fills in [`super::plan::Point::locals`].
pub(crate) fn fill(plan: &mut Plan<'_>) -> Result<(), InstrumentError> {
    if plan.points.is_empty() || plan.locals.is_empty() {
        return Ok(());
    }
    let blocks = blocks(plan);
    let words = plan.locals.len().div_ceil(64);
    if words.saturating_mul(blocks.len()) > WORDS_MAX {
        return Err(InstrumentError::TooLarge {
            what: "product of locals and blocks in one function",
            limit: (WORDS_MAX * 64) as u64,
        });
    }
    let live_in = solve(plan, &blocks, words);
    let mut live = vec![0u64; words];
    let mut point = plan.points.len();
    for block in blocks.iter().rev() {
        leave(block, &live_in, words, &mut live);
        for index in (block.start..block.end).rev() {
            step(&plan.ops[index].operator, &mut live);
            // Blocks are visited last to first, and so are the points.
            if point > 0 && plan.points[point - 1].op == index {
                point -= 1;
                plan.points[point].locals = members(&live);
            }
        }
    }
    Ok(())
}

/// Sets `live` to what is live at the end of `block`.
fn leave(block: &Block, live_in: &[u64], words: usize, live: &mut [u64]) {
    live.fill(0);
    for &next in &block.next {
        let at = next as usize * words;
        for (word, more) in live.iter_mut().zip(&live_in[at..at + words]) {
            *word |= more;
        }
    }
}

fn step(operator: &Operator<'_>, live: &mut [u64]) {
    match *operator {
        Operator::LocalGet { local_index } => {
            live[local_index as usize / 64] |= 1 << (local_index % 64);
        }
        Operator::LocalSet { local_index } | Operator::LocalTee { local_index } => {
            live[local_index as usize / 64] &= !(1 << (local_index % 64));
        }
        _ => {}
    }
}

fn members(live: &[u64]) -> Vec<u32> {
    let mut members = Vec::new();
    for (at, &word) in live.iter().enumerate() {
        let mut word = word;
        while word != 0 {
            members.push(at as u32 * 64 + word.trailing_zeros());
            word &= word - 1;
        }
    }
    members
}

/// What is live at the start of each block, `words` words a block.
fn solve(plan: &Plan<'_>, blocks: &[Block], words: usize) -> Vec<u64> {
    let mut live_in = vec![0u64; words * blocks.len()];
    let mut live = vec![0u64; words];
    // Branches go backwards only to loop headers, so a few rounds from last to first do.
    let mut changed = true;
    while changed {
        changed = false;
        for (at, block) in blocks.iter().enumerate().rev() {
            leave(block, &live_in, words, &mut live);
            for index in (block.start..block.end).rev() {
                step(&plan.ops[index].operator, &mut live);
            }
            let known = &mut live_in[at * words..(at + 1) * words];
            if known != &live[..] {
                known.copy_from_slice(&live);
                changed = true;
            }
        }
    }
    live_in
}

fn blocks(plan: &Plan<'_>) -> Vec<Block> {
    // A block starts where control can arrive by a branch, and after every operator that branches.
    let mut starts = vec![false; plan.ops.len() + 1];
    starts[0] = true;
    for (index, op) in plan.ops.iter().enumerate() {
        match op.operator {
            Operator::Loop { .. } | Operator::End => starts[index] = true,
            Operator::Else => {
                starts[index] = true;
                starts[index + 1] = true;
            }
            Operator::If { .. }
            | Operator::Br { .. }
            | Operator::BrIf { .. }
            | Operator::BrTable { .. }
            | Operator::Return
            | Operator::Unreachable
            | Operator::ReturnCall { .. }
            | Operator::ReturnCallIndirect { .. } => starts[index + 1] = true,
            _ => {}
        }
    }
    let mut blocks: Vec<Block> = Vec::new();
    let mut block_of = vec![u32::MAX; plan.ops.len()];
    for index in (0..plan.ops.len()).filter(|&i| plan.ops[i].live) {
        let goes_on = blocks.last().is_some_and(|b| b.end == index) && !starts[index];
        if goes_on {
            blocks.last_mut().expect("there is one").end += 1;
        } else {
            blocks.push(Block {
                start: index,
                end: index + 1,
                next: Vec::new(),
            });
        }
        block_of[index] = blocks.len() as u32 - 1;
    }
    for block in &mut blocks {
        block.next = successors(plan, block.end - 1, &block_of);
    }
    blocks
}

/// The blocks to which control can go after operator `last`.
fn successors(plan: &Plan<'_>, last: usize, block_of: &[u32]) -> Vec<u32> {
    let op = &plan.ops[last];
    let target = |depth: u32| {
        let frame = &plan.frames[plan.branch_target(last, depth) as usize];
        let to = if frame.kind == FrameKind::Loop {
            frame.start
        } else {
            frame.end
        };
        block_of[to]
    };
    let following = || block_of.get(last + 1).copied();
    let frame = &plan.frames[op.frame as usize];
    let mut next: Vec<u32> = match &op.operator {
        Operator::Br { relative_depth } => vec![target(*relative_depth)],
        Operator::BrIf { relative_depth } => following()
            .into_iter()
            .chain([target(*relative_depth)])
            .collect(),
        Operator::BrTable { targets } => targets
            .targets()
            .flatten()
            .chain([targets.default()])
            .map(target)
            .collect(),
        Operator::Return
        | Operator::Unreachable
        | Operator::ReturnCall { .. }
        | Operator::ReturnCallIndirect { .. } => Vec::new(),
        // Reached from the end of the `then` arm, which skips the other arm.
        Operator::Else => vec![block_of[frame.end]],
        Operator::If { .. } => {
            let opened = plan.frame_opened_at(last);
            let otherwise = opened.otherwise.map_or(opened.end, |at| at + 1);
            following()
                .into_iter()
                .chain([block_of[otherwise]])
                .collect()
        }
        _ => following().into_iter().collect(),
    };
    next.retain(|&block| block != u32::MAX);
    next.sort_unstable();
    next.dedup();
    next
}
