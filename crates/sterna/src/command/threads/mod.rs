//! `sterna threads`: the laboratory. A module for each experiment; `sterna-laboratory` measures, these show.

mod bench;
mod cache;
mod stall;
mod tlp;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::Serialize;
use sterna_laboratory::plot::Page;
use sterna_laboratory::role::Player;

use crate::show;

/// Measures threads: what they cost, what they do to caches and to each other, how many run at once.
#[derive(Debug, Args)]
pub(crate) struct Threads {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Debug, Subcommand)]
enum Experiment {
    Bench(bench::Bench),
    Cache(cache::Cache),
    Tlp(tlp::Tlp),
    Stall(stall::Stall),
}

impl Threads {
    pub(crate) fn run(self) -> Result<u8> {
        match self.experiment {
            Experiment::Bench(bench) => bench.run(),
            Experiment::Cache(cache) => cache.run(),
            Experiment::Tlp(tlp) => tlp.run(),
            Experiment::Stall(stall) => stall.run(),
        }
    }
}

/// This program plays the parts of processes itself.
fn player() -> Result<Player> {
    let program = std::env::current_exe().context("could not find this program's own file")?;
    Ok(Player::new(program))
}

/// How results are put out.
#[derive(Debug, Args)]
pub(super) struct Output {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Also draw what was measured, into one HTML file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

impl Output {
    /// Before anything is measured: opens what will be written.
    pub(super) fn open(&self) -> Result<Opened> {
        let drawing = self.plot.as_deref().map(show::Drawing::open).transpose()?;
        Ok(Opened {
            json: self.json,
            drawing,
        })
    }
}

/// Where results go.
pub(super) struct Opened {
    json: bool,
    drawing: Option<show::Drawing>,
}

impl Opened {
    /// Prints a result, as JSON or as the text that `text` makes of it, and draws it if that is wanted.
    pub(super) fn put<T: Serialize>(
        self,
        result: &T,
        text: impl FnOnce(&T) -> String,
        page: impl FnOnce(&T) -> Page,
    ) -> Result<()> {
        if let Some(drawing) = self.drawing {
            drawing.write(&page(result).html())?;
        }
        match self.json {
            true => show::json(result)?,
            false => show::print(text(result)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        threads: Threads,
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let parsed = |line: &str| {
            let words = std::iter::once("sterna").chain(line.split(' '));
            Line::try_parse_from(words).map_err(|error| error.to_string())
        };
        parsed("bench --most 100000").unwrap();
        let refused = parsed("bench --most 100001").unwrap_err();
        assert!(
            refused.contains("choose 1000, 10000, 100000 or 1000000"),
            "{refused}"
        );
        parsed("tlp --for 1s -- ls").unwrap();
        let refused = parsed("tlp --for 0s -- ls").unwrap_err();
        assert!(refused.contains("no time is not enough"), "{refused}");
    }
}
