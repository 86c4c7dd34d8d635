//! Caches: every row is there, and shares are shares.

use std::time::Duration;

use sterna_laboratory::cache::{CARRIERS, Level, Plan, cache};

use super::player;

#[test]
fn every_row_is_there() {
    let plan = Plan {
        sizes: vec![4096, 65_536],
        span: Duration::from_millis(2),
        ticked: vec![16_384],
        periods: vec![Duration::from_micros(500), Duration::from_millis(1)],
        tick_bytes: 8192,
        looks: 1,
    };
    let mut last = 0.0;
    let found = cache(&plan, &player(), &mut |_, done| {
        assert!((last..1.0).contains(&done));
        last = done;
    });
    assert_eq!(found.curve.len(), CARRIERS.len() * 2);
    for row in &found.curve {
        let point = row.point.measured().unwrap();
        assert!(point.before_ns > 0.0 && point.after_ns > 0.0 && point.direct_ns > 0.0);
        let indirect = (point.after_ns - point.before_ns) * (row.bytes / 64) as f64;
        assert!((point.indirect_ns - indirect).abs() < 1.0);
        assert!((0.0..=1.0).contains(&point.indirect_share()));
    }
    assert_eq!(found.ticks.len(), CARRIERS.len() * 2);
    for row in &found.ticks {
        let ticked = row.ticked.measured().unwrap();
        assert!(ticked.quiet_ns > 0.0 && ticked.ticks > 0);
        let tick_ns = ticked.direct_ns + ticked.indirect_ns;
        let period_ns = row.period_us as f64 * 1e3;
        assert!((ticked.slowdown - tick_ns / period_ns).abs() < 1e-9);
    }
    let near = Level::all()
        .into_iter()
        .filter(|level| level.level <= 2)
        .count();
    assert_eq!(found.lines.len(), near * CARRIERS.len());
    for lines in &found.lines {
        let Some(picture) = lines.picture.measured() else {
            continue;
        };
        assert_eq!(picture.evicted.len(), lines.cache.ways + 1);
        for row in &picture.evicted {
            assert_eq!(row.len(), lines.cache.ways);
            assert!(row.iter().all(|share| (0.0..=1.0).contains(share)));
        }
    }
    if near == 0 {
        println!("SKIPPED: the kernel does not describe the caches of this machine");
    }
    assert!(found.page().html().matches("<svg").count() >= 3);
}
