//! The documents tell the truth about the tree.

use std::path::{Path, PathBuf};

use crate::tree::{files, read, root};

fn markdown() -> Vec<PathBuf> {
    files().into_iter().filter(|p| p.extension().is_some_and(|e| e == "md")).collect()
}

/// Relative links of a Markdown text.
fn links(text: &str) -> Vec<&str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .map(|link| link.split('#').next().unwrap_or(link))
        .filter(|link| !link.is_empty() && !link.contains("://"))
        .collect()
}

/// Directories of crates that the code map of the architecture names.
fn mapped(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|l| l.strip_prefix("| `")?.split('`').next().map(str::to_owned))
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let mut dead = Vec::new();
    for path in markdown() {
        let folder = root().join(path.parent().unwrap_or(Path::new("")));
        for link in links(&read(&path)) {
            if !folder.join(link).exists() {
                dead.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
    assert_eq!(links("see [x](a/b.md#c) and [y](https://z)"), ["a/b.md"]);
}

#[test]
fn the_code_map_is_the_tree() {
    let mut mapped = mapped(&read(Path::new("docs/architecture.md")));
    let mut there: Vec<String> = files()
        .iter()
        .filter(|p| p.ends_with("Cargo.toml") && p.components().count() > 1)
        .filter(|p| !p.iter().any(|part| part == "fuzz"))
        .filter_map(|p| Some(p.parent()?.to_string_lossy().into_owned()))
        .collect();
    mapped.sort();
    there.sort();
    assert_eq!(mapped, there, "docs/architecture.md on the left, the tree on the right");
}

#[test]
fn what_the_readme_says_to_type_exists() {
    let makefile = read(Path::new("Makefile"));
    let readme = read(Path::new("README.md"));
    let said: Vec<_> = readme.lines().filter_map(|l| l.trim().strip_prefix("make ")).collect();
    assert!(said.contains(&"run") && said.contains(&"test"), "the two commands: {said:?}");
    for line in said {
        let target = line.split_whitespace().next().unwrap_or(line);
        assert!(makefile.contains(&format!("\n{target}:")), "no target {target}");
    }
}
