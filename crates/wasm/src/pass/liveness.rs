//! Which locals are live at each point: the usual backward data-flow analysis over basic blocks
//! (Aho, Lam, Sethi, Ullman, *Compilers*, 2nd ed., section 9.2.5).

use wasmparser::Operator;

use super::plan::{FrameKind, Plan};
use super::{InstrumentError, limits};

/// A basic block: operators `start..end`, all live, with one way in.
struct Block {
    start: usize,
    end: usize,
    next: Vec<u32>,
}

/// Fills in [`super::plan::Point::locals`].
pub(crate) fn fill(plan: &mut Plan<'_>) -> Result<(), InstrumentError> {
    if plan.points.is_empty() {
        return Ok(());
    }
    let blocks = blocks(plan);
    let words = plan.locals.len().div_ceil(64);
    limits::check(
        "product of locals and blocks in one function, in words,",
        words.saturating_mul(blocks.len()),
        limits::LIVENESS_WORDS,
    )?;
    let live_in = solve(plan, &blocks, words)?;
    let mut saved = 0;
    let mut live = vec![0u64; words];
    let mut point = plan.points.len();
    for block in blocks.iter().rev() {
        leave(block, &live_in, words, &mut live);
        for index in (block.start..block.end).rev() {
            step(&plan.ops[index].operator, &mut live);
            // Blocks are visited last to first, and so are the points.
            if point > 0 && plan.points[point - 1].op == index {
                point -= 1;
                let point = &mut plan.points[point];
                let count: usize = live.iter().map(|word| word.count_ones() as usize).sum();
                let values = point.stack.len() + count + point.results.len();
                limits::check(
                    "number of values that a function keeps",
                    values,
                    limits::PARAMS,
                )?;
                saved += values;
                limits::check(
                    "number of values saved in one function",
                    saved,
                    limits::SAVED,
                )?;
                point.locals = members(&live);
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
fn solve(plan: &Plan<'_>, blocks: &[Block], words: usize) -> Result<Vec<u64>, InstrumentError> {
    let branches: usize = blocks.iter().map(|block| block.next.len()).sum();
    let round = plan.ops.len() + (branches + blocks.len()) * words;
    let mut steps = 0;
    let mut live_in = vec![0u64; words * blocks.len()];
    let mut live = vec![0u64; words];
    // Branches go backwards only to loop headers, so a few rounds from last to first do.
    let mut changed = true;
    while changed {
        changed = false;
        steps += round;
        limits::check(
            "work to find a function's live locals",
            steps,
            limits::LIVENESS_STEPS,
        )?;
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
    Ok(live_in)
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
    // The frames around each operator, outermost first.
    let mut path = vec![0];
    let mut block = 0;
    for (index, op) in plan.ops.iter().enumerate().filter(|(_, op)| op.live) {
        if blocks[block].end == index + 1 {
            blocks[block].next = successors(plan, index, &path, &block_of);
            block += 1;
        }
        match op.operator {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } => {
                path.push(plan.frame_index_opened_at(index));
            }
            Operator::End => {
                path.pop();
            }
            _ => {}
        }
    }
    blocks
}

/// The blocks to which control can go after operator `last`, which lies in the frames of `path`.
fn successors(plan: &Plan<'_>, last: usize, path: &[u32], block_of: &[u32]) -> Vec<u32> {
    let op = &plan.ops[last];
    let target = |depth: u32| {
        let frame = &plan.frames[path[path.len() - 1 - depth as usize] as usize];
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
