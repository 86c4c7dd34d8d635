//! Ranges of bytes (RFC 9110, section 14).

/// Ranges in one request. More are no honest wish; such a request gets the whole file, as the standard allows.
const RANGES_MAX: usize = 16;

/// A run of bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// What a `Range` field asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// All: it says nothing that is understood, or too much.
    Whole,
    /// These, in this order. Never empty.
    Parts(Vec<Part>),
    /// Only what is beyond the end.
    Unsatisfiable,
}

/// Reads the field for a file of `length` bytes.
pub(crate) fn wanted(field: &str, length: u64) -> Wanted {
    let Some((unit, set)) = field.split_once('=') else {
        return Wanted::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Wanted::Whole;
    }
    let (mut parts, mut count) = (Vec::new(), 0);
    for range in set.split(',').map(trim).filter(|range| !range.is_empty()) {
        count += 1;
        if count > RANGES_MAX {
            return Wanted::Whole;
        }
        match one(range, length) {
            None => return Wanted::Whole,
            Some(None) => {}
            Some(Some(part)) => parts.push(part),
        }
    }
    if count == 0 {
        return Wanted::Whole;
    }
    if parts.is_empty() {
        return Wanted::Unsatisfiable;
    }
    // Ranges that overlap would make the server send more than it has.
    let sum: u128 = parts.iter().map(|part| u128::from(part.length)).sum();
    if sum > u128::from(length) {
        return Wanted::Whole;
    }
    Wanted::Parts(parts)
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// `None`: not a range. `Some(None)`: one beyond the end.
fn one(range: &str, length: u64) -> Option<Option<Part>> {
    let (first, last) = range.split_once('-')?;
    if first.is_empty() {
        let suffix = number(last)?.min(length);
        let part = Part {
            offset: length - suffix,
            length: suffix,
        };
        return Some((suffix > 0).then_some(part));
    }
    let first = number(first)?;
    let last = if last.is_empty() {
        u64::MAX
    } else {
        number(last)?
    };
    if last < first {
        return None;
    }
    let end = last.saturating_add(1).min(length);
    Some((first < length).then(|| Part {
        offset: first,
        length: end - first,
    }))
}

/// Digits only; a number that does not fit is as good as the largest.
pub(super) fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(field: &str, length: u64, expected: &[(u64, u64)]) {
        let expected = expected
            .iter()
            .map(|&(offset, length)| Part { offset, length });
        assert_eq!(
            wanted(field, length),
            Wanted::Parts(expected.collect()),
            "{field}"
        );
    }

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        check("bytes=0-0", 10, &[(0, 1)]);
        check("bytes=0-499", 10_000, &[(0, 500)]);
        check("bytes=500-", 10_000, &[(500, 9500)]);
        check("bytes=-500", 10_000, &[(9500, 500)]);
        check("bytes=-500", 10, &[(0, 10)]);
        check("bytes=5-100", 10, &[(5, 5)]);
        check("bytes= 0-0 , -1", 10, &[(0, 1), (9, 1)]);
        check("Bytes=0-0,,2-3,", 10, &[(0, 1), (2, 2)]);
        check("bytes=0-0,50-60", 10, &[(0, 1)]);
        check("bytes=0-18446744073709551615", 10, &[(0, 10)]);
        check("bytes=0-99999999999999999999999", 10, &[(0, 10)]);
    }

    #[test]
    fn what_is_no_range_is_ignored() {
        for field in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=5-4",
            "bytes=+1-2",
            "bytes=1 -2",
            "items=0-1",
            "bytes=0x1-2",
            "bytes=1",
            "bytes=0-9,0-9",
            "bytes=--1",
        ] {
            assert_eq!(wanted(field, 10), Wanted::Whole, "{field}");
        }
        let many = format!("bytes={}", vec!["0-0"; 17].join(","));
        assert_eq!(wanted(&many, 1000), Wanted::Whole);
    }

    #[test]
    fn what_is_beyond_the_end_is_said_to_be() {
        for field in ["bytes=10-", "bytes=10-20,30-", "bytes=-0"] {
            assert_eq!(wanted(field, 10), Wanted::Unsatisfiable, "{field}");
        }
        for field in ["bytes=0-", "bytes=-1"] {
            assert_eq!(wanted(field, 0), Wanted::Unsatisfiable, "{field}");
        }
    }
}
