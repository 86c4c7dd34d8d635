//! Rules for Rust files.

use std::collections::HashSet;

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::{Complaint, Tree, complain};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 5] = ["common", "helpers", "misc", "types", "utils"];

pub(super) fn check(tree: &Tree<'_>, complaints: &mut Vec<Complaint>) {
    let (mut modules, mut with_unsafe) = (HashSet::new(), HashSet::new());
    for (path, text) in tree.with_extension("rs") {
        head(path, text, complaints);
        let parsed = text
            .parse::<TokenStream>()
            .map_err(syn::Error::from)
            .and_then(|tokens| Ok((first_unsafe(tokens), syn::parse_file(text)?)));
        let (first_unsafe, file) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                complain(
                    complaints,
                    path,
                    error.span().start().line,
                    format!("does not parse: {error}"),
                );
                continue;
            }
        };
        if let Some(span) = first_unsafe {
            with_unsafe.insert(path);
            unsafe_is_listed(tree, path, span, complaints);
        }
        let mut reader = Reader {
            path,
            lines: text.lines().collect(),
            modules: &mut modules,
            complaints,
        };
        reader.visit_file(&file);
    }
    for entry in &tree.config.unsafe_files {
        if !with_unsafe.contains(entry.file.as_str()) {
            complain(
                complaints,
                "xtask/tidy.toml",
                0,
                format!("{} uses no unsafe; remove it from unsafe_files", entry.file),
            );
        }
        if entry.reason.trim().is_empty() {
            complain(
                complaints,
                "xtask/tidy.toml",
                0,
                format!("{} in unsafe_files needs a reason", entry.file),
            );
        }
    }
    dead_files(tree, &modules, complaints);
}

