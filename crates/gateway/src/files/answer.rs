//! [`Answer`]: a response as pieces to be sent in order: its head, and what follows out of memory or out of a file.

use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use super::range::Part;
use super::request::{Method, Request};
use super::status::Status;

/// A response that is being sent.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: Status,
    file: Option<Arc<File>>,
    /// The head is the first. The last comes first here, so that what was sent is taken from the end.
    pieces: Vec<Piece>,
    /// Bytes of the first piece still to be sent that were sent already.
    done: u64,
    head_bytes: u64,
    total: u64,
    sent: u64,
}

#[derive(Debug)]
pub(crate) enum Piece {
    Bytes(Vec<u8>),
    /// Out of the file.
    Part(Part),
}

/// What is to be sent next: bytes, and then a part of a file. At least one of them is not empty.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) file: Option<(&'a Arc<File>, Part)>,
}

impl Piece {
    fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Part(part) => part.length,
        }
    }
}

impl Answer {
    /// `body` refers to `file`.
    pub(crate) fn new(head: Head, file: Option<File>, body: Vec<Piece>) -> Self {
        let status = head.status;
        let bytes = head.end();
        let head_bytes = bytes.len() as u64;
        let mut pieces = body;
        pieces.retain(|piece| piece.length() > 0);
        pieces.push(Piece::Bytes(bytes));
        pieces[..].rotate_right(1);
        pieces.reverse();
        Self {
            status,
            file: file.map(Arc::new),
            done: 0,
            head_bytes,
            total: pieces.iter().map(Piece::length).sum(),
            sent: 0,
            pieces,
        }
    }

    /// A few words that say what went wrong.
    pub(crate) fn refusal(status: Status, method: Method, keep: bool) -> Self {
        let head = Head::new(status, keep);
        Self::words(head, method, "text/plain; charset=utf-8", message(status))
    }

    /// A short body out of memory, which a request for the head does not get.
    pub(crate) fn words(head: Head, method: Method, media: &str, body: Vec<u8>) -> Self {
        let head = head
            .field("Content-Type", media)
            .field("Content-Length", body.len());
        let body = match method {
            Method::Head => Vec::new(),
            Method::Get => vec![Piece::Bytes(body)],
        };
        Self::new(head, None, body)
    }

    /// Bytes in all.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Bytes of the body that were sent.
    pub(crate) fn body_sent(&self) -> u64 {
        self.sent.saturating_sub(self.head_bytes)
    }

    pub(crate) fn is_sent(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(crate) fn file(&self) -> Option<&File> {
        self.file.as_deref()
    }

    pub(crate) fn next(&self) -> Outgoing<'_> {
        let mut pieces = self.pieces.iter().rev();
        let (bytes, then) = match pieces.next() {
            Some(Piece::Bytes(bytes)) => (&bytes[self.done as usize..], pieces.next()),
            other => (&[][..], other),
        };
        let done = if bytes.is_empty() { self.done } else { 0 };
        let file = match (then, &self.file) {
            (Some(Piece::Part(part)), Some(file)) => Some((
                file,
                Part {
                    offset: part.offset + done,
                    length: part.length - done,
                },
            )),
            _ => None,
        };
        Outgoing { bytes, file }
    }

    /// So many bytes of what [`next`](Self::next) gave were sent.
    pub(crate) fn advance(&mut self, bytes: u64) {
        self.sent += bytes;
        self.done += bytes;
        while let Some(first) = self.pieces.last() {
            let length = first.length();
            if self.done < length {
                return;
            }
            self.done -= length;
            self.pieces.pop();
        }
        assert_eq!(self.done, 0, "more was sent than there is");
    }
}

fn message(status: Status) -> Vec<u8> {
    format!("{} {}\n", status.0, status.reason()).into_bytes()
}

/// The head of a response.
#[derive(Debug)]
pub(crate) struct Head {
    status: Status,
    bytes: Vec<u8>,
}

impl Head {
    /// With the fields that every response has. `keep`: the connection goes on.
    pub(crate) fn new(status: Status, keep: bool) -> Self {
        const USUAL_BYTES: usize = 384;
        let mut bytes = Vec::with_capacity(USUAL_BYTES);
        // Writing into memory does not fail.
        let _ = write!(bytes, "HTTP/1.1 {} {}\r\n", status.0, status.reason());
        let head = Self { status, bytes }
            .field("Server", "sterna")
            .field("Date", httpdate::HttpDate::from(SystemTime::now()))
            .field("Connection", if keep { "keep-alive" } else { "close" });
        match status {
            Status::METHOD_NOT_ALLOWED => head.field("Allow", "GET, HEAD"),
            Status::SERVICE_UNAVAILABLE => head.field("Retry-After", 1),
            _ => head,
        }
    }

