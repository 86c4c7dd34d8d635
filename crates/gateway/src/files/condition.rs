//! Conditional requests (RFC 9110, section 13): what a client has already, and whether that is still so.

use std::time::{Duration, SystemTime};

/// A file that was changed so recently may change again without its time telling.
const SETTLED: Duration = Duration::from_secs(1);

/// The fields of a request that make it conditional, as they came.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    pub(crate) if_match: Option<String>,
    pub(crate) if_none_match: Option<String>,
    pub(crate) if_modified_since: Option<String>,
    pub(crate) if_unmodified_since: Option<String>,
    pub(crate) if_range: Option<String>,
}

/// What tells versions of a file apart.
#[derive(Debug)]
pub(crate) struct Validators {
    /// With its quotes, without `W/`.
    tag: String,
    /// The file was changed a moment ago: the same tag may yet stand for other bytes.
    is_weak: bool,
    /// Whole seconds.
    pub(crate) modified: SystemTime,
}

/// What becomes of a conditional request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Proceed,
    NotModified,
    Failed,
}

impl Validators {
    /// Of a file as the kernel describes it. `modified_ns`: since 1970.
    pub(crate) fn new(inode: u64, length: u64, modified_ns: i128, now: SystemTime) -> Self {
        let since = u64::try_from(modified_ns.max(0) / 1_000_000_000).unwrap_or(0);
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(since.min(DATE_MAX_S));
        // A date in the future would be a promise nobody can keep (section 8.8.2.1).
        let modified = modified.min(now);
        Self {
            tag: format!("\"{inode:x}-{length:x}-{modified_ns:x}\""),
            is_weak: now.duration_since(modified).unwrap_or_default() < SETTLED,
            modified,
        }
    }

    /// As in the field `ETag`.
    pub(crate) fn etag(&self) -> String {
        if self.is_weak {
            format!("W/{}", self.tag)
        } else {
            self.tag.clone()
        }
    }

    /// In the order of section 13.2.2.
    pub(crate) fn evaluate(&self, conditions: &Conditions) -> Outcome {
        if let Some(list) = &conditions.if_match {
            let same = |(weak, tag): (bool, &str)| !weak && !self.is_weak && tag == self.tag;
            if list.trim() != "*" && !tags(list).any(same) {
                return Outcome::Failed;
            }
        } else if let Some(date) = conditions.if_unmodified_since.as_deref().and_then(date)
            && self.seconds() > date
        {
            return Outcome::Failed;
        }
        if let Some(list) = &conditions.if_none_match {
            if list.trim() == "*" || tags(list).any(|(_, tag)| tag == self.tag) {
                return Outcome::NotModified;
            }
        } else if let Some(date) = conditions.if_modified_since.as_deref().and_then(date)
            && self.seconds() <= date
        {
            return Outcome::NotModified;
        }
        Outcome::Proceed
    }

    /// Whether a range may be sent: the client's other bytes are of this very version.
    pub(crate) fn allow_range(&self, if_range: Option<&str>) -> bool {
        let Some(field) = if_range.map(str::trim) else {
            return true;
        };
        if self.is_weak {
            return false;
        }
        match date(field) {
            Some(date) => date == self.seconds(),
            None => field == self.tag,
        }
    }

    fn seconds(&self) -> u64 {
        seconds(self.modified)
    }
}

/// The last second of the year 9999, which is the last that a date of HTTP can name.
const DATE_MAX_S: u64 = 253_402_300_799;

/// A date of HTTP, or the nearest that it can name.
pub(crate) fn named(time: SystemTime) -> String {
    let since = Duration::from_secs(seconds(time).min(DATE_MAX_S));
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + since)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// One of the three forms of a date (section 5.6.7).
fn date(field: &str) -> Option<u64> {
    httpdate::parse_http_date(field.trim()).ok().map(seconds)
}

