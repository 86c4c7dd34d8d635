//! [`Provider`]: who has a bucket, and what the environment has to say about that.
//!
//! Of what `object_store` can be told, a node reads the variables that are named here and, for S3, those that begin with
//! `AWS_`. Whoever asks has a key that is here: a token would have to be fetched from a place that the operator did not name.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::Uri;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{BackoffConfig, Error as StoreError, ObjectStore, RetryConfig};

use super::OpenStoreError;
use super::http::Http;
use crate::limits::{STORE_RETRIES_MAX, STORE_RETRY_PAUSE_MAX, STORE_RETRY_WITHIN};

/// Variables of an environment, by name.
pub(super) type Variables = BTreeMap<String, String>;

type Opened = Result<Arc<dyn ObjectStore>, OpenStoreError>;

/// Who has a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    /// S3, or what speaks its protocol (API: <https://docs.aws.amazon.com/AmazonS3/latest/API/>).
    Amazon,
    /// Blobs of Azure, whose buckets are called containers (<https://learn.microsoft.com/rest/api/storageservices/>).
    Azure,
    /// Google Cloud Storage (<https://cloud.google.com/storage/docs/xml-api/overview>).
    Google,
}

impl Provider {
    pub(super) const ALL: [Self; 3] = [Self::Amazon, Self::Azure, Self::Google];

    /// What URLs of its buckets begin with.
    pub(super) fn scheme(self) -> &'static str {
        match self {
            Self::Amazon => "s3://",
            Self::Azure => "az://",
            Self::Google => "gs://",
        }
    }

    /// A bucket of this name. Nothing is asked of it yet.
    pub(super) fn open(self, bucket: &str, variables: &Variables) -> Opened {
        match self {
            Self::Amazon => amazon(bucket, variables),
            Self::Azure => azure(bucket, variables),
            Self::Google => google(bucket, variables),
        }
    }
}

fn amazon(bucket: &str, variables: &Variables) -> Opened {
    let mut settings = AmazonS3Builder::new();
    for (name, value) in variables {
        let key = name.starts_with("AWS_").then(|| name.to_ascii_lowercase());
        if let Some(Ok(key)) = key.map(|key| key.parse::<Key>()) {
            settings = settings.with_config(key, value);
        }
    }
    let setting = |key: Key| settings.get_config_value(&key);
    let server = setting(Key::S3Endpoint).or_else(|| setting(Key::Endpoint));
    let needed = [
        ("AWS_ACCESS_KEY_ID", setting(Key::AccessKeyId)),
        ("AWS_SECRET_ACCESS_KEY", setting(Key::SecretAccessKey)),
        // Whoever has a server of his own need not have regions.
        ("AWS_REGION", setting(Key::Region).or(server.clone())),
    ];
    if let Some((variable, _)) = needed.iter().find(|(_, value)| value.is_none()) {
        return Err(OpenStoreError::Unset { variable });
    }
    let reach = ["AWS_ENDPOINT", "AWS_ALLOW_HTTP"];
    let built = settings
        .with_bucket_name(bucket)
        .with_http_connector(http(server.as_ref(), reach, variables)?)
        .with_retry(retry())
        // Not all that speak S3 can remove several objects at once.
        .with_disable_bulk_delete(true)
        .build();
    opened(built, "AWS_…")
}

fn azure(bucket: &str, variables: &Variables) -> Opened {
    const KEY: &str = "AZURE_STORAGE_ACCOUNT_KEY";
    const TOKEN: &str = "AZURE_STORAGE_SAS_TOKEN";
    const REACH: [&str; 2] = ["AZURE_STORAGE_ENDPOINT", "AZURE_ALLOW_HTTP"];
    let server = variables.get(REACH[0]);
    let mut settings = MicrosoftAzureBuilder::new()
        .with_account(needed(variables, "AZURE_STORAGE_ACCOUNT_NAME")?)
        .with_container_name(bucket)
        .with_http_connector(http(server, REACH, variables)?)
        .with_retry(retry());
    settings = match (variables.get(KEY), variables.get(TOKEN)) {
        (Some(key), _) => settings.with_access_key(key),
        (None, Some(token)) => settings.with_config(AzureConfigKey::SasKey, token),
        (None, None) => {
            return Err(OpenStoreError::Unset {
                variable: "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
            });
        }
    };
    if let Some(server) = server {
        settings = settings.with_endpoint(server.clone());
    }
    opened(settings.build(), "AZURE_…")
}

fn google(bucket: &str, variables: &Variables) -> Opened {
    const REACH: [&str; 2] = ["GOOGLE_BASE_URL", "GOOGLE_ALLOW_HTTP"];
    let server = variables.get(REACH[0]);
    // Of a service account, which signs its tokens itself.
    let key = needed(variables, "GOOGLE_APPLICATION_CREDENTIALS")?;
    let mut settings = GoogleCloudStorageBuilder::new()
        .with_service_account_path(key)
        .with_bucket_name(bucket)
        .with_http_connector(http(server, REACH, variables)?)
        .with_retry(retry());
    if let Some(server) = server {
        settings = settings.with_base_url(server);
    }
    opened(settings.build(), "GOOGLE_…")
}

fn needed<'a>(
    variables: &'a Variables,
    variable: &'static str,
) -> Result<&'a String, OpenStoreError> {
    let value = variables.get(variable);
    value.ok_or(OpenStoreError::Unset { variable })
}

/// How a server is asked: the one that the first of two variables names, or else the provider's own; without TLS only if the
/// second one allows it.
fn http(
    server: Option<&String>,
    [variable, permission]: [&'static str; 2],
    variables: &Variables,
) -> Result<Http, OpenStoreError> {
    let may_be_plain = variables.get(permission).map(String::as_str) == Some("true");
    match server.map(|server| has_tls(server)) {
        Some(None) => return Err(OpenStoreError::Endpoint { variable }),
        Some(Some(false)) if !may_be_plain => {
            return Err(OpenStoreError::Plain {
                variable,
                permission,
            });
        }
        _ => {}
    }
    Http::new(may_be_plain).map_err(OpenStoreError::Certificates)
}

/// Whether a server is asked by TLS; `None` if that names none.
fn has_tls(server: &str) -> Option<bool> {
    let uri: Uri = server.parse().ok()?;
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

fn retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            max_backoff: STORE_RETRY_PAUSE_MAX,
            ..BackoffConfig::default()
        },
        max_retries: STORE_RETRIES_MAX,
        retry_timeout: STORE_RETRY_WITHIN,
    }
}

fn opened<S: ObjectStore>(built: Result<S, StoreError>, variables: &'static str) -> Opened {
    match built {
        Ok(store) => Ok(Arc::new(store)),
        Err(error) => Err(OpenStoreError::Environment {
            variables,
            source: error.into(),
        }),
    }
}
