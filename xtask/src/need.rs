//! What must be on the machine: how to see whether it is there, how to say what is missing, how to get it.
//!
//! Everything that is installed for one checkout only goes under `target/`; system packages come through apt.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::child;

/// One thing that a command needs.
pub(crate) struct Need {
    /// As the user knows it.
    pub(crate) name: &'static str,
    /// What cannot be done without it.
    pub(crate) purpose: &'static str,
    /// How to get it by hand.
    pub(crate) remedy: &'static str,
    pub(crate) present: fn(&Path) -> bool,
    pub(crate) install: fn(&Path) -> Result<()>,
}

/// Python, with which the compiler and CPython come.
pub(crate) const PYTHON: Need = Need {
    name: "python3 with venv",
    purpose: "installs the C compiler for guests and CPython for WASI",
    remedy: "apt-get install python3-venv",
    present: |_| child::succeeds(Command::new("python3").args(["-c", "import venv, ensurepip"])),
    install: |_| apt(&["python3", "python3-venv"]),
};

/// The C compiler for the guests.
pub(crate) const ZIG: Need = Need {
    name: "ziglang (C compiler for wasm32-wasi) in target/venv",
    purpose: "rebuilds guests/wasm",
    remedy: "cargo xtask guests --install",
    present: |root| {
        installed_zig(root).is_ok_and(|version| {
            pinned(root, GUESTS, "ziglang").is_ok_and(|pinned| version == pinned)
        })
    },
    install: |root| install_pinned(root, GUESTS),
};

/// What snapshots are kept in by those who have buckets.
pub(crate) const S3: Need = Need {
    name: "moto (an S3 server) in target/venv",
    purpose: "keeps snapshots in buckets of S3 and Google, in tests of that",
    remedy: "cargo xtask test --install",
    present: |root| {
        let version = ["-c", "import moto; print(moto.__version__)"];
        child::read(Command::new(venv_python(root)).args(version)).is_ok_and(|version| {
            pinned(root, MOTO, "moto").is_ok_and(|pinned| version.trim() == pinned)
        })
    },
    install: |root| install_pinned(root, MOTO),
};

/// The same, for those who have theirs at Azure.
pub(crate) const AZURE: Need = Need {
    name: "Azurite (an Azure server) in target/azurite",
    purpose: "keeps snapshots in buckets of Azure, in tests of that",
    remedy: "cargo xtask test --install",
    present: |root| {
        let version = "console.log(require('azurite/package.json').version)";
        let mut node = Command::new("node");
        node.args(["-e", version]);
        node.env("NODE_PATH", root.join(AZURITE_AT).join("node_modules"));
        let pinned = std::fs::read_to_string(root.join(AZURITE).join("package.json"));
        child::read(&mut node).is_ok_and(|version| {
            let pin = format!("\"azurite\": \"{}\"", version.trim());
            pinned.is_ok_and(|pinned| pinned.contains(&pin))
        })
    },
    install: install_azurite,
};

/// A current test runner; without it cargo's own does.
pub(crate) const NEXTEST: Need = Need {
    name: "cargo-nextest",
    purpose: "runs tests in parallel, each in a process of its own",
    remedy: "cargo install --locked cargo-nextest",
    present: |_| child::succeeds(child::cargo().args(["nextest", "--version"])),
    install: |_| child::show(child::cargo().args(["install", "--locked", "cargo-nextest"])),
};

/// The compiler that instruments what is fuzzed.
pub(crate) const NIGHTLY: Need = Need {
    name: "a nightly Rust",
    purpose: "builds fuzz targets",
    remedy: "rustup toolchain install nightly --profile minimal",
    present: |_| child::succeeds(Command::new("cargo").args(["+nightly", "--version"])),
    install: |_| {
        let words = ["toolchain", "install", "nightly", "--profile", "minimal"];
        child::show(Command::new("rustup").args(words))
    },
};

/// What builds and starts fuzz targets.
pub(crate) const CARGO_FUZZ: Need = Need {
    name: "cargo-fuzz",
    purpose: "builds and runs fuzz targets",
    remedy: "cargo install --locked cargo-fuzz",
    present: |_| child::succeeds(child::cargo().args(["fuzz", "--version"])),
    install: |_| child::show(child::cargo().args(["install", "--locked", "cargo-fuzz"])),
};

/// An Arm processor, emulated.
pub(crate) const QEMU_ARM: Need = Need {
    name: "qemu-aarch64-static",
    purpose: "moves programs between x86 and Arm",
    remedy: "apt-get install qemu-user-static",
    present: |_| child::succeeds(Command::new("qemu-aarch64-static").arg("--version")),
    install: |_| apt(&["qemu-user-static"]),
};

/// The registry of clusters that choose it over a file of their own.
pub(crate) const ETCD: Need = Need {
    name: "etcd",
    purpose: "keeps the registry of a cluster, in tests of its own",
    remedy: "apt-get install etcd-server",
    present: |_| child::succeeds(Command::new("etcd").arg("--version")),
    install: |_| apt(&["etcd-server"]),
};

