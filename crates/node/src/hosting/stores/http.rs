//! [`Http`]: how a bucket is asked, over HTTP/1.1 and TLS.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use http_body_util::{BodyExt, Limited};
use hyper::Response;
use hyper::body::{Body, Bytes, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpService,
};
use rustls::crypto::ring;
use tokio::time::timeout;

use crate::limits::{
    OBJECT_BYTES_MAX, STORE_ANSWER_WITHIN, STORE_BYTES_PER_S_MIN, STORE_CONNECT_WITHIN,
    STORE_IDLE_MAX,
};

/// Asks, over connections that are kept for the next request.
#[derive(Debug, Clone)]
pub(super) struct Http(Client<HttpsConnector<HttpConnector>, HttpRequestBody>);

impl Http {
    /// With this machine's CA certificates as they are now.
    pub(super) fn new(may_be_plain: bool) -> io::Result<Self> {
        let tls =
            HttpsConnectorBuilder::new().with_provider_and_native_roots(ring::default_provider())?;
        let tls = match may_be_plain {
            true => tls.https_or_http(),
            false => tls.https_only(),
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(STORE_CONNECT_WITHIN));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(STORE_IDLE_MAX)
            .build(tls.enable_http1().wrap_connector(tcp));
        Ok(Self(client))
    }
}

impl object_store::client::HttpConnector for Http {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Http {
    /// An answer is read to its end before it is given, and a stopped store costs only so much time.
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let bytes = request.body().content_length() as u64;
        let answer = within(bytes, self.0.request(request)).await?;
        let (head, body) = answer.map_err(failed)?.into_parts();
        Ok(Response::from_parts(head, whole(body).await?.into()))
    }
}

async fn whole(body: Incoming) -> Result<Bytes, HttpError> {
    let bytes = body.size_hint().lower();
    let limited = Limited::new(body, OBJECT_BYTES_MAX as usize);
    match within(bytes, limited.collect()).await? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(HttpError::new_boxed(HttpErrorKind::Interrupted, error)),
    }
}

/// Waits as long as so many bytes may take.
async fn within<T>(bytes: u64, answer: impl Future<Output = T>) -> Result<T, HttpError> {
    let limit = STORE_ANSWER_WITHIN + Duration::from_secs(bytes / STORE_BYTES_PER_S_MIN);
    let answered = timeout(limit, answer).await;
    answered.map_err(|_| HttpError::new(HttpErrorKind::Timeout, NoAnswer))
}

#[derive(Debug, thiserror::Error)]
#[error("no answer")]
struct NoAnswer;

/// All that is asked of a bucket can be asked again.
fn failed(error: hyper_util::client::legacy::Error) -> HttpError {
    let kind = match error.is_connect() {
        true => HttpErrorKind::Connect,
        false => HttpErrorKind::Interrupted,
    };
    HttpError::new(kind, error)
}
