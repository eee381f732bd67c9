//! `logd` through a link, as a gateway sees it: of the same process, and over gRPC.

#![allow(clippy::unwrap_used)] // helpers of tests are not seen as tests

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fluxmq_client::Link;
use fluxmq_client::contract::{Delivery, Event, Request, Role, Submit};
use fluxmq_client::transport::connect;
use fluxmq_commands::command::{Command, Connect, NEVER, Publish, Settled, Wanted, Will, decode};
use fluxmq_commands::{Connected, Outcome};
use fluxmq_names::{ErrorCode, Kind, place};
use fluxmq_proto::message::HeadWriter;
use logd::{Config, Running, start};

/// What carries a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    Mailbox,
    Grpc,
}

const BOTH: [Carrier; 2] = [Carrier::Mailbox, Carrier::Grpc];

/// A `logd` and how to reach it.
struct Node {
    logd: Running,
    url: String,
    carrier: Carrier,
}

// === impl Node ===

impl Node {
    fn start(data_dir: Option<&Path>, shards: u32, carrier: Carrier) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let alone = carrier == Carrier::Mailbox;
        let data_dir = data_dir.map(Path::to_path_buf);
        let grpc = vec![Arc::new(listener)];
        let config = Config { data_dir, shards, grpc, alone, ..Config::default() };
        Self { logd: start(config).unwrap(), url, carrier }
    }

    fn join(&self, name: &str) -> Gateway {
        self.join_as(name, 0)
    }

    fn join_as(&self, name: &str, epoch: u64) -> Gateway {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let link = match self.carrier {
            Carrier::Mailbox => self.logd.connect(),
            Carrier::Grpc => runtime.block_on(connect(&self.url, None)).unwrap(),
        };
        Gateway::hello(link, runtime, name, epoch)
    }
}

/// A gateway that asks one thing at a time.
struct Gateway {
    epoch: u64,
    _runtime: tokio::runtime::Runtime,
    link: Link,
    shards: u32,
    next: Vec<u64>,
    /// Events that came while another was waited for.
    early: Vec<Event>,
}

impl Gateway {
    fn hello(link: Link, runtime: tokio::runtime::Runtime, name: &str, epoch: u64) -> Self {
        assert!(link.to.send(Request::Hello { name: name.into(), epoch, role: Role::Gateway }));
        if epoch > 0 {
            assert!(link.to.send(Request::Announce { id: 0, full: true, changes: Vec::new() }));
        }
        let (next, early) = (Vec::new(), Vec::new());
        let mut gateway = Self { epoch: 0, _runtime: runtime, link, shards: 0, next, early };
        let welcome = gateway.wait(|e| matches!(e, Event::Welcome { .. }));
        let Event::Welcome { shards, gateway_epoch, .. } = welcome else { unreachable!() };
        gateway.shards = shards;
        gateway.epoch = gateway_epoch;
        gateway.next = vec![1; shards as usize];
        gateway
    }

    fn ask(&self, request: Request) {
        assert!(self.link.to.send(request));
    }

    /// Answers what is asked of every gateway.
    fn keep_up(&self, event: &Event) {
        match event {
            Event::Others(true) => {
                self.ask(Request::Announce { id: 0, full: true, changes: Vec::new() });
            }
            Event::Deltas { version, .. } => self.ask(Request::Ack { version: *version }),
            _ => {}
        }
    }

    fn wait(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        if let Some(at) = self.early.iter().position(&wanted) {
            return self.early.remove(at);
        }
        loop {
            let event = self.link.from.blocking_recv().expect("logd runs");
            self.keep_up(&event);
            if wanted(&event) {
                return event;
            }
            self.early.push(event);
        }
    }

    fn frame(&mut self, shard: u32, ends: Vec<u32>, body: Bytes) -> Event {
        let first = self.next[shard as usize];
        let submit = Submit { shard, first_sequence: first, confirmed_upto: first - 1, ends, body };
        self.ask(Request::Submit(submit));
        self.wait(|e| matches!(e, Event::Outcomes { .. } | Event::Refused { .. }))
    }

    fn submit(&mut self, shard: u32, command: &Command<'_>, message: &[u8]) -> Outcome {
        let mut body = Vec::new();
        command.encode(message, &mut body);
        let answer = self.frame(shard, vec![body.len() as u32], body.into());
        let Event::Outcomes { outcomes, .. } = answer else { panic!("{answer:?}") };
        self.next[shard as usize] += 1;
        outcomes.into_iter().next().unwrap()
    }

