//! [`Etcd`]: a registry in [etcd](https://etcd.io), through its own JSON gateway.
//!
//! ```text
//! PREFIX/key → value, lease        revisions, leases and watches are etcd's
//! ```
//!
//! Every node asks etcd itself. A change is a transaction that compares the revisions of all its entries. Whether
//! one that broke off was carried out is not known; it is asked for again, and finds its own success: the entries
//! are what they were to become.
//! (API: <https://etcd.io/docs/v3.4/learning/api/>, <https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/>.)

mod http;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::{CHANGES_MAX, Change, Entry, LeaseId, Listing, Store, StoreError, Swapped};
use crate::message::StoreStatus;
use crate::wire::now_ms;
pub use http::EtcdError;
use http::Gateway;

/// Entries that are read at once.
const READ_MAX: usize = 512;
/// Members of an etcd cluster that may be named.
const MEMBERS_MAX: usize = 16;
const LOGIN_BYTES_MAX: u64 = 1024;
const SCHEME: &str = "etcd://";

/// Where in which etcd a registry is: `etcd://HOST:PORT[,HOST:PORT…]/PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdAddress {
    /// Members of the etcd cluster. Any of them will do.
    pub members: Vec<String>,
    /// What all keys begin with, so that several clusters can share an etcd.
    pub prefix: String,
}

/// A text that is not the address of a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no registry: write etcd://HOST:PORT[,HOST:PORT…]/PREFIX, with a prefix of a-z 0-9 . - _"
)]
pub struct ParseAddressError {
    text: String,
}

impl FromStr for EtcdAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let parsed = || {
            let (members, prefix) = text.strip_prefix(SCHEME)?.split_once('/')?;
            let members: Vec<String> = members.split(',').map(Into::into).collect();
            let is_member = |member: &String| {
                member.rsplit_once(':').is_some_and(|(host, port)| {
                    let plain = |c: char| c.is_ascii_alphanumeric() || ".-[]:".contains(c);
                    !host.is_empty() && host.chars().all(plain) && port.parse::<u16>().is_ok()
                })
            };
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
            let fits = (1..=MEMBERS_MAX).contains(&members.len())
                && members.iter().all(is_member)
                && (1..=64).contains(&prefix.len())
                && prefix.chars().all(plain);
            let prefix = prefix.to_owned();
            fits.then_some(Self { members, prefix })
        };
        parsed().ok_or_else(|| ParseAddressError { text: text.into() })
    }
}

impl fmt::Display for EtcdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.members.join(","), self.prefix)
    }
}

/// A user of etcd and its password. `Debug` shows the user only.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    user: String,
    password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({}, secret)", self.user)
    }
}

impl Login {
    /// `USER:PASSWORD`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (user, password) = text.trim_end_matches(['\r', '\n']).split_once(':')?;
        (!user.is_empty()).then(|| Self {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    /// The same from a file that only its owner can read.
    ///
    /// # Errors
    /// It cannot be read, others can read it, or it holds something else.
    pub fn load(path: &Path) -> std::io::Result<Self> {
        let other = |what: String| std::io::Error::other(format!("{} {what}", path.display()));
        let file = File::open(path)?;
        let mode = file.metadata()?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(other(format!(
                "is open to other users (mode {mode:o}): close it with chmod 600"
            )));
        }
        let mut text = String::new();
        file.take(LOGIN_BYTES_MAX).read_to_string(&mut text)?;
        Self::parse(&text).ok_or_else(|| other("does not hold USER:PASSWORD".into()))
    }
}

/// A store in an etcd.
#[derive(Clone)]
pub struct Etcd(Arc<Inner>);

struct Inner {
    gateway: Gateway,
    address: EtcdAddress,
    prefix: Vec<u8>,
}

impl Etcd {
    /// The one at an address. Nothing is asked of it yet.
    #[must_use]
    pub fn new(address: EtcdAddress, login: Option<Login>) -> Self {
        let gateway = Gateway::new(address.members.clone(), login);
        let prefix = format!("{}/", address.prefix).into_bytes();
        Self(Arc::new(Inner {
            gateway,
            address,
            prefix,
        }))
    }

    /// Asks for something that a store need not do.
    #[cfg(test)]
    pub(crate) async fn ask(&self, path: &str, body: &Value) -> Result<Value, EtcdError> {
        Ok(self.0.gateway.ask(path, body).await?.0)
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> &EtcdAddress {
        &self.0.address
    }
}

impl Inner {
    fn key(&self, key: &[u8]) -> String {
        BASE64.encode([&self.prefix, key].concat())
    }

