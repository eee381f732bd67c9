//! SIGHUP: the file is read again, all of it or nothing.

use std::fs::{File, read_to_string, write};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gateway_core::security::hash_password;
use mqtt_codec::{PacketType, Version};

use crate::client::{Client, Message, Options, message};
use crate::settings::Configured;

/// Longer than anything takes; a test that waits so long has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// A fluxmq whose file changes while it runs.
struct Reloaded {
    place: Configured,
    child: Child,
}

impl Reloaded {
    fn start(text: &str) -> Self {
        let place = Configured::new();
        let said = File::create(place.dir.path().join("said")).expect("made");
        let mut command = place.command(text);
        command.stdout(Stdio::piped()).stderr(said);
        let mut child = command.spawn().expect("the binary is built");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut lines = lines.map_while(Result::ok);
        assert!(lines.any(|line| line.starts_with("ready in ")));
        Self { place, child }
    }

    /// Says something else, and waits until `line` is logged once more.
    fn say(&self, text: &str, line: &str) {
        let logged = || {
            let said = read_to_string(self.place.dir.path().join("said")).expect("readable");
            said.lines().filter(|l| l.contains(line)).count()
        };
        let before = logged();
        write(self.place.dir.path().join("fluxmq.yaml"), text).expect("written");
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().expect("kill").success());
        let began = Instant::now();
        while logged() == before {
            assert!(began.elapsed() < DEADLINE, "{line} is not logged");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn connect(&self, user: &str) -> std::io::Result<Client> {
        let who = Some((user, "secret"));
        let options = Options { user: who, ..Options::clean(user, Version::V5) };
        Client::connect(self.place.port, &options)
    }
}

impl Drop for Reloaded {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The reason of PUBACK.
fn answer(client: &mut Client, topic: &str) -> u8 {
    client.send(&message(topic, 1, 1, b"m")).expect("sent");
    let packet = client.read().expect("answered");
    assert_eq!(packet.first, 0x40, "{packet:?}");
    packet.body.get(2).copied().unwrap_or(0)
}

fn received(client: &mut Client) -> Option<Message> {
    let packet = client.read_within(Duration::from_millis(150)).expect("it stands")?;
    let got = client.message(&packet);
    if got.qos == 1 {
        client.acknowledge(PacketType::Puback, got.id).expect("sent");
    }
    Some(got)
}

#[test]
fn users_rules_and_limits_change_while_it_runs() {
    let hash = hash_password(b"secret").expect("random bytes");
    let file = |users: &[&str], rules: &str, more: &str| {
        let users: String = users
            .iter()
            .map(|user| format!("    - name: {user}\n      password_hash: \"{hash}\"\n"))
            .collect();
        format!(
            "node:\n  data_dir: memory\nlog:\n  level: warn,mqtt_gateway=info\nsecurity:\n  users:\n{users}  rules:\n{rules}{more}"
        )
    };
    let allow = |user: &str, topic: &str| {
        format!("    - effect: allow\n      users: [{user}]\n      topics: [\"{topic}\"]\n")
    };
    let read = "the settings are read again";
    let broker = Reloaded::start(&file(&["ann"], &allow("ann", "a/#"), ""));
    let mut ann = broker.connect("ann").expect("a user");
    assert_eq!(ann.subscribe("a/#", 1).expect("answered"), 1);
    assert_eq!((answer(&mut ann, "b/x"), answer(&mut ann, "a/$none")), (0x87, 0));
    assert!(received(&mut ann).is_some_and(|got| got.topic == "a/$none"));
    assert!(broker.connect("bob").is_err(), "no user yet");

    // Another user, other rules: for who is connected as well, also what it subscribed to.
    let rules = [allow("ann", "b/#"), allow("bob", "#")].concat();
    broker.say(&file(&["ann", "bob"], &rules, ""), read);
    let mut bob = broker.connect("bob").expect("a user now");
    assert_eq!((answer(&mut ann, "b/x"), answer(&mut ann, "a/$none")), (0x10, 0x87));
    answer(&mut bob, "a/x");
    assert_eq!(received(&mut ann), None, "it may not get this any more");

    // What is wrong anywhere changes nothing.
    let wrong = file(&["bob"], &allow("bob", "c#"), "mqtt:\n  window_max: 0\n");
    broker.say(&wrong, "mqtt.window_max");
    let wrong = file(&["bob"], &allow("bob", "c#"), "");
    broker.say(&wrong, "rule 1");
    broker.say("node:\n  data_dir: memory\n", "security.users");
    assert_eq!((answer(&mut ann, "b/x"), answer(&mut bob, "c")), (0x10, 0x10));

    // Limits; what takes a restart says so; who is no user any more goes.
    let more = "mqtt:\n  connections_max: 1\n  window_max: 7\nstorage:\n  commit_bytes: 8192\n";
    broker.say(&file(&["bob"], &allow("bob", "#"), more), "takes a restart");
    let goodbye = ann.read().expect("DISCONNECT");
    assert_eq!((goodbye.kind(), goodbye.body[0]), (14, 0x87));
    assert!(broker.connect("bob").is_err(), "one more than may be");
    assert_eq!(answer(&mut bob, "x"), 0x10, "who is connected stays");
}
