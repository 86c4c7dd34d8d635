//! Rules for every text file.

use std::path::Path;

use super::{Complaint, Tree, complain};

/// Hosts of package registries. Where packages come from is the machine's setting, not the project's; lock files, which cargo writes, are exempt. In
/// pieces, so that this file keeps its own rule.
const REGISTRIES: [(&str, &str); 6] = [
    ("crates", "io"),
    ("pypi", "org"),
    ("pythonhosted", "org"),
    ("npmjs", "org"),
    ("npmjs", "com"),
    ("debian", "org"),
];

const TO_DO: [&str; 2] = [concat!("TO", "DO"), concat!("FIX", "ME")];

pub(super) fn check(tree: &Tree<'_>, complaints: &mut Vec<Complaint>) {
    for (path, text) in &tree.files {
        if path.ends_with("Cargo.lock") {
            continue;
        }
        for (index, line) in text.lines().enumerate() {
            registries(path, index + 1, line, complaints);
            to_do(path, index + 1, line, complaints);
        }
    }
    for (path, text) in tree.with_extension("md") {
        links(tree.root, path, text, complaints);
    }
    for path in &tree.config.required {
        if !tree.files.contains_key(path) {
            complain(complaints, path, 0, "this file must be there");
        }
    }
}

fn registries(path: &str, number: usize, line: &str, complaints: &mut Vec<Complaint>) {
    let line = line.to_lowercase();
    let named = REGISTRIES
        .iter()
        .any(|(name, domain)| line.contains(&format!("{name}.{domain}")));
    if named {
        complain(
            complaints,
            path,
            number,
            "names the host of a package registry; name the package and its kind instead",
        );
    }
}

fn to_do(path: &str, number: usize, line: &str, complaints: &mut Vec<Complaint>) {
    const WORDS_MIN: usize = 3;
    for mark in TO_DO {
        let Some((before, after)) = line.split_once(mark) else {
            continue;
        };
        let is_word = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
            && !after.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        if is_word
            && after
                .split_whitespace()
                .filter(|word| word.chars().any(char::is_alphanumeric))
                .count()
                < WORDS_MIN
        {
            complain(
                complaints,
                path,
                number,
                format!("{mark} must say what is to be done, in {WORDS_MIN} words at least"),
            );
        }
    }
}

/// Links to files lead to files.
fn links(root: &Path, path: &str, text: &str, complaints: &mut Vec<Complaint>) {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for target in line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split([')', ' ', '#']).next())
        {
            let elsewhere =
                target.is_empty() || target.contains("://") || target.starts_with("mailto:");
            if !elsewhere && !root.join(folder).join(target).exists() {
                complain(
                    complaints,
                    path,
                    index + 1,
                    format!("links to {target}, which is not there"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::complaints;
    use super::TO_DO;

    fn check(path: &str, text: &str) -> Vec<String> {
        complaints(&[(path, text)], "unsafe_files = []", super::check)
    }

    #[test]
    fn a_to_do_says_what() {
        for mark in TO_DO {
            assert_eq!(check("a.c", &format!("x; /* {mark} */")).len(), 1);
            assert_eq!(check("a.c", &format!("x; // {mark}: soon")).len(), 1);
            assert!(check("a.c", &format!("x; // {mark}: free the second buffer")).is_empty());
            assert!(check("a.c", &format!("{mark}_MAX")).is_empty());
        }
    }

    #[test]
    fn registries_are_not_named() {
        let (name, domain) = super::REGISTRIES[0];
        assert_eq!(
            check(
                "README.md",
                &format!("see https://index.{}.{domain}/x", name.to_uppercase())
            )
            .len(),
            1
        );
        assert!(check("Cargo.lock", &format!("{name}.{domain}")).is_empty());
    }

    #[test]
    fn links_lead_somewhere() {
        assert!(
            check(
                "a.md",
                "[x](Cargo.toml#deps) [y](https://example.com) [z](#here)\n```\n[x](none)\n```\n"
            )
            .is_empty()
        );
        assert_eq!(
            check("docs/a.md", "one\n[x](none.md)"),
            ["docs/a.md:2: links to none.md, which is not there"]
        );
    }
}
