//! How each committed guest is compiled: a table, and the command line made from it.
//!
//! The bytes depend on the pinned compiler, the sources and the flags here, and on nothing else: not on the path of the checkout, not on the
//! time, not on the machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::need;

/// One program.
pub(super) struct Recipe {
    /// Name of the program: `guests/wasm/NAME.wasm`.
    pub(super) name: &'static str,
    /// C files; a pattern `DIR/*.c` takes all in a folder, sorted.
    sources: &'static [Source],
    flags: &'static [&'static str],
    /// Bytes of the C stack in linear memory.
    stack: u32,
}

/// Where C files lie.
#[derive(Clone, Copy)]
enum Source {
    /// Under `guests/`.
    Own(&'static str),
    /// Under the vendored crates.
    Crate(&'static str),
}
use Source::{Crate, Own};

/// Enough for anything that does not recurse deeply in C, and small enough for thousands of guests on one machine.
const STACK: u32 = 1 << 20;

const fn small(name: &'static str, source: &'static [Source]) -> Recipe {
    Recipe {
        name,
        sources: source,
        flags: &["-Wall", "-Wextra", "-Werror"],
        stack: STACK,
    }
}

pub(super) const RECIPES: &[Recipe] = &[
    small("fannkuch", &[Own("kernels/fannkuch.c")]),
    small("fib", &[Own("kernels/fib.c")]),
    small("matmul", &[Own("kernels/matmul.c")]),
    small("nbody", &[Own("kernels/nbody.c")]),
    small("qsort", &[Own("kernels/qsort.c")]),
    small("sha256", &[Own("kernels/sha256.c")]),
    small("count", &[Own("probes/count.c")]),
    small("echo", &[Own("probes/echo.c")]),
    small("files", &[Own("probes/files.c")]),
    small("fill", &[Own("probes/fill.c")]),
    small("hello", &[Own("probes/hello.c")]),
    Recipe {
        name: "idle",
        sources: &[Own("probes/idle.c")],
        flags: &["-Wall", "-Wextra", "-Werror"],
        stack: 16 << 10,
    },
    small("recurse", &[Own("probes/recurse.c")]),
    small("kv", &[Own("servers/kv.c")]),
    small("sleeper", &[Own("probes/sleeper.c")]),
    small("spin", &[Own("probes/spin.c")]),
    Recipe {
        name: "lua",
        sources: &[Own("lua/main.c"), Crate("lua-src-550.0.0/lua-5.4.8/*.c")],
        flags: &[
            "-D_WASI_EMULATED_SIGNAL",
            "-D_WASI_EMULATED_PROCESS_CLOCKS",
            "-include",
            "guests/lua/lua_guest.h",
            "-Iguests/lua/include",
            "-ISOURCES/lua-src-550.0.0/lua-5.4.8",
            "-Wno-deprecated-declarations", // tmpfile, which main.c defines
            "-lwasi-emulated-signal",
            "-lwasi-emulated-process-clocks",
        ],
        stack: STACK,
    },
    Recipe {
        name: "sqlite",
        sources: &[
            Own("sqlite/main.c"),
            Crate("libsqlite3-sys-0.40.0/sqlite3/sqlite3.c"),
        ],
        flags: &[
            "-ISOURCES/libsqlite3-sys-0.40.0/sqlite3",
            "-DSQLITE_THREADSAFE=0",
            "-DSQLITE_OMIT_LOAD_EXTENSION",
            "-DSQLITE_MAX_MMAP_SIZE=0",
            "-DSQLITE_TEMP_STORE=2", // temporary tables in memory
            "-D_WASI_EMULATED_GETPID",
            "-lwasi-emulated-getpid",
        ],
        stack: STACK,
    },
    Recipe {
        name: "qjs",
        sources: &[
            Crate("rquickjs-sys-0.14.0/quickjs/dtoa.c"),
            Crate("rquickjs-sys-0.14.0/quickjs/libregexp.c"),
            Crate("rquickjs-sys-0.14.0/quickjs/libunicode.c"),
            Crate("rquickjs-sys-0.14.0/quickjs/qjs.c"),
            Crate("rquickjs-sys-0.14.0/quickjs/quickjs-libc.c"),
            Crate("rquickjs-sys-0.14.0/quickjs/quickjs.c"),
            Crate("rquickjs-sys-0.14.0/quickjs/gen/repl.c"),
            Crate("rquickjs-sys-0.14.0/quickjs/gen/standalone.c"),
        ],
        flags: &[
            "-ISOURCES/rquickjs-sys-0.14.0/quickjs",
            "-D_GNU_SOURCE",
            "-DQJS_BUILD_LIBC",
            "-D_WASI_EMULATED_SIGNAL",
            "-D_WASI_EMULATED_PROCESS_CLOCKS",
            "-lwasi-emulated-signal",
            "-lwasi-emulated-process-clocks",
        ],
        stack: 2 << 20, // QuickJS allows its own recursion 1 MiB of it
    },
];

/// Where a build finds and leaves its files.
pub(super) struct Site<'a> {
    pub(super) root: &'a Path,
    /// The vendored crates.
    pub(super) sources: &'a Path,
    /// Intermediate files of this build only.
    pub(super) scratch: &'a Path,
}

impl Recipe {
    /// The compiler's command line; it runs in the workspace's root, so that paths in the repository are relative.
    pub(super) fn compile(&self, site: &Site<'_>, output: &Path) -> Result<Command> {
        let vendored = site
            .sources
            .to_str()
            .context("the path of the checkout is not UTF-8, which the compiler's flags need")?;
        let mut zig = Command::new(need::venv_python(site.root));
        zig.current_dir(site.root).args([
            "-m",
            "ziglang",
            "cc",
            "--target=wasm32-wasi",
            "-std=gnu11",
            "-O2",
            "-g0",
        ]);
        zig.arg(format!("-ffile-prefix-map={vendored}=sources"));
        zig.arg(format!("-Wl,-z,stack-size={}", self.stack))
            .arg("-o")
            .arg(output);
        for source in self.sources {
            zig.args(source.files(site)?);
        }
        zig.args(
            self.flags
                .iter()
                .map(|flag| flag.replace("SOURCES", vendored)),
        );
        // An empty cache: a build must not depend on what was built before.
        zig.env("ZIG_GLOBAL_CACHE_DIR", site.scratch.join("zig-global"))
            .env("ZIG_LOCAL_CACHE_DIR", site.scratch.join("zig-local"));
        Ok(zig)
    }
}

impl Source {
    fn files(self, site: &Site<'_>) -> Result<Vec<PathBuf>> {
        let path = match self {
            Own(path) => Path::new("guests").join(path),
            Crate(path) => site.sources.join(path),
        };
        let Some(folder) = path.to_str().and_then(|path| path.strip_suffix("/*.c")) else {
            return Ok(vec![path]);
        };
        let mut files = Vec::new();
        for entry in
            std::fs::read_dir(folder).with_context(|| format!("could not list {folder}"))?
        {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "c") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}