/// Networks of their own, in which tests cut links and lose packets.
pub(crate) const NETWORKS: Need = Need {
    name: "ip and nft",
    purpose: "give tests networks whose links are cut and lose packets",
    remedy: "apt-get install iproute2 nftables",
    present: |_| {
        let mut programs = ["ip", "nft"].into_iter();
        programs.all(|program| child::succeeds(Command::new(program).arg("-V")))
    },
    install: |_| apt(&["iproute2", "nftables"]),
};

/// Clocks that are wrong.
pub(crate) const FAKETIME: Need = Need {
    name: "libfaketime",
    purpose: "gives nodes in tests clocks that jump",
    remedy: "apt-get install faketime",
    present: |_| child::succeeds(Command::new("faketime").arg("--version")),
    install: |_| apt(&["faketime"]),
};

/// What is taken from the Python package index, by version and hash.
const GUESTS: &str = "guests/requirements.txt";
const MOTO: &str = "xtask/moto.txt";

/// What is taken from the npm registry, by version and hash, and where it is put.
const AZURITE: &str = "xtask/azurite";
const AZURITE_AT: &str = "target/azurite";

/// Options of pip that keep it quiet and to the point.
pub(crate) const PIP: [&str; 4] = ["-m", "pip", "--disable-pip-version-check", "--quiet"];

impl Need {
    pub(crate) fn is_present(&self, root: &Path) -> bool {
        (self.present)(root)
    }

    /// Sees to it that the thing is there: installs it if that is allowed, or else says how to.
    pub(crate) fn ensure(&self, root: &Path, install: bool) -> Result<()> {
        if (self.present)(root) {
            return Ok(());
        }
        if !install {
            bail!(
                "{} is missing ({}); get it with: {}",
                self.name,
                self.purpose,
                self.remedy
            );
        }
        eprintln!("installing {} ({})", self.name, self.purpose);
        (self.install)(root).with_context(|| {
            format!("could not install {}; by hand: {}", self.name, self.remedy)
        })?;
        if !(self.present)(root) {
            bail!(
                "{} was installed without an error and still is not usable; by hand: {}",
                self.name,
                self.remedy
            );
        }
        Ok(())
    }
}

/// The interpreter of the environment under `target/`.
pub(crate) fn venv_python(root: &Path) -> PathBuf {
    root.join("target/venv/bin/python")
}

/// Makes that environment unless it works already; its interpreter.
pub(crate) fn make_venv(root: &Path) -> Result<PathBuf> {
    let python = venv_python(root);
    if !child::succeeds(Command::new(&python).args(["-m", "pip", "--version"])) {
        PYTHON.ensure(root, false)?;
        let venv = root.join("target/venv");
        child::read(
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(venv),
        )?;
    }
    Ok(python)
}

fn installed_zig(root: &Path) -> Result<String> {
    Ok(
        child::read(Command::new(venv_python(root)).args(["-m", "ziglang", "version"]))?
            .trim()
            .to_owned(),
    )
}

fn install_pinned(root: &Path, list: &str) -> Result<()> {
    let mut pip = Command::new(make_venv(root)?);
    pip.args(PIP)
        .args(["install", "--require-hashes", "-r"])
        .arg(root.join(list));
    child::read(&mut pip).map(|_| ())
}

fn install_azurite(root: &Path) -> Result<()> {
    if !child::succeeds(Command::new("npm").arg("--version")) {
        apt(&["nodejs", "npm"])?;
    }
    let at = root.join(AZURITE_AT);
    std::fs::create_dir_all(&at)?;
    for name in ["package.json", "package-lock.json"] {
        let from = root.join(AZURITE).join(name);
        std::fs::copy(&from, at.join(name))
            .with_context(|| format!("could not copy {}", from.display()))?;
    }
    let mut npm = Command::new("npm");
    npm.current_dir(at).args(["ci", "--ignore-scripts"]);
    npm.args(["--no-audit", "--no-fund", "--silent"]);
    child::read(&mut npm).map(|_| ())
}

/// The version of a package that a list names.
fn pinned(root: &Path, list: &str, package: &str) -> Result<String> {
    let path = root.join(list);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("could not read {}", path.display()))?;
    let pin = text
        .lines()
        .find_map(|line| line.strip_prefix(package)?.strip_prefix("=="))
        .with_context(|| format!("{list} pins no {package}"))?;
    Ok(pin.trim_end_matches('\\').trim().to_owned())
}

/// Installs system packages.
pub(crate) fn apt(packages: &[&str]) -> Result<()> {
    let is_root = child::read(Command::new("id").arg("-u"))?.trim() == "0";
    if !is_root {
        bail!(
            "installing system packages needs root; as root: apt-get install {}",
            packages.join(" ")
        );
    }
    child::read(Command::new("apt-get").args(["update", "-qq"]))?;
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    child::read(&mut install).map(|_| ())
}