    fn home(&self, client_id: &str) -> u32 {
        place(Kind::Session, "/", client_id, self.shards).0
    }

    fn connect(&mut self, client_id: &str, token: u64, will: Option<Will<'_>>) -> Connected {
        let connect = Connect {
            vhost: "/",
            client_id,
            clean_start: false,
            expiry_s: NEVER,
            window: 100,
            token,
            will,
        };
        let outcome = self.submit(self.home(client_id), &Command::Connect(connect), &message(b"w"));
        let Outcome::Connected(connected) = outcome else { panic!("{outcome:?}") };
        connected
    }

    fn subscribe(&mut self, client_id: &str, at: Connected, filter: &str) {
        let filters = vec![Wanted { options: 1, identifier: 0, filter, more: "" }];
        let subscribe = Command::Subscribe { session: at.session, epoch: at.epoch, filters };
        let outcome = self.submit(self.home(client_id), &subscribe, &[]);
        assert_eq!(outcome, Outcome::Subscribed(vec![(1, true)]));
    }

    /// To every shard, as a gateway does that knows of a filter in each.
    fn publish(&mut self, topic: &str, payload: &[u8]) -> u32 {
        let publish = Command::Publish(Publish { qos: 1, vhost: "/", topic, ..Publish::default() });
        (0..self.shards).map(|s| matched(&self.submit(s, &publish, &message(payload)))).sum()
    }

    fn open(&mut self, client_id: &str, at: Connected, token: u64) -> bool {
        let (shard, session, epoch) = (self.home(client_id), at.session, at.epoch);
        self.ask(Request::Open { token, shard, session, epoch, from: 0 });
        let opened = self.wait(|e| matches!(e, Event::Opened { token: t, .. } if *t == token));
        matches!(opened, Event::Opened { subscriptions: Some(_), .. })
    }

    fn receive(&mut self, token: u64, count: usize) -> Vec<Delivery> {
        self.ask(Request::Credit { token, count: count as u32 });
        let mut got = Vec::new();
        while got.len() < count {
            let event = self.wait(|e| matches!(e, Event::Deliveries(_)));
            let Event::Deliveries(all) = event else { unreachable!() };
            got.extend(all.into_iter().inspect(|d| assert_eq!(d.token, token)));
        }
        got
    }
}

fn matched(outcome: &Outcome) -> u32 {
    let Outcome::Published { matched } = outcome else { panic!("{outcome:?}") };
    *matched
}

fn message(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut head = HeadWriter::new(&mut out);
    head.payload_format(false);
    head.finish();
    out.extend_from_slice(payload);
    out
}

fn payload(command: &Bytes) -> Vec<u8> {
    let (_, message) = decode(command).unwrap();
    fluxmq_proto::message::split(message).unwrap().1.to_vec()
}

fn in_memory(shards: u32, carrier: Carrier) -> Node {
    Node::start(None, shards, carrier)
}

#[test]
fn what_is_published_is_delivered_in_order_under_credit() {
    for (shards, carrier) in [(1, BOTH[0]), (4, BOTH[0]), (1, BOTH[1]), (4, BOTH[1])] {
        let logd = in_memory(shards, carrier);
        let mut gateway = logd.join("g");
        let at = gateway.connect("c", 7, None);
        gateway.subscribe("c", at, "a/+");
        assert!(gateway.open("c", at, 7));
        for n in 0..300_u32 {
            assert_eq!(gateway.publish("a/b", &n.to_le_bytes()), 1);
        }
        let got = [gateway.receive(7, 120), gateway.receive(7, 180)].concat();
        for (n, delivery) in got.iter().enumerate() {
            assert_eq!(payload(&delivery.command), (n as u32).to_le_bytes());
            assert_eq!((delivery.qos, delivery.dup), (1, false));
        }
        assert!(gateway.early.iter().all(|e| !matches!(e, Event::Deliveries(_))));
    }
}

