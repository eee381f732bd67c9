//! The broker as processes of its own, on free ports, in a directory that goes with it.
//!
//! `BIN_DIR` says where the binaries are; else they are looked for beside the one that runs, and built if missing.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Once;

use tempfile::TempDir;

/// Which processes make the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tiers {
    /// `fluxmq`.
    One,
    /// `logd` and `mqtt-gateway`.
    Two,
}

/// Which of two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `fluxmq`, or the gateway.
    Front,
    /// `logd`.
    Logd,
}

/// A data directory and ports that stay the same over restarts.
pub struct Place {
    /// Which processes.
    pub tiers: Tiers,
    grpc_port: u16,
    /// Where MQTT listens.
    pub host: &'static str,
    /// MQTT's port.
    pub port: u16,
    /// Data shards.
    pub shards: u32,
    /// The data directory.
    pub data: PathBuf,
    /// Where the gateway finds `logd` if not at [`Self::grpc`].
    pub upstream: Option<String>,
    /// For whatever belongs to this place.
    pub dir: TempDir,
}

/// A process of ours that was started by hand: what it said until it was ready, or all it said.
pub struct Run {
    child: Child,
    /// Lines on standard output up to `ready in …`.
    pub lines: Vec<String>,
    /// Set when it ended by itself.
    ended: Option<ExitStatus>,
    stdout: BufReader<ChildStdout>,
    stderr: std::thread::JoinHandle<String>,
}

