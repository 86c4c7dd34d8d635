//! `sterna doctor`: what this machine can and cannot do, and how to mend it.

use std::fs;
use std::fs::OpenOptions;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::Args;
use rustix::process::geteuid;
use serde::Serialize;
use sterna_node::message::{Reply, Request};
use sterna_process::Plain;
use sterna_sys::{ability, enclosure, missing, tracking};

use crate::node::Which;
use crate::show::{self, Align, Paint, Table};

/// Says what this machine can and cannot do for Sterna, and how to mend it.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Doctor {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    which: Which,
}

const AFTER_HELP: &str = "\
Examples:
  sterna doctor
  sterna doctor --json | jq '.[] | select(.state != \"yes\")'

Nothing is changed. It ends with code 0 whatever it finds: what is missing costs speed or confinement, and \
programs run and move without it.";

/// A thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    /// What it is good for.
    purpose: &'static str,
    /// `yes`, `partly` or `no`.
    state: &'static str,
    found: String,
    /// What to do, if something can be done.
    mend: Option<&'static str>,
}

/// Landlock from which on file system, TCP and signals are confined.
const LANDLOCK_WANTED: u32 = 6;
/// Mappings that many large processes need.
const MAPPINGS_WANTED: u64 = 262_144;
/// No machine that can run this was set to an earlier time: 2026-01-01.
const CLOCK_MIN_S: u64 = 1_767_225_600;
/// By how much clocks of a cluster may differ.
const CLOCK_SKEW_MAX_MS: u64 = 5000;

impl Doctor {
    pub(crate) fn run(self) -> Result<u8> {
        let findings = [
            dirty_pages(),
            missing_pages(),
            landlock(),
            seccomp(),
            namespaces(),
            places(),
            self.parts(),
            pages_port(),
            control_groups(),
            kvm(),
            mappings(),
            self.clock(),
        ];
        if self.json {
            show::json(&findings)?;
            return Ok(0);
        }
        let mut table = Table::new([
            ("WHAT", Align::Left),
            ("", Align::Left),
            ("FOUND", Align::Left),
            ("FOR", Align::Left),
        ]);
        for finding in &findings {
            table.row([
                finding.what.to_owned(),
                finding.state.to_owned(),
                Plain(&finding.found).to_string(),
                finding.purpose.to_owned(),
            ]);
        }
        show::print(table.shown(Paint::stdout()));
        for finding in &findings {
            if let Some(mend) = finding.mend {
                show::print(format_args!("\n{}: {mend}\n", finding.what));
            }
        }
        Ok(0)
    }

    /// How well the node that runs here is confined, part by part.
    fn parts(&self) -> Finding {
        let asked = self.which.ask(&Request::Status);
        let parts = match asked {
            Ok(Reply::Status(status)) => {
                let parts = status.confinement;
                vec![
                    ("service", parts.service),
                    ("manager", parts.manager),
                    ("runner", parts.runner),
                ]
            }
            _ => Vec::new(),
        };
        let known = parts.into_iter();
        let known: Vec<_> = known.filter_map(|(part, how)| Some((part, how?))).collect();
        let (state, found) = match known.iter().all(|(_, how)| how == "full") {
            true if known.is_empty() => ("yes", "no node runs here".to_owned()),
            true => ("yes", "full, all of them".to_owned()),
            false => {
                let texts = known.iter().map(|(part, how)| format!("{part}: {how}"));
                ("partly", texts.collect::<Vec<_>>().join("; "))
            }
        };
        Finding {
            what: "parts of the node",
            purpose: "a network without privilege, privilege without a network, programs with neither",
            state,
            found,
            mend: (state != "yes").then_some(
                "see Landlock, seccomp and places of runners; then start the node again",
            ),
        }
    }

