//! A client of the key-value store (guests/servers/kv.c).

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::world::until;

/// Longer than anything takes that is waited for: a client that hears nothing for so long fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// On one connection.
pub(crate) struct Client {
    pub(crate) to: TcpStream,
    pub(crate) from: BufReader<TcpStream>,
}

/// What the store has answered.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) status: u16,
    /// How often the key was written.
    pub(crate) version: Option<u64>,
    pub(crate) body: String,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::on(TcpStream::connect(address)?)
    }

    pub(crate) fn on(to: TcpStream) -> io::Result<Self> {
        to.set_nodelay(true)?;
        to.set_read_timeout(Some(PATIENCE))?;
        let from = BufReader::new(to.try_clone()?);
        Ok(Self { to, from })
    }

    /// The same as soon as the port is open. Who tries long enough meets itself: a socket that connects from the very port
    /// that nobody listens at (tcp(7), simultaneous open).
    #[track_caller]
    pub(crate) fn connect_soon(address: SocketAddr) -> Self {
        let mut connected = None;
        until("the port is open", || {
            let client = Self::connect(address).ok();
            connected = client.filter(|client| client.to.local_addr().unwrap() != address);
            connected.is_some()
        });
        connected.unwrap()
    }

    pub(crate) fn send(&mut self, method: &str, key: &str, body: &str) -> io::Result<()> {
        let length = body.len();
        let request = format!(
            "{method} /{key} HTTP/1.1\r\nHost: kv\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.to.write_all(request.as_bytes())
    }

    /// The next answer.
    pub(crate) fn hear(&mut self) -> io::Result<Said> {
        let mut said = Said::default();
        let status = self.line()?;
        let number = status
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3));
        said.status = number.and_then(|text| text.parse().ok()).expect(&status);
        let mut length = 0;
        loop {
            let line = self.line()?;
            match line.trim_end().split_once(": ") {
                Some(("Content-Length", text)) => length = text.parse().unwrap(),
                Some(("ETag", text)) => said.version = text.trim_matches('"').parse().ok(),
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        self.from.read_exact(&mut body)?;
        said.body = String::from_utf8(body).unwrap();
        Ok(said)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        match line.ends_with('\n') {
            true => Ok(line),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// The body of the next answer, which must be a good one.
    pub(crate) fn receive(&mut self) -> io::Result<String> {
        let said = self.hear()?;
        assert_eq!(said.status, 200, "{said:?}");
        Ok(said.body)
    }

    fn ask(&mut self, method: &str, key: &str, body: &str) -> io::Result<String> {
        self.send(method, key, body)?;
        self.receive()
    }

    /// Writes a key. How often that was done.
    pub(crate) fn put(&mut self, key: &str, value: &str) -> io::Result<u64> {
        let answer = self.ask("PUT", key, value)?;
        Ok(answer.trim_end().parse().unwrap())
    }

    pub(crate) fn get(&mut self, key: &str) -> io::Result<String> {
        self.ask("GET", key, "")
    }
}