/// Starts a process and waits until it is ready or has ended.
pub fn run(command: &mut Command) -> Run {
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
    /// It runs and is ready.
    pub fn ready(&self) -> bool {
        self.ended.is_none()
    }

    /// Whether it said this line.
    pub fn said(&self, line: &str) -> bool {
        self.lines.iter().any(|said| said == line)
    }

    /// Its exit code; it must have ended by itself.
    pub fn code(&self) -> Option<i32> {
        self.ended.expect("it runs on").code()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM; returns how it ended.
    pub fn terminate(self) -> ExitStatus {
        self.stop_by("-TERM")
    }

    /// A signal that asks it to stop; returns how it ended.
    pub fn stop_by(mut self, signal: &str) -> ExitStatus {
        stop(&mut self.child, signal)
    }

    /// SIGTERM; returns what it said on standard output after it was ready, and on standard error.
    pub fn finish(mut self) -> (String, String) {
        stop(&mut self.child, "-TERM");
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("utf-8");
        (rest, self.stderr())
    }

    /// What it said on standard error; ends it if it runs.
    pub fn stderr(mut self) -> String {
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
pub struct Broker {
    /// `fluxmq`, or the gateway.
    front: Child,
    logd: Option<Child>,
}

/// Waits until a process that was just started is ready.
fn ready(mut child: Child) -> Child {
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let ready = lines.map_while(Result::ok).any(|line| line.starts_with("ready in "));
    assert!(ready, "it ended before it was ready");
    child
}

fn end(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    child.wait().expect("it was killed");
}

/// Where the binaries are.
fn binaries() -> PathBuf {
    if let Some(dir) = std::env::var_os("BIN_DIR") {
        return dir.into();
    }
    let mut dir = std::env::current_exe().expect("it runs");
    dir.pop();
    if dir.ends_with("deps") {
        dir.pop();
    }
    dir
}

/// One of our binaries; built if it is missing.
#[must_use]
pub fn binary(name: &str) -> Command {
    static BUILD: Once = Once::new();
    let dir = binaries();
    BUILD.call_once(|| {
        let is_there = |name: &&str| dir.join(name).exists();
        if !["fluxmq", "logd", "mqtt-gateway"].iter().all(is_there) {
            build(&dir);
        }
    });
    let path = dir.join(name);
    assert!(path.exists(), "{} is missing: cargo build --workspace --bins", path.display());
    Command::new(path)
}

fn build(dir: &Path) {
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    cargo.args(["build", "-p", "fluxmq", "-p", "logd", "-p", "mqtt-gateway"]);
    cargo.args(dir.ends_with("release").then_some("--release"));
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    assert!(cargo.status().expect("cargo is there").success(), "the binaries can be built");
}

/// A port nobody listens on.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

// === impl Place ===

impl Place {
    /// A place for `fluxmq`.
    #[must_use]
    pub fn new(shards: u32) -> Self {
        Self::of(Tiers::One, shards)
    }

    /// A place for these processes.
    #[must_use]
    pub fn of(tiers: Tiers, shards: u32) -> Self {
        let dir = TempDir::new().expect("a directory");
        let data = dir.path().join("data");
        let (grpc_port, port) = (free_port(), free_port());
        Self { tiers, grpc_port, host: "127.0.0.1", port, shards, data, upstream: None, dir }
    }

    fn command(&self) -> Command {
        let mut command = binary("fluxmq");
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

    fn spawn(&self, command: &mut Command) -> Child {
        let said = OpenOptions::new().create(true).append(true).open(self.said());
        command.stdout(Stdio::piped()).stderr(said.expect("a file of ours"));
        command.spawn().expect("the binary is there")
    }

    fn said(&self) -> PathBuf {
        self.dir.path().join("said.txt")
    }

    /// Panics and errors that the processes of this place reported.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let Ok(said) = File::open(self.said()) else { return Vec::new() };
        let lines = BufReader::new(said).lines().map_while(Result::ok);
        lines.filter(|l| l.contains("panicked") || l.contains("ERROR")).collect()
    }

    /// Starts the broker and waits until it is ready.
    #[must_use]
    pub fn start(&self) -> Broker {
        self.start_with(&[])
    }

    /// As [`Self::start`], with further arguments.
    #[must_use]
    pub fn start_with(&self, arguments: &[&str]) -> Broker {
        self.start_configured(arguments, &[])
    }

    /// As [`Self::start`], with further arguments and variables of the environment.
    #[must_use]
    pub fn start_configured(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Broker {
        if self.tiers == Tiers::Two {
            assert!(arguments.is_empty() && variables.is_empty(), "for one process");
            let logd = Some(ready(self.begin(Part::Logd)));
            return Broker { front: ready(self.begin(Part::Front)), logd };
        }
        let mut command = self.command();
        command.args(arguments).envs(variables.iter().copied());
        Broker { front: ready(self.spawn(&mut command)), logd: None }
    }

    /// Where gRPC is or can be served.
    #[must_use]
    pub fn grpc(&self) -> String {
        format!("127.0.0.1:{}", self.grpc_port)
    }

    /// A further gateway for the broker of this place, and its port.
    #[must_use]
    pub fn start_another_gateway(&self) -> (Broker, u16) {
        let port = free_port();
        (self.start_gateway(port, &self.grpc()), port)
    }

    /// A gateway on `port` that finds `logd` at `address`.
    #[must_use]
    pub fn start_gateway(&self, port: u16, address: &str) -> Broker {
        let child = self.spawn(&mut self.gateway_command(port, address));
        Broker { front: ready(child), logd: None }
    }

    fn gateway_command(&self, port: u16, address: &str) -> Command {
        let mut command = binary("mqtt-gateway");
        command
            .args(["--logd", &format!("http://{address}")])
            .args(["--mqtt", &format!("{}:{port}", self.host)])
            .args(["--admin", "off", "--mqtt-ws", "off"]);
        command
    }

    /// Starts a process of this place and does not wait.
    fn begin(&self, part: Part) -> Child {
        let mut command = match (self.tiers, part) {
            (Tiers::One, _) => self.command(),
            (Tiers::Two, Part::Front) => {
                let grpc = self.grpc();
                self.gateway_command(self.port, self.upstream.as_ref().unwrap_or(&grpc))
            }
            (Tiers::Two, Part::Logd) => {
                let mut command = binary("logd");
                command
                    .args(["--grpc", &self.grpc()])
                    .args(["--shards", &self.shards.to_string()])
                    .args(["--admin", "off", "--data-dir"])
                    .arg(&self.data);
                command
            }
        };
        self.spawn(&mut command)
    }

    /// Runs the broker with other arguments until it ends; its standard error.
    #[must_use]
    pub fn run_to_end(&self, arguments: &[&str]) -> (ExitStatus, String) {
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
    fn part(&mut self, part: Part) -> &mut Child {
        match part {
            Part::Front => &mut self.front,
            Part::Logd => self.logd.as_mut().expect("two processes"),
        }
    }

    /// kill -9 of every process.
    pub fn kill(mut self) {
        end(&mut self.front);
        self.logd.iter_mut().for_each(end);
    }

    /// kill -9 of one process.
    pub fn kill_part(&mut self, part: Part) {
        end(self.part(part));
    }

    /// Starts a process that was killed and does not wait.
    pub fn begin(&mut self, place: &Place, part: Part) {
        *self.part(part) = place.begin(part);
    }

    /// Starts a process that was killed and waits until it is ready.
    pub fn revive(&mut self, place: &Place, part: Part) {
        *self.part(part) = ready(place.begin(part));
    }

    /// SIGSTOP of `fluxmq`, or of the gateway.
    pub fn pause(&self) {
        signal(&self.front, "-STOP");
    }

    /// SIGSTOP of a process, or SIGCONT.
    pub fn stop_part(&mut self, part: Part, stop: bool) {
        signal(self.part(part), if stop { "-STOP" } else { "-CONT" });
    }

    /// kill -9 of `logd` alone, which is started again.
    pub fn restart_logd(&mut self, place: &Place) {
        self.kill_part(Part::Logd);
        self.revive(place, Part::Logd);
    }

    /// kill -9 of the gateway alone, which is started again.
    pub fn restart_gateway(&mut self, place: &Place) {
        assert!(self.logd.is_some(), "two processes");
        self.kill_part(Part::Front);
        self.revive(place, Part::Front);
    }

    /// SIGTERM of one process; returns how it ended.
    #[must_use]
    pub fn terminate_part(&mut self, part: Part) -> ExitStatus {
        stop(self.part(part), "-TERM")
    }

    /// SIGTERM; returns how it ended.
    #[must_use]
    pub fn terminate(mut self) -> ExitStatus {
        let ended = stop(&mut self.front, "-TERM");
        self.logd.as_mut().map_or(ended, |logd| {
            assert!(ended.success(), "the gateway");
            stop(logd, "-TERM")
        })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        end(&mut self.front);
        self.logd.iter_mut().for_each(end);
    }
}
