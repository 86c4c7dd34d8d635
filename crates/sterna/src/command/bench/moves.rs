//! `sterna bench move`: what clients of a server see when it moves.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use clap::Args;
use sterna_laboratory::Machine;
use sterna_laboratory::clients::{Capacity, Heap, Load, Move, Pace, Tally, Way, moves};
use sterna_laboratory::statistics::median;
use sterna_migration::{Strategy, Travel};
use sterna_process::Plain;

use crate::command::moved;
use crate::command::stage::{Interrupted, KV, Server, Stage};
use crate::command::threads::Output;
use crate::show::{self, Align, Paint, Steps, Table};

/// Measures what clients of a server see when it moves, for each way in which its memory can go.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Moves {
    /// Sizes of the server's heap, all of which is written.
    #[arg(long, value_name = "SIZE", value_delimiter = ',', default_values = ["64M", "1G"], value_parser = heap)]
    heap: Vec<u64>,
    /// Only these ways in which its memory can go, of stop-and-copy, pre-copy, post-copy and hybrid.
    #[arg(long, value_name = "S", value_delimiter = ',', value_parser = strategy)]
    strategy: Vec<Strategy>,
    /// Moves of each sort.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    moves: u32,
    /// Moves of all sorts in turn after that, in which nothing is measured but every answer is checked.
    #[arg(long, value_name = "N", default_value_t = 0)]
    checked: u32,
    /// Writes a second.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    rate: u32,
    /// Connections, which stay open.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=900))]
    clients: u16,
    /// Only five moves of each sort.
    #[arg(long, conflicts_with = "moves")]
    quick: bool,
    #[command(flatten)]
    output: Output,
}

const AFTER_HELP: &str = "\
Examples:
  sterna bench move
  sterna bench move --quick --heap 64M --strategy pre-copy,hybrid
  sterna bench move --json --plot move.html >move.json

Two nodes are made on this machine, without root, and nothing of them is left. A key-value server moves \
between them while clients write into all of its heap; requests are due at a rate, whether there are answers \
or not. Every answer is checked, and one that is missing or wrong fails the bench. It takes some five \
minutes; nothing else should run meanwhile.";

/// All, in the order in which they are shown.
const STRATEGIES: [Strategy; 4] = [
    Strategy::StopAndCopy,
    Strategy::PreCopy,
    Strategy::PostCopy,
    Strategy::Hybrid,
];
const MOVES_QUICK: usize = 5;
const WARM_UP: Duration = Duration::from_secs(1);
/// For how long answers are counted, and how long the rounds are held back to last meanwhile.
const COUNTED: Duration = Duration::from_secs(2);
/// How often, of which the median counts; in rounds once.
const COUNTS: usize = 5;
const HELD_BACK: Duration = Duration::from_secs(3);
const HEAP_MAX_MIB: u64 = 3072;

fn strategy(text: &str) -> Result<Strategy, String> {
    let mut all = STRATEGIES.into_iter();
    let found = all.find(|strategy| moved::strategy(*strategy) == text);
    found.ok_or_else(|| "there are stop-and-copy, pre-copy, post-copy and hybrid".to_owned())
}

fn heap(text: &str) -> Result<u64, String> {
    match show::parse_bytes(text)? >> 20 {
        mib @ 1..=HEAP_MAX_MIB => Ok(mib),
        _ => Err("a heap of the server has 1M to 3G".to_owned()),
    }
}

const fn by(strategy: Strategy) -> Travel {
    Travel {
        strategy: Some(strategy),
        downtime_max: None,
        rate_max: None,
        within: None,
    }
}

impl Moves {
    pub(super) fn run(self) -> Result<u8> {
        let output = self.output.open()?;
        let mut stage = Stage::set(&[("kv.wasm", KV)])?;
        match self.measure(&mut stage) {
            Ok(measured) => {
                drop(stage);
                output.put(&measured, text, Move::page)?;
                Ok(u8::from(!measured.tally.is_clean()))
            }
            Err(error) if error.is::<Interrupted>() => Ok(130),
            Err(error) => Err(error),
        }
    }

