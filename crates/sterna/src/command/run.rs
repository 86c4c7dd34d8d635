//! `sterna run`: a program in the foreground, or on a node.

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use sterna_process::{Environment, Identity, Resources, Stdio};

use super::given::{self, Given};
use super::placed::{ListenAt, Placed};
use crate::complete;
use crate::host::{self, Facts, Signals};
use crate::key;
use crate::kinds::{self, KindName, Ready};
use crate::local::Local;
use crate::node::Which;
use crate::rundir::{Record, Registered, RunDirectory};

/// Runs a WebAssembly program, in the foreground or on a node.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Run {
    #[command(flatten)]
    given: Given,
    /// Environment variable for the program; without `=VALUE` it is taken over. May be given several times.
    #[arg(long = "env", value_name = "NAME[=VALUE]")]
    variables: Vec<OsString>,
    /// Function to call instead of the program's start; its arguments are ARGS, its results are printed.
    #[arg(long, value_name = "FUNCTION")]
    invoke: Option<String>,
    /// Run a program that cannot be moved: it cannot be frozen, only killed.
    #[arg(long, conflicts_with = "snapshot_every")]
    immobile: bool,
    /// Run it on this node of the cluster, where it can be moved from; `auto`: where there is most room.
    #[arg(long, value_name = "NODE", conflicts_with_all = ["immobile", "snapshot_every"], add = complete::nodes())]
    on: Option<String>,
    /// Run it on a node, here unless --on says where, and come back at once; prints its id.
    #[arg(short, long, conflicts_with_all = ["immobile", "snapshot_every"])]
    detach: bool,
    /// On a node: give it a standard input, this command's unless --detach is given.
    #[arg(short, long)]
    interactive: bool,
    /// On a node: give it a terminal, to which `sterna attach` leads; without --detach this one shows it.
    #[arg(short, long, visible_alias = "tty")]
    terminal: bool,
    /// On a node: let clients connect to it at this port, of the node on which it starts unless another is named; 0: any
    /// that is free. They stay connected when it moves. It gets the port as descriptor 3, the next as 4, and LISTEN_FDS and
    /// LISTEN_FDNAMES as sd_listen_fds(3) says. May be given several times.
    #[arg(long, value_name = "[NAME=][NODE:]PORT", conflicts_with_all = ["immobile", "snapshot_every"])]
    listen: Vec<ListenAt>,
    /// Print JSON (with --detach).
    #[arg(long, requires = "detach")]
    json: bool,
    #[command(flatten)]
    which: Which,
    /// For tests.
    #[arg(long, hide = true, value_enum, default_value_t = KindName::Wasm)]
    kind: KindName,
    /// The program: a WebAssembly module, in the binary or the text format.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The program's arguments.
    #[arg(
        value_name = "ARGS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    arguments: Vec<OsString>,
}

const AFTER_HELP: &str = "\
Examples:
  sterna run hello.wasm
  sterna run --dir .::/work lua.wasm /work/script.lua 10
  sterna run --dir data::/data:ro --env LANG=C --memory 256M tool.wasm -v /data
  sterna run --invoke add library.wat 2 3
  sterna run --snapshot-every 30s --to snapshots server.wasm
  sterna run --detach --name job job.wasm        on this machine's node; see it with `sterna logs -f job`
  sterna run --detach --dir job::/work:copy job.wasm   its files go along when it is moved
  sterna run --on lab-2 -i lua.wasm              on another node, in the foreground
  sterna run -d --listen 8080 server.wasm        a server whose clients stay when it moves
  sterna run --on lab-2 -t python.wasm -i        the same with a terminal; Ctrl-P Ctrl-Q detaches from it

Exit code:
  that of the program; 134 if it trapped, 137 if it was killed by `sterna kill`,
  75 if it was frozen by `sterna freeze`: it is not done, and goes on when it is thawed.
  130, 143, 129 after Ctrl-C (SIGINT), SIGTERM, SIGHUP, which kill the program;
  125 if it could not be started. A second signal ends everything at once.";