    fn clock(&self) -> Finding {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now_s = now.unwrap_or_default().as_secs();
        let nodes = self.which.nodes();
        let others = nodes.iter().flat_map(|nodes| &nodes.nodes);
        let ahead_ms = others
            .filter_map(|seen| seen.clock_ahead_ms)
            .max_by_key(|ahead_ms| ahead_ms.unsigned_abs());
        let (state, found) = match ahead_ms {
            _ if now_s < CLOCK_MIN_S => ("no", "the clock is in the past".to_owned()),
            None => (
                "yes",
                "plausible; compared with nobody: no node runs here".to_owned(),
            ),
            Some(ahead_ms) => {
                let span = show::time(Duration::from_millis(ahead_ms.unsigned_abs()));
                let far = ahead_ms.unsigned_abs() > CLOCK_SKEW_MAX_MS;
                (
                    if far { "no" } else { "yes" },
                    format!("at most {span} from that of other nodes"),
                )
            }
        };
        Finding {
            what: "clock",
            purpose: "logs and times that agree, nodes that join",
            state,
            found,
            mend: (state != "yes").then_some("set it and keep it right: timedatectl set-ntp true"),
        }
    }
}

/// How well this machine can confine what a node runs: `full`, or what is missing.
pub(crate) fn confinement() -> String {
    let lacking: Vec<&str> = [landlock(), seccomp()]
        .iter()
        .filter(|finding| finding.state != "yes")
        .map(|finding| finding.what)
        .collect();
    match lacking.len() {
        0 => "full".to_owned(),
        1 => format!("partial: {} is lacking or old", lacking[0]),
        _ => "none: no Landlock, no seccomp".to_owned(),
    }
}

fn dirty_pages() -> Finding {
    let (state, found) = match tracking::available() {
        Ok(()) => ("yes", "works, tried on four pages".to_owned()),
        Err(error) => ("no", with_sources(&error)),
    };
    Finding {
        what: "userfaultfd, PAGEMAP_SCAN",
        purpose: "finding the pages a program changes while it runs",
        state,
        found,
        mend: (state != "yes").then_some(
            "Linux 6.7 or newer is needed, and without root: sysctl vm.unprivileged_userfaultfd=1",
        ),
    }
}

