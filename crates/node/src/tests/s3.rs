//! A real server that speaks the protocol of S3, for tests of this crate and of the binary: [moto](https://docs.getmoto.org),
//! with one bucket and one user, whose signatures it checks. What it keeps ends with it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Why a test of it is skipped.
pub(crate) const NO_S3: &str =
    "moto, an S3 server, is not here; get it with: cargo xtask test --install";
/// Connections are kept open, as those of real ones are.
const SERVER: &str = r#"
import json, sys
from moto.iam.models import iam_backends
from moto.s3.models import s3_backends
from moto.server import main
from werkzeug.serving import WSGIRequestHandler

WSGIRequestHandler.protocol_version = "HTTP/1.1"
account = "123456789012"
everything = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
users = iam_backends[account]["aws"]
users.create_user("us-east-1", "node")
key = users.create_access_key("node")
key.access_key_id, key.secret_access_key = "test-key", "test-secret"
users.put_user_policy("node", "all", json.dumps({"Version": "2012-10-17", "Statement": [everything]}))
s3_backends[account]["aws"].create_bucket("bucket", "us-east-1")
main(sys.argv[1:])
"#;

/// The server, killed when dropped.
pub(crate) struct S3 {
    pub(crate) server: Child,
    pub(crate) port: u16,
    scheme: &'static str,
}

impl S3 {
    /// Starts one on the loopback device, at any port if it is 0, with TLS if that has the files of a certificate and its
    /// key. `None` if there is no moto.
    pub(crate) fn start(port: u16, tls: Option<[&Path; 2]>) -> Option<Self> {
        let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/venv/bin");
        if !programs.join("moto_server").exists() {
            return None;
        }
        let mut server = Command::new(programs.join("python"));
        server.args(["-c", SERVER, "--port", &port.to_string()]);
        if let Some([certificate, key]) = tls {
            server.arg("--ssl-cert").arg(certificate);
            server.arg("--ssl-key").arg(key);
        }
        let server = server
            .env("INITIAL_NO_AUTH_ACTION_COUNT", "0")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut server = server.spawn().unwrap();
        let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
        let port_of = |line: String| {
            let (_, port) = line.trim_end().rsplit_once(':')?;
            line.contains("Running on http")
                .then(|| port.parse().ok())?
        };
        let port = lines.find_map(|line| port_of(line.unwrap()));
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self {
            server,
            scheme: tls.map_or("http", |_| "https"),
            port: port.expect("moto ended"),
        })
    }

    /// What a program needs to use it.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let endpoint = format!("{}://localhost:{}", self.scheme, self.port);
        let variables = [
            ("AWS_ENDPOINT", endpoint.as_str()),
            ("AWS_ACCESS_KEY_ID", "test-key"),
            ("AWS_SECRET_ACCESS_KEY", "test-secret"),
            ("AWS_ALLOW_HTTP", "true"),
        ];
        let owned = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
        owned.into()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
