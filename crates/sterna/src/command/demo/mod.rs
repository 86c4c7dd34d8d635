//! `sterna demo`: shows that clients do not notice when their server moves, and that a program which is moved again and
//! again does what it would have done anyway.
//!
//! Three nodes of this machine become a cluster. A server moves between them while clients write into all of its heap,
//! and all their answers are right. Then a Lua interpreter runs `story.lua` there twice: once undisturbed, and
//! once on its way from node to node, in the middle of its work; and one of the nodes is killed as no program can
//! prevent it, and with it the interpreter, which comes back from its snapshot. Everything is done by this program's own
//! commands in a directory of its own, as a user would do it, without root and without the net.
//!
//! - `live`: the server
//! - `story`: the program and what is done to it
//! - `told`: what is printed

mod live;
mod story;
mod told;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use sterna_process::{FrameDescription, Plain, ProcessId};

use super::stage::{Interrupted, KV, NODES, Stage, count_lines};
use crate::show::{self, Paint};
use live::Live;
use story::{LUA, Moved, Property, STORY};

/// Moves a busy server between three nodes, then a Lua program; kills a node, and proves that nothing was lost.
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
  sterna demo --json | jq '.live.moves[].gap_us'

It needs neither root nor the net, takes a minute, and leaves nothing behind, also after Ctrl-C.";

/// What the process is called.
const NAME: &str = "story";
/// What it is called when nobody moves it.
const UNDISTURBED: &str = "undisturbed";

/// One move.
#[derive(Debug, Serialize)]
struct Hop {
    number: u16,
    /// Lines of output before it.
    lines: usize,
    from: String,
    to: String,
    image_bytes: u64,
    pages: u64,
    /// Nobody executed the process for so long.
    downtime_us: Option<u64>,
    /// From order to end.
    total_us: u64,
    /// Functions, innermost first, shortly before it.
    frames: Vec<String>,
}

/// The end of a node, and how the process that was there came back.
#[derive(Debug, Serialize)]
struct Accident {
    /// After this hop.
    hop: u16,
    node: &'static str,
    /// Where the process went on.
    recovered_on: &'static str,
    /// Lines of output when it was killed.
    lines_before: usize,
    /// The snapshot's, from which it went on: what came after was done again.
    lines_of_snapshot: usize,
    /// From the kill until it went on. The killed node was started again meanwhile: only it can say that its runner is dead.
    back_us: u64,
}

#[derive(Debug, Serialize)]
struct Outcome {
    compile_ms: u64,
    cluster_ms: u64,
    live: Live,
    undisturbed_ms: u64,
    moved_ms: u64,
    hops: Vec<Hop>,
    accident: Accident,
    output_bytes: usize,
    output_lines: usize,
    /// Whether the process had a directory, in which it kept a file open.
    had_directory: bool,
    log_bytes: usize,
    identical: bool,
}

/// What a run has left: its output, and the file it wrote.
struct Work {
    output: Vec<u8>,
    log: Vec<u8>,
    took: Duration,
}

/// Something that is told as soon as it has happened.
enum News {
    Hop(Hop),
    Accident(Accident),
}

impl Demo {
    pub(crate) fn run(self) -> Result<u8> {
        let mut stage = Stage::set(&[
            ("kv.wasm", KV),
            ("lua.wasm", LUA),
            ("work/story.lua", STORY.as_bytes()),
        ])?;
        match self.play(&mut stage) {
            Err(error) if error.is::<Interrupted>() => {
                drop(stage);
                Ok(130)
            }
            other => other,
        }
    }

    fn play(&self, stage: &mut Stage) -> Result<u8> {
        let paint = Paint::stdout();
        let tell = |text: String| {
            if !self.json {
                show::print(text + "\n");
            }
        };
        let begun = Instant::now();
        stage.compile("kv.wasm")?;
        stage.compile("lua.wasm")?;
        let compiled = begun.elapsed();
        tell(told::compiled(compiled, paint));
        let begun = Instant::now();
        stage.raise_nodes(NODES.len())?;
        let cluster = begun.elapsed();
        tell(told::raised(cluster, paint));
        tell(told::serving(paint));
        let live = live::play(stage)?;
        tell(told::live(&live, paint));
        let (plain, property) = undisturbed(stage)?;
        let lines = count_lines(&plain.output);
        tell(told::undisturbed(lines, plain.took, property, paint));
        tell(told::journey(self.hops, paint));
        let (mut hops, mut accident) = (Vec::new(), None);
        let moved = self.journey(stage, property, lines, &mut |news| match news {
            News::Hop(hop) => {
                if hops.is_empty() {
                    tell(told::back_trace(&hop, paint));
                    tell(paint.bold(told::HEAD).to_string());
                }
                tell(told::hop(&hop, lines, paint));
                hops.push(hop);
            }
            News::Accident(happened) => {
                tell(told::accident(&happened, paint));
                accident = Some(happened);
            }
        })?;
        let identical = plain.output == moved.output && plain.log == moved.log;
        let outcome = Outcome {
            compile_ms: ms(compiled),
            cluster_ms: ms(cluster),
            live,
            undisturbed_ms: ms(plain.took),
            moved_ms: ms(moved.took),
            hops,
            accident: accident.context("no node was killed")?,
            output_bytes: moved.output.len(),
            output_lines: count_lines(&moved.output),
            had_directory: property == Property::Directory,
            log_bytes: moved.log.len(),
            identical,
        };
        match self.json {
            true => show::json(&outcome)?,
            false => tell(told::verdict(&outcome, paint)),
        }
        ensure!(
            identical,
            "what the moved program wrote differs from what it writes undisturbed: this is a bug, please report it"
        );
        Ok(0)
    }