    /// The first key that does not begin so.
    fn end(&self, prefix: &[u8]) -> String {
        let mut end = [&self.prefix, prefix].concat();
        // No prefix ends in 255: they are texts and ids of which all 16 bytes are given.
        while end.last() == Some(&u8::MAX) {
            end.pop();
        }
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        BASE64.encode(end)
    }

    /// Entries below a prefix and after a key, as of a revision, and whether there are more.
    async fn range(
        &self,
        prefix: &[u8],
        after: &[u8],
        limit: usize,
        revision: u64,
    ) -> Result<(Listing, bool), EtcdError> {
        let from = match after < prefix {
            true => self.key(prefix),
            false => self.key(&[after, &[0]].concat()),
        };
        let request = json!({
            "key": from,
            "range_end": self.end(prefix),
            "limit": limit.to_string(),
            "revision": revision.to_string(),
        });
        let answer = self.gateway.ask("/v3/kv/range", &request).await?.0;
        let mut listing = Listing {
            revision: match revision {
                0 => number(&answer["header"], "revision")?,
                revision => revision,
            },
            entries: Vec::new(),
        };
        for found in list(&answer, "kvs") {
            let key = bytes(found, "key")?;
            let key = key.get(self.prefix.len()..).ok_or(EtcdError::Nonsense)?;
            listing.entries.push((key.to_vec(), entry(found)?));
        }
        Ok((listing, answer["more"] == true))
    }

    async fn page(&self, prefix: &[u8], after: &[u8], max: usize) -> Result<Listing, EtcdError> {
        let mut page = Listing {
            revision: 0,
            entries: Vec::new(),
        };
        let mut after = after.to_vec();
        loop {
            let limit = READ_MAX.min(max - page.entries.len());
            let read = self.range(prefix, &after, limit, page.revision).await?;
            let (mut read, more) = read;
            page.revision = read.revision;
            page.entries.append(&mut read.entries);
            match page.entries.last() {
                Some((last, _)) if more && page.entries.len() < max => after.clone_from(last),
                _ => return Ok(page),
            }
        }
    }

    /// Makes all changes or none: the revision, or what the entries are.
    async fn change(
        &self,
        changes: &[Change],
    ) -> Result<Result<u64, Vec<Option<Entry>>>, EtcdError> {
        assert!(changes.len() <= CHANGES_MAX, "{} changes", changes.len());
        let compare = changes.iter().map(|change| {
            json!({
                "key": self.key(&change.key),
                "target": "MOD",
                "result": "EQUAL",
                "mod_revision": change.expected.unwrap_or(0).to_string(),
            })
        });
        let success = changes.iter().map(|change| match &change.value {
            Some(value) => json!({ "request_put": {
                "key": self.key(&change.key),
                "value": BASE64.encode(value),
                "lease": change.lease.map_or(0, |LeaseId(lease)| lease).to_string(),
            }}),
            None => json!({ "request_delete_range": { "key": self.key(&change.key) } }),
        });
        let failure = changes
            .iter()
            .map(|change| json!({ "request_range": { "key": self.key(&change.key) } }));
        let request = json!({
            "compare": compare.collect::<Vec<_>>(),
            "success": success.collect::<Vec<_>>(),
            "failure": failure.collect::<Vec<_>>(),
        });
        let (answer, tries) = self.gateway.ask("/v3/kv/txn", &request).await?;
        if answer["succeeded"] == true {
            return Ok(Ok(number(&answer["header"], "revision")?));
        }
        let mut found = Vec::new();
        for answer in list(&answer, "responses") {
            let entries = list(&answer["response_range"], "kvs");
            found.push(entries.first().map(entry).transpose()?);
        }
        let wanted = changes.iter().zip(&found).all(|(change, found)| {
            change.value.as_ref() == found.as_ref().map(|entry| &entry.value)
        });
        let newest = found.iter().flatten().map(|entry| entry.revision).max();
        match newest {
            // A try that broke off was carried out after all.
            Some(newest) if tries > 1 && wanted => Ok(Ok(newest)),
            _ => Ok(Err(found)),
        }
    }

