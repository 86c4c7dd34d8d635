//! `sterna threads`: the laboratory. A module for each experiment; `sterna-laboratory` measures, these show.

mod tlp;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::Serialize;
use sterna_laboratory::plot::Page;

use crate::show;

/// Measures threads: what they cost, what they do to caches and to each other, how many run at once.
#[derive(Debug, Args)]
pub(crate) struct Threads {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Debug, Subcommand)]
enum Experiment {
    Tlp(tlp::Tlp),
}

impl Threads {
    pub(crate) fn run(self) -> Result<u8> {
        match self.experiment {
            Experiment::Tlp(tlp) => tlp.run(),
        }
    }
}

/// How results are put out.
#[derive(Debug, Args)]
struct Output {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Also draw what was measured, into one HTML file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

impl Output {
    /// Prints a result, as JSON or as the text that `text` makes of it, and draws it if that is wanted.
    fn put<T: Serialize>(
        &self,
        result: &T,
        text: impl FnOnce(&T) -> String,
        page: impl FnOnce(&T) -> Page,
    ) -> Result<()> {
        if let Some(path) = &self.plot {
            fs::write(path, page(result).html())
                .with_context(|| format!("could not write the plot to {}", show::path(path)))?;
        }
        match self.json {
            true => show::json(result)?,
            false => show::print(text(result)),
        }
        Ok(())
    }
}
