//! Settings in a file: strict YAML.

use std::path::Path;

use serde_saphyr::Error;

use super::nearest::suggestion;
use super::sections::FileLayer;

/// Bytes of a file of settings; a larger one is none.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Reads a file.
///
/// # Errors
/// What is wrong with it, in one line with file, line and column.
pub(super) fn read(path: &Path) -> Result<FileLayer, String> {
    let name = path.display();
    let failed = |why: &dyn std::fmt::Display| format!("{name}: {why}");
    let size = std::fs::metadata(path).map_err(|e| failed(&e))?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("{name}: {size} bytes are no file of settings"));
    }
    let bytes = std::fs::read(path).map_err(|e| failed(&e))?;
    let text = String::from_utf8(bytes).map_err(|_| failed(&"it is not UTF-8"))?;
    parse(&text).map_err(|why| failed(&why))
}

fn parse(text: &str) -> Result<FileLayer, String> {
    // Nothing but comments: every default holds.
    let is_blank = |line: &str| matches!(line.trim(), "" | "---") || line.trim().starts_with('#');
    if text.lines().all(is_blank) {
        return Ok(FileLayer::default());
    }
    serde_saphyr::from_str(text).map_err(|error| describe(&error))
}

/// The error in one line. The library's own message shows the place as several lines of source.
fn describe(error: &Error) -> String {
    let error = error.without_snippet();
    let at = error.location();
    let place =
        at.map_or(String::new(), |at| format!(", line {} column {}", at.line(), at.column()));
    if let Error::SerdeUnknownField { field, expected, .. } = error {
        return format!("unknown key `{field}`{place}{}", suggestion(field, expected));
    }
    let message = error.to_string();
    let mut what = message.lines().next().unwrap_or_default().to_owned();
    // The library speaks to programmers.
    for (theirs, ours) in [
        ("expected mapping start", "expected a map of keys"),
        ("cannot deserialize null into string; use Option<String>", "nothing is said"),
        (", set DuplicateKeyPolicy in Options if acceptable", ""),
        ("duplicate mapping key: ", "this key is there twice: "),
        ("invalid type: unit value", "nothing is said"),
        ("invalid u16", "not a number from 0 to 65535"),
        ("invalid u32", "not a number from 0 to 4294967295"),
        ("invalid u64", "not a number from 0 on"),
    ] {
        what = what.replace(theirs, ours);
    }
    if let Some(at) = at {
        what = what.replace(&format!(" at line {}, column {}", at.line(), at.column()), "");
    }
    format!("{what}{place}")
}
