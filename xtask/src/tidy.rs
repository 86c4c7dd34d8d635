//! `cargo xtask tidy`: rules of the house that no lint knows.
//!
//! * `source`: Rust files: module docs, `unsafe` only where listed, lengths, module names, dead files
//! * `text`: every text file: links that lead somewhere, TODOs that say what, no registry hosts
//! * `doors`: which crate may depend on what
//! * `licences`: `deny.toml`: licences of the libraries, and libraries that are there twice
//!
//! Each rule is a function that reads a [`Tree`] and adds to a list of [`Complaint`]s, so that one run shows them all.

mod doors;
mod licences;
mod source;
mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::child;

/// The tables in `xtask/tidy.toml`, described there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    required: Vec<String>,
    layers: Vec<Vec<String>>,
    unsafe_folders: Vec<String>,
    unsafe_files: Vec<UnsafeFile>,
    doors: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UnsafeFile {
    file: String,
    reason: String,
}

/// The text files of the repository, as they lie in the working tree.
struct Tree<'a> {
    root: &'a Path,
    config: Config,
    /// By path from the root.
    files: BTreeMap<String, String>,
}

/// One thing that is not as it should be, and what to do about it.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Complaint {
    path: String,
    line: usize,
    message: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

/// Carries out `cargo xtask tidy`.
pub(crate) fn run(root: &Path) -> Result<()> {
    let tree = Tree::read(root)?;
    let mut complaints = Vec::new();
    source::check(&tree, &mut complaints);
    text::check(&tree, &mut complaints);
    doors::check(&tree, &mut complaints)?;
    licences::check(&tree, &mut complaints)?;
    complaints.sort();
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    if !complaints.is_empty() {
        bail!("tidy: {} complaints", complaints.len());
    }
    println!("tidy: {} files in order", tree.files.len());
    Ok(())
}

impl<'a> Tree<'a> {
    fn read(root: &'a Path) -> Result<Tree<'a>> {
        let mut git = Command::new("git");
        // Also what is not yet added, so that tidy can be run before a commit.
        git.current_dir(root)
            .args(["ls-files", "-z", "-co", "--exclude-standard"]);
        let listing = child::read(&mut git)?;
        let mut files = BTreeMap::new();
        for path in listing.split_terminator('\0') {
            match std::fs::read(root.join(path)) {
                Ok(bytes) => {
                    // What is not UTF-8 is not text, and has no rules.
                    if let Ok(text) = String::from_utf8(bytes) {
                        files.insert(path.to_owned(), text);
                    }
                }
                // Deleted, and the deletion not yet committed.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("could not read {path}")),
            }
        }
        let tables = files
            .get("xtask/tidy.toml")
            .context("xtask/tidy.toml is missing")?;
        let config = toml::from_str(tables).context("xtask/tidy.toml")?;
        Ok(Tree {
            root,
            config,
            files,
        })
    }

    /// The files whose name ends so.
    fn with_extension(&self, extension: &str) -> impl Iterator<Item = (&str, &str)> {
        let ending = format!(".{extension}");
        self.files
            .iter()
            .filter(move |(path, _)| path.ends_with(&ending))
            .map(|(path, text)| (path.as_str(), text.as_str()))
    }
}

fn complain(complaints: &mut Vec<Complaint>, path: &str, line: usize, message: impl Into<String>) {
    complaints.push(Complaint {
        path: path.to_owned(),
        line,
        message: message.into(),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a rule says about some files; `LINE MESSAGE`, in order.
    pub(super) fn complaints(
        files: &[(&str, &str)],
        tables: &str,
        rule: fn(&Tree<'_>, &mut Vec<Complaint>),
    ) -> Vec<String> {
        let defaults = "required = []\nlayers = []\nunsafe_folders = ['crates/sys/']\n";
        let config = toml::from_str(&format!("{defaults}{tables}\n[doors]")).unwrap();
        let files = files
            .iter()
            .map(|&(path, text)| (path.to_owned(), text.to_owned()))
            .collect();
        let mut found = Vec::new();
        rule(
            &Tree {
                root: Path::new("."),
                config,
                files,
            },
            &mut found,
        );
        found.sort();
        found.iter().map(ToString::to_string).collect()
    }
}
