//! Files of one subject, functions of one page.

use crate::tree::{read, sources};

/// Lines of a file that are not tests.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function.
const FUNCTION_LINES_MAX: usize = 70;

/// Lines before the inline tests begin.
fn code(text: &str) -> Vec<&str> {
    text.lines().take_while(|l| l.trim() != "#[cfg(test)]").collect()
}

/// Functions that are too long: (name line, lines). rustfmt puts the closing brace of an item at the
/// indentation of its first line.
fn long_functions(lines: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let first = line.trim_start();
        let is_function = [
            "fn ",
            "pub fn ",
            "pub(crate) fn ",
            "async fn ",
            "pub async fn ",
            "pub(crate) async fn ",
        ]
        .iter()
        .any(|start| first.starts_with(start));
        if !is_function || first.ends_with(';') {
            continue;
        }
        let end = format!("{}}}", " ".repeat(indent));
        let len = lines[at..].iter().position(|l| *l == end).map_or(0, |n| n + 1);
        if len > FUNCTION_LINES_MAX {
            found.push(format!("{first} has {len} lines"));
        }
    }
    found
}

#[test]
fn files_and_functions_are_short() {
    let mut wrong = Vec::new();
    for path in sources() {
        let text = read(&path);
        let is_test = path.components().any(|c| c.as_os_str() == "tests")
            || path.file_name().is_some_and(|n| n == "tests.rs");
        let lines = code(&text);
        if !is_test && lines.len() > FILE_LINES_MAX {
            wrong.push(format!("{} has {} lines", path.display(), lines.len()));
        }
        wrong
            .extend(long_functions(&lines).into_iter().map(|f| format!("{}: {f}", path.display())));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_long_function_is_found() {
    let long = format!("    fn long() {{\n{}    }}\n", "        x();\n".repeat(70));
    assert_eq!(long_functions(&code(&long)).len(), 1);
    let short = format!("    fn short() {{\n{}    }}\n", "        x();\n".repeat(60));
    assert!(long_functions(&code(&short)).is_empty());
}