    async fn changed(&self, prefix: &[u8], after: u64) -> Result<(), EtcdError> {
        let now = self.range(prefix, prefix, 1, 0).await?.0.revision;
        if after > now {
            return Ok(()); // it was given by another etcd
        }
        let request = json!({ "create_request": {
            "key": self.key(prefix),
            "range_end": self.end(prefix),
            "start_revision": (after + 1).to_string(),
        }});
        let mut watch = self.gateway.watch("/v3/watch", &request).await?;
        loop {
            let told = watch.next().await?;
            // It is cancelled if the revision is so old that etcd has forgotten what came after it.
            let told = &told["result"];
            if told["canceled"] == true || !list(told, "events").is_empty() {
                return Ok(());
            }
        }
    }
}

/// A number, which the gateway writes as a text, and leaves out if it is 0.
fn number(of: &Value, name: &str) -> Result<u64, EtcdError> {
    match &of[name] {
        Value::Null => Ok(0),
        Value::String(text) => text.parse().map_err(|_| EtcdError::Nonsense),
        _ => Err(EtcdError::Nonsense),
    }
}

fn bytes(of: &Value, name: &str) -> Result<Vec<u8>, EtcdError> {
    let text = of[name].as_str().unwrap_or_default();
    BASE64.decode(text).map_err(|_| EtcdError::Nonsense)
}

fn list<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of[name].as_array().map_or(&[], |list| list)
}

fn entry(of: &Value) -> Result<Entry, EtcdError> {
    Ok(Entry {
        revision: number(of, "mod_revision")?,
        value: bytes(of, "value")?,
    })
}

impl Store for Etcd {
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let request = json!({ "key": self.0.key(key) });
        let (answer, _) = self.0.gateway.ask("/v3/kv/range", &request).await?;
        Ok(list(&answer, "kvs").first().map(entry).transpose()?)
    }

    async fn list(&self, prefix: &[u8]) -> Result<Listing, StoreError> {
        Ok(self.0.page(prefix, &[], usize::MAX).await?)
    }

    async fn page(
        &self,
        prefix: &[u8],
        after: &[u8],
        entries_max: usize,
    ) -> Result<Listing, StoreError> {
        Ok(self.0.page(prefix, after, entries_max).await?)
    }

    async fn swap(&self, change: Change) -> Result<Swapped, StoreError> {
        Ok(match self.0.change(&[change]).await? {
            Ok(revision) => Swapped::Done(revision),
            Err(found) => Swapped::Other(found.into_iter().next().flatten()),
        })
    }

    async fn swap_all(&self, changes: Vec<Change>) -> Result<Option<u64>, StoreError> {
        Ok(self.0.change(&changes).await?.ok())
    }

    /// Rounded up to seconds.
    async fn lease(&self, valid: Duration) -> Result<LeaseId, StoreError> {
        let seconds = valid.as_millis().div_ceil(1000).max(1);
        let request = json!({ "TTL": seconds.to_string() });
        let (answer, _) = self.0.gateway.ask("/v3/lease/grant", &request).await?;
        Ok(LeaseId(number(&answer, "ID")?))
    }

    async fn renew(&self, LeaseId(lease): LeaseId) -> Result<bool, StoreError> {
        let request = json!({ "ID": lease.to_string() });
        let mut answers = self
            .0
            .gateway
            .watch("/v3/lease/keepalive", &request)
            .await?;
        let answer = answers.next().await?;
        Ok(number(&answer["result"], "TTL")? > 0)
    }

    async fn changed(&self, prefix: &[u8], after: u64) -> Result<(), StoreError> {
        Ok(self.0.changed(prefix, after).await?)
    }

    fn status(&self) -> StoreStatus {
        StoreStatus::Etcd {
            address: self.0.address.to_string(),
        }
    }

    fn address(&self) -> Option<String> {
        Some(self.0.address.to_string())
    }

    fn now_ms(&self) -> u64 {
        now_ms().saturating_add_signed(self.0.gateway.clock_ahead_ms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for text in [
            "etcd://127.0.0.1:2379/sterna",
            "etcd://a.example:1,b.example:2,[::1]:3/x-1",
        ] {
            let address: EtcdAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
        for text in [
            "http://a:1/x",
            "etcd://a:1",
            "etcd://a:1/",
            "etcd://a/x",
            "etcd://a:1,/x",
            "etcd://a:70000/x",
            "etcd://u:p@a:1/x",
            "etcd://a:1/x/y",
        ] {
            assert!(text.parse::<EtcdAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_login_is_not_shown() {
        let login = Login::parse("root:hunter2\n").unwrap();
        assert_eq!(format!("{login:?}"), "Login(root, secret)");
        assert_eq!(login.password, "hunter2");
        assert!(Login::parse("root").is_none());
    }
}
