//! Killing programs that never look up: an endless loop, and bulk operations over much memory.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sterna_process::Running;

use crate::Plan;
use crate::measure::{ms, quantile};
use crate::movable::{LONG, Movable};
use crate::programs::Job;
use crate::table::{Cell, Table};

/// The table of this part.
pub(crate) fn measure(plan: &Plan) -> Result<Vec<Table>> {
    let count = if plan.quick { 5 } else { 30 };
    let note = format!(
        "Milliseconds of real time from the request until the program has ended and its memory is given back; {count} \
         times each. `fill` fills 512 MiB again and again, of which it has all by then."
    );
    let mut table = Table::new("Kill", &note, &["program", "median", "p90", "max"]);
    let movable = Movable::cached(&plan.root)?;
    for (name, arguments) in [("spin", &[][..]), ("fill", &["512", "0"])] {
        let job = Job::new(&plan.root, name, arguments)?;
        movable.install(&job.bytes)?;
        let times = (0..count).map(|_| kill(&movable.start(&job, None)?));
        let times = times.collect::<Result<Vec<_>>>()?;
        let number = |q| Cell::Number(quantile(&times, q), 2);
        table.row(name, vec![number(0.5), number(0.9), number(1.0)]);
    }
    Ok(vec![table])
}

fn kill(running: &Running) -> Result<f64> {
    let used = Duration::from_millis(400);
    while running.control.stats().cpu_time < used {
        std::thread::sleep(Duration::from_millis(5));
    }
    let begin = Instant::now();
    running.control.kill();
    running.control.wait(LONG).context("it does not end")?;
    Ok(ms(begin.elapsed()))
}
