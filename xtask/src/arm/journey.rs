//! A program that goes back and forth between the two machines while it works.
//!
//! It is frozen when it has printed its next share of lines, so a journey is the same on fast machines and slow ones. A
//! program that prints nothing on its way is frozen after a share of the time that it takes without a move.
//!
//! What it reads and the files that it has open go on where they were: each leg gets the standard input of the one before,
//! and finds the folder that both machines see.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
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
    /// What is on its standard input.
    input: Option<PathBuf>,
    /// Whether it has a folder of its own to write to, as `/work`; what is there at the end is compared too.
    writes: bool,
    hops: usize,
    /// What to say if the program is not there.
    remedy: &'static str,
}

/// All journeys.
pub(super) fn all(root: &Path) -> Vec<Journey> {
    let python = || {
        let mut journey = Journey::new("python", root.join("target/guests/python.wasm"), 4)
            .with_scripts(root, "python", "/py");
        journey
            .options
            .extend(["--env".to_owned(), "PYTHONHASHSEED=0".to_owned()]);
        journey.remedy = "cargo xtask guests --download";
        journey
    };
    let committed = |name: &'static str, file: &str, hops| {
        let program = root.join("guests/wasm").join(file).with_extension("wasm");
        Journey::new(name, program, hops)
    };
    vec![
        Journey {
            arguments: vec!["/py/steps.py", "60"],
            ..python()
        },
        Journey {
            name: "python-files",
            arguments: vec!["/py/index.py", "/work"],
            input: Some(root.join("LICENSE-APACHE")),
            writes: true,
            ..python()
        },
        Journey {
            arguments: vec!["10000", "24", "/work/orders.db"],
            writes: true,
            ..committed("sqlite", "sqlite", 6)
        },
        Journey {
            arguments: vec!["/lua/steps.lua", "400"],
            ..committed("lua", "lua", 6).with_scripts(root, "lua", "/lua")
        },
        Journey {
            arguments: vec!["/js/strings.js", "60000"],
            ..committed("quickjs", "qjs", 4).with_scripts(root, "quickjs", "/js")
        },
        Journey {
            arguments: vec!["10000000"],
            ..committed("nbody", "nbody", 2)
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
    fn new(name: &'static str, program: PathBuf, hops: usize) -> Journey {
        Journey {
            name,
            program,
            arguments: Vec::new(),
            options: Vec::new(),
            input: None,
            writes: false,
            hops,
            remedy: "git checkout guests/wasm",
        }
    }

    /// Gives it a folder of guests/ to read from.
    fn with_scripts(mut self, root: &Path, folder: &str, guest: &str) -> Journey {
        let host = root.join("guests").join(folder);
        let directory = format!("{}::{guest}:ro", host.display());
        self.options.extend(["--dir".to_owned(), directory]);
        self
    }

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
        let stays = Place::new(self, machines, "stays")?;
        let mut plain = String::new();
        let leg = Leg::start(Machine::X86, self.run(machines, &stays), stays.input()?)?;
        leg.end(&mut plain, 0)?;
        let plain_time = began.elapsed();
        println!(
            "  compiled for both in {}; without a move: {} lines in {}",
            seconds(compiled),
            plain.lines().count(),
            seconds(plain_time)
        );
        let moves = Place::new(self, machines, "moves")?;
        let moved = self.travel(machines, &moves, plain.lines().count(), plain_time)?;
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
        let files = stays.compare(&moves)?;
        println!("  {} bytes of output{files}, identical", moved.len());
        Ok(())
    }

    fn run(&self, machines: &Machines, place: &Place) -> Command {
        let mut command = machines.sterna(Machine::X86);
        command
            .args(["run", "--name", self.name])
            .args(&self.options)
            .args(place.options())
            .arg(&self.program)
            .args(&self.arguments);
        command
    }

    /// The output of a run that moves; one that stays prints `lines` lines in `time`.
    fn travel(
        &self,
        machines: &Machines,
        place: &Place,
        lines: usize,
        time: Duration,
    ) -> Result<String> {
        println!(
            "  hop  from → to    lines     ran  frames     image   pause capture   write │ program   pages restore    thaw"
        );
        let mut output = String::new();
        let mut leg = Leg::start(Machine::X86, self.run(machines, place), place.input()?)?;
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
            let (next, thawed) = Leg::thaw(from.other(), machines, &image, place.input()?)?;
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

/// What a run has beside its program.
struct Place {
    input: Option<File>,
    folder: Option<PathBuf>,
}

impl Place {
    fn new(journey: &Journey, machines: &Machines, name: &str) -> Result<Place> {
        let open = |path: &PathBuf| {
            File::open(path).with_context(|| format!("could not open {}", path.display()))
        };
        let folder = journey
            .writes
            .then(|| machines.file(&format!("{}-{name}", journey.name)));
        if let Some(folder) = &folder {
            fs::create_dir(folder)
                .with_context(|| format!("could not make {}", folder.display()))?;
        }
        Ok(Place {
            input: journey.input.as_ref().map(open).transpose()?,
            folder,
        })
    }

    /// The same open file each time: who gets it reads on where another has stopped.
    fn input(&self) -> Result<Stdio> {
        let again = self.input.as_ref().map(File::try_clone).transpose();
        Ok(again
            .context("could not share the input")?
            .map_or_else(Stdio::null, Stdio::from))
    }

    fn options(&self) -> Vec<String> {
        self.folder.as_ref().map_or_else(Vec::new, |folder| {
            vec!["--dir".to_owned(), format!("{}::/work", folder.display())]
        })
    }

    /// Says which files are the same here and there.
    fn compare(&self, other: &Place) -> Result<String> {
        let files = |place: &Place| -> Result<BTreeMap<OsString, Vec<u8>>> {
            let mut files = BTreeMap::new();
            for entry in place
                .folder
                .iter()
                .map(fs::read_dir)
                .flat_map(|read| read.into_iter().flatten())
            {
                let entry = entry?;
                files.insert(entry.file_name(), fs::read(entry.path())?);
            }
            Ok(files)
        };
        let (here, there) = (files(self)?, files(other)?);
        for name in here.keys().chain(there.keys()) {
            ensure!(
                here.get(name) == there.get(name),
                "the file {} differs",
                name.display()
            );
        }
        let bytes: usize = here.values().map(Vec::len).sum();
        Ok(match here.len() {
            0 => String::new(),
            1 => format!(" and {bytes} bytes in a file"),
            count => format!(" and {bytes} bytes in {count} files"),
        })
    }
}

impl Leg {
    pub(super) fn start(on: Machine, mut command: Command, input: Stdio) -> Result<Leg> {
        let mut host = command
            .stdin(input)
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
    pub(super) fn thaw(
        on: Machine,
        machines: &Machines,
        image: &Path,
        input: Stdio,
    ) -> Result<(Leg, Thawed)> {
        let mut thaw = machines.sterna(on);
        // The report comes when the process runs, on the stream that ends if it never does.
        thaw.args(["thaw", "--report", "/dev/stderr"]).arg(image);
        let mut leg = Leg::start(on, thaw, input)?;
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
