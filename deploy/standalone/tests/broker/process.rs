//! The broker as a process of its own, on a free port, in a directory that goes with it.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use tempfile::TempDir;

/// Which processes make the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tiers {
    /// `fluxmq`.
    One,
    /// `logd` and `mqtt-gateway`.
    Two,
}

/// A data directory and a port that stay the same over restarts.
pub(crate) struct Place {
    pub(crate) tiers: Tiers,
    grpc_port: u16,
    pub(crate) host: &'static str,
    pub(crate) port: u16,
    pub(crate) shards: u32,
    pub(crate) data: PathBuf,
    _dir: TempDir,
}

/// A process of ours that was started by hand: what it said until it was ready, or all it said.
pub(crate) struct Run {
    child: Child,
    /// Lines on standard output up to `ready in …`.
    pub(crate) lines: Vec<String>,
    /// Set when it ended by itself.
    ended: Option<ExitStatus>,
    stdout: BufReader<ChildStdout>,
    stderr: std::thread::JoinHandle<String>,
}

/// Starts a process and waits until it is ready or has ended.
pub(crate) fn run(command: &mut Command) -> Run {
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary is built");
    let mut stderr = child.stderr.take().expect("piped");
    let stderr = std::thread::spawn(move || {
        let mut said = String::new();
        stderr.read_to_string(&mut said).expect("utf-8");
        said
    });
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut lines = Vec::new();
    for line in stdout.by_ref().lines() {
        lines.push(line.expect("utf-8"));
        if lines.last().is_some_and(|line| line.starts_with("ready in ")) {
            return Run { child, lines, ended: None, stdout, stderr };
        }
    }
    let ended = Some(child.wait().expect("it ended"));
    Run { child, lines, ended, stdout, stderr }
}

// === impl Run ===

impl Run {
    pub(crate) fn ready(&self) -> bool {
        self.ended.is_none()
    }

    /// Whether it said this line.
    pub(crate) fn said(&self, line: &str) -> bool {
        self.lines.iter().any(|said| said == line)
    }

