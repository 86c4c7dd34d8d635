//! One client: [`Client`], its requests in the order of their answers, and what it knows of its keys.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Of a value.
const VALUE_BYTES: usize = 120;
/// A client reads after so many writes.
const WRITES_A_READ: u32 = 16;
/// It reads what it wrote so many writes before.
const READ_BACK: usize = 8;
/// For a connection.
const CONNECT_WITHIN: Duration = Duration::from_millis(200);
const BUFFER_BYTES: usize = 16 << 10;

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    number: u32,
    address: SocketAddr,
    stream: Option<TcpStream>,
    /// What is to be sent, and how much of it was.
    out: Vec<u8>,
    sent: usize,
    input: Vec<u8>,
    asked: VecDeque<Asked>,
    keys: Vec<Key>,
    /// Keys that were written last.
    recent: VecDeque<u32>,
    /// Requests until now, which number them.
    count: u32,
    random: u64,
}

/// What is known of a key, all requests that are under way included.
#[derive(Debug, Clone, Copy)]
struct Key {
    /// How often it has been written; unknown if a connection broke in between.
    version: Option<u32>,
    /// By which of the client's requests, last.
    request: u32,
}

/// A request without its answer.
#[derive(Debug)]
struct Asked {
    due_us: u64,
    key: u32,
    is_read: bool,
    /// As the answer must be.
    expected: Key,
}

/// A right answer's request was due then, or what is wrong.
pub(super) type Checked = Result<u64, String>;

impl Client {
    /// With so many keys.
    pub(super) fn connect(number: u32, address: SocketAddr, keys: usize) -> io::Result<Self> {
        let unwritten = Key {
            version: Some(0),
            request: 0,
        };
        let mut client = Self {
            number,
            address,
            stream: None,
            out: Vec::new(),
            sent: 0,
            input: Vec::new(),
            asked: VecDeque::new(),
            keys: vec![unwritten; keys.max(1)],
            recent: VecDeque::new(),
            count: 0,
            random: u64::from(number),
        };
        client.connect_again()?;
        Ok(client)
    }

