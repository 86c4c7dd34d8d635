//! How etcd is asked: HTTP/1.1 to one of its members, and to the next one if that does not answer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::Login;
use crate::wire::now_ms;

/// For a member to take a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// For a member to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// For the members to agree on a leader.
const ELECTED_WITHIN: Duration = Duration::from_secs(5);
/// Before they are asked again.
const ELECTION_PAUSE: Duration = Duration::from_millis(200);
/// How often all members are tried.
const ROUNDS_MAX: usize = 2;
/// Connections that are kept for the next request.
const IDLE_MAX: usize = 16;
/// Longest answer, in bytes: as many entries as are read at once, of the longest kind, in base 64.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Longest line of a watch, in bytes.
const LINE_BYTES_MAX: usize = 16 << 20;
/// By how much etcd's clock, of which seconds are known, may differ before it is believed more than ours.
const CLOCK_NOISE_MS: i64 = 2_000;

/// Why etcd did not do something.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdError {
    /// No member answers.
    #[error("no member of the etcd cluster answers ({members}): {last}")]
    Unreachable {
        /// Who was asked.
        members: String,
        /// What the last one did.
        last: String,
    },
    /// It answers that it will not.
    #[error("etcd refused: {message}")]
    Refused {
        /// What it says.
        message: String,
    },
    /// It wants to know who asks, or did not like the answer.
    #[error(
        "etcd did not accept the user and password: set STERNA_ETCD_LOGIN_FILE to a private file with USER:PASSWORD"
    )]
    Login,
    /// It answers what it should not.
    #[error("the other end does not answer as an etcd does")]
    Nonsense,
}

type Sender = SendRequest<Full<Bytes>>;

/// The way to an etcd.
pub(super) struct Gateway {
    members: Vec<String>,
    login: Option<Login>,
    /// The member that answered last.
    current: AtomicUsize,
    idle: Mutex<VecDeque<(usize, Sender)>>,
    token: Mutex<Option<String>>,
    clock_ahead_ms: AtomicI64,
}

/// Answers that come one by one.
pub(super) struct Watch {
    body: Incoming,
    read: Vec<u8>,
    _connection: Sender,
}

impl Gateway {
    pub(super) fn new(members: Vec<String>, login: Option<Login>) -> Self {
        Self {
            members,
            login,
            current: AtomicUsize::new(0),
            idle: Mutex::default(),
            token: Mutex::default(),
            clock_ahead_ms: AtomicI64::new(0),
        }
    }

    pub(super) fn clock_ahead_ms(&self) -> i64 {
        self.clock_ahead_ms.load(Ordering::Relaxed)
    }

    /// Asks, and gives the answer and how often it was tried: the earlier tries may have been carried out too.
    pub(super) async fn ask(&self, path: &str, body: &Value) -> Result<(Value, usize), EtcdError> {
        let (mut tries, mut left) = (0, 2);
        let until = Instant::now() + ELECTED_WITHIN;
        while left > 0 {
            left -= 1;
            let (member, sender, response) = self.send(path, body, &mut tries).await?;
            let status = response.status();
            let body = timeout(ANSWER_WITHIN, collect(response.into_body())).await;
            let Ok(Ok(body)) = body else {
                self.give_up(member);
                continue;
            };
            self.keep(member, sender);
            let answer: Value = serde_json::from_slice(&body).map_err(|_| EtcdError::Nonsense)?;
            match status {
                StatusCode::OK => return Ok((answer, tries)),
                _ if is_election(&answer) && Instant::now() < until => {
                    self.give_up(member);
                    sleep(ELECTION_PAUSE).await;
                    left += 1;
                }
                _ if is_about_login(status, &answer) && self.login.is_some() => {
                    self.forget_token();
                }
                _ => return Err(refusal(status, &answer)),
            }
        }
        Err(match self.login {
            Some(_) => EtcdError::Login,
            None => self.unreachable("answers broke off"),
        })
    }

