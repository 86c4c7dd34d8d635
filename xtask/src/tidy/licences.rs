//! `deny.toml`: under which licences libraries may come, and which may be there in two versions.
//!
//! The file has the format of cargo-deny, which may be run on it as well. These two of its checks need neither that program nor a network, so they run
//! here: every time, everywhere.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Complaint, Tree, complain};
use crate::child;

const FILE: &str = "deny.toml";

/// The parts of `deny.toml` that are read here.
#[derive(Deserialize)]
struct Deny {
    graph: Graph,
    licenses: Licences,
    bans: Bans,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Licences {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    skip: Vec<Skip>,
}

/// A version of a library that may be there beside another.
#[derive(Deserialize)]
struct Skip {
    /// `name@version`
    #[serde(rename = "crate")]
    id: String,
    reason: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// Where it comes from; nothing for our own.
    source: Option<String>,
}

pub(super) fn check(tree: &Tree<'_>, complaints: &mut Vec<Complaint>) -> Result<()> {
    let text = tree
        .files
        .get(FILE)
        .with_context(|| format!("{FILE} is missing"))?;
    let deny: Deny = toml::from_str(text).context(FILE)?;
    let mut cargo = child::cargo();
    cargo
        .current_dir(tree.root)
        .args(["metadata", "--format-version=1", "--locked"]);
    for target in &deny.graph.targets {
        cargo.args(["--filter-platform", target]);
    }
    let metadata: Metadata = serde_json::from_str(&child::read(&mut cargo)?)
        .context("cargo metadata printed something unexpected")?;
    let foreign: Vec<_> = metadata
        .packages
        .iter()
        .filter(|package| package.source.is_some())
        .collect();
    licences(&deny, &foreign, complaints);
    duplicates(&deny, &foreign, complaints);
    Ok(())
}

fn licences(deny: &Deny, packages: &[&Package], complaints: &mut Vec<Complaint>) {
    let mut needed = BTreeSet::new();
    for package in packages {
        let Some(expression) = &package.license else {
            complain(
                complaints,
                FILE,
                0,
                format!("{} {} states no licence", package.name, package.version),
            );
            continue;
        };
        let (good, mentioned) = evaluate(expression, &deny.licenses.allow);
        needed.extend(mentioned);
        if !good {
            complain(
                complaints,
                FILE,
                0,
                format!(
                    "{} {} comes under {expression}, which is not allowed",
                    package.name, package.version
                ),
            );
        }
    }
    for licence in deny.licenses.allow.difference(&needed) {
        complain(
            complaints,
            FILE,
            0,
            format!("no library comes under {licence}; remove it from the allowed ones"),
        );
    }
}

fn duplicates(deny: &Deny, packages: &[&Package], complaints: &mut Vec<Complaint>) {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        versions
            .entry(&package.name)
            .or_default()
            .insert(&package.version);
    }
    let mut skipped: BTreeSet<_> = deny.bans.skip.iter().map(|skip| skip.id.as_str()).collect();
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        let unexplained: Vec<_> = versions
            .iter()
            .filter(|version| !skipped.remove(format!("{name}@{version}").as_str()))
            .collect();
        if unexplained.len() > 1 {
            let message = format!(
                "{name} is there in versions {versions:?}; unify them, or list all but one in bans.skip with a reason"
            );
            complain(complaints, FILE, 0, message);
        }
    }
    for id in skipped {
        complain(
            complaints,
            FILE,
            0,
            format!("{id} is not there beside another version; remove it from bans.skip"),
        );
    }
    for skip in deny
        .bans
        .skip
        .iter()
        .filter(|skip| skip.reason.trim().is_empty())
    {
        complain(
            complaints,
            FILE,
            0,
            format!("{} in bans.skip needs a reason", skip.id),
        );
    }
}

/// Whether an SPDX licence expression can be met with the allowed licences, and which it mentions. The old separator `/` means OR.
fn evaluate(expression: &str, allowed: &BTreeSet<String>) -> (bool, BTreeSet<String>) {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let mut mentioned = BTreeSet::new();
    let good = any_of(&mut words, allowed, &mut mentioned);
    // An expression that is not understood to its end grants nothing.
    (good && words.next().is_none(), mentioned)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(
    words: &mut Words<'_>,
    allowed: &BTreeSet<String>,
    mentioned: &mut BTreeSet<String>,
) -> bool {
    let mut good = all_of(words, allowed, mentioned);
    while words.next_if_eq(&"OR").is_some() {
        good |= all_of(words, allowed, mentioned);
    }
    good
}

fn all_of(
    words: &mut Words<'_>,
    allowed: &BTreeSet<String>,
    mentioned: &mut BTreeSet<String>,
) -> bool {
    let mut good = one(words, allowed, mentioned);
    while words.next_if_eq(&"AND").is_some() {
        good &= one(words, allowed, mentioned);
    }
    good
}

fn one(
    words: &mut Words<'_>,
    allowed: &BTreeSet<String>,
    mentioned: &mut BTreeSet<String>,
) -> bool {
    let Some(word) = words.next() else {
        return false;
    };
    if word == "(" {
        let good = any_of(words, allowed, mentioned);
        return words.next() == Some(")") && good;
    }
    let mut licence = word.to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        licence = format!("{licence} WITH {}", words.next().unwrap_or_default());
    }
    let good = allowed.contains(&licence);
    mentioned.insert(licence);
    good
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licence_expressions() {
        let allowed = ["MIT", "Apache-2.0 WITH LLVM-exception", "Zlib"]
            .map(str::to_owned)
            .into();
        let good = |expression| evaluate(expression, &allowed).0;
        assert!(
            good("MIT") && good("GPL-3.0 OR MIT") && good("MIT/Apache-2.0") && good("MIT AND Zlib")
        );
        assert!(
            good("Apache-2.0 WITH LLVM-exception OR Apache-2.0")
                && good("(MIT OR GPL-3.0) AND Zlib")
        );
        assert!(
            !good("Apache-2.0")
                && !good("MIT AND GPL-3.0")
                && !good("(MIT")
                && !good("MIT)")
                && !good("")
                && !good("MIT Zlib")
        );
    }
}
