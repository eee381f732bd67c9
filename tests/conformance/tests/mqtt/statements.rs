//! `docs/protocols/mqtt-conformance.md` is made from the statements, the tests and the reasons why some are not shown;
//! written anew with `UPDATE=1 cargo test -p conformance statements`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A statement of the standard, as `statements/*.tsv` has it.
struct Statement {
    id: String,
    text: String,
    binds: String,
    seen: String,
}

/// Version, file, and how a test names it.
const VERSIONS: [(&str, &str); 2] = [("5.0", "v5"), ("3.1.1", "v311")];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn statements(file: &str) -> Vec<Statement> {
    let text = read(&root().join(format!("statements/{file}.tsv")));
    let fields = |line: &str| {
        let mut fields = line.split('\t').map(str::to_owned);
        let mut next = || fields.next().expect("four fields");
        Statement { id: next(), text: next(), binds: next(), seen: next() }
    };
    text.lines().map(fields).collect()
}

/// Reasons for statements that no test shows: version, id, reason.
fn reasons() -> BTreeMap<(String, String), String> {
    let text = read(&root().join("statements/not-shown.tsv"));
    let fields = |line: &str| {
        let mut fields = line.splitn(3, '\t').map(str::to_owned);
        let mut next = || fields.next().expect("three fields");
        ((next(), next()), next())
    };
    text.lines().map(fields).collect()
}

/// Tests by version and statement: the lines above `fn` that say so.
fn tests() -> BTreeMap<(String, String), Vec<String>> {
    let mut all: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for entry in std::fs::read_dir(root().join("tests/mqtt")).expect("a directory") {
        let path = entry.expect("an entry").path();
        let module = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let mut named = Vec::new();
        for line in read(&path).lines() {
            for (version, _) in VERSIONS {
                if let Some(ids) = line.strip_prefix(&format!("/// {version}: ")) {
                    named.extend(ids.split(' ').map(|id| (version.to_owned(), id.to_owned())));
                }
            }
            if let Some(rest) = line.strip_prefix("fn ") {
                let name = rest.split('(').next().expect("a name");
                for key in named.drain(..) {
                    all.entry(key).or_default().push(format!("{module}::{name}"));
                }
            }
        }
    }
    all
}

/// Whether a server is bound, or its reaction to a client's breach can be seen.
fn is_ours(statement: &Statement) -> bool {
    statement.seen != "no" || statement.binds != "client"
}

fn document() -> String {
    let (tests, reasons) = (tests(), reasons());
    let mut body = String::new();
    let mut summary = String::from(
        "| | statements that bind a server or are seen at one | shown by a test | not shown, with a reason |\n|---|---|---|---|\n",
    );
    for (version, file) in VERSIONS {
        let (mut ours, mut shown, mut not_shown) = (0, 0, 0);
        writeln!(body, "\n## MQTT {version}\n\n| id | statement | tests |\n|---|---|---|")
            .expect("a string");
        for statement in statements(file).iter().filter(|s| is_ours(s)) {
            ours += 1;
            let key = (version.to_owned(), statement.id.clone());
            let how = match (tests.get(&key), reasons.get(&key)) {
                (Some(tests), None) => {
                    shown += 1;
                    tests.iter().map(|t| format!("`{t}`")).collect::<Vec<_>>().join(" ")
                }
                (None, Some(reason)) => {
                    not_shown += 1;
                    format!("not shown: {reason}")
                }
                (Some(_), Some(_)) => {
                    panic!("{version} {}: shown, and a reason why not", statement.id)
                }
                (None, None) => {
                    panic!("{version} {}: neither shown nor a reason why not", statement.id)
                }
            };
            let text = statement.text.replace('|', "\\|");
            writeln!(body, "| {} | {text} | {how} |", statement.id).expect("a string");
        }
        writeln!(summary, "| MQTT {version} | {ours} | {shown} | {not_shown} |").expect("a string");
    }
    format!(
        "# MQTT conformance\n\n\
         Made from `tests/conformance` by its test `statements`; not to be edited. Ids are those of the OASIS standards without\n\
         `MQTT-`; the lines are short paraphrases. Statements about clients alone that no server can see are left out.\n\n\
         {summary}{body}"
    )
}

#[test]
fn the_document_is_what_the_tests_show() {
    let path = root().join("../../docs/protocols/mqtt-conformance.md");
    let want = document();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &want).expect("written");
    }
    let message =
        "docs/protocols/mqtt-conformance.md is old: UPDATE=1 cargo test -p conformance statements";
    assert!(read(&path) == want, "{message}");
}

#[test]
fn every_id_that_is_named_exists() {
    let mut wrong = Vec::new();
    let keys: Vec<_> = tests().into_keys().chain(reasons().into_keys()).collect();
    for (version, file) in VERSIONS {
        let known = statements(file);
        let unknown =
            keys.iter().filter(|(v, id)| v == version && !known.iter().any(|s| s.id == *id));
        wrong.extend(unknown.cloned());
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
