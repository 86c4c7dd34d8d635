//! `cargo xtask guests`: the programs for the wasm kind.
//!
//! `guests/wasm/*.wasm` are committed. This command compiles them anew from `guests/` and from C sources in crates, and either replaces them or, with
//! `--check`, tells which differ. CPython is too large to commit: it goes to `target/guests/python.wasm`.
//!
//! * `recipe`: how each is compiled
//! * `module`: what is stripped from a module
//! * `python`: CPython

mod module;
mod python;
mod recipe;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{child, need};
use recipe::{RECIPES, Recipe, Site};

/// Options of `cargo xtask guests`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install what is missing: the C compiler into target/venv
    #[arg(long)]
    install: bool,
    /// Change nothing in guests/wasm; fail if a rebuild gives other bytes
    #[arg(long)]
    check: bool,
    /// Only download what is not committed (CPython), build nothing
    #[arg(long, conflicts_with = "check")]
    download: bool,
    /// Only these guests
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// Carries out `cargo xtask guests`.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let chosen = chosen(&args.names)?;
    need::PYTHON.ensure(root, args.install)?;
    if !args.download {
        need::ZIG.ensure(root, args.install)?;
        rebuild(root, &chosen, args.check)?;
    }
    if args.names.is_empty() {
        download(root)?;
    }
    Ok(())
}

/// Downloads what is not committed, unless it is there.
pub(crate) fn download(root: &Path) -> Result<()> {
    let folder = root.join("target/guests");
    fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    python::fetch(root, &folder)
}

/// Whether [`download`] would have nothing to do.
pub(crate) fn is_downloaded(root: &Path) -> bool {
    python::is_current(&root.join("target/guests/python.wasm"))
}

/// `cargo xtask guests --check`.
pub(crate) fn check(root: &Path, install: bool) -> Result<()> {
    run(
        root,
        &Args {
            install,
            check: true,
            download: false,
            names: Vec::new(),
        },
    )
}

fn chosen(names: &[String]) -> Result<Vec<&'static Recipe>> {
    if names.is_empty() {
        return Ok(RECIPES.iter().collect());
    }
    let find = |name: &String| {
        RECIPES
            .iter()
            .find(|recipe| recipe.name == name)
            .with_context(|| unknown(name))
    };
    names.iter().map(find).collect()
}

fn unknown(name: &str) -> String {
    let known: Vec<_> = RECIPES.iter().map(|recipe| recipe.name).collect();
    format!("no guest is called {name}; there are {}", known.join(", "))
}

fn rebuild(root: &Path, chosen: &[&Recipe], check: bool) -> Result<()> {
    let sources = vendor(root)?;
    let scratch = root.join(format!("target/guests/build-{}", std::process::id()));
    fs::create_dir_all(&scratch)
        .with_context(|| format!("could not make {}", scratch.display()))?;
    let site = Site {
        root,
        sources: &sources,
        scratch: &scratch,
    };
    let built = chosen
        .iter()
        .map(|recipe| build(&site, recipe, check))
        .collect::<Result<Vec<_>>>();
    fs::remove_dir_all(&scratch)
        .with_context(|| format!("could not remove {}", scratch.display()))?;
    let changed: Vec<_> = built?.into_iter().flatten().collect();
    match (check, changed.is_empty()) {
        (true, false) => bail!(
            "a rebuild gives other bytes for {}; if that is meant: cargo xtask guests, and commit guests/wasm",
            changed.join(", ")
        ),
        (true, true) => println!(
            "{} guests rebuilt: the same bytes as those committed",
            chosen.len()
        ),
        (false, _) => println!("{} guests rebuilt, {} changed", chosen.len(), changed.len()),
    }
    if chosen.len() == RECIPES.len() {
        no_strangers(root)
    } else {
        Ok(())
    }
}

/// Builds one guest; its name if the bytes are not those in `guests/wasm`, which are replaced unless this is a check.
fn build(site: &Site<'_>, recipe: &Recipe, check: bool) -> Result<Option<&'static str>> {
    println!("  {}", recipe.name);
    // The linker puts the file's name into the module.
    let output = site.scratch.join(recipe.name).with_extension("wasm");
    child::read(&mut recipe.compile(site, &output)?)?;
    let raw =
        fs::read(&output).with_context(|| format!("the compiler left no {}", output.display()))?;
    let module = module::stripped(&raw)
        .with_context(|| format!("the compiler left a broken {}", output.display()))?;
    let committed = site
        .root
        .join("guests/wasm")
        .join(recipe.name)
        .with_extension("wasm");
    let same = match fs::read(&committed) {
        Ok(bytes) => bytes == module,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => {
            return Err(error).with_context(|| format!("could not read {}", committed.display()));
        }
    };
    if !same && !check {
        fs::write(&committed, module)
            .with_context(|| format!("could not write {}", committed.display()))?;
    }
    Ok((!same).then_some(recipe.name))
}

/// Every committed module has a recipe.
fn no_strangers(root: &Path) -> Result<()> {
    for entry in fs::read_dir(root.join("guests/wasm"))? {
        let path = entry?.path();
        let is_module = path
            .extension()
            .is_some_and(|extension| extension == "wasm");
        let is_known = path
            .file_stem()
            .is_some_and(|stem| RECIPES.iter().any(|recipe| stem == recipe.name));
        if is_module && !is_known {
            bail!(
                "{} has no recipe in xtask/src/guests/recipe.rs; add one or remove the file",
                path.display()
            );
        }
    }
    Ok(())
}

/// The C sources in crates, as cargo has verified them; fetched again only when `guests/sources/Cargo.lock` changed.
pub(crate) fn vendor(root: &Path) -> Result<PathBuf> {
    let (lock, folder) = (
        root.join("guests/sources/Cargo.lock"),
        root.join("target/guests/sources"),
    );
    let wanted = fs::read(&lock).with_context(|| format!("could not read {}", lock.display()))?;
    let stamp = folder.join("Cargo.lock");
    if fs::read(&stamp).is_ok_and(|done| done == wanted) {
        return Ok(folder);
    }
    println!("fetching C sources");
    let mut cargo = child::cargo();
    cargo
        .args([
            "vendor",
            "--quiet",
            "--locked",
            "--versioned-dirs",
            "--manifest-path",
        ])
        .arg(root.join("guests/sources/Cargo.toml"))
        .arg(&folder);
    child::read(&mut cargo)?;
    fs::write(&stamp, wanted).with_context(|| format!("could not write {}", stamp.display()))?;
    Ok(folder)
}
