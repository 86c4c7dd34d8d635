//! A program that goes back and forth between the two machines while it works.
//!
//! It is frozen when it has printed its next share of lines, so a journey is the same on fast machines and slow ones. A
//! program that prints nothing on its way is frozen after a share of the time that it takes without a move.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::machine::{Machine, Machines};
use crate::child;

/// The code of `sterna run` and `sterna thaw` when the process was frozen.
const EXIT_FROZEN: i32 = 75;

/// A program and its way.
pub(super) struct Journey {
    pub(super) name: &'static str,
    program: PathBuf,
    arguments: Vec<&'static str>,
    /// Options of `sterna run`.
    options: Vec<String>,
    hops: usize,
    /// What to say if the program is not there.
    remedy: &'static str,
}

/// All journeys.
pub(super) fn all(root: &Path) -> Vec<Journey> {
    let directory = |host: &str, guest: &str| {
        let host = root.join("guests").join(host);
        vec![
            "--dir".to_owned(),
            format!("{}::{guest}:ro", host.display()),
        ]
    };
    let committed = |name: &str| root.join("guests/wasm").join(name).with_extension("wasm");
    let python = [
        directory("python", "/py"),
        vec!["--env".into(), "PYTHONHASHSEED=0".into()],
    ];
    vec![
        Journey {
            name: "python",
            program: root.join("target/guests/python.wasm"),
            arguments: vec!["/py/steps.py", "60"],
            options: python.concat(),
            hops: 4,
            remedy: "cargo xtask guests --download",
        },
        Journey {
            name: "sqlite",
            program: committed("sqlite"),
            arguments: vec!["10000", "24"],
            options: Vec::new(),
            hops: 6,
            remedy: "git checkout guests/wasm",
        },
        Journey {
            name: "lua",
            program: committed("lua"),
            arguments: vec!["/lua/steps.lua"],
            options: directory("lua", "/lua"),
            hops: 6,
            remedy: "git checkout guests/wasm",
        },
        Journey {
            name: "nbody",
            program: committed("nbody"),
            arguments: vec!["10000000"],
            options: Vec::new(),
            hops: 2,
            remedy: "git checkout guests/wasm",
        },
    ]
}

/// What `sterna freeze --json` prints, as far as it matters here.
#[derive(Deserialize)]
pub(super) struct Frozen {
    image_bytes: u64,
    frames: u64,
    pause_us: u64,
    capture_us: u64,
    write_us: u64,
}

/// What `sterna thaw --report` writes, as far as it matters here.
#[derive(Deserialize)]
pub(super) struct Thawed {
    program_us: u64,
    pages_us: u64,
    restore_us: u64,
    total_us: u64,
}

/// A process on one machine.
pub(super) struct Leg {
    on: Machine,
    host: Child,
    output: BufReader<ChildStdout>,
    /// What sterna itself says.
    said: BufReader<ChildStderr>,
    began: Instant,
}

impl Journey {
    /// Why it cannot be gone here.
    pub(super) fn missing(&self) -> Option<String> {
        let missing = !self.program.exists();
        missing.then(|| {
            format!(
                "{} is missing; get it with: {}",
                self.program.display(),
                self.remedy
            )
        })
    }

    /// Goes the whole way and compares the output with that of a run that stays.
    pub(super) fn go(&self, machines: &Machines) -> Result<()> {
        println!("\n{}: {}", self.name, self.arguments.join(" "));
        let began = Instant::now();
        machines.compile(&self.program, &[])?;
        let compiled = began.elapsed();
        let began = Instant::now();
        let plain = child::read(&mut self.run(machines))?;
        let plain_time = began.elapsed();
        println!(
            "  compiled for both in {}; without a move: {} lines in {}",
            seconds(compiled),
            plain.lines().count(),
            seconds(plain_time)
        );
        let moved = self.travel(machines, plain.lines().count(), plain_time)?;
        if moved != plain {
            let same = moved
                .lines()
                .zip(plain.lines())
                .take_while(|(a, b)| a == b)
                .count();
            bail!(
                "the output differs from line {}: {:?} instead of {:?}",
                same + 1,
                moved.lines().nth(same).unwrap_or(""),
                plain.lines().nth(same).unwrap_or("")
            );
        }
        println!("  {} bytes of output, identical", moved.len());
        Ok(())
    }

    fn run(&self, machines: &Machines) -> Command {
        let mut command = machines.sterna(Machine::X86);
        command
            .args(["run", "--name", self.name])
            .args(&self.options)
            .arg(&self.program)
            .args(&self.arguments);
        command
    }

