//! Which crate may depend on what: libraries come in through their doors, and workspace crates depend downwards only.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Complaint, Tree, complain};
use crate::child;

const TABLES: &str = "xtask/tidy.toml";

/// What `cargo metadata` tells, as far as it matters here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// Only dependencies inside the workspace have one.
    path: Option<String>,
}

pub(super) fn check(tree: &Tree<'_>, complaints: &mut Vec<Complaint>) -> Result<()> {
    let mut cargo = child::cargo();
    cargo
        .current_dir(tree.root)
        .args(["metadata", "--format-version=1", "--no-deps"]);
    let metadata: Metadata = serde_json::from_str(&child::read(&mut cargo)?)
        .context("cargo metadata printed something unexpected")?;
    check_packages(tree, &metadata.packages, complaints);
    reasons(tree, complaints);
    Ok(())
}

fn check_packages(tree: &Tree<'_>, packages: &[Package], complaints: &mut Vec<Complaint>) {
    let layer_of = |name: &str| {
        tree.config
            .layers
            .iter()
            .position(|layer| layer.iter().any(|member| member == name))
    };
    let mut used = BTreeSet::new();
    for package in packages {
        let Some(layer) = layer_of(&package.name) else {
            complain(
                complaints,
                TABLES,
                0,
                format!("{} stands in no layer; give it its place", package.name),
            );
            continue;
        };
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            if dependency.path.is_none() {
                used.insert((name, package.name.as_str()));
                through_door(tree, &package.name, name, complaints);
            } else if layer_of(name).is_some_and(|below| below <= layer) {
                complain(
                    complaints,
                    &package.name,
                    0,
                    format!("depends on {name}, which is not below it in the layers of {TABLES}"),
                );
            }
        }
    }
    for (library, doors) in &tree.config.doors {
        for door in doors
            .iter()
            .filter(|door| !used.contains(&(library.as_str(), door.as_str())))
        {
            complain(
                complaints,
                TABLES,
                0,
                format!("{door} does not depend on {library}; remove that door"),
            );
        }
    }
    for member in tree.config.layers.iter().flatten() {
        if !packages.iter().any(|package| package.name == *member) {
            complain(
                complaints,
                TABLES,
                0,
                format!("the layers name {member}, which is no crate here; remove it"),
            );
        }
    }
}

fn through_door(tree: &Tree<'_>, package: &str, library: &str, complaints: &mut Vec<Complaint>) {
    match tree.config.doors.get(library) {
        None => complain(
            complaints,
            package,
            0,
            format!(
                "depends on {library}, which has no door; decide which crates may use it and add it to {TABLES}"
            ),
        ),
        Some(doors) if !doors.iter().any(|door| door == package) => {
            complain(
                complaints,
                package,
                0,
                format!(
                    "depends on {library}, whose doors are {}; go through one of them",
                    doors.join(", ")
                ),
            );
        }
        Some(_) => {}
    }
}

/// Every library in the root manifest has a comment that says why, on its line or above its group.
fn reasons(tree: &Tree<'_>, complaints: &mut Vec<Complaint>) {
    let manifest = tree.files.get("Cargo.toml").map_or("", String::as_str);
    let (mut inside, mut group_has_reason) = (false, false);
    for (index, line) in manifest.lines().enumerate() {
        if line.starts_with('[') {
            inside = line == "[workspace.dependencies]";
        }
        if line.trim().is_empty() {
            group_has_reason = false;
        } else if line.starts_with('#') {
            group_has_reason = true;
        } else if inside
            && line.contains('=')
            && !line.contains("path =")
            && !line.contains('#')
            && !group_has_reason
        {
            complain(
                complaints,
                "Cargo.toml",
                index + 1,
                "say in a comment why this library is here",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::complaints;
    use super::*;

    fn check(tables: &str, rule: fn(&Tree<'_>, &mut Vec<Complaint>)) -> Vec<String> {
        complaints(
            &[(
                "Cargo.toml",
                "[workspace.dependencies]\na = '1' # why\nb = '1'\n\n# Why.\nc = '1'\n",
            )],
            tables,
            rule,
        )
    }

    fn package(name: &str, libraries: &[&str], crates: &[&str]) -> Package {
        let library = |name: &&str| Dependency {
            name: (*name).to_owned(),
            path: None,
        };
        let inside = |name: &&str| Dependency {
            name: (*name).to_owned(),
            path: Some(String::new()),
        };
        Package {
            name: name.to_owned(),
            dependencies: libraries
                .iter()
                .map(library)
                .chain(crates.iter().map(inside))
                .collect(),
        }
    }

    #[test]
    fn libraries_have_reasons() {
        assert_eq!(
            check("unsafe_files = []", reasons),
            ["Cargo.toml:3: say in a comment why this library is here"]
        );
    }

    #[test]
    fn crates_depend_downwards_and_through_doors() {
        let found = check("unsafe_files = []", |tree, complaints| {
            let mut config: super::super::Config = toml::from_str(
                "required=[]\nlayers=[['top'],['low','other']]\nunsafe_folders=[]\nunsafe_files=[]\n[doors]\nlib=['low']\ndead=['top']",
            )
            .unwrap();
            config.required.clear();
            let tree = Tree {
                root: tree.root,
                config,
                files: Default::default(),
            };
            let packages = [
                package("top", &["lib"], &["low"]),
                package("low", &["lib", "new"], &["other"]),
                package("other", &[], &[]),
            ];
            check_packages(&tree, &packages, complaints);
        });
        assert_eq!(found.len(), 4, "{found:#?}");
        assert!(found[0].starts_with("low: depends on new, which has no door"));
        assert!(found[1].starts_with("low: depends on other, which is not below"));
        assert!(found[2].starts_with("top: depends on lib, whose doors are low"));
        assert!(found[3].ends_with("top does not depend on dead; remove that door"));
    }
}
