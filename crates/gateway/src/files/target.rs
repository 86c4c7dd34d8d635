//! From a request's target to a path below the root: decoded once, without `.` and `..`, relative. The kernel is told
//! to stay beneath the root when it opens the path, so this is the first of two walls.

use super::status::Status;

/// A path relative to the root.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// Bytes, as in the file system; neither a leading nor a trailing slash. Empty: the root.
    pub(crate) bytes: Vec<u8>,
    /// It ended with a slash, and so means a directory.
    pub(crate) is_directory: bool,
}

/// The part of a request's target that begins with a slash: all of it, or what follows the authority in the form that
/// proxies get and servers must take (RFC 9112, section 3.2.2).
pub(crate) fn origin_form(target: &str) -> Option<&str> {
    if target.starts_with('/') {
        return Some(target);
    }
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    match rest.find(['/', '?']) {
        Some(0) => None,
        None => Some("/"),
        Some(at) if rest[at..].starts_with('?') => Some("/"),
        Some(at) => Some(&rest[at..]),
    }
}

/// The path of a target in origin form. `hidden`: whether names with a leading dot are seen.
///
/// # Errors
/// 400 for what is not a path (a broken escape, a zero byte, a fragment, a way out of the root), 404 for what cannot
/// be there or is not to be seen.
pub(crate) fn path(target: &str, hidden: bool) -> Result<Path, Status> {
    if target.contains('#') {
        return Err(Status::BAD_REQUEST);
    }
    let path = target.split('?').next().unwrap_or_default();
    let mut bytes = Vec::with_capacity(path.len());
    let mut is_directory = true;
    for segment in path.split('/') {
        let start = bytes.len();
        if start > 0 {
            bytes.push(b'/');
        }
        let name_start = bytes.len();
        decode(segment.as_bytes(), &mut bytes)?;
        match &bytes[name_start..] {
            b"" | b"." => {
                bytes.truncate(start);
                is_directory = true;
            }
            b".." => {
                bytes.truncate(start);
                if start == 0 {
                    return Err(Status::BAD_REQUEST);
                }
                let parent = bytes.iter().rposition(|byte| *byte == b'/');
                bytes.truncate(parent.unwrap_or(0));
                is_directory = true;
            }
            name => {
                // A slash that was escaped would be a part of a name, and no name has one.
                if name.contains(&b'/') || (!hidden && name[0] == b'.' && name != b".well-known") {
                    return Err(Status::NOT_FOUND);
                }
                is_directory = false;
            }
        }
    }
    Ok(Path {
        bytes,
        is_directory,
    })
}

fn decode(segment: &[u8], into: &mut Vec<u8>) -> Result<(), Status> {
    let mut bytes = segment.iter();
    while let Some(&byte) = bytes.next() {
        let byte = if byte == b'%' {
            let mut digit = || {
                let digit = char::from(*bytes.next()?).to_digit(16)?;
                u8::try_from(digit).ok()
            };
            match (digit(), digit()) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(Status::BAD_REQUEST),
            }
        } else {
            byte
        };
        if byte == 0 {
            return Err(Status::BAD_REQUEST);
        }
        into.push(byte);
    }
    Ok(())
}

/// A name or path as a part of a target: everything escaped but what is harmless in all places.
pub(crate) fn encode(bytes: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push('%');
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, expected: Result<(&str, bool), u16>) {
        let found = path(target, false);
        let found = found.map(|path| (String::from_utf8(path.bytes).unwrap(), path.is_directory));
        let expected = expected
            .map(|(path, is_directory)| (path.to_owned(), is_directory))
            .map_err(Status);
        assert_eq!(found, expected, "{target}");
    }

    #[test]
    fn paths_stay_below_the_root() {
        check("/", Ok(("", true)));
        check("/a", Ok(("a", false)));
        check("/a/", Ok(("a", true)));
        check("/a/b?c=/../d", Ok(("a/b", false)));
        check("//a///b", Ok(("a/b", false)));
        check("/a/./b/../c", Ok(("a/c", false)));
        check("/a/..", Ok(("", true)));
        check("/a/../..", Err(400));
        check("/..", Err(400));
        check("/%2e%2e/etc/passwd", Err(400));
        check("/.%2E/x", Err(400));
        check("/a/%2e%2e%2fetc", Err(404));
        check("/..%2f..%2fetc/passwd", Err(404));
        check("/a%2Fb", Err(404));
        check("/a%00b", Err(400));
        check("/a%", Err(400));
        check("/a%f", Err(400));
        check("/a%+1", Err(400));
        check("/a%zz", Err(400));
        check("/a#b", Err(400));
        check("/%252e%252e/x", Ok(("%2e%2e/x", false)));
        check("/..\\..\\x", Err(404));
        check("/.git/config", Err(404));
        check("/.well-known/x", Ok((".well-known/x", false)));
        check("/%C3%A9", Ok(("é", false)));
    }

    #[test]
    fn a_server_takes_the_form_for_proxies() {
        assert_eq!(origin_form("/a"), Some("/a"));
        assert_eq!(origin_form("http://host/a?b"), Some("/a?b"));
        assert_eq!(origin_form("HTTP://host"), Some("/"));
        assert_eq!(origin_form("http://host?b"), Some("/"));
        assert_eq!(origin_form("http:///a"), None);
        assert_eq!(origin_form("ftp://host/a"), None);
        assert_eq!(origin_form("*"), None);
        assert_eq!(origin_form("host:80"), None);
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        let name: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
        let path = path(&format!("/{}", encode(&name)), true).unwrap();
        assert_eq!(path.bytes, name);
    }
}
