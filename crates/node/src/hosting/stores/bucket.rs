//! [`Bucket`]: a store in a bucket, whoever has it.
//!
//! ```text
//! s3://BUCKET/PREFIX    →    objects PREFIX/PROCESS/NAME
//! ```
//!
//! Where that is and who asks comes from the environment of the node, by the names that all programs use for it
//! ([`Provider`]): arguments can be read by others. An object is written by one request and read by another, so it is there
//! as a whole or not at all.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use object_store::path::Path;
use object_store::{Error as StoreError, ListResult, ObjectStore, ObjectStoreExt, PutPayload};
use sterna_process::ProcessId;
use sterna_snapshot::{Shelf, ShelfError, is_name};
use tokio::runtime::Handle;

use super::OpenStoreError;
use super::provider::{Provider, Variables};

/// Longest name of a bucket.
const BUCKET_BYTES_MAX: usize = 63;

/// Where a bucket is, and what its objects' names begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BucketAt {
    provider: Provider,
    bucket: String,
    prefix: Path,
}

impl BucketAt {
    pub(super) fn parse(url: &str) -> Option<Self> {
        let of = |provider: Provider| Some((provider, url.strip_prefix(provider.scheme())?));
        let (provider, rest) = Provider::ALL.into_iter().find_map(of)?;
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
            provider,
            bucket: bucket.to_owned(),
            prefix,
        };
        // What is printed is what was written: no second way to write a place.
        (is_bucket && at.to_string() == url).then_some(at)
    }
}

impl fmt::Display for BucketAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.provider.scheme(), self.bucket)?;
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
    store: Arc<dyn ObjectStore>,
}

impl Bucket {
    /// With what the environment says. Nothing is asked of it yet.
    pub(super) fn open(at: &BucketAt, variables: &Variables) -> Result<Self, OpenStoreError> {
        Ok(Self {
            store: at.provider.open(&at.bucket, variables)?,
            at: at.clone(),
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
        question: impl FnOnce(Arc<dyn ObjectStore>, Path) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let runtime = Handle::current();
        let answer = runtime.spawn(question(Arc::clone(&self.store), path.clone()));
        runtime.block_on(answer)?
    }

    fn failed(&self, doing: &str, path: &Path, error: &StoreError) -> ShelfError {
        let at = BucketAt {
            prefix: path.clone(),
            ..self.at.clone()
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

/// Why, in a few words that are the same each time: the code that is given for it, or the first cause.
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
