//! What a person sees of a start, and how it ends: one clear line for each thing that is wrong, or a few lines that
//! say where everything is, `ready in N ms`, and silence.

use std::fmt::Arguments;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::ExitCode;
use std::time::Instant;

use tokio::runtime::{Builder, Runtime};

use crate::listen::{ListenAddress, bind_all, refuse_exposed};
use crate::program::Program;
use crate::settings::security::Text;
use crate::settings::{DataDir, Settings};
use crate::{file_limit, logging};

/// A start that is under way.
pub struct Startup {
    program: Program,
    began: Instant,
}

/// Sockets of a process, by the flag that says where each listens.
pub struct Listeners(Vec<(&'static str, Vec<TcpListener>)>);

// === impl Startup ===

impl Startup {
    /// Begins a start: logs as `settings` say, and raises the limit on open files.
    ///
    /// # Errors
    /// A line each.
    pub fn begin(program: Program, settings: &Settings) -> Result<Self, Vec<String>> {
        let began = Instant::now();
        logging::start(settings.log.level.as_str()).map_err(|e| vec![e])?;
        file_limit::raise();
        Ok(Self { program, began })
    }

    /// When it began.
    #[must_use]
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Binds every address of `wanted`, pairs of flag and address, unless others can reach one that serves anybody.
    ///
    /// # Errors
    /// Everything that is in the way, a line each.
    pub fn bind(
        &self,
        settings: &Settings,
        wanted: &[(&'static str, &ListenAddress)],
    ) -> Result<Listeners, Vec<String>> {
        if !settings.security.allow_anonymous {
            let has_users = !settings.security.users.0.is_empty();
            let is_checked = !settings.grpc.client_authorities.0.is_empty();
            let open = |flag: &str| if flag == "grpc" { !is_checked } else { !has_users };
            let open: Vec<_> = wanted.iter().filter(|(flag, _)| open(flag)).copied().collect();
            refuse_exposed(self.program, &open)?;
        }
        let bound = bind_all(wanted)?;
        Ok(Listeners(wanted.iter().map(|(flag, _)| *flag).zip(bound).collect()))
    }

    /// Says version, data directory (for programs that have one) and each listener.
    pub fn announce(&self, data_dir: Option<&DataDir>, listeners: &Listeners) {
        say(format_args!("{} {}", self.program, env!("CARGO_PKG_VERSION")));
        match data_dir {
            Some(DataDir::Memory) => {
                say(format_args!("data in memory: nothing survives this process"));
            }
            Some(DataDir::At(path)) => say(format_args!("data in {}", path.display())),
            None => {}
        }
        for (flag, sockets) in &listeners.0 {
            for at in sockets.iter().filter_map(|socket| socket.local_addr().ok()) {
                say(format_args!("{flag} on {at}"));
            }
        }
    }

    /// A runtime of one thread, for this one.
    ///
    /// # Errors
    /// The system has none to give.
    pub fn runtime(&self) -> Result<Runtime, Vec<String>> {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.map_err(|e| vec![format!("cannot start the runtime: {e}")])
    }

    /// Says that clients may come.
    pub fn ready(&self) {
        say(format_args!("ready in {} ms", self.began.elapsed().as_millis()));
    }
}

// === impl Listeners ===

impl Listeners {
    /// Further handles to the sockets of a flag, which stay to be announced.
    #[must_use]
    pub fn duplicates(&self, flag: &str) -> Vec<TcpListener> {
        let found = self.0.iter().find(|(f, _)| *f == flag);
        let sockets = found.into_iter().flat_map(|(_, sockets)| sockets);
        sockets.filter_map(|socket| socket.try_clone().ok()).collect()
    }

    /// The sockets of a flag; none when it is off or was taken before.
    pub fn take(&mut self, flag: &str) -> Vec<TcpListener> {
        let found = self.0.iter_mut().find(|(f, _)| *f == flag);
        found.map(|(_, sockets)| std::mem::take(sockets)).unwrap_or_default()
    }
}

/// Ends the process: 0 when all went well, 1 with what went wrong on standard error. (A command line that cannot be
/// read ends it with 2 before.)
#[must_use]
pub fn exit(result: Result<(), Vec<String>>) -> ExitCode {
    let Err(lines) = result else { return ExitCode::SUCCESS };
    for line in lines {
        // Nobody may be listening; the exit code says it as well.
        let _ = writeln!(std::io::stderr(), "error: {line}");
    }
    ExitCode::FAILURE
}

/// What stands in the PEM file that `key` of the configuration names; None where it names none.
///
/// # Errors
/// A line that names key and file: it cannot be read, or is no PEM.
pub fn pem_file(key: &str, file: &Text) -> Result<Option<Vec<u8>>, Vec<String>> {
    if file.0.is_empty() {
        return Ok(None);
    }
    let wrong = |why: &dyn std::fmt::Display| vec![format!("{key}: {}: {why}", file.0)];
    let pem = std::fs::read(&file.0).map_err(|error| wrong(&error))?;
    if !pem.windows(11).any(|at| at == b"-----BEGIN ") {
        return Err(wrong(&"there is no PEM in it"));
    }
    Ok(Some(pem))
}

/// The only lines on standard output. Whoever started us may have closed it: that is no reason to stop.
fn say(line: Arguments<'_>) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