    /// The run that is moved; each hop is told as soon as it is over.
    fn journey(
        &self,
        stage: &mut Stage,
        property: Property,
        lines: usize,
        tell: &mut dyn FnMut(News),
    ) -> Result<Work> {
        let begun = Instant::now();
        let mut output = Vec::new();
        let process = stage.run(NAME, property)?;
        let mut following = stage.follow(NAME)?;
        for number in 1..=self.hops {
            let due = lines * usize::from(number) / (usize::from(self.hops) + 2);
            following.read_lines(&mut output, due)?;
            let frames = stage.frames(process);
            let target = Self::target(number);
            let moved = stage.hop(NAME, target)?;
            tell(News::Hop(hop(number, count_lines(&output), moved, frames)));
            if number == self.accident() {
                // Whoever asks for output while the node is away hears that it is: it is read anew afterwards.
                drop(following);
                let next = Self::target(number + 1);
                let on = (0..NODES.len()).find(|node| ![target, next].contains(node));
                let on = on.context("three nodes are needed")?;
                tell(News::Accident(accident(
                    stage,
                    process,
                    number,
                    (target, on),
                )?));
                output.clear();
                following = stage.follow(NAME)?;
            }
        }
        following.read_to_end(&mut output)?;
        following.ended_with(0)?;
        Ok(Work {
            output,
            log: stage.take_log(property)?,
            took: begun.elapsed(),
        })
    }

    /// Where a hop leads: round and round.
    fn target(number: u16) -> usize {
        usize::from(number) % NODES.len()
    }

    /// After this hop the node with the process is killed: about in the middle, and not the first one, which has the
    /// registry and would be missed by all.
    fn accident(&self) -> u16 {
        let middle = self.hops.div_ceil(2);
        match Self::target(middle) {
            0 => middle - 1,
            _ => middle,
        }
    }
}

/// Runs the script where nobody disturbs it.
fn undisturbed(stage: &Stage) -> Result<(Work, Property)> {
    let begun = Instant::now();
    let mut property = Property::Directory;
    match stage.run(UNDISTURBED, property) {
        Err(error) if error.to_string().contains("cannot confine") => {
            property = Property::Nothing;
            stage.run(UNDISTURBED, property)?;
        }
        started => drop(started?),
    }
    let mut output = Vec::new();
    let mut following = stage.follow(UNDISTURBED)?;
    following.read_to_end(&mut output)?;
    following.ended_with(0)?;
    let took = begun.elapsed();
    let log = stage.take_log(property)?;
    if output.is_empty() {
        bail!("the script has written nothing");
    }
    Ok((Work { output, log, took }, property))
}

/// Kills a node, and the process there with it, which goes on elsewhere from a snapshot.
fn accident(
    stage: &mut Stage,
    process: ProcessId,
    hop: u16,
    (at, on): (usize, usize),
) -> Result<Accident> {
    stage.snapshot(NAME, on)?;
    // What it does now it does twice.
    stage.wait_for_growth(at, process)?;
    let written = stage.written(NAME)?;
    let begun = Instant::now();
    stage.kill_node(at)?;
    stage.raise_node(at)?;
    let output_bytes = stage.recover(NAME, on)?;
    let back = begun.elapsed();
    let of_snapshot = written.get(..output_bytes).unwrap_or(&written);
    Ok(Accident {
        hop,
        node: NODES[at],
        recovered_on: NODES[on],
        lines_before: count_lines(&written),
        lines_of_snapshot: count_lines(of_snapshot),
        back_us: back.as_micros().try_into().unwrap_or(u64::MAX),
    })
}

fn hop(number: u16, lines: usize, moved: Moved, frames: Vec<FrameDescription>) -> Hop {
    let name = |frame: FrameDescription| match frame.name {
        Some(name) => Plain(&name).to_string(),
        None => format!("function {}", frame.function),
    };
    Hop {
        number,
        lines,
        from: moved.from,
        to: moved.to,
        image_bytes: moved.image_bytes,
        pages: moved.pages,
        downtime_us: moved.downtime_us,
        total_us: moved.total_us,
        frames: frames.into_iter().map(name).collect(),
    }
}

fn ms(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}
