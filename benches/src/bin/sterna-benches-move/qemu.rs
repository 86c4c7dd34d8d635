//! QEMU moves a small Linux machine with the native server in it, live, to another QEMU on this machine.
//!
//! Processors are emulated (TCG), so that the same is compared wherever this runs: where the server cannot keep up, fewer
//! writes are due. Both machines have the same address on a bridge, in a network of their own; the connections are in the
//! kernel that moves.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use sterna_benches::peers::{self, quietly};
use sterna_laboratory::clients::{Moved, Pace, moves};
use tempfile::TempDir;

use crate::Plan;
use crate::clients::{self, CLIENTS, Mover, Peer, RATE};
use crate::native;

const TAPS: [&str; 2] = ["tap0", "tap1"];
const HERE: &str = "10.213.7.1/24";
const THERE: &str = "10.213.7.2";
const PORT: u16 = 8080;
/// Of a machine, for its kernel, beside the server's heap.
const KERNEL_MIB: u64 = 192;
/// An emulated machine boots within this, and its memory goes to another.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Bytes a second: as fast as it goes.
const RATE_MAX: u64 = 100 << 30;
/// Of what the server can do, so much is asked for.
const SHARE_MAX: f64 = 0.5;
/// For how long that is counted, after as much time without.
const COUNTED: Duration = Duration::from_secs(2);

/// When memory goes.
#[derive(Debug, Clone, Copy)]
enum Order {
    /// Before the machine stands still, until it is expected to do so for no longer than this.
    PreCopy { downtime_ms_max: u32 },
    /// From the beginning as far as it gets, and when it runs again what is left.
    PostCopy,
}

/// 300 ms are QEMU's default.
const ORDERS: [(&str, Order); 3] = [
    (
        "pre-copy for 300 ms",
        Order::PreCopy {
            downtime_ms_max: 300,
        },
    ),
    (
        "pre-copy for 10 ms",
        Order::PreCopy {
            downtime_ms_max: 10,
        },
    ),
    ("post-copy", Order::PostCopy),
];

/// What clients see of it, if there is a QEMU.
pub(crate) fn measure(plan: &Plan, mib: u64, rounds: usize) -> Result<Option<Peer>> {
    if peers::qemu(&plan.root).is_none() {
        return Ok(None);
    }
    // The network of a thread is that of what it starts.
    let thread = || {
        let network = Network::make()?;
        let measured = in_network(plan, mib, rounds);
        drop(network);
        measured.map(Some)
    };
    thread::scope(|scope| scope.spawn(thread).join()).map_err(|_| anyhow!("it panicked"))?
}

fn in_network(plan: &Plan, mib: u64, rounds: usize) -> Result<Peer> {
    let rate = rate(&Qemu::start(plan, mib)?, mib)?;
    let mut qemu = Qemu::start(plan, mib)?;
    let load = clients::begin(&qemu, mib, Pace::Open(rate))?;
    qemu.hop()?;
    load.take();
    let mut ways = Vec::new();
    for (name, order) in ORDERS {
        qemu.order = order;
        let way = moves(&load, CLIENTS, rounds, &mut || qemu.hop())?;
        ways.push((format!("QEMU {name}, {rate:.0} a second"), way));
    }
    let failed = clients::end(load)?;
    Ok(Peer { ways, failed })
}

/// How many writes a second are asked for.
fn rate(qemu: &Qemu, mib: u64) -> Result<f64> {
    let load = clients::begin(qemu, mib, Pace::Closed)?;
    thread::sleep(COUNTED);
    load.take();
    thread::sleep(COUNTED);
    let capacity = load.take().len() as f64 / COUNTED.as_secs_f64();
    Ok((capacity * SHARE_MAX).min(RATE.into()).floor())
}

/// A network with a bridge, and an interface on it for each of two machines. Dropping it removes it.
struct Network {
    name: String,
}

impl Network {
    /// Makes it and moves the calling thread there.
    fn make() -> Result<Self> {
        let ip = |words: &str| quietly(Command::new("ip").args(words.split(' '))).map(drop);
        let name = format!("sterna-bench-{}", std::process::id());
        ip(&format!("netns add {name}"))?;
        let network = Self { name };
        let place = File::open(Path::new("/run/netns").join(&network.name))?;
        move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network))?;
        ip("link add bridge0 type bridge")?;
        ip(&format!("addr add {HERE} dev bridge0"))?;
        ip("link set bridge0 up")?;
        for tap in TAPS {
            ip(&format!("tuntap add {tap} mode tap"))?;
            ip(&format!("link set {tap} master bridge0 up"))?;
        }
        Ok(network)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let mut ip = Command::new("ip");
        let _ = ip.args(["netns", "delete", &self.name]).status();
    }
}

