//! A server in this process, and a client that shows what it does to the byte.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use sterna_gateway::files::{Log, Model, ServeError, Served, Settings, Site, Stop, Workers, serve};
use sterna_gateway::role;
use tempfile::TempDir;

/// Nothing here takes so long; a test that waits longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) stop: Stop,
    running: Option<JoinHandle<Result<Served, ServeError>>>,
}

impl Server {
    /// Serves `root` under a model, with settings as `change` makes them.
    pub(crate) fn start(model: Model, root: &Path, change: impl FnOnce(&mut Settings)) -> Self {
        Self::with_log(model, root, None, change)
    }

    pub(crate) fn with_log(
        model: Model,
        root: &Path,
        log: Option<fs::File>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let mut settings = Settings::of(root);
        change(&mut settings);
        let stop = Stop::new().unwrap();
        let log = log.map(|file| Log::new(file, log_failed).unwrap());
        let site = Site::new(settings, log, stop.clone()).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let workers = Workers {
            count: (model == Model::Processes).then_some(2),
            program: Some((
                env!("CARGO_BIN_EXE_sterna-gateway-role").into(),
                role::worker(),
            )),
        };
        let running = std::thread::spawn(move || serve(model, &workers, listener, site));
        Self {
            address,
            stop,
            running: Some(running),
        }
    }

    pub(crate) fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.address).unwrap())
    }

    /// Asks on a connection of its own.
    pub(crate) fn ask(&self, request: &str) -> Response {
        let mut client = self.connect();
        client.send(request);
        client.response(request.starts_with("HEAD"))
    }

    pub(crate) fn get(&self, target: &str) -> Response {
        self.ask(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }

    /// Stops it, and waits for the end.
    pub(crate) fn end(mut self) -> Served {
        self.stop.request();
        let running = self.running.take().unwrap();
        running.join().unwrap().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.request();
    }
}

fn log_failed(error: &io::Error) {
    panic!("the log could not be written: {error}");
}

/// A server in a process of its own.
pub(crate) struct Process {
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Process {
    /// Hybrid, with so many descriptors.
    pub(crate) fn start(program: &str, root: &Path, descriptors: u64) -> Self {
        let mut child = Command::new(program)
            .args([role::ROLE, role::SERVER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = role::ServerOrders {
            settings: Settings::of(root),
            model: Model::Hybrid,
            workers: None,
            descriptors: Some(descriptors),
        };
        let orders = serde_json::to_string(&orders).unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "{orders}").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let ready: role::ServerReady = serde_json::from_str(&line).unwrap();
        Self {
            address: ready.address,
            child,
        }
    }

    pub(crate) fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

/// One end of a connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let prefix = format!("{name}: ");
        self.head
            .lines()
            .find_map(|line| line.strip_prefix(&prefix))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Client {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    fn more(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(count) => {
                self.read.extend_from_slice(&buffer[..count]);
                count > 0
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("no answer: {error}; so far: {:?}", self.seen()),
        }
    }

    /// Takes what has come, a little of it: how many bytes. It is kept.
    pub(crate) fn take(&mut self) -> usize {
        let before = self.read.len();
        self.more();
        self.read.len() - before
    }

    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }

    /// The next response.
    pub(crate) fn response(&mut self, without_body: bool) -> Response {
        let response = self.head().map(|head| self.with_body(head, without_body));
        response.unwrap_or_else(|| panic!("the connection ended: {:?}", self.seen()))
    }

    /// The same, if there is one before the end.
    pub(crate) fn try_response(&mut self) -> Option<Response> {
        self.head().map(|head| self.with_body(head, false))
    }

    fn head(&mut self) -> Option<String> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more() {
                return None;
            }
        };
        let head: Vec<u8> = self.read.drain(..end).collect();
        Some(String::from_utf8(head).unwrap())
    }

    fn with_body(&mut self, head: String, without_body: bool) -> Response {
        let mut response = Response {
            status: head[9..12].parse().unwrap(),
            head,
            body: Vec::new(),
        };
        let length = response
            .field("Content-Length")
            .map_or(0, |length| length.parse().unwrap());
        if !without_body {
            while self.read.len() < length {
                assert!(self.more(), "the body ended: {}", response.head);
            }
            response.body = self.read.drain(..length).collect();
        }
        response
    }

    /// All that comes until the connection ends.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.read)
    }
}

/// A directory with files in it, all of them old enough to have strong tags.
pub(crate) fn tree() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for directory in ["sub", "empty", "listed", "sub/dir with space"] {
        fs::create_dir(root.join(directory)).unwrap();
    }
    for (name, content) in [
        ("index.html", "<p>index"),
        ("ten", "0123456789"),
        ("ten.txt", "0123456789"),
        ("nothing", ""),
        ("sub/index.html", "<p>sub"),
        ("sub/a b.css", "a{}"),
        ("sub/dir with space/é.js", "1"),
        ("listed/one", "1"),
        (".secret", "secret"),
    ] {
        write(&root.join(name), content.as_bytes());
    }
    std::os::unix::fs::symlink("ten", root.join("link")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.join("out")).unwrap();
    std::os::unix::fs::symlink("../../../../../etc", root.join("up")).unwrap();
    std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
    folder
}

/// Sunday, 2020-09-13 12:26:40 UTC
pub(crate) const OLD_S: u64 = 1_600_000_000;
pub(crate) const OLD: &str = "Sun, 13 Sep 2020 12:26:40 GMT";

pub(crate) fn write(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(OLD_S))
        .unwrap();
}

/// Bytes in which every run of 64 looks different.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    let mut bytes = vec![b'.'; length];
    for (number, run) in bytes.chunks_mut(64).enumerate() {
        let mark = number.to_be_bytes();
        let length = run.len().min(mark.len());
        run[..length].copy_from_slice(&mark[..length]);
    }
    bytes
}
