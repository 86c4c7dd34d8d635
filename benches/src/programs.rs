//! The programs that are run, and how much work each is given.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use sterna_process::ProgramId;

/// One program with its work.
pub(crate) struct Bench {
    pub(crate) name: &'static str,
    /// The module's name.
    guest: &'static str,
    arguments: &'static [&'static str],
    /// The amount of work, appended to the arguments: about a second's.
    work: u64,
    /// Less of it.
    quick: u64,
    /// More than anybody waits for.
    endless: u64,
    /// Behind the amount of work.
    more: &'static [&'static str],
    /// A program that people use, not a kernel.
    pub(crate) is_real: bool,
}

const fn kernel(name: &'static str, work: u64, quick: u64, endless: u64) -> Bench {
    Bench {
        name,
        guest: name,
        arguments: &[],
        work,
        quick,
        endless,
        more: &[],
        is_real: false,
    }
}

const fn real(
    name: &'static str,
    guest: &'static str,
    arguments: &'static [&'static str],
    [work, quick, endless]: [u64; 3],
    more: &'static [&'static str],
) -> Bench {
    Bench {
        name,
        guest,
        arguments,
        work,
        quick,
        endless,
        more,
        is_real: true,
    }
}

/// All of them.
pub(crate) const ALL: &[Bench] = &[
    kernel("nbody", 8_000_000, 4_000_000, 1_000_000_000),
    kernel("fannkuch", 10, 10, 12),
    Bench {
        arguments: &["300"],
        ..kernel("matmul", 25, 12, 1_000_000)
    },
    Bench {
        arguments: &["64"],
        ..kernel("sha256", 2000, 500, 100_000_000)
    },
    kernel("fib", 41, 38, 60),
    Bench {
        arguments: &["200000"],
        ..kernel("qsort", 6, 2, 1_000_000)
    },
    real(
        "lua-fib",
        "lua",
        &["/guests/lua/fib.lua"],
        [31, 31, 60],
        &[],
    ),
    real(
        "lua-loop",
        "lua",
        &["/guests/lua/loop.lua"],
        [25_000_000, 4_000_000, 100_000_000_000],
        &[],
    ),
    real(
        "lua-sort",
        "lua",
        &["/guests/lua/sort.lua", "50000"],
        [4, 1, 1_000_000],
        &[],
    ),
    real(
        "lua-strings",
        "lua",
        &["/guests/lua/strings.lua"],
        [300_000, 60_000, 100_000_000],
        &[],
    ),
    real("sqlite", "sqlite", &["20000"], [3, 1, 1_000_000], &[]),
    real(
        "qjs-fib",
        "qjs",
        &["/guests/quickjs/fib.js"],
        [31, 29, 60],
        &[],
    ),
    real(
        "qjs-sort",
        "qjs",
        &["/guests/quickjs/sort.js", "20000"],
        [8, 2, 1_000_000],
        &[],
    ),
    real(
        "qjs-strings",
        "qjs",
        &["/guests/quickjs/strings.js"],
        [8000, 2000, 100_000_000],
        &[],
    ),
    real(
        "python",
        "python",
        &["/guests/python/bench.py"],
        [8, 2, 1_000_000],
        &[],
    ),
];

/// How much is to be done.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    Full,
    Quick,
    Endless,
}

/// A program and all it is started with.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) id: ProgramId,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) variables: Vec<(OsString, OsString)>,
    /// A directory of the host, and what the program calls it.
    pub(crate) directory: (PathBuf, &'static str),
}

impl Bench {
    /// What the program is.
    pub(crate) fn job(&self, root: &Path, work: Work) -> Result<Job> {
        let mut job = Job::new(root, self.guest, self.arguments)?;
        let work = match work {
            Work::Full => self.work,
            Work::Quick => self.quick,
            Work::Endless => self.endless,
        };
        job.arguments.push(work.to_string().into());
        job.arguments.extend(self.more.iter().map(Into::into));
        Ok(job)
    }

    pub(crate) fn is_python(&self) -> bool {
        self.guest == "python"
    }
}

impl Job {
    /// The guest called `guest`, with `arguments`.
    pub(crate) fn new(root: &Path, guest: &str, arguments: &[&str]) -> Result<Job> {
        let path = module(root, guest);
        let bytes = std::fs::read(&path).with_context(|| {
            format!(
                "could not read {}; CPython comes with cargo xtask guests --download",
                path.display()
            )
        })?;
        Ok(Job {
            id: ProgramId::of(&bytes),
            bytes: bytes.into(),
            arguments: [guest].iter().chain(arguments).map(Into::into).collect(),
            variables: vec![("PYTHONHASHSEED".into(), "0".into())],
            directory: (root.join("guests"), "/guests"),
        })
    }
}

/// Where the module of a guest lies.
pub(crate) fn module(root: &Path, guest: &str) -> PathBuf {
    let folder = if guest == "python" {
        "target/guests"
    } else {
        "guests/wasm"
    };
    root.join(folder).join(guest).with_extension("wasm")
}
