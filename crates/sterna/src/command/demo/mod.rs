//! `sterna demo`: shows that a program which is moved again and again does what it would have done anyway.
//!
//! A Lua interpreter runs `story.lua` twice: once undisturbed, and once as a chain of processes of the operating
//! system, frozen in the middle of its work and thawed in the next. Everything is done by this program's own
//! commands in a directory of its own, as a user would do it, without root and without the net.
//!
//! - `stage`: the directory, the processes, Ctrl-C

mod stage;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use sterna_process::{FrameDescription, Plain};

use crate::protocol::{FreezeReport, ThawReport};
use crate::show::{self, Paint};
use stage::{Interrupted, Stage};

/// Moves a running Lua program from process to process, and proves that nothing was lost.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Demo {
    /// How often the program is moved.
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=100))]
    hops: u16,
    /// Print JSON at the end instead.
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
Examples:
  sterna demo
  sterna demo --hops 40
  sterna demo --json | jq '.hops[].stopped_us'

It needs neither root nor the net, takes some seconds, and leaves nothing behind, also after Ctrl-C.";

/// Names of frames that are shown for a hop.
const FRAMES_SHOWN: usize = 3;
/// The first hop's back-trace is shown up to here.
const BACK_TRACE_SHOWN: usize = 14;

/// One move.
#[derive(Debug, Serialize)]
struct Hop {
    number: u16,
    /// Lines of output before it.
    lines: usize,
    from_pid: u32,
    to_pid: u32,
    image_bytes: u64,
    pages: u64,
    pause_us: u64,
    capture_us: u64,
    write_us: u64,
    /// Of the thawing process, from its start until the program ran.
    thaw_us: u64,
    /// From the request until the program ran again, with the start of both commands.
    away_us: u64,
    /// Functions, innermost first.
    frames: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Outcome {
    compile_ms: u64,
    undisturbed_ms: u64,
    moved_ms: u64,
    hops: Vec<Hop>,
    output_bytes: usize,
    output_lines: usize,
    log_bytes: usize,
    identical: bool,
}

/// What a run has left: its output, and the file it wrote.
struct Work {
    output: Vec<u8>,
    log: Vec<u8>,
    took: Duration,
}

impl Demo {
    pub(crate) fn run(self) -> Result<u8> {
        let stage = Stage::set()?;
        match self.play(&stage) {
            Err(error) if error.is::<Interrupted>() => {
                drop(stage);
                Ok(130)
            }
            other => other,
        }
    }

    fn play(&self, stage: &Stage) -> Result<u8> {
        let paint = Paint::stdout();
        let tell = |text: String| {
            if !self.json {
                show::print(text + "\n");
            }
        };
        let begun = Instant::now();
        stage.compile()?;
        let compiled = begun.elapsed();
        tell(format!(
            "{} Lua 5.4, {} of WebAssembly, is compiled to native code in {}.",
            paint.bold("1"),
            show::bytes(stage::LUA.len() as u64),
            show::time(compiled)
        ));
        let plain = undisturbed(stage)?;
        let lines = count_lines(&plain.output);
        tell(format!(
            "{} It runs a script undisturbed: {lines} lines of output in {}.",
            paint.bold("2"),
            show::time(plain.took)
        ));
        tell(format!(
            "{} The same again; {} times it is frozen in the middle of its work, and goes on in a new process.\n",
            paint.bold("3"),
            self.hops
        ));
        let mut hops = Vec::new();
        let moved = self.journey(stage, lines, &mut |hop| {
            if hops.is_empty() {
                tell(back_trace(&hop, paint));
                tell(paint.bold(HEAD).to_string());
            }
            tell(hop_line(&hop, lines, paint));
            hops.push(hop);
        })?;
        let identical = plain.output == moved.output && plain.log == moved.log;
        let outcome = Outcome {
            compile_ms: ms(compiled),
            undisturbed_ms: ms(plain.took),
            moved_ms: ms(moved.took),
            hops,
            output_bytes: moved.output.len(),
            output_lines: count_lines(&moved.output),
            log_bytes: moved.log.len(),
            identical,
        };
        match self.json {
            true => show::json(&outcome)?,
            false => tell(verdict(&outcome, paint)),
        }
        ensure!(
            identical,
            "what the moved program wrote differs from what it writes undisturbed: this is a bug, please report it"
        );
        Ok(0)
    }