/// One QEMU. Dropping it ends it.
struct Machine {
    child: Child,
    to: UnixStream,
    from: BufReader<UnixStream>,
    /// What it has said of itself.
    events: Vec<Event>,
}

struct Event {
    name: String,
    /// Of a move.
    status: Option<String>,
    /// By the clock of this machine.
    at: SystemTime,
}

impl Event {
    fn read(said: &Value) -> Option<Self> {
        let at = &said["timestamp"];
        let since = Duration::from_secs(at["seconds"].as_u64()?)
            + Duration::from_micros(at["microseconds"].as_u64()?);
        Some(Self {
            name: said["event"].as_str()?.to_owned(),
            status: said["data"]["status"].as_str().map(str::to_owned),
            at: SystemTime::UNIX_EPOCH + since,
        })
    }
}

impl Machine {
    /// The next thing that it says in QEMU's machine protocol (QMP), if it is no event: those are kept.
    fn hear(&mut self) -> Result<Option<Value>> {
        let mut line = String::new();
        ensure!(self.from.read_line(&mut line)? > 0, "QEMU has gone");
        let said: Value = serde_json::from_str(&line)?;
        match Event::read(&said) {
            Some(event) => self.events.push(event),
            None => return Ok(Some(said)),
        }
        Ok(None)
    }

    /// Asks for something.
    fn say(&mut self, execute: &str, arguments: Value) -> Result<()> {
        let order = json!({ "execute": execute, "arguments": arguments });
        writeln!(self.to, "{order}")?;
        loop {
            match self.hear()? {
                Some(said) if said.get("error").is_some() => {
                    bail!("QEMU, {execute}: {}", said["error"]["desc"])
                }
                Some(said) if said.get("return").is_some() => return Ok(()),
                // The greeting.
                Some(_) | None => {}
            }
        }
    }

    /// When something was so.
    fn wait(&mut self, is: impl Fn(&Event) -> bool) -> Result<SystemTime> {
        loop {
            if let Some(event) = self.events.iter().find(|event| is(event)) {
                return Ok(event.at);
            }
            if let Some(event) = self.events.iter().find(|event| event.is("failed")) {
                bail!("QEMU did not move it ({})", event.name);
            }
            self.hear()?;
        }
    }
}

impl Event {
    /// Whether a move is at this.
    fn is(&self, status: &str) -> bool {
        self.name == "MIGRATION" && self.status.as_deref() == Some(status)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The machine that serves.
struct Qemu {
    root: PathBuf,
    folder: TempDir,
    memory_mib: u64,
    order: Order,
    machine: Machine,
    count: usize,
}

impl Qemu {
    /// Boots it. It serves when this returns.
    fn start(plan: &Plan, mib: u64) -> Result<Self> {
        let folder = TempDir::new()?;
        let system = archive(&files(&plan.root, folder.path())?);
        fs::write(folder.path().join("system"), system)?;
        let memory_mib = mib + KERNEL_MIB;
        let machine = start(
            &plan.root,
            folder.path(),
            memory_mib,
            0,
            &["-append", &words(mib)],
        )?;
        let console = folder.path().join("console-0");
        let until = Instant::now() + PATIENCE;
        loop {
            let said = fs::read_to_string(&console).unwrap_or_default();
            if said.lines().any(|line| line.starts_with("serving ")) {
                break;
            }
            ensure!(Instant::now() < until, "no server: {said}");
            thread::sleep(LOOK_EVERY);
        }
        Ok(Self {
            root: plan.root.clone(),
            folder,
            memory_mib,
            order: ORDERS[0].1,
            machine,
            count: 0,
        })
    }
}

/// What the kernel is told; what comes behind `--` is for the first program. An emulated timer of a busy machine would not pass
/// the kernel's check.
fn words(mib: u64) -> String {
    format!("console=ttyS0 quiet no_timer_check panic=-1 net.ifnames=0 -- {THERE} {PORT} {mib}")
}

/// The first file system of the machine.
fn files(root: &Path, folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let init = folder.join("init");
    let source = root.join("benches/src/bin/sterna-benches-move/machine.c");
    quietly(
        Command::new("cc")
            .args(["-O2", "-static", "-o"])
            .arg(&init)
            .arg(source),
    )?;
    let mut files = vec![
        ("init".to_owned(), fs::read(&init)?),
        ("kv".to_owned(), fs::read(native::compile(root)?)?),
    ];
    for (number, module) in peers::linux(root)?.1.iter().enumerate() {
        files.push((format!("modules/{number}"), fs::read(module)?));
    }
    Ok(files)
}

/// Files as the kernel unpacks them: cpio's format "newc" (Documentation/driver-api/early-userspace/buffer-format.rst).
fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut add = |number: usize, name: &str, mode: usize, bytes: &[u8]| {
        let name_bytes = name.len() + 1;
        let fields = [
            number,
            mode,
            0,
            0,
            1,
            0,
            bytes.len(),
            0,
            0,
            0,
            0,
            name_bytes,
            0,
        ];
        let fields = fields.map(|field| format!("{field:08x}")).concat();
        archive.extend_from_slice(format!("070701{fields}{name}\0").as_bytes());
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(bytes);
        archive.resize(archive.len().next_multiple_of(4), 0);
    };
    add(1, "modules", 0o040_755, &[]);
    for (number, (name, bytes)) in files.iter().enumerate() {
        add(number + 2, name, 0o100_755, bytes);
    }
    add(0, "TRAILER!!!", 0, &[]);
    archive
}

/// Starts a QEMU: the one of this number.
fn start(
    root: &Path,
    folder: &Path,
    memory_mib: u64,
    number: usize,
    more: &[&str],
) -> Result<Machine> {
    let control = folder.join(format!("control-{number}"));
    let tap = TAPS[number % TAPS.len()];
    let words = format!(
        "-nodefaults -no-user-config -display none -M pc -accel tcg -cpu max -smp 1 -m {memory_mib} \
         -device virtio-net-pci,netdev=net,mac=52:54:00:57:e4:4a,romfile= \
         -netdev tap,id=net,ifname={tap},script=no,downscript=no"
    );
    let mut command = peers::qemu(root).context("it has gone")?;
    command
        .args(words.split_whitespace())
        .arg("-kernel")
        .arg(peers::linux(root)?.0)
        .arg("-initrd")
        .arg(folder.join("system"))
        .arg("-serial")
        .arg(format!(
            "file:{}",
            folder.join(format!("console-{number}")).display()
        ))
        .arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", control.display()))
        .args(more)
        .stdin(Stdio::null());
    let mut child = command.spawn().context("could not start QEMU")?;
    let until = Instant::now() + PATIENCE;
    let to = loop {
        match UnixStream::connect(&control) {
            Ok(stream) => break stream,
            Err(error) if child.try_wait()?.is_some() || Instant::now() > until => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error).context("QEMU cannot be spoken to");
            }
            Err(_) => thread::sleep(LOOK_EVERY),
        }
    };
    to.set_read_timeout(Some(PATIENCE))?;
    let mut machine = Machine {
        child,
        from: BufReader::new(to.try_clone()?),
        to,
        events: Vec::new(),
    };
    machine.say("qmp_capabilities", json!({}))?;
    Ok(machine)
}