    /// Asks for answers that come one by one.
    pub(super) async fn watch(&self, path: &str, body: &Value) -> Result<Watch, EtcdError> {
        let (_, sender, response) = self.send(path, body, &mut 0).await?;
        match response.status() {
            StatusCode::OK => Ok(Watch {
                body: response.into_body(),
                read: Vec::new(),
                _connection: sender,
            }),
            status => {
                self.forget_token();
                Err(refusal(status, &Value::Null))
            }
        }
    }

    /// Sends to the member that answered last, or to the next ones.
    async fn send(
        &self,
        path: &str,
        body: &Value,
        tries: &mut usize,
    ) -> Result<(usize, Sender, Response<Incoming>), EtcdError> {
        let token = self.token().await?;
        let mut last = String::new();
        for _ in 0..self.members.len() * ROUNDS_MAX {
            let member = self.current.load(Ordering::Relaxed) % self.members.len();
            let request = self.request(member, path, body, token.as_deref());
            match self.send_to(member, request, tries).await {
                Ok((sender, response)) => {
                    self.set_clock(&response);
                    return Ok((member, sender, response));
                }
                Err(why) => last = format!("{}: {why}", self.members[member]),
            }
            self.give_up(member);
        }
        Err(self.unreachable(&last))
    }

    async fn send_to(
        &self,
        member: usize,
        request: Request<Full<Bytes>>,
        tries: &mut usize,
    ) -> Result<(Sender, Response<Incoming>), String> {
        while let Some(mut sender) = self.take(member) {
            // It may have been closed since.
            if sender.ready().await.is_err() {
                continue;
            }
            *tries += 1;
            let sent = timeout(ANSWER_WITHIN, sender.send_request(request.clone())).await;
            if let Ok(Ok(response)) = sent {
                return Ok((sender, response));
            }
        }
        let mut sender = connect(&self.members[member]).await?;
        *tries += 1;
        let sent = timeout(ANSWER_WITHIN, sender.send_request(request)).await;
        let response = sent.map_err(|_| format!("no answer within {ANSWER_WITHIN:?}"))?;
        let response = response.map_err(|error| error.to_string())?;
        Ok((sender, response))
    }

    fn request(
        &self,
        member: usize,
        path: &str,
        body: &Value,
        token: Option<&str>,
    ) -> Request<Full<Bytes>> {
        let mut request = Request::post(path)
            .header(HOST, &self.members[member])
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let body = Full::new(Bytes::from(body.to_string()));
        request
            .body(body)
            .expect("members and tokens are plain text")
    }

