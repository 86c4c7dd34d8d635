//! Servers of buckets, for tests of this crate and of the binary. Each has one bucket, which is called so, and knows one user,
//! whose signatures it checks. What it keeps ends with it.
//!
//! For S3 it is [moto](https://docs.getmoto.org), for Azure [Azurite](https://github.com/Azure/Azurite). For Google no
//! index has one that knows all requests that are made; since these are S3's but for who asks, it is moto behind a check of
//! Google's tokens.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use tempfile::TempDir;

/// Why a test of one is skipped.
pub(crate) const NO_SERVER: &str =
    "the server of buckets is not here; get it with: cargo xtask test --install";

/// Whose protocol a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    S3,
    Azure,
    Google,
}

/// The server, killed when dropped.
pub(crate) struct Buckets {
    pub(crate) server: Child,
    pub(crate) port: u16,
    speaks: Speaks,
    scheme: &'static str,
    /// What it has written for those who ask: `credentials.json` of Google's, `token` of Azure's.
    pub(crate) given: TempDir,
}

impl Speaks {
    /// The URL of its bucket.
    pub(crate) fn url(self) -> &'static str {
        match self {
            Self::S3 => "s3://bucket",
            Self::Azure => "az://bucket",
            Self::Google => "gs://bucket",
        }
    }

    /// What starts its server, if that is here.
    fn command(self) -> Option<Command> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
        let python = |script| {
            let mut python = Command::new(target.join("venv/bin/python"));
            python.args(["-c", script]);
            let moto = target.join("venv/bin/moto_server");
            moto.exists().then_some(python)
        };
        match self {
            Self::S3 => python(include_str!("servers/s3.py")),
            Self::Google => python(include_str!("servers/google.py")),
            Self::Azure => {
                let modules = target.join("azurite/node_modules");
                let mut node = Command::new("node");
                // With a script for an option, the first argument is taken for the program's name.
                node.args(["-e", include_str!("servers/azure.js"), "azurite"]);
                node.args(["--inMemoryPersistence", "--silent"]);
                node.env("AZURITE_ACCOUNTS", format!("account:{AZURE_KEY}"));
                node.env("NODE_PATH", &modules);
                modules.join("azurite").exists().then_some(node)
            }
        }
    }
}

/// The bytes of `test-secret`.
const AZURE_KEY: &str = "dGVzdC1zZWNyZXQ=";

impl Buckets {
    /// Starts one on the loopback device, at any port if it is 0, with TLS if that has the files of a certificate and its
    /// key. `None` if there is no such server.
    pub(crate) fn start(speaks: Speaks, port: u16, tls: Option<[&Path; 2]>) -> Option<Self> {
        let mut server = speaks.command()?;
        let [port_option, tls_options @ ..] = match speaks {
            Speaks::S3 | Speaks::Google => ["--port", "--ssl-cert", "--ssl-key"],
            Speaks::Azure => ["--blobPort", "--cert", "--key"],
        };
        server.args([port_option, &port.to_string()]);
        for (option, file) in tls_options.iter().zip(tls.into_iter().flatten()) {
            server.arg(option).arg(file);
        }
        let given = tempfile::tempdir().unwrap();
        let server = server
            .current_dir(given.path())
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
        thread::spawn(move || lines.for_each(drop));
        Some(Self {
            server,
            speaks,
            scheme: tls.map_or("http", |_| "https"),
            port: port.expect("the server ended"),
            given,
        })
    }

    /// What a program needs to use it.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let server = format!("{}://localhost:{}", self.scheme, self.port);
        let account = format!("{server}/account");
        let credentials = self.given.path().join("credentials.json");
        let variables = match self.speaks {
            Speaks::S3 => vec![
                ("AWS_ENDPOINT", server.as_str()),
                ("AWS_ACCESS_KEY_ID", "test-key"),
                ("AWS_SECRET_ACCESS_KEY", "test-secret"),
                ("AWS_ALLOW_HTTP", "true"),
            ],
            Speaks::Azure => vec![
                ("AZURE_STORAGE_ENDPOINT", account.as_str()),
                ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
                ("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY),
                ("AZURE_ALLOW_HTTP", "true"),
            ],
            Speaks::Google => vec![
                ("GOOGLE_BASE_URL", server.as_str()),
                (
                    "GOOGLE_APPLICATION_CREDENTIALS",
                    credentials.to_str().unwrap(),
                ),
                ("GOOGLE_ALLOW_HTTP", "true"),
            ],
        };
        let owned = variables.into_iter();
        owned
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }
}

impl Drop for Buckets {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
