//! `sterna node start`, `invite`, `join`, `stop`.

mod unit;

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use sterna_node::limits::DRAIN_WITHIN_MAX;
use sterna_node::message::{Confinement, Remains, Reply, Request, TicketText};
use sterna_node::store::{EtcdAddress, Login};
use sterna_node::ticket::TICKET_BYTES_MAX;
use sterna_node::wire::{VERSIONS, Versions};
use sterna_node::{Node, Opened, Options, Stopper, StoreAt};
use sterna_process::Plain;

use crate::command::{doctor, drain};
use crate::host::Signals;
use crate::node::{self, Which};
use crate::{manager, runner, service, show};

/// Makes this machine a node, and brings nodes together.
#[derive(Debug, Args)]
pub(crate) struct NodeCommand {
    #[command(subcommand)]
    command: Deed,
}

#[derive(Debug, Subcommand)]
enum Deed {
    Start(Start),
    Invite(Invite),
    Join(Join),
    Stop(Stop),
}

/// Starts a node, in the foreground. Its key is made at the first start.
#[derive(Debug, Args)]
#[command(after_help = START_HELP)]
struct Start {
    /// Where to listen, by UDP and TCP [default: all addresses, port 7355].
    #[arg(long, value_name = "ADDR", value_parser = show::parse_address)]
    bind: Option<SocketAddr>,
    /// Where others reach this node; may be given several times [default: this machine's addresses].
    #[arg(long, value_name = "ADDR", value_parser = show::parse_address)]
    advertise: Vec<SocketAddr>,
    /// Where the node keeps its key and what it knows [default: $STERNA_NODE, else $STERNA_DATA_DIR/node].
    #[arg(long, value_name = "DIR", env = "STERNA_NODE", hide_env = true)]
    data: Option<PathBuf>,
    /// Keep the registry of a new cluster in an etcd instead of in this node: etcd://HOST:PORT[,HOST:PORT…]/PREFIX. If
    /// that wants to know who asks: $STERNA_ETCD_LOGIN_FILE names a private file with USER:PASSWORD, or
    /// $STERNA_ETCD_LOGIN holds it.
    #[arg(long, value_name = "URL")]
    registry: Option<EtcdAddress>,
    /// What it is called; a number is added if another node has that name [default: the host's name].
    #[arg(long)]
    name: Option<String>,
    /// Directory that processes of any node may be bound to under this name; may be given several times.
    #[arg(long, value_name = "NAME=DIR", value_parser = parse_export)]
    export: Vec<(String, PathBuf)>,
    /// Most that directories that are copied along with processes (`:copy`) may take on this node's disk, all together
    /// [default: 64G].
    #[arg(long, value_name = "SIZE", value_parser = show::parse_bytes)]
    copies: Option<u64>,
    /// Place outside of the cluster in which snapshots of processes can be kept under this name, the same on each node
    /// that is to use it: file:///DIRECTORY, or s3://BUCKET/PREFIX in S3 or what speaks like it, az:// for Azure, gs:// for
    /// Google; may be given several times. What a bucket wants to know comes from the environment: $AWS_ACCESS_KEY_ID,
    /// $AWS_SECRET_ACCESS_KEY, $AWS_REGION, or $AWS_ENDPOINT if it is not at AWS; $AZURE_STORAGE_ACCOUNT_NAME,
    /// $AZURE_STORAGE_ACCOUNT_KEY; $GOOGLE_APPLICATION_CREDENTIALS.
    #[arg(long, value_name = "NAME=URL")]
    store: Vec<StoreAt>,
    /// Get and compile programs of other nodes' processes as soon as they run there, before any of these comes: then a node that
    /// is drained to this one need not wait for that.
    #[arg(long)]
    prepare: bool,
    /// On SIGTERM, SIGINT or SIGHUP do not end at once, but move processes to other nodes first, and the registry if it is
    /// here: `drain`, or with the time that there is for that, `drain=1m` [default time: 30s]. A second signal ends the
    /// node at once.
    #[arg(long, value_name = "drain[=TIME]", value_parser = parse_on_signal)]
    on_signal: Option<Duration>,
    /// Speak this version of the protocol only, as an older sterna would: for tests of upgrades.
    #[arg(long, value_name = "VERSION", hide = true, value_parser = parse_version)]
    protocol: Option<Versions>,
    /// Write a systemd unit that starts the node in this way, and start nothing: into FILE, `-` for standard output
    /// [default: where systemd looks for units of this user].
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    systemd: Option<Option<PathBuf>>,
}

