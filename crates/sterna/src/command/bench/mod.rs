//! `sterna bench`: what this platform costs on this machine. `moves`: what a move costs clients.

mod moves;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Measures what Sterna costs on this machine.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Move(moves::Moves),
}

impl Bench {
    pub(crate) fn run(self) -> Result<u8> {
        match self.what {
            What::Move(moves) => moves.run(),
        }
    }
}
