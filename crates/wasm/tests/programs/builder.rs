//! A builder and nothing else, for the tests: the binary has it as a hidden subcommand.

use std::process::ExitCode;

fn main() -> ExitCode {
    sterna_wasm::builder::run()
}