/// Tags of a list: weak or not, with their quotes. Ends at the first thing that is none.
fn tags(list: &str) -> impl Iterator<Item = (bool, &str)> {
    let mut rest = list;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let weak = rest.strip_prefix("W/");
        let quoted = weak.unwrap_or(rest);
        let end = quoted.strip_prefix('"')?.find('"')? + 2;
        let (tag, after) = quoted.split_at(end);
        rest = after;
        Some((weak.is_some(), tag))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const DAY_BEFORE: &str = "Sat, 05 Nov 1994 08:49:37 GMT";
    const DAY_AFTER: &str = "Mon, 07 Nov 1994 08:49:37 GMT";
    const DAY_S: u64 = 784_111_777;

    #[test]
    fn no_date_is_beyond_what_http_can_name() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(named(at(DAY_S)), DAY);
        assert_eq!(named(at(300_000_000_000)), "Fri, 31 Dec 9999 23:59:59 GMT");
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(named(before), "Thu, 01 Jan 1970 00:00:00 GMT");
    }

    fn old() -> Validators {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(DAY_S + 1_000_000);
        Validators::new(0xa, 0xb, i128::from(DAY_S) * 1_000_000_000 + 5, now)
    }

    fn fresh() -> Validators {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(DAY_S);
        Validators::new(0xa, 0xb, i128::from(DAY_S) * 1_000_000_000 + 5, now)
    }

    fn some(text: impl Into<String>) -> Option<String> {
        Some(text.into())
    }

    #[test]
    fn tags_are_compared_as_the_standard_says() {
        let (old, fresh) = (old(), fresh());
        let tag = old.tag.clone();
        let weak = format!("W/{tag}");
        assert_eq!((old.etag(), fresh.etag()), (tag.clone(), weak.clone()));
        let none_match = |file: &Validators, list: &str| {
            file.evaluate(&Conditions {
                if_none_match: some(list),
                if_modified_since: some(DAY_BEFORE),
                ..Conditions::default()
            })
        };
        for list in [
            "*",
            &tag,
            &weak,
            &format!("\"x\", {tag}"),
            &format!(",{weak}"),
        ] {
            assert_eq!(none_match(&old, list), Outcome::NotModified, "{list}");
            assert_eq!(none_match(&fresh, list), Outcome::NotModified, "{list}");
        }
        for list in ["\"x\"", "x", "\"", "", "W/", "\"a,b\" x"] {
            assert_eq!(none_match(&old, list), Outcome::Proceed, "{list}");
        }
        let matches = |file: &Validators, list: &str| {
            file.evaluate(&Conditions {
                if_match: some(list),
                ..Conditions::default()
            })
        };
        assert_eq!(matches(&old, &tag), Outcome::Proceed);
        assert_eq!(matches(&old, "*"), Outcome::Proceed);
        assert_eq!(matches(&old, &weak), Outcome::Failed);
        assert_eq!(matches(&fresh, &tag), Outcome::Failed);
    }

    #[test]
    fn dates_are_compared_by_the_second() {
        let since = |modified: Option<&str>, unmodified: Option<&str>| {
            old().evaluate(&Conditions {
                if_modified_since: modified.map(str::to_owned),
                if_unmodified_since: unmodified.map(str::to_owned),
                ..Conditions::default()
            })
        };
        assert_eq!(since(Some(DAY), None), Outcome::NotModified);
        assert_eq!(since(Some(DAY_AFTER), None), Outcome::NotModified);
        assert_eq!(since(Some(DAY_BEFORE), None), Outcome::Proceed);
        assert_eq!(since(Some("yesterday"), None), Outcome::Proceed);
        assert_eq!(since(None, Some(DAY)), Outcome::Proceed);
        assert_eq!(since(None, Some(DAY_BEFORE)), Outcome::Failed);
        let rfc850 = "Sunday, 06-Nov-94 08:49:37 GMT";
        assert_eq!(since(Some(rfc850), None), Outcome::NotModified);
        assert_eq!(
            since(Some("Sun Nov  6 08:49:37 1994"), None),
            Outcome::NotModified
        );
    }

    #[test]
    fn a_range_needs_a_strong_validator() {
        let (old, fresh) = (old(), fresh());
        assert!(old.allow_range(None) && fresh.allow_range(None));
        assert!(old.allow_range(Some(&old.tag)) && old.allow_range(Some(DAY)));
        assert!(!old.allow_range(Some(DAY_AFTER)) && !old.allow_range(Some("\"x\"")));
        assert!(!old.allow_range(Some(&format!("W/{}", old.tag))));
        assert!(!fresh.allow_range(Some(&fresh.tag)) && !fresh.allow_range(Some(DAY)));
    }
}
