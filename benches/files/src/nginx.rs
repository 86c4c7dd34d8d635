//! [`Nginx`]: the peer, one worker, from whatever is installed.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// How long it may take to listen.
const START_TIME: Duration = Duration::from_secs(10);

/// A running nginx. Dropped, it is stopped.
pub(crate) struct Nginx {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Nginx {
    pub(crate) fn start(root: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let address = free_address()?;
        let configuration = folder.path().join("nginx.conf");
        fs::write(&configuration, text(folder.path(), root, address))?;
        let mut command = Command::new("nginx");
        command
            .arg("-c")
            .arg(&configuration)
            .arg("-p")
            .arg(folder.path());
        let child = match command.spawn() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("nginx is not installed; on Debian: apt-get install nginx-light")
            }
            child => child.context("could not start nginx")?,
        };
        let nginx = Self {
            child,
            address,
            _folder: folder,
        };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            if begun.elapsed() > START_TIME {
                bail!("nginx does not listen");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(nginx)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its master, whose child is the worker.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master would leave its worker behind if it were killed.
        let master = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &master]).status();
        if asked.is_ok_and(|status| status.success()) {
            let _ = self.child.wait();
        }
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// As for serving files in earnest, without a log. Files are looked for anew at each request, as the file server does.
fn text(folder: &Path, root: &Path, address: SocketAddr) -> String {
    let (folder, root) = (folder.display(), root.display());
    format!(
        "user root;\nworker_processes 1;\nworker_rlimit_nofile 20000;\ndaemon off;\npid {folder}/pid;\n\
         error_log {folder}/error.log;\nevents {{ worker_connections 15000; }}\nhttp {{\n  access_log off;\n  \
         sendfile on;\n  keepalive_timeout 75;\n  keepalive_requests 1000000000;\n  \
         default_type application/octet-stream;\n  client_body_temp_path {folder}/body;\n  \
         proxy_temp_path {folder}/proxy;\n  fastcgi_temp_path {folder}/fastcgi;\n  uwsgi_temp_path {folder}/uwsgi;\n  \
         scgi_temp_path {folder}/scgi;\n  server {{ listen {address} backlog=4096; root {root}; }}\n}}\n"
    )
}
