//! [`Bucket`]: a store in what speaks the protocol of S3.
//!
//! ```text
//! s3://BUCKET/PREFIX    →    objects PREFIX/PROCESS/NAME
//! ```
//!
//! Where that is and who asks comes from the environment of the node, by the names that all programs use for it
//! (`AWS_ENDPOINT`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`, …): arguments can be read by others. An object is written by one
//! request and read by another, so it is there as a whole or not at all.
//! (API: <https://docs.aws.amazon.com/AmazonS3/latest/API/>.)

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use hyper::Uri;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey as Key};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientConfigKey, Error as StoreError, ListResult, ObjectStore, ObjectStoreExt,
    PutPayload, RetryConfig,
};
use sterna_process::ProcessId;
use sterna_snapshot::{Shelf, ShelfError, is_name};
use tokio::runtime::Handle;

use super::OpenStoreError;
use super::http::Http;
use crate::limits::{STORE_RETRIES_MAX, STORE_RETRY_PAUSE_MAX, STORE_RETRY_WITHIN};

const SCHEME: &str = "s3://";
/// Longest name of a bucket, as S3 has it.
const BUCKET_BYTES_MAX: usize = 63;

/// Where a bucket is, and what its objects' names begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BucketAt {
    bucket: String,
    prefix: Path,
}

impl BucketAt {
    pub(super) fn parse(url: &str) -> Option<Self> {
        let rest = url.strip_prefix(SCHEME)?;
        let (bucket, prefix) = match rest.split_once('/') {
            Some((bucket, prefix)) => (bucket, Path::parse(prefix).ok()?),
            None => (rest, Path::ROOT),
        };
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_bucket = (1..=BUCKET_BYTES_MAX).contains(&bucket.len())
            && bucket
                .bytes()
                .all(|byte| plain(byte) || b".-".contains(&byte));
        let at = Self {
            bucket: bucket.to_owned(),
            prefix,
        };
        // What is printed is what was written: no second way to write a place.
        (is_bucket && at.to_string() == url).then_some(at)
    }
}

impl fmt::Display for BucketAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.bucket)?;
        match self.prefix.is_root() {
            true => Ok(()),
            false => write!(f, "/{}", self.prefix),
        }
    }
}

/// A bucket that can be asked.
#[derive(Debug)]
pub(in crate::hosting) struct Bucket {
    at: BucketAt,
    store: AmazonS3,
}

impl Bucket {
    /// With what the environment says. Nothing is asked of it yet.
    pub(super) fn open(at: &BucketAt) -> Result<Self, OpenStoreError> {
        Self::with(AmazonS3Builder::from_env(), at)
    }

    pub(super) fn with(settings: AmazonS3Builder, at: &BucketAt) -> Result<Self, OpenStoreError> {
        let setting = |key: Key| settings.get_config_value(&key);
        let endpoint = setting(Key::S3Endpoint).or_else(|| setting(Key::Endpoint));
        let needed = [
            ("AWS_ACCESS_KEY_ID", setting(Key::AccessKeyId)),
            ("AWS_SECRET_ACCESS_KEY", setting(Key::SecretAccessKey)),
            // Whoever has an endpoint of his own need not have regions.
            ("AWS_REGION", setting(Key::Region).or(endpoint.clone())),
        ];
        if let Some((variable, _)) = needed.iter().find(|(_, value)| value.is_none()) {
            return Err(OpenStoreError::Unset { variable });
        }
        let may_be_plain = setting(Key::Client(ClientConfigKey::AllowHttp));
        let may_be_plain = may_be_plain.is_some_and(|value| value == "true");
        if let Some(endpoint) = endpoint {
            let has_tls = has_tls(&endpoint).ok_or(OpenStoreError::Endpoint)?;
            if !has_tls && !may_be_plain {
                return Err(OpenStoreError::Plain);
            }
        }
        let http = Http::new(may_be_plain).map_err(OpenStoreError::Certificates)?;
        let retry = RetryConfig {
            backoff: BackoffConfig {
                max_backoff: STORE_RETRY_PAUSE_MAX,
                ..BackoffConfig::default()
            },
            max_retries: STORE_RETRIES_MAX,
            retry_timeout: STORE_RETRY_WITHIN,
        };
        let built = settings
            .with_bucket_name(&at.bucket)
            .with_http_connector(http)
            .with_retry(retry)
            // Not all that speak S3 can remove several objects at once.
            .with_disable_bulk_delete(true)
            .build();
        Ok(Self {
            at: at.clone(),
            store: built.map_err(|error| OpenStoreError::Environment(error.into()))?,
        })
    }

