//! [`Request`]: the head of a request, read strictly (RFC 9112).
//!
//! What different servers could read differently is refused, since that is how requests are smuggled past a proxy:
//! lines that end with a bare LF, fields that go on in the next line, names followed by a space, more than one length,
//! a length together with a transfer coding, more than one host. After a refusal the connection is closed, so that
//! nothing that follows is taken for a request.

use std::sync::Arc;

use httparse::{EMPTY_HEADER, Header};

use super::condition::Conditions;
use super::range;
use super::settings::Limits;
use super::status::Status;
use super::target;

/// Header fields of a request.
const FIELDS_MAX: usize = 64;
/// Bytes of what a refused request is called in the log.
const CALLED_BYTES_MAX: usize = 200;
/// Methods that exist, and that files do not have (RFC 9110, section 9; RFC 5789).
const OTHER_METHODS: [&str; 7] = [
    "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
}

/// A request for a file.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// In origin form: it begins with a slash.
    pub(crate) target: String,
    /// HTTP/1.1; otherwise 1.0.
    pub(crate) is_modern: bool,
    /// The client wants to go on with this connection.
    pub(crate) keep: bool,
    /// Bytes that follow the head and mean nothing.
    pub(crate) body: u64,
    pub(crate) conditions: Conditions,
    pub(crate) range: Option<String>,
    pub(crate) referer: Option<Vec<u8>>,
    pub(crate) agent: Option<Vec<u8>>,
}

/// What the bytes that have arrived are.
#[derive(Debug)]
pub(crate) enum Read {
    /// The beginning of a head.
    Partial,
    /// A head of `length` bytes.
    Whole {
        request: Arc<Request>,
        length: usize,
    },
    /// Nothing that can be answered otherwise than by this status and the end of the connection.
    Refused(Refusal),
}

#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: Status,
    /// The first line, for the log.
    pub(crate) called: Vec<u8>,
}

/// Reads the request at the beginning of `bytes`, which are not empty.
pub(crate) fn read(bytes: &[u8], limits: &Limits) -> Read {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut fields);
    let refused = |status| {
        Read::Refused(Refusal {
            status,
            called: called(bytes),
        })
    };
    let within = &bytes[..bytes.len().min(limits.head_bytes)];
    match head.parse(within) {
        Ok(httparse::Status::Complete(length)) => {
            if has_bare_line_end(&bytes[..length]) {
                return refused(Status::BAD_REQUEST);
            }
            match understand(&head, limits) {
                Ok(request) => Read::Whole {
                    request: Arc::new(request),
                    length,
                },
                Err(status) => refused(status),
            }
        }
        Ok(httparse::Status::Partial) if has_bare_line_end(within) => refused(Status::BAD_REQUEST),
        Ok(httparse::Status::Partial) if bytes.len() < limits.head_bytes => Read::Partial,
        Ok(httparse::Status::Partial) if head.version.is_none() => refused(Status::URI_TOO_LONG),
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            refused(Status::HEAD_TOO_LARGE)
        }
        Err(httparse::Error::Version) => refused(Status::VERSION_NOT_SUPPORTED),
        Err(_) => refused(Status::BAD_REQUEST),
    }
}

/// The parser takes a bare LF for the end of a line.
fn has_bare_line_end(head: &[u8]) -> bool {
    let mut before = 0;
    head.iter().any(|&byte| {
        let bare = byte == b'\n' && before != b'\r';
        before = byte;
        bare
    })
}

fn called(bytes: &[u8]) -> Vec<u8> {
    let line = bytes.split(|byte| *byte == b'\r' || *byte == b'\n').next();
    let line = line.unwrap_or_default();
    line[..line.len().min(CALLED_BYTES_MAX)].to_owned()
}

fn understand(head: &httparse::Request<'_, '_>, limits: &Limits) -> Result<Request, Status> {
    let is_modern = head.version == Some(1);
    let mut fields = Fields::default();
    for field in head.headers.iter() {
        fields.take(field)?;
    }
    // Before the method is looked at: what cannot be framed is nobody's request.
    let body = fields.body(is_modern, limits)?;
    fields.check_host(is_modern)?;
    let method = match head.method.unwrap_or_default() {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        other if OTHER_METHODS.contains(&other) => return Err(Status::METHOD_NOT_ALLOWED),
        _ => return Err(Status::NOT_IMPLEMENTED),
    };
    let target = target::origin_form(head.path.unwrap_or_default()).ok_or(Status::BAD_REQUEST)?;
    Ok(Request {
        method,
        target: target.to_owned(),
        is_modern,
        keep: !fields.close && (is_modern || fields.keep_alive),
        body,
        conditions: fields.conditions,
        // Two fields contradict each other: none counts (RFC 9110, section 14.2).
        range: fields.range.filter(|_| !fields.has_ranges),
        referer: fields.referer,
        agent: fields.agent,
    })
}

/// What is kept of header fields.
#[derive(Default)]
struct Fields {
    hosts: usize,
    length: Option<u64>,
    has_coding: bool,
    expects: bool,
    close: bool,
    keep_alive: bool,
    conditions: Conditions,
    range: Option<String>,
    /// There was more than one `Range`.
    has_ranges: bool,
    referer: Option<Vec<u8>>,
    agent: Option<Vec<u8>>,
}