    fn measure(&self, stage: &mut Stage) -> Result<Move> {
        let before = stage.condition()?;
        stage.compile("kv.wasm")?;
        stage.raise_nodes(2)?;
        let (mut heaps, mut tally) = (Vec::new(), Tally::default());
        for &mib in &self.heap {
            let (heap, seen) = self.heap(stage, mib)?;
            heaps.push(heap);
            tally.answered += seen.answered;
            tally.failed += seen.failed;
            tally.wrong += seen.wrong;
            tally.first_fault = tally.first_fault.or(seen.first_fault);
        }
        Ok(Move {
            machine: Machine::this().to_string(),
            conditions: (before, stage.condition()?),
            clients: self.clients.into(),
            rate: self.rate.into(),
            heaps,
            checked: self.checked as usize * self.heap.len(),
            tally,
        })
    }

    fn heap(&self, stage: &Stage, mib: u64) -> Result<(Heap, Tally)> {
        let steps = Steps::new();
        let name = show::bytes(mib << 20);
        let mut server = stage.serve(mib)?;
        let mut strategies = possible(&mut server)?;
        strategies.retain(|strategy| self.strategy.is_empty() || self.strategy.contains(strategy));
        ensure!(
            !strategies.is_empty(),
            "this machine's nodes move a server in none of these ways: sterna doctor says why"
        );
        server.kill()?;
        steps.set(&format!("{name}: capacity"), 0.0);
        let capacity = match strategies.contains(&Strategy::PreCopy) {
            true => Some(self.capacity(stage, mib)?),
            false => None,
        };
        let mut server = stage.serve(mib)?;
        let pace = Pace::Open(self.rate.into());
        let load = Load::begin(&server.orders(self.clients.into(), pace))?;
        thread::sleep(WARM_UP);
        load.take();
        let mut ways = Vec::new();
        for &strategy in &strategies {
            let (word, mut done) = (moved::strategy(strategy), 0);
            let mut hop = || {
                done += 1;
                steps.set(&format!("{name}, {word}: move {done}"), 0.0);
                server.hop(by(strategy)).map(|(moved, _)| moved)
            };
            let way = moves(&load, self.clients.into(), self.moves(), &mut hop)?;
            ways.push(Way {
                strategy: word.to_owned(),
                ..way
            });
        }
        for number in 0..self.checked as usize {
            steps.set(
                &format!("{name}: {number} moves checked"),
                number as f64 / f64::from(self.checked),
            );
            server.hop(by(strategies[number % strategies.len()]))?;
            load.take();
            if !load.tally().is_clean() {
                break;
            }
        }
        let tally = load.end();
        server.kill()?;
        let bytes = mib << 20;
        Ok((
            Heap {
                bytes,
                ways,
                capacity,
            },
            tally,
        ))
    }

    fn moves(&self) -> usize {
        match self.quick {
            true => MOVES_QUICK,
            false => self.moves as usize,
        }
    }

    /// What a server can do at the node that has its port, in the rounds of a move away from there, which are held back so that
    /// they last long enough to count, after it, and when it is back.
    fn capacity(&self, stage: &Stage, mib: u64) -> Result<Capacity> {
        let mut server = stage.serve(mib)?;
        let load = Load::begin(&server.orders(self.clients.into(), Pace::Closed))?;
        thread::sleep(WARM_UP);
        let count = || {
            let (begun, _) = (load.now_us(), load.take());
            thread::sleep(COUNTED);
            load.take().len() as f64 * 1e6 / (load.now_us() - begun) as f64
        };
        server.hop(by(Strategy::PreCopy))?;
        server.hop(by(Strategy::PreCopy))?;
        thread::sleep(WARM_UP);
        let often = || median(&[(); COUNTS].map(|()| count()));
        let before = often();
        let slow = Travel {
            rate_max: Some((mib << 20) / HELD_BACK.as_secs()),
            ..by(Strategy::PreCopy)
        };
        let (in_rounds, moved) = thread::scope(|scope| {
            let counting = scope.spawn(|| {
                thread::sleep((HELD_BACK - COUNTED) / 2);
                count()
            });
            let moved = server.hop(slow);
            (counting.join(), moved)
        });
        let copied = moved?
            .1
            .travelled
            .and_then(|one| Some(one.rounds.first()?.took));
        ensure!(
            copied.is_some_and(|copied| copied > COUNTED),
            "the rounds were over too early: {copied:?}"
        );
        let in_rounds = in_rounds.map_err(|_| anyhow!("nothing was counted"))?;
        thread::sleep(WARM_UP);
        let elsewhere = often();
        server.hop(by(Strategy::PreCopy))?;
        thread::sleep(WARM_UP);
        let after = often();
        let tally = load.end();
        ensure!(
            tally.is_clean(),
            "a move was noticed: {:?}",
            tally.first_fault
        );
        server.kill()?;
        Ok(Capacity {
            before,
            in_rounds,
            elsewhere,
            after,
        })
    }
}