#[test]
fn a_restart_keeps_what_was_acknowledged_and_not_settled() {
    for (shards, says_goodbye, carrier) in
        [(1, true, BOTH[0]), (4, false, BOTH[0]), (4, true, BOTH[1]), (1, false, BOTH[1])]
    {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let logd = Node::start(Some(&data), shards, carrier);
        let mut gateway = logd.join("g");
        let at = gateway.connect("c", 1, None);
        gateway.subscribe("c", at, "t");
        assert!(gateway.open("c", at, 1));
        for n in 0..20_u8 {
            assert_eq!(gateway.publish("t", &[n]), 1);
        }
        assert_eq!(gateway.receive(1, 10).len(), 10);
        let ranges = vec![Settled { first: 0, count: 5, received: false }];
        let (session, epoch) = (at.session, at.epoch);
        let settle = Command::Settle { session, epoch, sent_upto: 10, ranges };
        let home = gateway.home("c");
        assert_eq!(gateway.submit(home, &settle, &[]), Outcome::Done);
        if says_goodbye {
            let (publish_will, expiry_s, sent_upto) = (false, None, 10);
            let bye = Command::Disconnect { session, epoch, publish_will, expiry_s, sent_upto };
            assert_eq!(gateway.submit(home, &bye, &[]), Outcome::Done);
        }
        drop(gateway);
        drop(logd);

        let logd = Node::start(Some(&data), shards, carrier);
        let mut gateway = logd.join("g");
        let at = gateway.connect("c", 2, None);
        assert!(at.present);
        assert_eq!(at.previous, (0, 0), "the epoch of the gateway before has ended");
        assert!(gateway.open("c", at, 2));
        let got = gateway.receive(2, 15);
        let sent: Vec<_> = got.iter().map(|d| (payload(&d.command)[0], d.dup)).collect();
        // Without a goodbye it is not known how much of the window went out.
        let owed: Vec<_> = (5..20).map(|n| (n, n < 10 || !says_goodbye)).collect();
        assert_eq!(sent, owed);
        drop(logd);
        let (shards, grpc) = (shards + 1, Vec::new());
        let other = start(Config { data_dir: Some(data), shards, grpc, ..Config::default() });
        assert!(other.err().is_some_and(|e| e.to_string().contains("shards")));
    }
}

#[test]
fn a_takeover_ends_the_old_connection_and_its_late_open_changes_nothing() {
    for carrier in BOTH {
        takeover(&in_memory(1, carrier));
    }
}

fn takeover(logd: &Node) {
    let mut old = logd.join("old");
    // The old one has to say what it has before the new one is welcome.
    old.ask(Request::Announce { id: 0, full: true, changes: Vec::new() });
    let mut new = std::thread::scope(|s| {
        let joining = s.spawn(|| logd.join("new"));
        old.wait(|e| matches!(e, Event::Others(true)));
        joining.join().unwrap()
    });
    let first = old.connect("c", 1, None);
    old.subscribe("c", first, "t");
    assert!(old.open("c", first, 1));
    let second = new.connect("c", 2, None);
    assert_eq!((second.session, second.previous.1), (first.session, 1));
    let taken = old.wait(|e| matches!(e, Event::Taken { .. }));
    assert!(matches!(taken, Event::Taken { token: 1, client_id } if client_id == "c"));
    assert!(new.open("c", second, 2));
    assert!(!old.open("c", first, 1), "an epoch that is gone");
    old.ask(Request::Credit { token: 1, count: 10 });
    assert_eq!(new.publish("t", b"x"), 1);
    assert_eq!(payload(&new.receive(2, 1)[0].command), b"x");
    old.ask(Request::ReadRetained {
        id: 9,
        shard: 0,
        vhost: "/".into(),
        filter: "#".into(),
        after: String::new(),
    });
    old.wait(|e| matches!(e, Event::Retained { id: 9, .. }));
    assert!(old.early.iter().all(|e| !matches!(e, Event::Deliveries(_))));
}

#[test]
fn the_will_of_a_gateway_that_died_with_the_process_is_published_after_the_restart() {
    for carrier in BOTH {
        will_after_restart(carrier);
    }
}

