//! The roles of the file server by themselves: what tests and benches start. `sterna` has them inside.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some(sterna_gateway::role::ROLE), Some(name)) => sterna_gateway::role::run(&name),
        _ => {
            eprintln!("this program is started by others, for a role");
            ExitCode::FAILURE
        }
    }
}
