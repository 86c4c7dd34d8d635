//! The program that the tests start as a runner. It takes its listener as a real one does, and hosts toys.

mod toys;

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use sterna_process::toy::Toy;
use sterna_process::{
    Environment, Identity, Incoming, Kind, MemoryLayout, PrepareError, Program, ProgramId, Running,
    SpawnError, Tag, Waypoint,
};
use sterna_runner::message::Paging;
use sterna_runner::{Elsewhere, Given, Kinds};

fn main() -> io::Result<()> {
    let listener = sterna_sys::spawn::inherited("RUNNER_LISTENER").map_err(io::Error::other)?;
    let given = Given {
        listener: UnixListener::from(listener),
        confinement: "none".into(),
        paging: Paging {
            dirty_pages: "none".into(),
            post_copy: "none".into(),
        },
        takes_directories: true,
    };
    sterna_runner::run(given, |elsewhere| Ok(Toys { elsewhere }))
}

struct Toys {
    elsewhere: Arc<dyn Elsewhere>,
}

impl Kinds for Toys {
    fn kind(&self, name: &Tag) -> Option<Arc<dyn Kind>> {
        let toy = match name {
            name if *name == toys::FREE || *name == toys::ASKING => Toy::new(),
            name if *name == toys::WAITING => Toy::waiting_after(1),
            name if *name == toys::STUBBORN => Toy::waiting_after(u64::MAX),
            _ => return None,
        };
        let asks = (*name == toys::ASKING).then(|| Arc::clone(&self.elsewhere));
        let name = name.clone();
        Some(Arc::new(Installed { name, toy, asks }))
    }
}

/// Toys whose programs are known by their names.
struct Installed {
    name: Tag,
    toy: Toy,
    asks: Option<Arc<dyn Elsewhere>>,
}

fn found(id: ProgramId) -> Option<Program> {
    let installed = [
        toys::counting(toys::COUNTED),
        toys::counting(u32::MAX),
        toys::silent(),
        toys::ending(),
        toys::large(),
    ];
    installed.into_iter().find(|program| program.id() == id)
}

impl Kind for Installed {
    fn name(&self) -> Tag {
        self.name.clone()
    }

    fn spawn(
        &self,
        identity: Identity,
        program: &Program,
        environment: Environment,
    ) -> Result<Running, SpawnError> {
        let program = program.id();
        let found = found(program).ok_or(SpawnError::UnknownProgram { program })?;
        let unknown = |_| SpawnError::UnknownProgram { program };
        if let Some(elsewhere) = &self.asks {
            elsewhere
                .prepare(&self.name, program, &[])
                .map_err(unknown)?;
        }
        self.toy.spawn(identity, &found, environment)
    }

    fn prepare(
        &self,
        program: &Program,
        layout: &MemoryLayout,
    ) -> Result<Box<dyn Incoming>, PrepareError> {
        let program = program.id();
        let found = found(program).ok_or(PrepareError::UnknownProgram { program })?;
        self.toy.prepare(&found, layout)
    }

    fn anticipate(&self, program: &Program, waypoints: &[Waypoint]) -> Result<(), PrepareError> {
        let program = program.id();
        let found = found(program).ok_or(PrepareError::UnknownProgram { program })?;
        self.toy.anticipate(&found, waypoints)
    }
}
