//! Settings as a person gives them: files, variables and flags of a real process.

use std::path::{Path, PathBuf};
use std::process::Command;

use mqtt_codec::Version;

use crate::client::{Client, Options, message};
use crate::process::{Run, free_port, run};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name)
}

/// A fluxmq with a file of its own, in a directory that goes with it.
pub(crate) struct Configured {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) port: u16,
    admin: u16,
}

impl Configured {
    /// The listeners are on free ports; `text` says the rest.
    pub(crate) fn new() -> Self {
        let dir = tempfile::TempDir::new().expect("a directory");
        Self { dir, port: free_port(), admin: free_port() }
    }

    pub(crate) fn command(&self, text: &str) -> Command {
        let path = self.dir.path().join("fluxmq.yaml");
        std::fs::write(&path, text).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_fluxmq"));
        command.current_dir(self.dir.path()).arg("--config").arg(path);
        command.env("FLUXMQ_MQTT_LISTEN", format!("127.0.0.1:{}", self.port));
        command.env("FLUXMQ_ADMIN_LISTEN", format!("127.0.0.1:{}", self.admin));
        // Nobody asks there; their default ports may be taken.
        command.envs([("FLUXMQ_GRPC_LISTEN", "off"), ("FLUXMQ_MQTT_WS_LISTEN", "off")]);
        command
    }

    fn start(&self, text: &str) -> Run {
        run(&mut self.command(text))
    }
}

#[test]
fn every_file_we_ship_starts() {
    let files = std::fs::read_dir(shipped("")).expect("deploy/config is there");
    let names: Vec<_> = files.map(|f| f.expect("readable").file_name()).collect();
    assert!(names.len() >= 5, "{names:?}");
    for name in names {
        let name = name.to_str().expect("utf-8");
        // Every one is valid for fluxmq too: sections of the other programs are checked and ignored.
        let place = Configured::new();
        let text = std::fs::read_to_string(shipped(name)).expect("readable");
        let mut command = place.command(&text);
        // The variables move the listeners to free ports; the directory must not be one of the machine's.
        command.arg("--data-dir").arg(place.dir.path().join("data"));
        command.args(["--grpc", &format!("127.0.0.1:{}", free_port())]);
        let started = run(&mut command);
        assert!(started.ready(), "{name}: {}", started.stderr());
        Client::connect(place.port, &Options::clean("c", Version::V5)).expect(name);
        assert!(started.terminate().success(), "{name}");
    }
}