impl Mover for Qemu {
    fn address(&self) -> SocketAddr {
        SocketAddr::new(THERE.parse().expect("an address"), PORT)
    }

    fn hop(&mut self) -> Result<Moved> {
        self.count += 1;
        let incoming = ["-incoming", "defer"];
        let (folder, number) = (self.folder.path(), self.count);
        let mut target = start(&self.root, folder, self.memory_mib, number, &incoming)?;
        let uri = format!("unix:{}", folder.join(format!("memory-{number}")).display());
        let follows = matches!(self.order, Order::PostCopy);
        let capabilities = json!([
            { "capability": "postcopy-ram", "state": follows },
            { "capability": "events", "state": true },
        ]);
        let mut parameters = json!({ "max-bandwidth": RATE_MAX });
        if let Order::PreCopy { downtime_ms_max } = self.order {
            parameters["downtime-limit"] = downtime_ms_max.into();
        }
        for machine in [&mut self.machine, &mut target] {
            let capabilities = json!({ "capabilities": capabilities });
            machine.say("migrate-set-capabilities", capabilities)?;
            machine.say("migrate-set-parameters", parameters.clone())?;
        }
        target.say("migrate-incoming", json!({ "uri": uri }))?;
        target.events.clear();
        self.machine.events.clear();
        let (ordered, ordered_at) = (Instant::now(), SystemTime::now());
        self.machine.say("migrate", json!({ "uri": uri }))?;
        if follows {
            self.machine.wait(|event| event.is("active"))?;
            self.machine.say("migrate-start-postcopy", json!({}))?;
        }
        let stopped = self.machine.wait(|event| event.name == "STOP")?;
        let resumed = target.wait(|event| event.name == "RESUME")?;
        let ended = self.machine.wait(|event| event.is("completed"))?;
        self.machine = target;
        let between =
            |from: SystemTime, to: SystemTime| to.duration_since(from).unwrap_or_default();
        let (ran, still) = (between(ordered_at, stopped), between(stopped, resumed));
        let named = |name: &str, time| (name.to_owned(), time);
        let mut parts = vec![named("copy", ran), named("send", still)];
        if follows {
            parts[0].0 = "accept".to_owned();
            parts.push(named("pull", between(resumed, ended)));
        }
        Ok(Moved {
            ordered,
            parts,
            downtime: Some(still),
        })
    }
}