/// The file opens with its documentation, and is short or says why it is not.
fn head(path: &str, text: &str, complaints: &mut Vec<Complaint>) {
    let docs: Vec<_> = text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .collect();
    if docs.first().is_none_or(|line| line.len() < "//! x".len()) {
        complain(
            complaints,
            path,
            1,
            "open the file with a //! comment that says what it is",
        );
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX
        && !docs
            .iter()
            .any(|line| gives_reason(line, "//! Long because:"))
    {
        complain(
            complaints,
            path,
            0,
            format!(
                "{lines} lines are more than {FILE_LINES_MAX}; split it, or put `//! Long because: …` in its head"
            ),
        );
    }
}

fn gives_reason(line: &str, opening: &str) -> bool {
    line.trim_start()
        .strip_prefix(opening)
        .is_some_and(|reason| !reason.trim().is_empty())
}

fn unsafe_is_listed(tree: &Tree<'_>, path: &str, span: Span, complaints: &mut Vec<Complaint>) {
    let at_home = tree
        .config
        .unsafe_folders
        .iter()
        .any(|folder| path.starts_with(folder));
    let listed = tree
        .config
        .unsafe_files
        .iter()
        .any(|entry| entry.file == path);
    if !at_home && !listed {
        complain(
            complaints,
            path,
            span.start().line,
            "`unsafe` belongs into crates/sys, or list this file with a reason in xtask/tidy.toml",
        );
    }
}

/// Looks into macros too. Comments and strings are no tokens of their own, so they cannot deceive.
fn first_unsafe(tokens: TokenStream) -> Option<Span> {
    tokens.into_iter().find_map(|token| match token {
        TokenTree::Ident(word) if word == "unsafe" => Some(word.span()),
        TokenTree::Group(group) => first_unsafe(group.stream()),
        _ => None,
    })
}

struct Reader<'a, 'b> {
    path: &'a str,
    lines: Vec<&'a str>,
    /// Modules declared with a file of their own: (declaring file, name).
    modules: &'b mut HashSet<(String, String)>,
    complaints: &'b mut Vec<Complaint>,
}

impl Reader<'_, '_> {
    fn measure(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let (first, last) = (
            signature.fn_token.span.start().line,
            block.brace_token.span.close().end().line,
        );
        let length = last + 1 - first;
        let before = self.lines[..first - 1].iter().rev();
        let mut heading = before.take_while(|line| {
            line.trim_start().starts_with("//") || line.trim_start().starts_with("#[")
        });
        if length > FUNCTION_LINES_MAX
            && !heading.any(|line| gives_reason(line, "// long because:"))
        {
            let message = format!(
                "`{}` has {length} lines, more than {FUNCTION_LINES_MAX}; split it, or put `// long because: …` above",
                signature.ident
            );
            complain(self.complaints, self.path, first, message);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_, '_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.measure(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.measure(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        if EMPTY_NAMES.contains(&name.as_str()) {
            complain(
                self.complaints,
                self.path,
                item.ident.span().start().line,
                format!("a module called `{name}` says nothing; name what it holds"),
            );
        }
        if item.content.is_none() {
            self.modules.insert((self.path.to_owned(), name));
        }
        visit::visit_item_mod(self, item);
    }
}

/// Every file under a `src` folder is declared as a module by the file above it.
fn dead_files(
    tree: &Tree<'_>,
    modules: &HashSet<(String, String)>,
    complaints: &mut Vec<Complaint>,
) {
    for (path, _) in tree.with_extension("rs") {
        let Some((folder, file)) = path.rsplit_once('/') else {
            continue;
        };
        let is_root = folder.ends_with("/src") && matches!(file, "lib.rs" | "main.rs")
            || file == "main.rs"
                && folder
                    .rsplit_once('/')
                    .is_some_and(|(above, _)| above.ends_with("/src/bin"));
        if !format!("{folder}/").contains("/src/") || is_root || folder.ends_with("/src/bin") {
            continue;
        }
        let (folder, name) = match file {
            "mod.rs" => folder.rsplit_once('/').unwrap_or((folder, "")),
            file => (folder, file.trim_end_matches(".rs")),
        };
        let above = [
            format!("{folder}.rs"),
            format!("{folder}/mod.rs"),
            format!("{folder}/lib.rs"),
            format!("{folder}/main.rs"),
        ];
        if !above
            .iter()
            .any(|above| modules.contains(&(above.clone(), name.to_owned())))
        {
            complain(
                complaints,
                path,
                0,
                format!("no file declares `mod {name}`; declare it or remove the file"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::complaints;

    fn check(path: &str, text: &str, tables: &str) -> Vec<String> {
        complaints(&[(path, text)], tables, super::check)
    }

    const NONE: &str = "unsafe_files = []";

    #[test]
    fn a_file_opens_with_documentation() {
        assert!(check("x/lib.rs", "//! What it is.\n", NONE).is_empty());
        assert_eq!(
            check("x/lib.rs", "fn f() {}\n", NONE),
            ["x/lib.rs:1: open the file with a //! comment that says what it is"]
        );
    }

    #[test]
    fn unsafe_is_found_in_macros_and_not_in_comments() {
        let hidden =
            "//! Doc.\n// unsafe\n/// unsafe\nfn f() { m!(\"unsafe\", { unsafe { g() } }) }\n";
        assert!(check("crates/sys/x.rs", hidden, NONE).is_empty());
        assert!(check("a/x.rs", hidden, NONE)[0].starts_with("a/x.rs:4: `unsafe` belongs"));
        assert!(
            check(
                "a/x.rs",
                hidden,
                "unsafe_files = [{file = 'a/x.rs', reason = 'r'}]"
            )
            .is_empty()
        );
        let dead = check(
            "a/x.rs",
            "//! Doc.\n",
            "unsafe_files = [{file = 'a/x.rs', reason = 'r'}]",
        );
        assert_eq!(
            dead,
            ["xtask/tidy.toml: a/x.rs uses no unsafe; remove it from unsafe_files"]
        );
    }

    #[test]
    fn long_functions_need_a_reason() {
        let body = "    g();\n".repeat(69);
        let long = format!("//! Doc.\n\nimpl A {{\n#[inline]\nfn f() {{\n{body}}}\n}}\n");
        assert!(check("a/x.rs", &long, NONE)[0].starts_with("a/x.rs:5: `f` has 71 lines"));
        let excused = long.replace("#[inline]", "// long because: a table\n#[inline]");
        assert!(check("a/x.rs", &excused, NONE).is_empty());
        let unexplained = long.replace("#[inline]", "// long because:\n#[inline]");
        assert_eq!(check("a/x.rs", &unexplained, NONE).len(), 1);
    }

    #[test]
    fn long_files_need_a_reason() {
        let long = format!("//! Doc.\n{}", "//\n".repeat(600));
        assert!(check("a/x.rs", &long, NONE)[0].contains("601 lines"));
        assert!(
            check(
                "a/x.rs",
                &long.replacen("Doc.", "Doc.\n//! Long because: one table.", 1),
                NONE
            )
            .is_empty()
        );
    }

    #[test]
    fn files_that_nothing_declares_are_dead() {
        let files = [
            ("a/src/lib.rs", "//! Doc.\nmod b;\n"),
            ("a/src/b.rs", "//! Doc.\nmod c;\n"),
            ("a/src/b/c.rs", "//! Doc.\n"),
        ];
        assert!(complaints(&files, NONE, super::check).is_empty());
        let files = [
            ("a/src/lib.rs", "//! Doc.\nmod b { }\n"),
            ("a/src/b.rs", "//! Doc.\n"),
        ];
        assert_eq!(complaints(&files, NONE, super::check).len(), 1);
    }
}