impl Fields {
    fn take(&mut self, field: &Header<'_>) -> Result<(), Status> {
        let name = field.name;
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            4 if is("host") => {
                self.hosts += 1;
                if !is_host(field.value) {
                    return Err(Status::BAD_REQUEST);
                }
            }
            5 if is("range") => {
                self.has_ranges |= self.range.is_some();
                self.range = Some(text(field));
            }
            6 if is("expect") => self.expects = true,
            7 if is("referer") => self.referer = Some(field.value.to_owned()),
            8 if is("if-match") => join(&mut self.conditions.if_match, field),
            8 if is("if-range") => join(&mut self.conditions.if_range, field),
            10 if is("connection") => self.take_connection(field.value),
            10 if is("user-agent") => self.agent = Some(field.value.to_owned()),
            13 if is("if-none-match") => join(&mut self.conditions.if_none_match, field),
            14 if is("content-length") => self.take_length(field.value)?,
            17 if is("if-modified-since") => join(&mut self.conditions.if_modified_since, field),
            17 if is("transfer-encoding") => self.has_coding = true,
            19 if is("if-unmodified-since") => {
                join(&mut self.conditions.if_unmodified_since, field);
            }
            // Underscores become hyphens in some servers, and this field then becomes another.
            14 if is("content_length") => return Err(Status::BAD_REQUEST),
            17 if is("transfer_encoding") => return Err(Status::BAD_REQUEST),
            _ => {}
        }
        Ok(())
    }

    fn take_connection(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// One field with one number. The standard lets a server take the same number twice; nobody honest sends that.
    fn take_length(&mut self, value: &[u8]) -> Result<(), Status> {
        let number = std::str::from_utf8(value).ok().and_then(range::number);
        match (self.length, number) {
            (None, Some(number)) => {
                self.length = Some(number);
                Ok(())
            }
            _ => Err(Status::BAD_REQUEST),
        }
    }

    /// Bytes of the body, which must be framed beyond doubt.
    fn body(&self, is_modern: bool, limits: &Limits) -> Result<u64, Status> {
        if self.has_coding {
            let is_doubtful = self.length.is_some() || !is_modern;
            return Err(if is_doubtful {
                Status::BAD_REQUEST
            } else {
                Status::NOT_IMPLEMENTED
            });
        }
        let length = self.length.unwrap_or(0);
        // Whether a client that waits for a go-ahead still sends the body after another answer is its choice.
        if self.expects && length > 0 {
            return Err(Status::EXPECTATION_FAILED);
        }
        if length > limits.body_bytes {
            return Err(Status::CONTENT_TOO_LARGE);
        }
        Ok(length)
    }

    fn check_host(&self, is_modern: bool) -> Result<(), Status> {
        if self.hosts > 1 || (is_modern && self.hosts == 0) {
            return Err(Status::BAD_REQUEST);
        }
        Ok(())
    }
}

/// A name or an address, perhaps with a port; may be empty (RFC 9110, section 7.2).
fn is_host(value: &[u8]) -> bool {
    value
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+,;=".contains(byte))
}

fn text(field: &Header<'_>) -> String {
    String::from_utf8_lossy(field.value).into_owned()
}

/// A list may come in several fields.
fn join(list: &mut Option<String>, field: &Header<'_>) {
    match list {
        None => *list = Some(text(field)),
        Some(list) => {
            list.push_str(", ");
            list.push_str(&String::from_utf8_lossy(field.value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(bytes: &[u8]) -> u16 {
        match read(bytes, &Limits::default()) {
            Read::Partial => 0,
            Read::Whole { .. } => 200,
            Read::Refused(refusal) => refusal.status.0,
        }
    }

    #[test]
    fn a_head_is_read_to_its_end_and_not_beyond() {
        let bytes = b"GET /a?b HTTP/1.1\r\nHost: x\r\nConnection: TE, Close\r\n\r\nGET /c";
        let Read::Whole { request, length } = read(bytes, &Limits::default()) else {
            panic!("not read");
        };
        assert_eq!(&bytes[length..], b"GET /c");
        assert_eq!((request.target.as_str(), request.keep), ("/a?b", false));
        for end in 1..length {
            assert_eq!(status(&bytes[..end]), 0, "{end} bytes");
        }
    }

    #[test]
    fn old_clients_go_on_only_if_they_say_so() {
        let keep = |bytes: &[u8]| match read(bytes, &Limits::default()) {
            Read::Whole { request, .. } => request.keep,
            other => panic!("{other:?}"),
        };
        assert!(keep(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert!(!keep(b"GET / HTTP/1.0\r\n\r\n"));
        assert!(keep(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    }

    #[test]
    fn too_much_is_refused_by_its_name() {
        let long = "x".repeat(Limits::default().head_bytes);
        assert_eq!(status(format!("GET /{long}").as_bytes()), 414);
        let field = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {long}");
        assert_eq!(status(field.as_bytes()), 431);
        let many = "A: b\r\n".repeat(FIELDS_MAX);
        let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n");
        assert_eq!(status(many.as_bytes()), 431);
    }
}