const START_HELP: &str = "\
Examples:
  sterna node start
  sterna node start --bind '[::]:7400' --advertise 203.0.113.5:7400
  sterna node start --data /tmp/second --bind 127.0.0.1:0     a second node on one machine
  sterna node start --prepare --on-signal drain=2m
  sterna node start --systemd && systemctl --user enable --now sterna-node
  AWS_REGION=eu-central-1 sterna node start --store backup=s3://bucket/snapshots

No root is needed. Other nodes need to reach the port by UDP and by TCP. Keys of buckets are no arguments, \
which others could read. For a unit, put them into a file that only you can read, and name it: systemctl \
--user edit sterna-node, then [Service] and EnvironmentFile=FILE";

/// Makes a ticket, with which one other node can join.
#[derive(Debug, Args)]
#[command(after_help = INVITE_HELP)]
struct Invite {
    /// For how long it is valid.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = show::parse_duration)]
    expires: Duration,
    /// Write it into a file that only you can read, instead of to standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const INVITE_HELP: &str = "\
Examples:
  sterna node invite | ssh other sterna node join
  sterna node invite --expires 1h -o ticket; then copy the file, and there: sterna node join ticket

Whoever has the ticket can join, once: treat it like a password until it is used or has expired.";

/// Joins the cluster of the node that made a ticket.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sterna node join ticket\n  ssh first sterna node invite | sterna node join"
)]
struct Join {
    /// The ticket's file; `-` is standard input. The ticket itself is never an argument, since all users of a machine
    /// see those.
    #[arg(value_name = "TICKETFILE", default_value = "-")]
    ticket: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

/// Stops the node of this machine. What it knows stays for the next start.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sterna node stop\n  sterna node stop --kill     with the processes that run there"
)]
struct Stop {
    /// End the processes that run there.
    #[arg(long, conflicts_with = "leave")]
    kill: bool,
    /// Let the processes that run there run on; the next start of the node takes them up.
    #[arg(long)]
    leave: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

impl NodeCommand {
    pub(crate) fn run(self) -> Result<u8> {
        match self.command {
            Deed::Start(start) => start.run(),
            Deed::Invite(invite) => invite.run(),
            Deed::Join(join) => join.run(),
            Deed::Stop(stop) => stop.run(),
        }
    }
}

/// Who this node is to the cluster's etcd. Not by an argument: others could read it.
fn registry_login() -> Result<Option<Login>> {
    const FILE: &str = "STERNA_ETCD_LOGIN_FILE";
    const TEXT: &str = "STERNA_ETCD_LOGIN";
    if let Some(file) = std::env::var_os(FILE) {
        return Ok(Some(Login::load(Path::new(&file))?));
    }
    match std::env::var(TEXT) {
        Ok(text) => {
            let login = Login::parse(&text);
            Ok(Some(
                login.with_context(|| format!("{TEXT} is not USER:PASSWORD"))?,
            ))
        }
        Err(_) => Ok(None),
    }
}

impl Start {
    /// A name is that of one directory, or of one store.
    fn check_names(&self) -> Result<()> {
        let exports = self.export.iter().map(|(name, _)| &**name);
        if let Some(name) = twice(exports) {
            bail!(
                "two directories are exported as {}: give each a name of its own",
                Plain(name)
            );
        }
        if let Some(name) = twice(self.store.iter().map(StoreAt::name)) {
            bail!(
                "two stores are called {}: give each a name of its own",
                Plain(name)
            );
        }
        Ok(())
    }