    /// The output of a run that moves; one that stays prints `lines` lines in `time`.
    fn travel(&self, machines: &Machines, lines: usize, time: Duration) -> Result<String> {
        println!(
            "  hop  from → to    lines     ran  frames     image   pause capture   write │ program   pages restore    thaw"
        );
        let mut output = String::new();
        let mut leg = Leg::start(Machine::X86, self.run(machines))?;
        for hop in 1..=self.hops {
            let share = |all: usize| all * hop / (self.hops + 1);
            if lines > self.hops {
                leg.read_until(share(lines), &mut output)?;
            } else {
                // Nothing is waited for: it has to compute for a while.
                std::thread::sleep(time / (self.hops as u32 + 1));
            }
            let image = machines.file(&format!("{}-{hop}.sterna", self.name));
            let (from, ran) = (leg.on, leg.began.elapsed());
            let frozen = leg.freeze(self.name, machines, &image, &mut output)?;
            let (next, thawed) = Leg::thaw(from.other(), machines, &image)?;
            leg = next;
            println!(
                "  {hop:>3}   {from} → {}  {:>6}  {:>6}  {:>6}  {:>8} {:>7} {:>7} {:>7} │ {:>7} {:>7} {:>7} {:>7}",
                leg.on,
                output.lines().count(),
                seconds(ran),
                frozen.frames,
                format!("{:.2} MB", frozen.image_bytes as f64 / 1e6),
                milliseconds(frozen.pause_us),
                milliseconds(frozen.capture_us),
                milliseconds(frozen.write_us),
                milliseconds(thawed.program_us),
                milliseconds(thawed.pages_us),
                milliseconds(thawed.restore_us),
                milliseconds(thawed.total_us),
            );
        }
        leg.end(&mut output, 0)?;
        Ok(output)
    }
}

impl Leg {
    pub(super) fn start(on: Machine, mut command: Command) -> Result<Leg> {
        let mut host = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("could not start {}", child::line(&command)))?;
        let output = host.stdout.take().context("its output is a pipe")?;
        let said = host.stderr.take().context("its errors are a pipe")?;
        Ok(Leg {
            on,
            host,
            output: BufReader::new(output),
            said: BufReader::new(said),
            began: Instant::now(),
        })
    }

    pub(super) fn on(&self) -> Machine {
        self.on
    }

    /// Waits until it has printed so many lines in all.
    pub(super) fn read_until(&mut self, lines: usize, output: &mut String) -> Result<()> {
        while output.lines().count() < lines {
            let read = self
                .output
                .read_line(output)
                .context("could not read its output")?;
            ensure!(
                read > 0,
                "it ended on {} after {} lines",
                self.on,
                output.lines().count()
            );
        }
        Ok(())
    }

    /// Ends a process here and puts it into a file. What it printed until then goes to `output`.
    pub(super) fn freeze(
        self,
        name: &str,
        machines: &Machines,
        image: &Path,
        output: &mut String,
    ) -> Result<Frozen> {
        // The command that asks is always the native one: the other understands it.
        let mut freeze = machines.sterna(Machine::X86);
        freeze
            .args(["freeze", "--json", "--thin", name, "--output"])
            .arg(image);
        let frozen = child::read(&mut freeze)?;
        self.end(output, EXIT_FROZEN)?;
        serde_json::from_str(&frozen).context("`sterna freeze --json` printed something unexpected")
    }

    /// Lets it go on somewhere.
    pub(super) fn thaw(on: Machine, machines: &Machines, image: &Path) -> Result<(Leg, Thawed)> {
        let mut thaw = machines.sterna(on);
        // The report comes when the process runs, on the stream that ends if it never does.
        thaw.args(["thaw", "--report", "/dev/stderr"]).arg(image);
        let mut leg = Leg::start(on, thaw)?;
        let mut said = String::new();
        while !said.ends_with("\n}\n") {
            let read = leg
                .said
                .read_line(&mut said)
                .context("could not read its report")?;
            ensure!(read > 0, "it does not go on on {on}: {}", said.trim_end());
        }
        let report = said.find('{').map_or("", |at| &said[at..]);
        let thawed = serde_json::from_str(report)
            .context("`sterna thaw --report` wrote something unexpected")?;
        Ok((leg, thawed))
    }

    /// Reads the rest of its output and waits for its end.
    pub(super) fn end(mut self, output: &mut String, code: i32) -> Result<()> {
        self.output
            .read_to_string(output)
            .context("could not read its output")?;
        let mut said = String::new();
        self.said
            .read_to_string(&mut said)
            .context("could not read what it says")?;
        let status = self.host.wait()?;
        ensure!(
            status.code() == Some(code),
            "it ended on {} with {status}, not with code {code}: {}",
            self.on,
            said.trim_end()
        );
        Ok(())
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn milliseconds(microseconds: u64) -> String {
    format!("{:.1} ms", microseconds as f64 / 1e3)
}