#[test]
fn flag_before_variable_before_file() {
    let place = Configured::new();
    let mut command = place.command("node:\n  data_dir: from-file\nlog:\n  level: error\n");
    let started = run(&mut command);
    assert!(started.said("data in from-file"), "{:?}", started.lines);
    drop(started);
    command.env("FLUXMQ_NODE_DATA_DIR", "from-variable");
    let started = run(&mut command);
    assert!(started.said("data in from-variable"), "{:?}", started.lines);
    drop(started);
    let started = run(command.args(["--data-dir", "from-flag"]));
    assert!(started.said("data in from-flag"), "{:?}", started.lines);
    for made in ["from-file", "from-variable", "from-flag"] {
        assert!(place.dir.path().join(made).join("node").is_dir(), "{made}");
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once_and_nothing_is_started() {
    let place = Configured::new();
    let mut command = place.command("node:\n  shards: 0\nmqtt:\n  connect_s_max: 0\n");
    command.env("FLUXMQ_MQTT_LISTN", "off");
    let ended = run(&mut command);
    assert_eq!(ended.code(), Some(1));
    assert!(ended.lines.is_empty(), "{:?}", ended.lines);
    let said = ended.stderr();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert!(lines.iter().all(|l| l.starts_with("error: ")), "{said}");
    assert!(said.contains("node.shards, line 2: 0 is out of bounds: 1 to 64"), "{said}");
    assert!(said.contains("did you mean `FLUXMQ_MQTT_LISTEN`?"), "{said}");
    assert!(!place.dir.path().join("fluxmq-data").exists());

    let ended = place.start("mqt:\n  listen: off\n");
    assert_eq!(ended.code(), Some(1));
    let path = place.dir.path().join("fluxmq.yaml");
    assert_eq!(
        ended.stderr(),
        format!(
            "error: {}: unknown key `mqt`, line 1 column 1; did you mean `mqtt`?\n",
            path.display()
        )
    );
}

#[test]
fn listeners_are_where_the_settings_say() {
    let place = Configured::new();
    let second = free_port();
    let mut command = place.command("node:\n  data_dir: memory\n");
    command.env("FLUXMQ_MQTT_LISTEN", format!("127.0.0.1:{},127.0.0.1:{second}", place.port));
    let started = run(&mut command);
    for port in [place.port, second] {
        assert!(started.said(&format!("mqtt on 127.0.0.1:{port}")), "{:?}", started.lines);
        Client::connect(port, &Options::clean("c", Version::V5)).expect("listens");
    }
    assert!(started.said("data in memory: nothing survives this process"));
    drop(started);
    command.env("FLUXMQ_MQTT_LISTEN", "off");
    let started = run(&mut command);
    assert!(started.ready() && !started.lines.iter().any(|l| l.starts_with("mqtt on")));
    assert!(Client::connect(place.port, &Options::clean("c", Version::V5)).is_err());
}

#[test]
fn listeners_not_built_yet_are_absent_and_their_flags_accepted() {
    let place = Configured::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = taken.local_addr().expect("bound").to_string();
    let mut command = place.command("node:\n  data_dir: memory\n");
    command.args(["--amqp", &at, "--http", &at, "--coap", &at]);
    assert!(run(&mut command).ready());
}

#[test]
fn anonymous_clients_from_elsewhere_are_let_in_only_when_it_is_said() {
    let place = Configured::new();
    let address = format!("0.0.0.0:{}", place.port);
    let text = "node:\n  data_dir: memory\n";
    let mut command = place.command(text);
    command.args(["--mqtt", &address]);
    let refused = run(&mut command);
    assert_eq!(refused.code(), Some(1));
    assert_eq!(
        refused.stderr(),
        format!(
            "error: refusing to serve {address} without authentication; add users or say --allow-anonymous\n"
        )
    );
    assert!(run(command.arg("--allow-anonymous")).ready());
    let mut command = place.command(&format!("{text}security:\n  allow_anonymous: true\n"));
    assert!(run(command.args(["--mqtt", &address])).ready());
}

/// The key as a client or the disk sees it.
#[test]
fn storage_keys_have_their_effect() {
    let place = Configured::new();
    // Segments of 16 KiB: a few messages make several files.
    let started = place.start(
        "node:\n  data_dir: data\nstorage:\n  segment_bytes_first: 16384\n  segment_bytes_max: 32768\n",
    );
    assert!(started.ready(), "{}", started.stderr());
    let mut session =
        Client::connect(place.port, &Options::persistent("s", Version::V5)).expect("connects");
    session.subscribe("t", 1).expect("subscribed");
    let mut publisher =
        Client::connect(place.port, &Options::clean("p", Version::V5)).expect("connects");
    for id in 1..=16 {
        publisher.publish(&message("t", 1, id, &[7; 8_000])).expect("taken");
    }
    let segments = place.dir.path().join("data/shard-0/log");
    let mut sizes: Vec<u64> = std::fs::read_dir(&segments)
        .expect("the log of shard 0")
        .map(|file| file.expect("readable"))
        .filter(|file| file.path().extension().is_some_and(|e| e == "seg"))
        .map(|file| file.metadata().expect("readable").len())
        .collect();
    sizes.sort_unstable();
    assert!(sizes.first() == Some(&16_384) && sizes.last() == Some(&32_768), "{sizes:?}");
    drop(started);

    // A mark no disk has free: it starts, so that what is there can be drained, and takes nothing that needs room.
    let mark = "storage:\n  low_water_bytes: 4611686018427387904\n";
    let started = place.start(&format!("node:\n  data_dir: data\n{mark}"));
    assert!(started.ready(), "{}", started.stderr());
    let mut publisher =
        Client::connect(place.port, &Options::clean("p", Version::V5)).expect("connects");
    publisher.send(&message("t", 1, 1, b"m")).expect("sent");
    let answer = publisher.read().expect("answered");
    assert_eq!((answer.first, answer.body[2]), (0x40, 0x97), "quota exceeded");
    let mut session =
        Client::connect(place.port, &Options::persistent("s", Version::V5)).expect("connects");
    assert_eq!(session.receive().expect("delivered").payload.len(), 8_000);
}

#[test]
fn the_log_level_has_its_effect() {
    let place = Configured::new();
    let quiet = place.start("node:\n  data_dir: memory\n");
    assert!(quiet.ready());
    assert_eq!(quiet.finish().1, "");
    let loud = place.start("node:\n  data_dir: memory\nlog:\n  level: info,logd=debug\n");
    assert!(loud.ready());
    assert!(loud.finish().1.contains("log opened"));
}