    fn run(self) -> Result<u8> {
        self.check_names()?;
        if let Some(to) = &self.systemd {
            return self.write_unit(to.as_deref());
        }
        let signals = Signals::catch()?;
        let data = self.data.map_or_else(node::default, Ok)?;
        runner::allow_descriptors();
        let manager = manager::start(&data)?;
        let mut options = Options {
            data,
            bind: self.bind,
            advertise: self.advertise,
            name: self.name.unwrap_or_else(host_name),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            confinement: doctor::confinement(),
            exports: self.export,
            copies_bytes_max: self.copies,
            prepares: self.prepare,
            stores: self.store,
            confined: Confinement::default(),
            workshop: None,
            registry: self.registry,
            registry_login: registry_login()?,
            versions: self.protocol.unwrap_or(Versions::ALL),
        };
        let opened = Opened::new(&options)?;
        let greeted = manager.greet()?;
        let path = std::path::absolute(&options.data)?;
        options.confined = Confinement {
            service: Some(service::confine(
                opened.data().as_fd(),
                &path,
                &options.stores,
            )?),
            manager: Some(greeted.confinement().to_owned()),
            runner: None,
        };
        warn(&options.confined);
        // From here on there are threads.
        let (gone, stopper) = (Arc::new(AtomicBool::new(false)), Arc::new(OnceLock::new()));
        let link = Arc::new(greeted.start({
            let (gone, stopper) = (Arc::clone(&gone), Arc::clone(&stopper));
            move || {
                gone.store(true, Ordering::SeqCst);
                stopper.get().map(Stopper::stop);
            }
        })?);
        options.workshop = Some(Arc::clone(&link) as _);
        let node = Node::start_on(opened, &options)?;
        let stopper = stopper.get_or_init(|| node.stopper()).clone();
        if gone.load(Ordering::SeqCst) {
            stopper.stop();
        }
        end_on(signals, stopper, self.on_signal)?;
        let addresses = node.about().addresses.iter();
        let addresses: Vec<String> = addresses.map(ToString::to_string).collect();
        show::note(format_args!(
            "node {} ({}) is ready at {}, data in {}",
            Plain(&node.about().name),
            node.id(),
            addresses.join(", "),
            show::path(node.data())
        ));
        node.serve();
        ensure!(!gone.load(Ordering::SeqCst), MANAGER_GONE);
        manager.end(&link);
        Ok(0)
    }
}

/// Ends the node on a signal; if there is time for that, it is drained by the first one.
fn end_on(signals: Signals, stopper: Stopper, mut drain_within: Option<Duration>) -> Result<()> {
    signals.each(move |_| match drain_within.take() {
        Some(within) => {
            show::note(
                "moving processes to other nodes first; a second signal ends the node at once",
            );
            stopper.drain(within);
        }
        None => stopper.stop(),
    })
}

/// How much time there is to drain a node if nothing is said.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);

/// A node without a manager could start no process, take none in, and host none again after its runner has ended.
const MANAGER_GONE: &str = "the node's manager has ended, and so does the node, which cannot start another: its processes \
    live on in their runner, and are taken up when the node is started again";

/// Says what is missing.
fn warn(confined: &Confinement) {
    let parts = [
        ("service", &confined.service),
        ("manager", &confined.manager),
    ];
    for (part, how) in parts {
        if let Some(how) = how.as_ref().filter(|how| *how != "full") {
            show::note(format_args!("the {part}'s confinement: {}", Plain(how)));
        }
    }
}

fn twice<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut known = HashSet::new();
    names.find(|name| !known.insert(*name))
}

fn parse_export(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((name.to_owned(), path.into()))
        }
        _ => Err("write NAME=DIR, for example data=/srv/data".into()),
    }
}

fn parse_on_signal(text: &str) -> Result<Duration, String> {
    match text.split_once('=') {
        None if text == "drain" => Ok(DRAIN_WITHIN),
        Some(("drain", within)) => match drain::parse_within(within)? {
            within if within > DRAIN_WITHIN_MAX => Err("a day is enough: drain=24h".to_owned()),
            within => Ok(within),
        },
        _ => Err("write drain, or drain=30s".to_owned()),
    }
}

