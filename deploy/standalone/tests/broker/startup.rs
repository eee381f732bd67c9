//! What a person sees of a start: everything that is wrong in one clear line each, or where everything is, and silence.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mqtt_codec::Version;

use crate::client::{Client, Options, message};
use crate::process::{Run, free_port, run};

struct Place {
    dir: tempfile::TempDir,
    mqtt: String,
    admin: String,
    port: u16,
}

impl Place {
    fn new() -> Self {
        let (port, admin) = (free_port(), free_port());
        let (mqtt, admin) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{admin}"));
        Self { dir: tempfile::TempDir::new().expect("a directory"), mqtt, admin, port }
    }

    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fluxmq"));
        self.arguments(&mut command);
        command
    }

    fn arguments(&self, command: &mut Command) {
        command.args(["--mqtt", &self.mqtt, "--admin", &self.admin]);
        command.args(["--grpc", "off", "--mqtt-ws", "off"]);
        command.arg("--data-dir").arg(self.data());
    }
}

/// The one line it says when it cannot start.
fn refusal(ended: Run) -> String {
    assert_eq!(ended.code(), Some(1));
    assert!(ended.lines.is_empty(), "{:?}", ended.lines);
    let said = ended.stderr();
    assert_eq!(said.lines().count(), 1, "{said}");
    said.strip_prefix("error: ").expect("an error").trim_end().to_owned()
}

#[test]
fn it_says_where_everything_is_and_then_nothing() {
    let place = Place::new();
    let started = run(&mut place.command());
    let lines = &started.lines;
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert_eq!(lines[0], format!("fluxmq {}", env!("CARGO_PKG_VERSION")));
    assert_eq!(lines[1], format!("data in {}", place.data().display()));
    assert_eq!(lines[2], format!("mqtt on {}", place.mqtt));
    assert_eq!(lines[3], format!("admin on {}", place.admin));
    let ms = lines[4].strip_prefix("ready in ").and_then(|l| l.strip_suffix(" ms"));
    assert!(ms.expect("ready in N ms").parse::<u64>().is_ok(), "{lines:?}");
    let mut client =
        Client::connect(place.port, &Options::persistent("c", Version::V5)).expect("connects");
    client.subscribe("t", 1).expect("subscribed");
    client.publish(&message("other", 1, 1, b"m")).expect("taken");
    drop(client);
    let (rest, said) = started.finish();
    assert_eq!((rest.as_str(), said.as_str()), ("", ""));
}

#[test]
fn all_taken_ports_are_told_at_once_with_what_to_do() {
    let place = Place::new();
    let _mqtt = std::net::TcpListener::bind(&place.mqtt).expect("free");
    let _admin = std::net::TcpListener::bind(&place.admin).expect("free");
    let ended = run(&mut place.command());
    assert_eq!(ended.code(), Some(1));
    let line = |at: &str, flag: &str| {
        format!(
            "error: {at} is in use; another broker may be running; choose --{flag} ADDR or --{flag} off\n"
        )
    };
    assert_eq!(ended.stderr(), line(&place.mqtt, "mqtt") + &line(&place.admin, "admin"));
    assert!(!place.data().exists(), "nothing was made");
}

#[test]
fn a_directory_that_is_not_ours_is_left_alone() {
    let place = Place::new();
    std::fs::create_dir(place.data()).expect("made");
    std::fs::write(place.data().join("holiday.jpg"), "x").expect("written");
    let said = refusal(run(&mut place.command()));
    assert!(said.contains("is not a data directory: it is not empty"), "{said}");
    assert_eq!(std::fs::read_dir(place.data()).expect("readable").count(), 1);

    let place = Place::new();
    std::fs::write(place.data(), "a file").expect("written");
    let said = refusal(run(&mut place.command()));
    assert!(said.contains("data directory"), "{said}");
}