impl Run {
    pub(crate) fn run(self) -> Result<u8> {
        if self.on.is_some() || self.detach || !self.listen.is_empty() {
            return self.on_node();
        }
        let key = key::own()?;
        let directory = RunDirectory::open()?;
        let Ready {
            kind,
            program,
            name,
            bytes,
        } = if self.immobile {
            kinds::immobile(&self.file, &self.given.build)?
        } else {
            kinds::from_file(&self.file, self.kind, &self.given.build)?
        };
        let name = self.given.name.clone().unwrap_or(name);
        given::check_name(&name)?;
        let identity = Identity::new();
        let snapshots = self.given.snapshots(&name, identity.process)?;
        let (environment, local) = self.environment(name)?;

        let record = Record::new(
            identity.process,
            &local.name,
            kind.name(),
            program.id(),
            &local.file,
        );
        let Registered::Done(entry) = directory.register(record)? else {
            bail!("a process of the same random name exists: try again");
        };
        let signals = Signals::catch()?;
        let running = kind
            .spawn(identity, &program, environment)
            .with_context(|| format!("could not start {}", self.file.display()))?;
        let facts = Facts {
            id: identity.process,
            local,
            program: bytes,
            key,
            thaw: None,
        };
        host::host(entry, running, facts, signals, snapshots)
    }

    fn on_node(self) -> Result<u8> {
        ensure!(self.kind == KindName::Wasm, "nodes host WebAssembly only");
        if let Some(name) = &self.given.name {
            given::check_name(name)?;
        }
        let directories = self.given.bound()?;
        let environment = Environment {
            arguments: self.arguments(),
            variables: self.variables()?,
            entry: self.invoke.clone(),
            resources: Resources {
                limits: self.given.limits(None),
                ..Resources::default()
            },
        };
        Placed {
            which: &self.which,
            on: self.on.as_deref(),
            detach: self.detach,
            interactive: self.interactive,
            terminal: self.terminal,
            name: self.given.name.clone(),
            file: &self.file,
            build: &self.given.build,
            directories,
            listens: &self.listen,
            environment,
            json: self.json,
        }
        .run()
    }

    /// The program's arguments; the first is its own name.
    fn arguments(&self) -> Vec<OsString> {
        let first = self.file.file_name().unwrap_or(self.file.as_os_str());
        [first.to_owned()]
            .into_iter()
            .chain(self.arguments.clone())
            .collect()
    }

    fn variables(&self) -> Result<Vec<(OsString, OsString)>> {
        self.variables.iter().map(variable).collect()
    }

    /// All that the program gets.
    fn environment(&self, name: String) -> Result<(Environment, Local)> {
        let (directories, given): (Vec<_>, Vec<_>) = self.given.directories()?.into_iter().unzip();
        let limits = self.given.limits(None);
        let local = Local {
            name,
            file: given::file_text(&self.file),
            directories: given,
            limits: limits.clone(),
        };
        let environment = Environment {
            arguments: self.arguments(),
            variables: self.variables()?,
            entry: self.invoke.clone(),
            resources: Resources {
                stdio: Stdio::inherited().context("could not take over the standard streams")?,
                directories,
                limits,
                ..Resources::default()
            },
        };
        Ok((environment, local))
    }
}

/// `NAME=VALUE`, or `NAME` with the value it has here.
fn variable(text: &OsString) -> Result<(OsString, OsString)> {
    let bytes = text.as_bytes();
    let shown = text.to_string_lossy();
    let at = bytes.iter().position(|&byte| byte == b'=');
    let (name, value) = match at {
        Some(0) => bail!("{shown:?} has no name before `=` (--env)"),
        Some(at) => (
            OsString::from_vec(bytes[..at].to_vec()),
            OsString::from_vec(bytes[at + 1..].to_vec()),
        ),
        None => {
            let value = env::var_os(text);
            let missing = || format!("{shown:?} is not set here: write {shown}=VALUE (--env)");
            (text.clone(), value.with_context(missing)?)
        }
    };
    Ok((name, value))
}