fn parse_version(text: &str) -> Result<Versions, String> {
    let version = text.parse().ok().and_then(Versions::only);
    version.ok_or_else(|| {
        let (oldest, newest) = VERSIONS.into_inner();
        format!("there are versions {oldest} to {newest}")
    })
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let first: String = name
        .split(['.', '\n'])
        .next()
        .unwrap_or_default()
        .chars()
        .filter(|letter| letter.is_ascii_alphanumeric() || *letter == '-')
        .take(32)
        .collect();
    match first.is_empty() {
        true => "node".to_owned(),
        false => first,
    }
}

#[derive(Serialize)]
struct Invited<'a> {
    /// Null if it is in the file only.
    ticket: Option<&'a str>,
    file: Option<&'a Path>,
    valid_ms: u64,
}

#[derive(Serialize)]
struct Joined {
    /// How many nodes the cluster has now.
    nodes: usize,
}

#[derive(Serialize)]
struct Stopped {
    /// What was to become of the processes there: `none` if there were to be none, `killed` or `left`.
    processes: &'static str,
}

impl Invite {
    fn run(self) -> Result<u8> {
        let valid_ms = self.expires.as_millis().try_into().unwrap_or(u64::MAX);
        let ticket = match self.which.ask(&Request::Invite { valid_ms })? {
            Reply::Ticket(TicketText(text)) => text,
            _ => return Err(node::unexpected()),
        };
        if let Some(path) = &self.output {
            write_private(path, &ticket)
                .with_context(|| format!("could not write {}", path.display()))?;
        }
        match &self.output {
            output if self.json => show::json(&Invited {
                ticket: output.is_none().then_some(&ticket),
                file: output.as_deref(),
                valid_ms,
            })?,
            None => show::print(format_args!("{ticket}\n")),
            Some(path) => show::note(format_args!(
                "written: {}, valid for {}",
                show::path(path),
                show::time(self.expires)
            )),
        }
        Ok(0)
    }
}

/// Writes a file that only its owner can read, also in the place of one that others could.
fn write_private(path: &Path, ticket: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    writeln!(file, "{ticket}")
}

impl Join {
    fn run(self) -> Result<u8> {
        let text = self.read()?;
        let ticket = TicketText(text.trim().to_owned());
        let roster = match self.which.ask(&Request::Join { ticket })? {
            Reply::Roster(roster) => roster,
            _ => return Err(node::unexpected()),
        };
        let nodes = roster.members.len();
        match self.json {
            true => show::json(&Joined { nodes })?,
            false => show::note(format_args!(
                "joined: this is now a cluster of {nodes} nodes"
            )),
        }
        Ok(0)
    }

    fn read(&self) -> Result<String> {
        let mut read = Vec::new();
        let limit = TICKET_BYTES_MAX as u64 + 1;
        let from_stdin = self.ticket == Path::new("-");
        let looks_like_one = self.ticket.to_string_lossy().starts_with("sterna-ticket-");
        if looks_like_one && !self.ticket.exists() {
            bail!(
                "a ticket is not given as an argument, where every user of this machine can see it: \
                 write it into a file, or to standard input; that one is spoilt, make a new one"
            );
        }
        let done = match from_stdin {
            true => io::stdin().lock().take(limit).read_to_end(&mut read),
            false => fs::File::open(&self.ticket)
                .and_then(|file| file.take(limit).read_to_end(&mut read)),
        };
        let shown = self.ticket.display();
        done.with_context(|| format!("could not read the ticket {shown}"))?;
        String::from_utf8(read)
            .map_err(|_| anyhow!("{shown} is no ticket: `sterna node invite` makes one"))
    }
}

impl Stop {
    fn run(self) -> Result<u8> {
        let (remains, processes) = match (self.kill, self.leave) {
            (true, _) => (Remains::Killed, "killed"),
            (_, true) => (Remains::Left, "left"),
            _ => (Remains::None, "none"),
        };
        self.which.stop(remains)?;
        if self.json {
            show::json(&Stopped { processes })?;
        }
        Ok(0)
    }
}