    pub(super) fn folder(self: &Arc<Self>, process: ProcessId) -> BucketFolder {
        BucketFolder {
            path: self.at.prefix.clone().join(process.to_string()),
            bucket: Arc::clone(self),
        }
    }

    /// The names of all folders.
    pub(super) fn folders(&self) -> Result<Vec<String>, ShelfError> {
        let listed = self.list(&self.at.prefix)?;
        let names = listed.common_prefixes.iter().filter_map(Path::filename);
        Ok(names.map(str::to_owned).collect())
    }

    fn list(&self, path: &Path) -> Result<ListResult, ShelfError> {
        let listed = self.ask(path, |store, path| async move {
            store.list_with_delimiter(Some(&path)).await
        });
        listed.map_err(|error| self.failed("could not list", path, &error))
    }

    /// Asks about a path, and waits for the answer. In a task, which a runtime that ends drops: to wait for a timer of one
    /// without a task is to panic then.
    fn ask<T: Send + 'static, F>(
        &self,
        path: &Path,
        question: impl FnOnce(AmazonS3, Path) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let runtime = Handle::current();
        let answer = runtime.spawn(question(self.store.clone(), path.clone()));
        runtime.block_on(answer)?
    }

    fn failed(&self, doing: &str, path: &Path, error: &StoreError) -> ShelfError {
        let at = BucketAt {
            bucket: self.at.bucket.clone(),
            prefix: path.clone(),
        };
        ShelfError::Elsewhere(format!("{doing} {at}: {}", why(error)))
    }
}

/// The folder of a process in a bucket. Like all that a bucket is asked, it waits on the runtime that it is used on.
pub(super) struct BucketFolder {
    bucket: Arc<Bucket>,
    path: Path,
}

impl BucketFolder {
    fn object(&self, name: &str) -> Result<Path, ShelfError> {
        match is_name(name) {
            true => Ok(self.path.clone().join(name)),
            false => Err(ShelfError::Name(name.to_owned())),
        }
    }

    /// Removes all that is in it, after which it is gone: a bucket has no empty folders.
    pub(super) fn clear(&self) -> Result<(), ShelfError> {
        let listed = self.bucket.list(&self.path)?;
        let mut paths = listed.objects.iter().map(|object| &object.location);
        paths.try_for_each(|path| self.remove_at(path))
    }

    fn remove_at(&self, path: &Path) -> Result<(), ShelfError> {
        let removed = self
            .bucket
            .ask(path, |store, path| async move { store.delete(&path).await });
        match removed {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.bucket.failed("could not remove", path, &error)),
        }
    }
}

impl Shelf for BucketFolder {
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), ShelfError> {
        let path = self.object(name)?;
        let payload = PutPayload::from(bytes.to_vec());
        let written = self.bucket.ask(&path, |store, path| async move {
            store.put(&path, payload).await
        });
        match written {
            Ok(_) => Ok(()),
            Err(error) => Err(self.bucket.failed("could not write", &path, &error)),
        }
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, ShelfError> {
        let path = self.object(name)?;
        let read = self.bucket.ask(&path, |store, path| async move {
            store.get(&path).await?.bytes().await
        });
        match read {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.bucket.failed("could not read", &path, &error)),
        }
    }

    fn list(&self) -> Result<Vec<String>, ShelfError> {
        let listed = self.bucket.list(&self.path)?;
        let names = listed.objects.iter();
        let names = names.filter_map(|object| object.location.filename());
        let mut names: Vec<String> = names
            .filter(|name| is_name(name))
            .map(str::to_owned)
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, name: &str) -> Result<(), ShelfError> {
        self.remove_at(&self.object(name)?)
    }
}

/// Whether a server is asked by TLS; `None` if that names none.
fn has_tls(endpoint: &str) -> Option<bool> {
    let uri: Uri = endpoint.parse().ok()?;
    let port = uri.authority()?.as_str().strip_prefix(uri.host()?)?;
    if !port.is_empty() {
        port.strip_prefix(':')?.parse::<u16>().ok()?;
    }
    match uri.scheme_str()? {
        "https" => Some(true),
        "http" => Some(false),
        _ => None,
    }
}

/// Why, in a few words that are the same each time: the code that S3 gives for it, or the first cause.
fn why(error: &StoreError) -> String {
    let mut first: &dyn Error = error;
    while let Some(cause) = first.source() {
        first = cause;
    }
    let text = first.to_string();
    let code = text.split_once("<Code>");
    match code.and_then(|(_, rest)| rest.split_once("</Code>")) {
        Some((code, _)) => code.to_owned(),
        None => text.lines().next().unwrap_or_default().to_owned(),
    }
}
