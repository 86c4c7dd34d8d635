//! Which locals the cold code of several points saves in one place.
//!
//! A use of a value weighs the same with a register allocator wherever it is: a local that five hundred
//! points save would look like the most used one of a function, and push those out of their registers that
//! its hot code works with. So what many points save is to be saved by code that they have in common, once
//! for each *version* of a local: the value that one assignment, or one meeting of ways, has given it. Where
//! versions differ there would be nothing to gain, as each had to be brought to the common code.
//!
//! The commonest versions come first in a record. Points with the same ones then have the same beginning of
//! their records, which the same code can write. All this is guesswork about what an engine makes of a
//! function, and harmless if it is wrong: common code saves what the locals hold, whichever version it is.

use std::cmp::Reverse;
use std::collections::HashMap;

use wasmparser::Operator;

use super::plan::{FrameKind, Plan};

/// How many frames are looked at to find a version.
const FRAMES_MAX: usize = 1_024;

/// A local and the operator that it has had its value since, plus one; 0 for the function's beginning.
type Version = (u32, usize);

/// Puts the locals of all points that can be stopped at into the order of their records.
pub(crate) fn order(plan: &mut Plan<'_>) {
    let versions = versions(plan);
    let mut counts: HashMap<Version, usize> = HashMap::new();
    for &version in versions.iter().flatten() {
        *counts.entry(version).or_default() += 1;
    }
    let mut shared: Vec<Version> = counts
        .iter()
        .filter(|&(_, &count)| count > 1)
        .map(|(&version, _)| version)
        .collect();
    shared.sort_unstable_by_key(|version| (Reverse(counts[version]), *version));
    let ranks: HashMap<Version, u32> = shared.into_iter().zip(0..).collect();
    for (point, versions) in plan.points.iter_mut().zip(versions) {
        if versions.is_empty() {
            continue;
        }
        let rank = |version: &Version| ranks.get(version).copied().unwrap_or(u32::MAX);
        let mut ranked: Vec<(u32, u32)> = versions.iter().map(|v| (rank(v), v.0)).collect();
        ranked.sort_unstable();
        point.locals = ranked.iter().map(|&(_, local)| local).collect();
        point.shared = ranked
            .into_iter()
            .map(|(rank, _)| rank)
            .take_while(|&rank| rank != u32::MAX)
            .collect();
    }
}

/// For each point that can be stopped at the versions that it saves.
fn versions(plan: &Plan<'_>) -> Vec<Vec<Version>> {
    let mut sets: Vec<Vec<usize>> = vec![Vec::new(); plan.locals.len()];
    for (index, op) in plan.ops.iter().enumerate().filter(|(_, op)| op.live) {
        if let Operator::LocalSet { local_index } | Operator::LocalTee { local_index } = op.operator
        {
            sets[local_index as usize].push(index);
        }
    }
    let version = |local: u32, at: usize| (local, since(plan, &sets[local as usize], at));
    plan.points
        .iter()
        .map(|point| {
            let locals = point.locals.iter().filter(|_| point.stops());
            locals.map(|&local| version(local, point.op)).collect()
        })
        .collect()
}

/// Since when a local that is assigned at `sets` has had the value that it has at operator `at`.
fn since(plan: &Plan<'_>, sets: &[usize], at: usize) -> usize {
    let next = sets.partition_point(|&set| set < at);
    let mut since = 0;
    if let Some(&last) = next.checked_sub(1).and_then(|last| sets.get(last)) {
        // Ways that bring different values meet where a frame that holds the assignment ends.
        since = last + 1;
        for frame in around(plan, last) {
            if frame.end >= at {
                break;
            }
            since = frame.end + 1;
        }
    }
    if let Some(&next) = sets.get(next) {
        // And at the header of a loop that holds both the assignment and the point.
        let is_loop_around =
            |frame: &&super::plan::Frame| frame.kind == FrameKind::Loop && frame.start <= at;
        if let Some(header) = around(plan, next).find(is_loop_around) {
            since = since.max(header.start + 1);
        }
    }
    since
}

/// The frames around an operator, innermost first, without the function's own.
fn around<'p>(plan: &'p Plan<'_>, op: usize) -> impl Iterator<Item = &'p super::plan::Frame> {
    let mut frame = plan.ops[op].frame;
    let next = move || {
        let here = (frame != 0).then(|| &plan.frames[frame as usize])?;
        frame = here.parent;
        Some(here)
    };
    std::iter::from_fn(next).take(FRAMES_MAX)
}