fn missing_pages() -> Finding {
    let (state, found) = match missing::available() {
        Ok(()) => ("yes", "works, tried on two pages".to_owned()),
        Err(error) => ("no", with_sources(&error)),
    };
    Finding {
        what: "userfaultfd, missing pages",
        purpose: "processes that come here before their memory (post-copy)",
        state,
        found,
        mend: (state != "yes").then_some("Linux 5.14 or newer with pages of 4 KiB is needed"),
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = sources.map(ToString::to_string).collect();
    texts.join(": ")
}

fn landlock() -> Finding {
    let (state, found) = match ability::landlock_version() {
        Ok(version) if version >= LANDLOCK_WANTED => ("yes", format!("version {version}")),
        Ok(version) => ("partly", format!("version {version}, of {LANDLOCK_WANTED}")),
        Err(error) => ("no", error.to_string()),
    };
    Finding {
        what: "Landlock",
        purpose: "keeping compilers and programs from files and networks",
        state,
        found,
        mend: match state {
            "yes" => None,
            "partly" => Some("a newer kernel (6.12) also restricts signals and abstract sockets"),
            _ => Some("boot with `landlock` in the list of the kernel parameter lsm="),
        },
    }
}

fn seccomp() -> Finding {
    let (state, found) = match ability::seccomp_actions() {
        Ok(actions) if actions.iter().any(|action| action == "kill_process") => {
            ("yes", "filters of system calls".to_owned())
        }
        Ok(_) => ("partly", "an old kernel's".to_owned()),
        Err(error) => ("no", error.to_string()),
    };
    Finding {
        what: "seccomp",
        purpose: "keeping compilers and programs from most system calls",
        state,
        found,
        mend: (state != "yes").then_some("a kernel with CONFIG_SECCOMP_FILTER is needed"),
    }
}

/// The number in a file of `/proc/sys`.
fn setting(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn namespaces() -> Finding {
    let most = setting("/proc/sys/user/max_user_namespaces");
    let forbidden = [
        ("/proc/sys/kernel/unprivileged_userns_clone", 0),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 1),
    ]
    .into_iter()
    .find(|(path, closed)| !geteuid().is_root() && setting(path) == Some(*closed));
    let (state, found) = match (most, forbidden) {
        (None, _) => ("no", "the kernel has none".to_owned()),
        (Some(0), _) => ("no", "user.max_user_namespaces is 0".to_owned()),
        (Some(_), Some((path, closed))) => ("no", format!("{path} is {closed}")),
        (Some(most), None) => ("yes", format!("up to {most}, as the settings say")),
    };
    Finding {
        what: "user namespaces",
        purpose: "isolated places without root",
        state,
        found,
        mend: (state != "yes").then_some(
            "sysctl user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1 \
             kernel.apparmor_restrict_unprivileged_userns=0, as far as the machine has them",
        ),
    }
}

/// The place of a runner, tried.
fn places() -> Finding {
    let purpose = "processes on nodes with directories, and a runner that sees nothing else";
    let what = "places of runners";
    match enclosure::available() {
        Ok(()) => Finding {
            what,
            purpose,
            state: "yes",
            found: "works, tried".to_owned(),
            mend: None,
        },
        Err(unavailable) => Finding {
            what,
            purpose,
            state: "no",
            found: with_sources(&unavailable),
            mend: unavailable.remedy,
        },
    }
}

/// What moves between nodes need of this machine's network, as far as it can be tried here.
fn pages_port() -> Finding {
    let (state, found) = match std::net::TcpListener::bind(("127.0.0.1", 0)) {
        Ok(_) => ("yes", "can listen".to_owned()),
        Err(error) => ("no", error.to_string()),
    };
    Finding {
        what: "TCP",
        purpose: "pages of processes that move: same port as the node's UDP, open in firewalls",
        state,
        found,
        mend: (state != "yes").then_some("let programs of this user listen on TCP ports"),
    }
}

fn control_groups() -> Finding {
    let v2 = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let v1 = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let v1: Vec<&str> = v1
        .lines()
        .filter(|line| !line.starts_with('#') && line.ends_with('1'))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let has = |name: &str| v2.split_whitespace().any(|one| one == name) || v1.contains(&name);
    let wanted = ["cpu", "memory", "pids"];
    let lacking: Vec<&str> = wanted.into_iter().filter(|name| !has(name)).collect();
    let (state, found) = match lacking.len() {
        0 if v2.trim().is_empty() => ("yes", "version 1: cpu, memory, pids".to_owned()),
        0 => ("yes", "version 2: cpu, memory, pids".to_owned()),
        3 => ("no", "none of cpu, memory, pids".to_owned()),
        _ => ("partly", format!("without {}", lacking.join(", "))),
    };
    Finding {
        what: "control groups",
        purpose: "limits of CPU, memory and processes",
        state,
        found,
        mend: (state != "yes")
            .then_some("mount them: mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd"),
    }
}

fn kvm() -> Finding {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    let (state, found, mend) = match opened {
        Ok(_) => ("yes", "/dev/kvm".to_owned(), None),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => (
            "no",
            format!("/dev/kvm: {error}"),
            Some("become a member of the group that owns it: usermod -aG kvm USER"),
        ),
        Err(error) => (
            "no",
            format!("/dev/kvm: {error}"),
            Some(
                "switch virtualization on in the firmware, or nested virtualization at the host: modprobe kvm",
            ),
        ),
    };
    Finding {
        what: "KVM",
        purpose: "virtual machines",
        state,
        found,
        mend,
    }
}

fn mappings() -> Finding {
    let most = setting("/proc/sys/vm/max_map_count");
    let (state, found) = match most {
        Some(most) if most >= MAPPINGS_WANTED => ("yes", most.to_string()),
        Some(most) => ("partly", format!("{most}, of {MAPPINGS_WANTED}")),
        None => ("no", "it cannot be read".to_owned()),
    };
    Finding {
        what: "vm.max_map_count",
        purpose: "thousands of programs in one process",
        state,
        found,
        mend: (state != "yes").then_some("sysctl vm.max_map_count=262144"),
    }
}