#[test]
fn a_directory_of_a_newer_version_is_left_alone() {
    let place = Place::new();
    assert!(run(&mut place.command()).terminate().success());
    let identity = place.data().join("node/NODE");
    let good = std::fs::read(&identity).expect("it has one");
    let mut newer = good.clone();
    newer[8] = newer[8].wrapping_add(1);
    let sum = crc32fast::hash(&newer[..60]).to_le_bytes();
    newer[60..64].copy_from_slice(&sum);
    std::fs::write(&identity, &newer).expect("written");
    let said = refusal(run(&mut place.command()));
    assert!(said.ends_with("use a newer version"), "{said}");
    newer[60] ^= 1;
    std::fs::write(&identity, &newer).expect("written");
    let said = refusal(run(&mut place.command()));
    assert!(said.contains("damage in ") && said.contains("node/NODE"), "{said}");
    std::fs::write(&identity, &good).expect("written");
    assert!(run(&mut place.command()).ready());
}

#[test]
fn a_directory_in_use_is_left_alone() {
    let place = Place::new();
    let first = run(&mut place.command());
    let mut command = Command::new(env!("CARGO_BIN_EXE_fluxmq"));
    command
        .args(["--mqtt", "off", "--mqtt-ws", "off", "--grpc", "off", "--admin", "off"])
        .arg("--data-dir")
        .arg(place.data());
    let said = refusal(run(&mut command));
    assert_eq!(
        said,
        format!("data directory {} is in use by another process", place.data().display())
    );
    assert!(first.terminate().success());
}

#[test]
fn the_limit_on_open_files_is_raised() {
    let place = Place::new();
    let mut command = Command::new("sh");
    // Low enough that the broker would run out of it.
    let script = "ulimit -S -n 24; exec \"$0\" \"$@\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_fluxmq")]);
    place.arguments(&mut command);
    let started = run(&mut command);
    assert!(started.ready(), "{}", started.stderr());
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", started.pid()));
    let limits = limits.expect("it runs");
    let files = limits.lines().find(|l| l.starts_with("Max open files")).expect("a line");
    let figures: Vec<&str> = files.split_whitespace().skip(3).take(2).collect();
    assert!(figures[0] == figures[1] && figures[0] != "24", "{files}");
    let connect = |n: u32| {
        Client::connect(place.port, &Options::clean(&format!("c{n}"), Version::V311))
            .expect("connects")
    };
    let clients: Vec<_> = (0..64).map(connect).collect();
    drop(clients);
}

#[test]
fn version_and_help_are_told_and_what_is_no_flag_is_refused() {
    let said = |argument: &str| {
        let ended = Command::new(env!("CARGO_BIN_EXE_fluxmq")).arg(argument).output();
        let ended = ended.expect("the binary is built");
        let text = [ended.stdout, ended.stderr].concat();
        (ended.status.code(), String::from_utf8(text).expect("utf-8"))
    };
    let version = format!("fluxmq {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(said("--version"), (Some(0), version));
    let (code, help) = said("--help");
    assert_eq!(code, Some(0));
    for flag in [
        "--config",
        "--data-dir",
        "--mqtt",
        "--mqtt-ws",
        "--amqp",
        "--http",
        "--coap",
        "--grpc",
        "--admin",
        "--allow-anonymous",
    ] {
        assert!(
            help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n")),
            "{flag}"
        );
    }
    let (code, text) = said("--mqqt");
    assert!(code == Some(2) && text.contains("--mqtt"), "{text}");
    let (code, text) = said("--mqtt=nowhere");
    assert!(code == Some(2) && text.contains("write HOST:PORT"), "{text}");
}

#[test]
fn who_is_ready_can_be_asked_to_stop() {
    let place = Place::new();
    // The signal comes as soon as the line is there.
    for _ in 0..20 {
        assert!(run(&mut place.command()).terminate().success());
    }
}

#[test]
fn an_interrupt_is_a_way_to_stop() {
    let place = Place::new();
    let started = run(&mut place.command());
    assert!(started.ready());
    assert!(started.stop_by("-INT").success());
}

#[test]
fn nobody_needs_to_read_what_it_says() {
    let place = Place::new();
    let mut command = place.command();
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary is built");
    drop((child.stdout.take(), child.stderr.take()));
    let began = Instant::now();
    while Client::connect(place.port, &Options::clean("c", Version::V5)).is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "it does not serve");
        assert!(child.try_wait().expect("our child").is_none(), "it has ended");
    }
    child.kill().expect("it runs");
    child.wait().expect("it was killed");
    assert!(Path::new(&place.data()).exists());
}