    /// What says who asks.
    async fn token(&self) -> Result<Option<String>, EtcdError> {
        let Some(login) = &self.login else {
            return Ok(None);
        };
        let known = self
            .token
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if known.is_some() {
            return Ok(known);
        }
        let question = json!({ "name": login.user, "password": login.password });
        let mut last = String::new();
        for _ in 0..self.members.len() * ROUNDS_MAX {
            let member = self.current.load(Ordering::Relaxed) % self.members.len();
            let request = self.request(member, "/v3/auth/authenticate", &question, None);
            match self.send_to(member, request, &mut 0).await {
                Ok((_, response)) => {
                    let body = collect(response.into_body()).await;
                    let body = body.map_err(|_| EtcdError::Nonsense)?;
                    let answer: Value =
                        serde_json::from_slice(&body).map_err(|_| EtcdError::Nonsense)?;
                    let token = answer["token"]
                        .as_str()
                        .filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()));
                    let token = token.ok_or(EtcdError::Login)?.to_owned();
                    let mut known = self.token.lock().unwrap_or_else(PoisonError::into_inner);
                    *known = Some(token.clone());
                    return Ok(Some(token));
                }
                Err(why) => last = format!("{}: {why}", self.members[member]),
            }
            self.give_up(member);
        }
        Err(self.unreachable(&last))
    }

    fn forget_token(&self) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn take(&self, member: usize) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let at = idle.iter().rposition(|(whose, _)| *whose == member)?;
        idle.remove(at).map(|(_, sender)| sender)
    }

    fn keep(&self, member: usize, sender: Sender) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() == IDLE_MAX {
            idle.pop_front();
        }
        idle.push_back((member, sender));
    }

    /// The next requests go to the next member, unless somebody has come to that conclusion before.
    fn give_up(&self, member: usize) {
        let next = (member + 1) % self.members.len();
        let _ = self
            .current
            .compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn unreachable(&self, last: &str) -> EtcdError {
        EtcdError::Unreachable {
            members: self.members.join(", "),
            last: last.to_owned(),
        }
    }

    /// Takes notice of a clock that is not like ours: by it leases end.
    fn set_clock(&self, response: &Response<Incoming>) {
        let date = response.headers().get(DATE);
        let date = date.and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        let since = date.and_then(|date| date.duration_since(std::time::UNIX_EPOCH).ok());
        if let Some(since) = since {
            let theirs = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
            let ahead = theirs - i64::try_from(now_ms()).unwrap_or(i64::MAX);
            let ahead = if ahead.abs() > CLOCK_NOISE_MS {
                ahead
            } else {
                0
            };
            self.clock_ahead_ms.store(ahead, Ordering::Relaxed);
        }
    }
}

impl Watch {
    /// The next answer, however long it takes.
    pub(super) async fn next(&mut self) -> Result<Value, EtcdError> {
        loop {
            if let Some(end) = self.read.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|_| EtcdError::Nonsense);
            }
            let broken = |why: String| EtcdError::Unreachable {
                members: "the one that was watched".into(),
                last: why,
            };
            let frame = self.body.frame().await;
            let frame = frame.ok_or_else(|| broken("it ended".into()))?;
            let frame = frame.map_err(|error| broken(error.to_string()))?;
            if let Some(data) = frame.data_ref() {
                self.read.extend_from_slice(data);
            }
            if self.read.len() > LINE_BYTES_MAX {
                return Err(EtcdError::Nonsense);
            }
        }
    }
}

async fn connect(member: &str) -> Result<Sender, String> {
    let connecting = timeout(CONNECT_WITHIN, TcpStream::connect(member)).await;
    let stream = connecting.map_err(|_| format!("no connection within {CONNECT_WITHIN:?}"))?;
    let stream = stream.map_err(|error| error.to_string())?;
    let _ = stream.set_nodelay(true);
    let made = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = made.map_err(|error| error.to_string())?;
    // It ends with the sender.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

async fn collect(mut body: Incoming) -> Result<Vec<u8>, EtcdError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| EtcdError::Nonsense)?;
        if let Some(data) = frame.data_ref() {
            bytes.extend_from_slice(data);
        }
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(EtcdError::Nonsense);
        }
    }
    Ok(bytes)
}

fn message(answer: &Value) -> &str {
    let text = answer["message"].as_str().or(answer["error"].as_str());
    text.unwrap_or_default()
}

/// Whether the members just have no leader, or another one than a moment ago: gRPC's `UNAVAILABLE`.
fn is_election(answer: &Value) -> bool {
    answer["code"] == 14
}

fn is_about_login(status: StatusCode, answer: &Value) -> bool {
    status == StatusCode::UNAUTHORIZED || message(answer).contains("auth token")
}

fn refusal(status: StatusCode, answer: &Value) -> EtcdError {
    let text = message(answer);
    if is_about_login(status, answer)
        || status == StatusCode::FORBIDDEN
        || text.contains("user name is empty")
        || text.contains("permission denied")
    {
        return EtcdError::Login;
    }
    let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    EtcdError::Refused {
        message: match text.is_empty() {
            true => status.to_string(),
            false => text,
        },
    }
}
