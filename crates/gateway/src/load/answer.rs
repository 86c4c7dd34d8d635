//! [`Answer`]: a response as it arrives: as much of HTTP as a client needs that counts.

/// Bytes of a head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A response that is arriving.
#[derive(Debug, Default)]
pub(super) struct Answer {
    head: Vec<u8>,
    status: u16,
    closes: bool,
    body: u64,
    body_left: u64,
}

/// What has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Not all.
    More,
    /// All, with so many bytes of body.
    Whole { status: u16, bytes: u64 },
    /// What is no response, or more than one.
    Broken,
}

impl Answer {
    /// Bytes of the body that are still to come, if its head is here.
    pub(super) fn body_left(&self) -> u64 {
        self.body_left
    }

    /// The server ends the connection after it.
    pub(super) fn closes(&self) -> bool {
        self.closes
    }

    /// So many bytes of the body came.
    pub(super) fn skipped(&mut self, count: u64) -> Progress {
        match self.body_left.checked_sub(count) {
            None => Progress::Broken,
            Some(left) => {
                self.body_left = left;
                self.progress()
            }
        }
    }

    /// These came, and at least their first is of the head.
    pub(super) fn received(&mut self, bytes: &[u8]) -> Progress {
        self.head.extend_from_slice(bytes);
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut fields);
        let length = match response.parse(&self.head) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if self.head.len() < HEAD_BYTES_MAX => {
                return Progress::More;
            }
            _ => return Progress::Broken,
        };
        self.status = response.code.unwrap_or(0);
        for field in response.headers.iter() {
            let value = std::str::from_utf8(field.value).unwrap_or_default();
            if field.name.eq_ignore_ascii_case("content-length") {
                let Ok(length) = value.parse() else {
                    return Progress::Broken;
                };
                self.body = length;
            } else if field.name.eq_ignore_ascii_case("connection") {
                self.closes = value.eq_ignore_ascii_case("close");
            }
        }
        let here = (self.head.len() - length) as u64;
        self.head.clear();
        self.body_left = self.body;
        self.skipped(here)
    }

    fn progress(&self) -> Progress {
        if self.body_left > 0 {
            return Progress::More;
        }
        Progress::Whole {
            status: self.status,
            bytes: self.body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_last_byte_is_here() {
        let bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nConnection: close\r\n\r\nhello";
        let whole = Progress::Whole {
            status: 200,
            bytes: 5,
        };
        for cut in 1..bytes.len() {
            let mut answer = Answer::default();
            assert_eq!(answer.received(&bytes[..cut]), Progress::More, "{cut}");
            let rest = &bytes[cut..];
            let progress = if answer.body_left() > 0 {
                answer.skipped(rest.len() as u64)
            } else {
                answer.received(rest)
            };
            assert_eq!(progress, whole, "{cut}");
            assert!(answer.closes());
        }
        assert_eq!(
            Answer::default().received(b"nonsense\r\n\r\n"),
            Progress::Broken
        );
    }
}
