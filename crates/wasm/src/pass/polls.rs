//! Which loops need a poll of their own.
//!
//! A loop needs none if every way round it passes a checked call (the check after a call is a poll)
//! or the header of an inner loop that is polled. Control is followed once, in order: `passed` is
//! the number of enclosing loops, outermost first, that have been polled since their header on
//! every way here. One poll serves all enclosing loops, so a single number says it all.

use wasmparser::Operator;

use super::limits;
use super::plan::{FrameKind, Op, Plan, PointKind};

/// By operator: whether the loop that starts there needs a poll.
pub(crate) fn needed(plan: &Plan<'_>) -> Vec<bool> {
    // With no credit for inner loops more loops need a poll than in truth. Each round gives credit
    // for the loops that the round before found, so after as many rounds as loops are nested,
    // innermost first, the answer stands still.
    let mut polled = vec![false; plan.ops.len()];
    for _ in 0..limits::POLL_ROUNDS {
        let next = round(plan, &polled);
        if next == polled {
            return polled;
        }
        polled = next;
    }
    // Nobody nests loops so deep. In between the answers are of no use.
    let is_loop = |op: &Op<'_>| op.live && matches!(op.operator, Operator::Loop { .. });
    plan.ops.iter().map(is_loop).collect()
}

struct Open {
    /// How many loops lie around the inside of this frame.
    loops: usize,
    is_loop: bool,
    start: usize,
    /// The least `passed` over all branches to the frame's end.
    joined: Option<usize>,
    at_start: usize,
}

struct Walk<'p> {
    polled: &'p [bool],
    needed: Vec<bool>,
    open: Vec<Open>,
    /// `None` in dead code.
    passed: Option<usize>,
}

fn round(plan: &Plan<'_>, polled: &[bool]) -> Vec<bool> {
    let function = Open {
        loops: 0,
        is_loop: false,
        start: 0,
        joined: None,
        at_start: 0,
    };
    let mut walk = Walk {
        polled,
        needed: vec![false; polled.len()],
        open: vec![function],
        passed: Some(0),
    };
    for (index, op) in plan.ops.iter().enumerate().filter(|(_, op)| op.live) {
        match &op.operator {
            Operator::Block { .. } | Operator::If { .. } => walk.begin(index, false),
            Operator::Loop { .. } => walk.begin(index, true),
            Operator::Else => walk.otherwise(),
            Operator::End => {
                let frame = &plan.frames[op.frame as usize];
                walk.end(frame.kind == FrameKind::If && frame.otherwise.is_none());
            }
            Operator::Br { relative_depth } => {
                walk.branch(*relative_depth);
                walk.passed = None;
            }
            Operator::BrIf { relative_depth } => walk.branch(*relative_depth),
            Operator::BrTable { targets } => {
                walk.branch(targets.default());
                targets
                    .targets()
                    .flatten()
                    .for_each(|depth| walk.branch(depth));
                walk.passed = None;
            }
            Operator::Return
            | Operator::Unreachable
            | Operator::ReturnCall { .. }
            | Operator::ReturnCallIndirect { .. } => walk.passed = None,
            _ => {
                let point = plan.point_at(index).map(|point| point.kind);
                if matches!(point, Some(PointKind::Call | PointKind::Import)) {
                    walk.poll();
                }
            }
        }
    }
    walk.needed
}

impl Walk<'_> {
    fn loops(&self) -> usize {
        self.open.last().map_or(0, |open| open.loops)
    }

    fn poll(&mut self) {
        if self.passed.is_some() {
            self.passed = Some(self.loops());
        }
    }

    fn begin(&mut self, start: usize, is_loop: bool) {
        let loops = self.loops() + usize::from(is_loop);
        let at_start = self.passed.unwrap_or(0);
        self.open.push(Open {
            loops,
            is_loop,
            start,
            joined: None,
            at_start,
        });
        if is_loop && self.polled[start] {
            // Its poll serves the loops around it; for itself it is what is being asked.
            self.passed = Some(loops - 1);
        }
    }

    fn otherwise(&mut self) {
        let passed = self.passed;
        let open = self.open.last_mut().expect("validated: else lies in an if");
        open.joined = least(open.joined, passed);
        self.passed = Some(open.at_start);
    }

    fn end(&mut self, one_armed: bool) {
        let open = self.open.pop().expect("validated: end closes a frame");
        let mut passed = least(open.joined, self.passed);
        if one_armed {
            passed = least(passed, Some(open.at_start));
        }
        // A loop's own place in the count ends with it.
        self.passed = passed.map(|p| p.min(self.loops()));
    }

    fn branch(&mut self, depth: u32) {
        let at = self.open.len() - 1 - depth as usize;
        let passed = self.passed;
        let open = &mut self.open[at];
        if open.is_loop {
            if passed.is_some_and(|p| p < open.loops) {
                self.needed[open.start] = true;
            }
        } else {
            open.joined = least(open.joined, passed);
        }
    }
}

fn least(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
