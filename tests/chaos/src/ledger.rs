//! What was sent, acknowledged and received, kept by another process: a line each, with the kernel before the
//! client goes on, so that nothing that happens to a client or to the harness changes the account.
//!
//! The ledger is neither killed nor does it lie on a disk that is cut off: what the kernel has is safe.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::process::binary;

/// What a line says of its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is going to be sent.
    Sent,
    /// The broker acknowledged it.
    Acknowledged,
    /// A subscriber has it; the subject is `subscriber<publisher`.
    Received,
}

// === impl Kind ===

impl Kind {
    fn letter(self) -> char {
        match self {
            Self::Sent => 's',
            Self::Acknowledged => 'a',
            Self::Received => 'r',
        }
    }

    fn of(letter: &str) -> Option<Self> {
        [Self::Sent, Self::Acknowledged, Self::Received]
            .into_iter()
            .find(|kind| letter.starts_with(kind.letter()))
    }
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What it says.
    pub kind: Kind,
    /// Of whom.
    pub subject: String,
    /// Which message or operation.
    pub number: u64,
}

/// The ledger's process and file.
pub struct Ledger {
    child: Child,
    socket: PathBuf,
    file: PathBuf,
}

/// Who writes into the ledger.
pub struct Pen {
    stream: UnixStream,
    lines: String,
}

// === impl Ledger ===

impl Ledger {
    /// Starts the process; its file lies in `dir`.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn start(dir: &Path) -> Self {
        let (socket, file) = (dir.join("ledger.socket"), dir.join("ledger.txt"));
        let mut command = own_binary();
        command.arg("ledger").arg(&file).arg(&socket);
        let child = command.spawn().expect("this program is there");
        let began = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "the ledger does not listen");
            std::thread::sleep(Duration::from_millis(1));
        }
        Self { child, socket, file }
    }

    /// A further writer.
    ///
    /// # Panics
    /// The ledger is gone.
    #[must_use]
    pub fn pen(&self) -> Pen {
        let stream = UnixStream::connect(&self.socket).expect("the ledger listens");
        Pen { stream, lines: String::new() }
    }

    /// Everything that was written.
    ///
    /// # Panics
    /// The file is gone or holds what no pen wrote.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let text = std::fs::read_to_string(&self.file).expect("the ledger's file");
        text.lines().map(|line| parse(line).unwrap_or_else(|| panic!("{line:?}"))).collect()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// This program, also when a test runs.
fn own_binary() -> Command {
    let own = std::env::current_exe().expect("it runs");
    if own.file_name().is_some_and(|name| name == "chaos") {
        return Command::new(own);
    }
    let beside = own.parent().and_then(Path::parent).map(|dir| dir.join("chaos"));
    beside.filter(|path| path.exists()).map_or_else(|| binary("chaos"), Command::new)
}

fn parse(line: &str) -> Option<Record> {
    let mut words = line.split(' ');
    let kind = Kind::of(words.next()?)?;
    let subject = words.next()?.to_owned();
    let number = words.next()?.parse().ok()?;
    words.next().is_none().then_some(Record { kind, subject, number })
}

// === impl Pen ===

impl Pen {
    /// Writes a line, which is kept when [`Self::keep`] returns.
    pub fn note(&mut self, kind: Kind, subject: &str, number: u64) {
        use std::fmt::Write as _;
        debug_assert!(!subject.contains([' ', '\n']));
        let _ = writeln!(self.lines, "{} {subject} {number}", kind.letter());
    }

    /// Returns when the ledger has all that was noted.
    ///
    /// # Panics
    /// The ledger is gone.
    pub fn keep(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let len = u32::try_from(self.lines.len()).expect("a few lines").to_be_bytes();
        let lines = std::mem::take(&mut self.lines);
        let mut kept = || -> io::Result<()> {
            self.stream.write_all(&len)?;
            self.stream.write_all(lines.as_bytes())?;
            self.stream.read_exact(&mut [0])
        };
        kept().expect("the ledger is there");
    }
}

/// The ledger's process: writes what comes on `socket` into `file` until it is killed.
///
/// # Errors
/// The file or the socket cannot be made.
pub fn serve(file: &Path, socket: &Path) -> io::Result<()> {
    let file = Arc::new(Mutex::new(OpenOptions::new().create(true).append(true).open(file)?));
    for stream in UnixListener::bind(socket)?.incoming() {
        let (mut stream, file) = (stream?, file.clone());
        std::thread::spawn(move || -> io::Result<()> {
            loop {
                let mut len = [0; 4];
                stream.read_exact(&mut len)?;
                let mut lines = vec![0; u32::from_be_bytes(len) as usize];
                stream.read_exact(&mut lines)?;
                file.lock().expect("no writer panics").write_all(&lines)?;
                stream.write_all(&[1])?;
            }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_were_written() {
        let of = |kind, subject: &str, number| Record { kind, subject: subject.into(), number };
        assert_eq!(parse("a p0 17"), Some(of(Kind::Acknowledged, "p0", 17)));
        assert_eq!(parse("r s<p0 3"), Some(of(Kind::Received, "s<p0", 3)));
        for wrong in ["x p0 1", "a p0", "a p0 one", "a p0 1 2", ""] {
            assert_eq!(parse(wrong), None);
        }
    }
}