    /// The run that is moved; each hop is told as soon as it is over.
    fn journey(&self, stage: &Stage, lines: usize, tell: &mut dyn FnMut(Hop)) -> Result<Work> {
        let begun = Instant::now();
        let mut output = Vec::new();
        let mut actor = stage.run()?;
        for number in 1..=self.hops {
            let target = lines * usize::from(number) / (usize::from(self.hops) + 1);
            actor.read_lines(&mut output, target)?;
            let leaving = Instant::now();
            let frozen = stage.freeze(&actor)?;
            let from_pid = actor.pid();
            actor.read_to_end(&mut output)?;
            actor.ended_with(crate::host::EXIT_FROZEN)?;
            let frames = stage.frames()?;
            let (next, thawed) = stage.thaw()?;
            actor = next;
            tell(hop(
                number,
                count_lines(&output),
                (from_pid, actor.pid()),
                &frozen,
                &thawed,
                frames,
                leaving,
            ));
        }
        actor.read_to_end(&mut output)?;
        actor.ended_with(0)?;
        Ok(Work {
            output,
            log: stage.take_log()?,
            took: begun.elapsed(),
        })
    }
}

fn undisturbed(stage: &Stage) -> Result<Work> {
    let begun = Instant::now();
    let mut output = Vec::new();
    let mut actor = stage.run()?;
    actor.read_to_end(&mut output)?;
    actor.ended_with(0)?;
    Ok(Work {
        output,
        log: stage.take_log()?,
        took: begun.elapsed(),
    })
}

fn hop(
    number: u16,
    lines: usize,
    (from_pid, to_pid): (u32, u32),
    frozen: &FreezeReport,
    thawed: &ThawReport,
    frames: Vec<FrameDescription>,
    leaving: Instant,
) -> Hop {
    let name = |frame: FrameDescription| match frame.name {
        Some(name) => Plain(&name).to_string(),
        None => format!("function {}", frame.function),
    };
    Hop {
        number,
        lines,
        from_pid,
        to_pid,
        image_bytes: frozen.image_bytes,
        pages: frozen.pages_stored,
        pause_us: frozen.pause_us,
        capture_us: frozen.capture_us,
        write_us: frozen.write_us,
        thaw_us: thawed.total_us,
        away_us: leaving.elapsed().as_micros().try_into().unwrap_or(u64::MAX),
        frames: frames.into_iter().map(name).collect(),
    }
}

const HEAD: &str = " HOP  AFTER LINE  FROM → TO PID      IMAGE  PAGES     PAUSE   CAPTURE     WRITE      THAW  IT WAS IN";

fn hop_line(hop: &Hop, lines: usize, paint: Paint) -> String {
    let time = show::time_us;
    let shown = hop
        .frames
        .iter()
        .take(FRAMES_SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(" ← ");
    let more = match hop.frames.len() {
        count if count > FRAMES_SHOWN => format!(" … {count} frames"),
        _ => String::new(),
    };
    format!(
        "{:>4}  {:>4} of {:<3}  {:>6} → {:<6}  {:>8}  {:>5}  {:>8}  {:>8}  {:>8}  {:>8}  {}{}",
        hop.number,
        hop.lines,
        lines,
        hop.from_pid,
        hop.to_pid,
        show::bytes(hop.image_bytes),
        hop.pages,
        time(hop.pause_us),
        time(hop.capture_us),
        time(hop.write_us),
        time(hop.thaw_us),
        paint.cyan(shown),
        paint.dim(more),
    )
}

/// Where the program was when it was first frozen.
fn back_trace(hop: &Hop, paint: Paint) -> String {
    let mut text = format!(
        "Where it was when it was first frozen, after {} lines:\n",
        hop.lines
    );
    for (depth, name) in hop.frames.iter().take(BACK_TRACE_SHOWN).enumerate() {
        let _ = writeln!(text, "{depth:>5}: {}", paint.cyan(name));
    }
    if let Some(more) = hop.frames.len().checked_sub(BACK_TRACE_SHOWN + 1) {
        let _ = writeln!(text, "       and {} more", more + 1);
    }
    text
}

fn verdict(outcome: &Outcome, paint: Paint) -> String {
    let Outcome {
        hops,
        output_bytes,
        output_lines,
        log_bytes,
        ..
    } = outcome;
    let median = |of: fn(&Hop) -> u64| {
        let mut times: Vec<u64> = hops.iter().map(of).collect();
        times.sort_unstable();
        show::time_us(times.get(times.len() / 2).copied().unwrap_or(0))
    };
    let verdict = match outcome.identical {
        true => paint.green("identical"),
        false => paint.red("different"),
    };
    format!(
        "\n{} Its output ({output_lines} lines, {output_bytes} bytes) and the file it wrote ({log_bytes} bytes): {verdict}, byte for byte.\n  \
         {} processes of the operating system did the work of one. Medians: pause {}, capture {}, write {}, thaw {}.",
        paint.bold("4"),
        hops.len() + 1,
        median(|hop| hop.pause_us),
        median(|hop| hop.capture_us),
        median(|hop| hop.write_us),
        median(|hop| hop.thaw_us),
    )
}

fn count_lines(output: &[u8]) -> usize {
    output.iter().filter(|&&byte| byte == b'\n').count()
}

fn ms(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

/// What a command of ours printed as JSON.
fn parsed<T: serde::de::DeserializeOwned>(json: &[u8], what: &str) -> Result<T> {
    if json.is_empty() {
        bail!("`sterna {what}` printed nothing");
    }
    serde_json::from_slice(json)
        .with_context(|| format!("`sterna {what}` printed what is not understood"))
}