    pub(super) fn connect_again(&mut self) -> io::Result<&TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, CONNECT_WITHIN)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(self.stream.insert(stream))
    }

    /// Its connection, if it has one.
    pub(super) const fn stream(&self) -> Option<&TcpStream> {
        self.stream.as_ref()
    }

    /// Whether it has all its answers.
    pub(super) fn is_idle(&self) -> bool {
        self.asked.is_empty()
    }

    /// Whether something is to be sent that did not fit.
    pub(super) const fn is_full(&self) -> bool {
        self.sent < self.out.len()
    }

    /// Asks for what comes next.
    pub(super) fn ask(&mut self, due_us: u64) {
        self.count += 1;
        let is_read =
            self.count.is_multiple_of(WRITES_A_READ + 1) && self.recent.len() == READ_BACK;
        let key = match is_read {
            true => self.recent.pop_front().unwrap_or(0),
            false => (self.draw() % self.keys.len() as u64) as u32,
        };
        let known = &mut self.keys[key as usize];
        if is_read {
            let head = format!("GET /{}.{key} HTTP/1.1\r\n\r\n", self.number);
            self.out.extend_from_slice(head.as_bytes());
        } else {
            known.version = known.version.map(|version| version + 1);
            known.request = self.count;
            let head = format!(
                "PUT /{}.{key} HTTP/1.1\r\nContent-Length: {VALUE_BYTES}\r\n\r\n",
                self.number
            );
            self.out.extend_from_slice(head.as_bytes());
            self.out
                .extend_from_slice(&value(self.number, key, self.count));
            self.recent.push_back(key);
            if self.recent.len() > READ_BACK {
                self.recent.pop_front();
            }
        }
        let expected = self.keys[key as usize];
        self.asked.push_back(Asked {
            due_us,
            key,
            is_read,
            expected,
        });
    }

    /// Sends as much as fits.
    pub(super) fn send(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        while self.sent < self.out.len() {
            match stream.write(&self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// Takes what has come; each answer is told to `tell`.
    pub(super) fn receive(&mut self, tell: &mut dyn FnMut(Checked)) -> io::Result<()> {
        let mut buffer = [0; BUFFER_BYTES];
        loop {
            let Some(stream) = &mut self.stream else {
                return Ok(());
            };
            match stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let mut taken = 0;
            while let Some((answer, length)) = parse(&self.input[taken..])? {
                tell(check(self.number, &mut self.asked, &mut self.keys, &answer));
                taken += length;
            }
            self.input.drain(..taken);
        }
    }

    /// Its connection is gone, and with it what was under way. How many requests that were.
    pub(super) fn broke(&mut self) -> usize {
        self.stream = None;
        self.out.clear();
        self.sent = 0;
        self.input.clear();
        let lost = self.asked.len();
        for asked in self.asked.drain(..) {
            self.keys[asked.key as usize].version = None;
        }
        self.recent.clear();
        lost
    }

    /// A number that looks random (splitmix64).
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// What a request writes.
fn value(client: u32, key: u32, request: u32) -> [u8; VALUE_BYTES] {
    let text = format!("{client}.{key}.{request};");
    let mut value = [b'.'; VALUE_BYTES];
    value[..text.len()].copy_from_slice(text.as_bytes());
    value
}

fn check(
    client: u32,
    asked: &mut VecDeque<Asked>,
    keys: &mut [Key],
    answer: &Answer<'_>,
) -> Checked {
    let Some(Asked {
        due_us,
        key,
        is_read,
        expected,
    }) = asked.pop_front()
    else {
        return Err(format!("client {client}: an answer that nobody asked for"));
    };
    let counted = match is_read {
        true => answer.tag,
        false => std::str::from_utf8(answer.body)
            .ok()
            .and_then(|text| text.trim_end().parse().ok()),
    };
    let is_right = answer.status == 200
        && counted.is_some()
        && (expected.version.is_none() || expected.version == counted)
        && (!is_read || answer.body == value(client, key, expected.request));
    if !is_right {
        return Err(format!(
            "client {client}: {} of key {key}, written {:?} times and last by request {}: {} {counted:?} {:?}",
            if is_read { "a read" } else { "a write" },
            expected.version,
            expected.request,
            answer.status,
            String::from_utf8_lossy(answer.body),
        ));
    }
    let known = &mut keys[key as usize];
    if known.version.is_none() && known.request == expected.request {
        known.version = counted;
    }
    Ok(due_us)
}

/// An answer as it came.
struct Answer<'a> {
    status: u16,
    /// The number in its `ETag`.
    tag: Option<u32>,
    body: &'a [u8],
}

/// The first answer of what has come and its length, if all of it is there. Only what this server sends is understood.
fn parse(bytes: &[u8]) -> io::Result<Option<(Answer<'_>, usize)>> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "not an answer in HTTP/1.1");
    let Some(head) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..head]).map_err(|_| malformed())?;
    let mut lines = text.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok())
        .ok_or_else(malformed)?;
    let (mut length, mut tag) = (None, None);
    for line in lines {
        match line.split_once(": ") {
            Some(("Content-Length", number)) => length = number.parse().ok(),
            Some(("ETag", quoted)) => tag = quoted.trim_matches('"').parse().ok(),
            _ => {}
        }
    }
    let (begin, length): (usize, usize) = (head + 4, length.ok_or_else(malformed)?);
    let body = bytes.get(begin..begin + length);
    Ok(body.map(|body| (Answer { status, tag, body }, begin + length)))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A client, and the server's end of its connection.
    fn pair() -> (Client, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Client::connect(0, listener.local_addr().unwrap(), 1).unwrap();
        (client, listener.accept().unwrap().0)
    }

    /// What a client makes of answers to as many writes.
    fn check_writes(answers: &[&str]) -> (Vec<bool>, bool) {
        let (mut client, mut server) = pair();
        for _ in answers {
            client.ask(0);
        }
        client.send().unwrap();
        for body in answers {
            let length = body.len();
            write!(
                server,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
            )
            .unwrap();
        }
        drop(server);
        let mut right = Vec::new();
        // All has come when the end has.
        let broke = loop {
            match client.receive(&mut |checked| right.push(checked.is_ok())) {
                Ok(()) => std::thread::yield_now(),
                Err(error) => break error.kind() != io::ErrorKind::InvalidData,
            }
        };
        (right, broke)
    }

    #[test]
    fn writes_that_were_lost_doubled_or_swapped_are_seen() {
        assert_eq!(check_writes(&["1\n", "2\n"]), (vec![true, true], true));
        assert_eq!(check_writes(&["1\n", "3\n"]), (vec![true, false], true));
        assert_eq!(check_writes(&["2\n", "1\n"]), (vec![false, false], true));
        assert_eq!(check_writes(&["1\n", "1\n"]), (vec![true, false], true));
        assert_eq!(check_writes(&["one\n"]), (vec![false], true));
    }

    #[test]
    fn a_value_of_another_write_is_seen() {
        for (write, is_right) in [(9, true), (8, false)] {
            let mut asked = VecDeque::from([Asked {
                due_us: 7,
                key: 0,
                is_read: true,
                expected: Key {
                    version: Some(4),
                    request: 9,
                },
            }]);
            let answer = Answer {
                status: 200,
                tag: Some(4),
                body: &value(0, 0, write),
            };
            let mut keys = [Key {
                version: Some(4),
                request: 9,
            }];
            assert_eq!(check(0, &mut asked, &mut keys, &answer).is_ok(), is_right);
            assert!(check(0, &mut asked, &mut keys, &answer).is_err(), "unasked");
        }
    }

    #[test]
    fn after_a_break_what_was_under_way_is_learned_anew() {
        let (mut client, _server) = pair();
        for _ in 0..3 {
            client.ask(0);
        }
        assert_eq!(client.broke(), 3);
        assert!(client.is_idle());
        client.ask(0);
        let Client { asked, keys, .. } = &mut client;
        let answer = |body| Answer {
            status: 200,
            tag: None,
            body,
        };
        assert!(check(0, asked, keys, &answer(b"3\n")).is_ok());
        client.ask(0);
        let Client { asked, keys, .. } = &mut client;
        assert!(check(0, asked, keys, &answer(b"5\n")).is_err());
    }
}
