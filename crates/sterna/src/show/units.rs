//! Sizes and times: as people write them, and as they read them.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A size in binary units, with three digits that matter.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, 0);
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = usize::from(value < 10.0) + usize::from(value < 99.95);
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// A span of time, with three digits that matter.
pub(crate) fn time(span: Duration) -> String {
    let seconds = span.as_secs_f64();
    let (value, unit) = match seconds {
        s if s >= 99.95 => return age(span),
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "µs"),
    };
    let decimals = usize::from(value < 10.0) + usize::from(value < 99.95);
    format!("{value:.decimals$} {unit}")
}

/// As [`time`], from whole microseconds.
pub(crate) fn time_us(us: u64) -> String {
    time(Duration::from_micros(us))
}

/// How old something is, with its two largest units.
pub(crate) fn age(span: Duration) -> String {
    let seconds = span.as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{:02}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{minutes:02}m"),
        (days, hours, _) => format!("{days}d{hours:02}h"),
    }
}

/// A moment as records and JSON have it: milliseconds since 1970.
pub(crate) fn since_epoch_ms(at: SystemTime) -> u64 {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}

/// A moment, given in milliseconds since 1970, as [RFC 3339](https://www.rfc-editor.org/rfc/rfc3339) has it, in this
/// machine's time zone.
pub(crate) fn moment(at_ms: u64) -> String {
    in_zone(at_ms, &TimeZone::system())
}

fn in_zone(at_ms: u64, zone: &TimeZone) -> String {
    let at = i64::try_from(at_ms).ok();
    let at = at.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    match at {
        Some(at) => {
            let offset = zone.to_offset(at);
            format!("{:.3}", at.display_with_offset(offset))
        }
        None => format!("{at_ms} ms after 1970"),
    }
}

/// Reads a size: `512`, `64K`, `256M`, `1.5G`; K, M, G and T are powers of 1024.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size: write 4096, 64K, 256M or 2G");
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(['b', 'i']);
    let (number, shift) = match number.as_bytes().last() {
        Some(b'k') => (&number[..number.len() - 1], 10),
        Some(b'm') => (&number[..number.len() - 1], 20),
        Some(b'g') => (&number[..number.len() - 1], 30),
        Some(b't') => (&number[..number.len() - 1], 40),
        _ => (number, 0),
    };
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(wrong());
    }
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * (1_u64 << shift) as f64;
    if bytes < 2_f64.powi(63) {
        Ok(bytes as u64)
    } else {
        Err(wrong())
    }
}

/// Reads a rate, in bytes a second: `200MB/s`, or the same without `/s`; sizes as [`parse_bytes`] has them.
pub(crate) fn parse_rate(text: &str) -> Result<u64, String> {
    let size = text.trim().trim_end_matches("/s");
    parse_bytes(size).map_err(|_| format!("{text:?} is not a rate: write 500K/s, 200MB/s or 1G/s"))
}

/// Reads a span of time: `500ms`, `30s`, `5m`, `12h`, `30d`; a plain number is seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time: write 500ms, 30s, 5m, 12h or 30d");
    let text = text.trim();
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let unit_s = match unit {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(wrong()),
    };
    let seconds = number.parse::<f64>().map_err(|_| wrong())? * unit_s;
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

/// The same for what must last.
pub(crate) fn parse_some_time(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    let wrong = || "no time is not enough".to_owned();
    (!time.is_zero()).then_some(time).ok_or_else(wrong)
}

/// Reads an address with a port, as both families write it.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "write an address and a port, as in 127.0.0.1:8080; 0.0.0.0:8080 or [::]:8080 for all of this machine's"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let check = |at_ms, zone, expected: &str| {
            let zone = TimeZone::posix(zone).unwrap();
            assert_eq!(in_zone(at_ms, &zone), expected);
        };
        check(0, "UTC0", "1970-01-01T00:00:00.000+00:00");
        let summer = "CET-1CEST,M3.5.0,M10.5.0/3";
        check(1_782_864_000_007, summer, "2026-07-01T02:00:00.007+02:00");
        check(1_767_225_600_000, summer, "2026-01-01T01:00:00.000+01:00");
        check(u64::MAX, "UTC0", "18446744073709551615 ms after 1970");
    }

    #[test]
    fn sizes() {
        let shown = [0, 1023, 1024, 100 << 10, 1023 << 10, 5 << 20, u64::MAX].map(bytes);
        assert_eq!(
            shown,
            [
                "0 B", "1023 B", "1.00 KiB", "100 KiB", "1023 KiB", "5.00 MiB", "16.0 EiB"
            ]
        );
        for (text, size) in [
            ("17", 17),
            ("64K", 65_536),
            ("1.5g", 3 << 29),
            ("2MiB", 2 << 20),
        ] {
            assert_eq!(parse_bytes(text).unwrap(), size, "{text}");
        }
        for text in ["", "M", "-1", "1e3", "inf", "99999999T", "1 apple"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times() {
        let shown = [0.000_3, 0.0123, 4.5, 200.0].map(|s| time(Duration::from_secs_f64(s)));
        assert_eq!(shown, ["300 µs", "12.3 ms", "4.50 s", "3m20s"]);
        assert_eq!(age(Duration::from_secs(90_000)), "1d01h");
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("2", 2000),
            ("1.5m", 90_000),
        ] {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(ms));
        }
        for text in ["", "s", "-1s", "1y", "NaN", "1e30d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