/// The ways in which this machine's nodes move a server. All is compiled at each node then.
fn possible(server: &mut Server<'_>) -> Result<Vec<Strategy>> {
    let mut possible = Vec::new();
    for strategy in STRATEGIES {
        let travel = by(strategy);
        if travel.check().is_err() {
            continue;
        }
        let (_, there) = server.try_hop(travel)?;
        let travelled = there.travelled.filter(|_| there.report.moved);
        let why = match travelled {
            Some(travelled) if travelled.strategy == strategy => {
                possible.push(strategy);
                server.hop(travel)?;
                continue;
            }
            Some(travelled) => travelled.why_not.unwrap_or_default(),
            None => there.report.outcome,
        };
        let word = moved::strategy(strategy);
        show::note(format_args!("without {word}: {}", Plain(&why)));
    }
    Ok(possible)
}

fn text(measured: &Move) -> String {
    let paint = Paint::stdout();
    let mut text = format!(
        "{}; {} before, {} after; {} clients, {} writes a second\n\n",
        measured.machine,
        measured.conditions.0,
        measured.conditions.1,
        measured.clients,
        measured.rate
    );
    let head = [
        "HEAP",
        "STRATEGY",
        "LONGEST GAP",
        "WITHOUT A MOVE",
        "ABOVE",
        "90 % WITHIN",
        "DOWNTIME",
        "COPIED IN",
        "ANSWERS THEN",
        "P99 BEFORE",
        "P99 THEN",
        "ANSWERS AFTER",
    ];
    let mut at = 0;
    let mut table = Table::new(head.map(|name| {
        at += 1;
        (name, if at <= 2 { Align::Left } else { Align::Right })
    }));
    for heap in &measured.heaps {
        for way in &heap.ways {
            table.row(row(heap, way));
        }
    }
    let _ = write!(text, "{}", table.shown(paint));
    for heap in &measured.heaps {
        let Some(Capacity {
            before,
            in_rounds,
            elsewhere,
            after,
        }) = heap.capacity
        else {
            continue;
        };
        let _ = writeln!(
            text,
            "\n{}: as fast as it can, {before:.0} answers a second; {:.2} of that in rounds, {:.2} away from its port, {:.2} back there",
            show::bytes(heap.bytes),
            in_rounds / before,
            elsewhere / before,
            after / before
        );
    }
    let Tally {
        answered,
        failed,
        wrong,
        first_fault,
    } = &measured.tally;
    let _ = writeln!(
        text,
        "\n{answered} requests answered, {failed} failed, {wrong} answers wrong; {} moves only checked",
        measured.checked
    );
    if let Some(fault) = first_fault {
        let _ = writeln!(text, "{} {fault}", paint.red("✗"));
    }
    text
}

fn row(heap: &Heap, way: &Way) -> [String; 12] {
    let middle = |of: &dyn Fn(&sterna_laboratory::clients::Hop) -> Option<u64>| {
        way.middle_us(of).map_or_else(|| "–".to_owned(), ms)
    };
    let share = |effect: &_| format!("{:.3}", way.share_of(effect));
    let copying = way.copying.as_ref();
    [
        show::bytes(heap.bytes),
        way.strategy.clone(),
        middle(&|hop| Some(hop.gap_us)),
        middle(&|hop| Some(hop.quiet_gap_us)),
        ms(way.above_us(0.5)),
        ms(way.above_us(0.9)),
        middle(&|hop| hop.downtime_us),
        middle(&|hop| (hop.copy_us > 0).then_some(hop.copy_us)),
        copying.map_or_else(String::new, share),
        ms(way.before.p99_us as f64),
        copying.map_or_else(String::new, |effect| ms(effect.p99_us as f64)),
        share(&way.after),
    ]
}

fn ms(us: f64) -> String {
    format!("{:.1} ms", us / 1e3)
}