fn will_after_restart(carrier: Carrier) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let logd = Node::start(Some(&data), 4, carrier);
    let mut gateway = logd.join("g");
    let watcher = gateway.connect("watcher", 1, None);
    gateway.subscribe("watcher", watcher, "wills/#");
    let will = Will { qos: 1, retain: false, delay_s: 0, expiry_s: 0, topic: "wills/c" };
    gateway.connect("c", 2, Some(will));
    drop(gateway);
    drop(logd);

    let logd = Node::start(Some(&data), 4, carrier);
    let mut gateway = logd.join("g");
    let watcher = gateway.connect("watcher", 1, None);
    assert!(gateway.open("watcher", watcher, 1));
    let got = gateway.receive(1, 1);
    assert_eq!(payload(&got[0].command), b"w");
    assert!(
        matches!(decode(&got[0].command), Ok((Command::Publish(p), _)) if p.topic == "wills/c")
    );
}

#[test]
fn retained_messages_come_by_page_in_the_order_of_topics() {
    let logd = in_memory(1, Carrier::Grpc);
    let mut gateway = logd.join("g");
    for n in 0..250_u32 {
        let topic = format!("r/{n:03}");
        let store = Publish {
            qos: 1,
            retain: true,
            store: true,
            vhost: "/",
            topic: &topic,
            ..Publish::default()
        };
        gateway.submit(0, &Command::Publish(store), &message(topic.as_bytes()));
    }
    let (mut after, mut seen, mut pages) = (String::new(), Vec::new(), 0);
    loop {
        let (vhost, filter) = ("/".into(), "r/+".into());
        gateway.ask(Request::ReadRetained { id: pages, shard: 0, vhost, filter, after });
        let page = gateway.wait(|e| matches!(e, Event::Retained { .. }));
        let Event::Retained { id, commands, more } = page else { unreachable!() };
        assert_eq!(id, pages);
        pages += 1;
        seen.extend(commands.iter().map(|c| String::from_utf8(payload(c)).unwrap()));
        after = seen.last().cloned().unwrap_or_default();
        if !more {
            break;
        }
    }
    assert_eq!(seen, (0..250).map(|n| format!("r/{n:03}")).collect::<Vec<_>>());
    assert_eq!(pages, 3);
}

#[test]
fn bad_frames_are_refused_and_harm_nobody() {
    BOTH.into_iter().for_each(|carrier| bad_frames(&in_memory(1, carrier)));
}

fn bad_frames(logd: &Node) {
    let mut gateway = logd.join("g");
    let mut publish = Vec::new();
    Command::Publish(Publish { qos: 1, vhost: "/", topic: "t", ..Publish::default() })
        .encode(&message(b"x"), &mut publish);
    let len = publish.len() as u32;
    let mut tick = Vec::new();
    Command::Tick.encode(&[], &mut tick);
    let cases: Vec<(u32, Vec<u32>, Vec<u8>, ErrorCode)> = vec![
        (0, vec![len - 1], publish.clone(), ErrorCode::Corrupt),
        (0, vec![len + 1], publish.clone(), ErrorCode::Corrupt),
        (0, vec![u32::MAX], publish.clone(), ErrorCode::Corrupt),
        (0, vec![len, 0], publish.clone(), ErrorCode::Corrupt),
        (0, vec![], publish.clone(), ErrorCode::Corrupt),
        (0, vec![3], vec![1, 2, 3], ErrorCode::Corrupt),
        (0, vec![16], vec![0xff; 16], ErrorCode::Corrupt),
        (0, vec![0; 1 << 21], vec![], ErrorCode::TooLarge),
        (0, vec![17 << 20], vec![0; 17 << 20], ErrorCode::TooLarge),
    ];
    for (shard, ends, body, wanted) in cases {
        let what = format!("{} ends, {} bytes", ends.len(), body.len());
        let answer = gateway.frame(shard, ends, body.into());
        let refused = matches!(answer, Event::Refused { code, .. } if code == wanted);
        assert!(refused, "{what}: {answer:?}");
    }
    // A shard that is not there; what only leaders may say.
    let nowhere = Submit {
        shard: 9,
        first_sequence: 1,
        confirmed_upto: 0,
        ends: vec![len],
        body: publish.into(),
    };
    gateway.ask(Request::Submit(nowhere));
    let refused = gateway.wait(|e| matches!(e, Event::Refused { .. }));
    assert!(matches!(refused, Event::Refused { code: ErrorCode::InvalidArgument, .. }));
    let outcome = gateway.submit(0, &Command::Tick, &[]);
    assert!(matches!(outcome, Outcome::Error { code: ErrorCode::Forbidden, .. }));
    assert_eq!(gateway.publish("t", b"still here"), 0);
}