    /// Its exit code; it must have ended by itself.
    pub(crate) fn code(&self) -> Option<i32> {
        self.ended.expect("it runs on").code()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM; returns how it ended.
    pub(crate) fn terminate(self) -> ExitStatus {
        self.stop_by("-TERM")
    }

    /// A signal that asks it to stop; returns how it ended.
    pub(crate) fn stop_by(mut self, signal: &str) -> ExitStatus {
        stop(&mut self.child, signal)
    }

    /// SIGTERM; returns what it said on standard output after it was ready, and on standard error.
    pub(crate) fn finish(mut self) -> (String, String) {
        stop(&mut self.child, "-TERM");
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("utf-8");
        (rest, self.stderr())
    }

    /// What it said on standard error; ends it if it runs.
    pub(crate) fn stderr(mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let reader = std::mem::replace(&mut self.stderr, std::thread::spawn(String::new));
        reader.join().expect("it read all")
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks a process to stop and waits until it has.
fn stop(child: &mut Child, signal_name: &str) -> ExitStatus {
    signal(child, signal_name);
    child.wait().expect("it ended")
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args([name, &pid]).status().expect("kill is there");
    assert!(sent.success());
}

/// A running broker; killed when it goes out of scope.
pub(crate) struct Broker {
    /// `fluxmq`, or the gateway.
    child: Child,
    logd: Option<Child>,
}

/// Starts a process that must become ready.
fn start(command: &mut Command) -> Child {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary is built");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let ready = lines.map_while(Result::ok).any(|line| line.starts_with("ready in "));
    assert!(ready, "it ended before it was ready");
    child
}

/// One of our binaries; cargo puts them into one directory.
fn binary(name: &str) -> Command {
    let path = PathBuf::from(env!("CARGO_BIN_EXE_fluxmq")).with_file_name(name);
    assert!(path.exists(), "build all binaries first: cargo build --workspace --bins");
    Command::new(path)
}

/// A port nobody listens on.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

// === impl Place ===

impl Place {
    pub(crate) fn new(shards: u32) -> Self {
        Self::of(Tiers::One, shards)
    }

    pub(crate) fn of(tiers: Tiers, shards: u32) -> Self {
        let dir = TempDir::new().expect("a directory");
        Self {
            tiers,
            grpc_port: free_port(),
            host: "127.0.0.1",
            port: free_port(),
            shards,
            data: dir.path().join("data"),
            _dir: dir,
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fluxmq"));
        command
            .args(["--mqtt", &format!("{}:{}", self.host, self.port)])
            .args(["--shards", &self.shards.to_string()])
            // By variables, so that tests can say otherwise by flags.
            .env("FLUXMQ_ADMIN_LISTEN", "off")
            .env("FLUXMQ_GRPC_LISTEN", "off")
            .env("FLUXMQ_MQTT_WS_LISTEN", "off")
            .env("FLUXMQ_NODE_DATA_DIR", &self.data);
        command
    }

    /// Starts the broker and waits until it is ready.
    pub(crate) fn start(&self) -> Broker {
        self.start_with(&[])
    }

    /// As [`Self::start`], with further arguments.
    pub(crate) fn start_with(&self, arguments: &[&str]) -> Broker {
        self.start_configured(arguments, &[])
    }

    /// As [`Self::start`], with further arguments and variables of the environment.
    pub(crate) fn start_configured(
        &self,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Broker {
        if self.tiers == Tiers::Two {
            assert!(arguments.is_empty() && variables.is_empty(), "for one process");
            let logd = Some(self.start_logd());
            return Broker { child: self.start_gateway(), logd };
        }
        let mut command = self.command();
        command.args(arguments).envs(variables.iter().copied());
        Broker { child: start(&mut command), logd: None }
    }

    /// Where gRPC is or can be served.
    pub(crate) fn grpc(&self) -> String {
        format!("127.0.0.1:{}", self.grpc_port)
    }

    /// A further gateway for the broker of this place, and its port.
    pub(crate) fn start_another_gateway(&self) -> (Broker, u16) {
        let port = free_port();
        let child = start(&mut self.gateway_command(port));
        (Broker { child, logd: None }, port)
    }

    fn gateway_command(&self, port: u16) -> Command {
        let mut command = binary("mqtt-gateway");
        command
            .args(["--logd", &format!("http://{}", self.grpc())])
            .args(["--mqtt", &format!("{}:{port}", self.host)])
            .args(["--admin", "off", "--mqtt-ws", "off"]);
        command
    }

    fn start_logd(&self) -> Child {
        let mut command = binary("logd");
        command
            .args(["--grpc", &self.grpc()])
            .args(["--shards", &self.shards.to_string()])
            .args(["--admin", "off", "--data-dir"])
            .arg(&self.data);
        start(&mut command)
    }

    fn start_gateway(&self) -> Child {
        start(&mut self.gateway_command(self.port))
    }

    /// Runs the broker with other arguments until it ends; its standard error.
    pub(crate) fn run_to_end(&self, arguments: &[&str]) -> (ExitStatus, String) {
        let mut child = self
            .command()
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary is built");
        let mut said = String::new();
        let mut stderr = child.stderr.take().expect("piped");
        stderr.read_to_string(&mut said).expect("utf-8");
        (child.wait().expect("it ended"), said)
    }
}

// === impl Broker ===

impl Broker {
    /// kill -9 of every process.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was killed");
        if let Some(mut logd) = self.logd.take() {
            logd.kill().expect("it runs");
            logd.wait().expect("it was killed");
        }
    }

    /// SIGSTOP of `fluxmq`, or of the gateway.
    pub(crate) fn pause(&self) {
        signal(&self.child, "-STOP");
    }

    /// kill -9 of `logd` alone, which is started again.
    pub(crate) fn restart_logd(&mut self, place: &Place) {
        let logd = self.logd.as_mut().expect("two processes");
        logd.kill().expect("it runs");
        logd.wait().expect("it was killed");
        *logd = place.start_logd();
    }

    /// kill -9 of the gateway alone, which is started again.
    pub(crate) fn restart_gateway(&mut self, place: &Place) {
        assert!(self.logd.is_some(), "two processes");
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was killed");
        self.child = place.start_gateway();
    }

    /// SIGTERM; returns how it ended.
    pub(crate) fn terminate(mut self) -> ExitStatus {
        let ended = stop(&mut self.child, "-TERM");
        self.logd.as_mut().map_or(ended, |logd| {
            assert!(ended.success(), "the gateway");
            stop(logd, "-TERM")
        })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        for child in std::iter::once(&mut self.child).chain(&mut self.logd) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
