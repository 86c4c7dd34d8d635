//! Stalls: every row is there, and what cannot be otherwise is so.

use std::time::Duration;

use sterna_laboratory::carrier::Carrier;
use sterna_laboratory::stall::{Disturbance, Plan, stall};

#[test]
fn one_kernel_thread_stops_all_of_its_user_threads() {
    let hold = Duration::from_millis(60);
    let plan = Plan {
        tickers: 3,
        period: Duration::from_millis(1),
        calm: Duration::from_millis(20),
        hold,
    };
    let mut steps = 0;
    let stall = stall(plan, &mut |_, done| {
        assert!((0.0..1.0).contains(&done));
        steps += 1;
    });
    assert_eq!((stall.rows.len(), steps), (16, 16));
    for row in &stall.rows {
        let others = row.others.measured().unwrap();
        assert_eq!(others.gaps.len(), 3);
        let holds = matches!(row.disturbance, Disturbance::Blocks | Disturbance::Computes);
        if row.workers == Some(1) && holds {
            // Nobody else could have run them, however the machine was disturbed.
            assert!(others.longest_gap >= hold.as_secs_f64(), "{row:?}");
            assert_eq!(others.stopped, 3, "{row:?}");
            assert!(others.gaps.iter().all(|gaps| !gaps.is_empty()));
        }
        assert!(row.carrier != Carrier::Kernel || others.reports.is_empty());
        for report in &others.reports {
            assert!(report.seconds > 0.0 && report.worker < row.workers.unwrap());
        }
    }
    assert_eq!(stall.page().html().matches("<svg").count(), 4);
}