    pub(crate) fn field(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.bytes.extend_from_slice(name.as_bytes());
        let _ = write!(self.bytes, ": {value}\r\n");
        self
    }

    fn end(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(b"\r\n");
        self.bytes
    }
}

/// A file, or parts of it, in answer to a request.
pub(crate) struct Content<'a> {
    pub(crate) file: File,
    pub(crate) length: u64,
    pub(crate) media: &'static str,
    /// Between parts; occurs in no file.
    pub(crate) boundary: &'a str,
}

impl Content<'_> {
    /// `head` tells the version. `parts`: not all of it but these.
    pub(crate) fn answer(self, head: Head, request: &Request, parts: Option<&[Part]>) -> Answer {
        let whole = Part {
            offset: 0,
            length: self.length,
        };
        let (head, body) = match parts {
            None => (
                head.field("Content-Type", self.media)
                    .field("Content-Length", self.length),
                vec![Piece::Part(whole)],
            ),
            Some(&[part]) => (
                head.field("Content-Type", self.media)
                    .field("Content-Range", self.content_range(part))
                    .field("Content-Length", part.length),
                vec![Piece::Part(part)],
            ),
            Some(parts) => {
                let body = self.multipart(parts);
                let length: u64 = body.iter().map(Piece::length).sum();
                let media = format!("multipart/byteranges; boundary={}", self.boundary);
                let head = head
                    .field("Content-Type", media)
                    .field("Content-Length", length);
                (head, body)
            }
        };
        match request.method {
            Method::Get => Answer::new(head, Some(self.file), body),
            Method::Head => Answer::new(head, None, Vec::new()),
        }
    }

    fn content_range(&self, part: Part) -> String {
        let last = part.offset + part.length - 1;
        format!("bytes {}-{last}/{}", part.offset, self.length)
    }

    /// RFC 9110, section 14.6.
    fn multipart(&self, parts: &[Part]) -> Vec<Piece> {
        let mut body = Vec::with_capacity(2 * parts.len() + 1);
        for &part in parts {
            let head = format!(
                "\r\n--{}\r\nContent-Type: {}\r\nContent-Range: {}\r\n\r\n",
                self.boundary,
                self.media,
                self.content_range(part)
            );
            body.push(Piece::Bytes(head.into_bytes()));
            body.push(Piece::Part(part));
        }
        let end = format!("\r\n--{}--\r\n", self.boundary);
        body.push(Piece::Bytes(end.into_bytes()));
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_sent_in_order_whatever_is_taken() {
        let folder = tempfile::tempfile().unwrap();
        let part = |offset, length| Piece::Part(Part { offset, length });
        let body = [
            part(3, 2),
            Piece::Bytes(b"xy".to_vec()),
            part(0, 1),
            Piece::Bytes(b"z".to_vec()),
        ];
        for step in 1..9 {
            let body = body.iter().map(|piece| match piece {
                Piece::Bytes(bytes) => Piece::Bytes(bytes.clone()),
                Piece::Part(part) => Piece::Part(*part),
            });
            let head = Head::new(Status::OK, true);
            let file = folder.try_clone().unwrap();
            let mut answer = Answer::new(head, Some(file), body.collect());
            let (total, mut seen) = (answer.total(), Vec::new());
            while !answer.is_sent() {
                let next = answer.next();
                let mut taken = next.bytes.iter().copied().take(step).collect::<Vec<u8>>();
                if let Some((_, part)) = next.file {
                    let left = (step - taken.len()) as u64;
                    let offsets = part.offset..part.offset + part.length.min(left);
                    taken.extend(offsets.map(|offset| b"01234"[offset as usize]));
                }
                answer.advance(taken.len() as u64);
                seen.extend(taken);
            }
            assert_eq!(seen.len() as u64, total);
            assert!(seen.ends_with(b"\r\n\r\n34xy0z"), "by {step}");
            assert_eq!(answer.body_sent(), 6);
        }
    }
}
