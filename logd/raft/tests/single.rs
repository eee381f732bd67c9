//! One voter: what was answered is there after a restart, from the log and from a snapshot.

use std::sync::Arc;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::{Batch, Command, Connect, NEVER, Publish, Wanted};
use fluxmq_names::ShardId;
use logd_broker::{Applied, Broker, DeliveryCursor};
use logd_log::io::{Io, MemoryIo};
use logd_log::{AbortOnFatal, Disk, DiskConfig, OpenOptions};
use logd_raft::{CommandBatch, Group, GroupOptions, Observer, SubmitError};
use tokio::sync::oneshot;

const GATEWAY: u64 = 9;

struct Nobody;

impl Observer for Nobody {
    fn applied(&self, _: &Broker, _: u64, _: &Applied) {}
}

/// A gateway's stream to the group.
struct Stream {
    next: u64,
}

impl Stream {
    async fn send(
        &mut self,
        group: &Group,
        commands: &[(Command<'_>, &[u8])],
    ) -> Result<Vec<Outcome>, SubmitError> {
        let (mut body, mut ends) = (Vec::new(), Vec::new());
        for (command, message) in commands {
            command.encode(message, &mut body);
            ends.push(body.len() as u32);
        }
        let head = Batch {
            gateway_epoch: GATEWAY,
            stream: 1,
            first_sequence: self.next,
            count: ends.len() as u32,
            crc: 0,
            confirmed_upto: self.next - 1,
        };
        self.next += ends.len() as u64;
        let (tx, rx) = oneshot::channel();
        let reply = Box::new(move |result| drop(tx.send(result)));
        group.submit(CommandBatch { head, ends, body: body.into() }, reply);
        rx.await.expect("the group answers")
    }
}

async fn start(io: &Arc<dyn Io>) -> (Disk, Group) {
    let disk = Disk::start(io.clone(), "/data", DiskConfig::default(), Arc::new(AbortOnFatal))
        .expect("a data directory");
    let (log, _) = disk.open_shard(0, OpenOptions::default()).expect("a shard");
    let options = GroupOptions { shard: ShardId(0), node: 1 };
    let group = Group::start(options, log, Box::new(Nobody)).await.expect("the only voter leads");
    (disk, group)
}

async fn stop(disk: Disk, group: Group) {
    group.stop().await;
    drop(group);
    disk.close();
}

fn connect() -> Command<'static> {
    Command::Connect(Connect {
        vhost: "/",
        client_id: "c",
        clean_start: false,
        expiry_s: NEVER,
        window: 10,
        token: 1,
        will: None,
    })
}

fn publish() -> Command<'static> {
    Command::Publish(Publish { qos: 1, vhost: "/", topic: "a", ..Publish::default() })
}

async fn subscribed(group: &Group, stream: &mut Stream) -> u64 {
    let outcomes = stream.send(group, &[(connect(), b"")]).await.expect("leads");
    let Outcome::Connected(connected) = &outcomes[0] else { panic!("{outcomes:?}") };
    let (session, epoch) = (connected.session, connected.epoch);
    let filters = vec![Wanted { options: 1, identifier: 0, filter: "a" }];
    let subscribe = Command::Subscribe { session, epoch, filters };
    stream.send(group, &[(subscribe, b"")]).await.expect("leads");
    session
}

/// The payloads of all that the session is owed, from the log.
fn owed(group: &Group, session: u64) -> Vec<Vec<u8>> {
    let mut owed = Vec::new();
    group.with_state(|broker| {
        let session_state = broker.session(session).expect("it is durable");
        let mut cursor = DeliveryCursor::at_start(session_state);
        broker.owed_from(session, &mut cursor, 100_000, &mut owed);
    });
    owed.iter()
        .map(|o| {
            let position = fluxmq_names::Position(o.position);
            let entry = group.log().entry(position.index()).expect("readable").expect("live");
            let view = fluxmq_commands::EntryView::read(&entry).expect("an entry");
            let slot = view.slot(position.slot()).expect("a slot");
            fluxmq_commands::command::decode(slot).expect("a command").1.to_vec()
        })
        .collect()
}

#[tokio::test]
async fn what_was_answered_survives_a_restart() {
    let io: Arc<dyn Io> = Arc::new(MemoryIo::new(1 << 30));
    let (disk, group) = start(&io).await;
    let mut stream = Stream { next: 1 };
    let session = subscribed(&group, &mut stream).await;
    let mut want = Vec::new();
    for round in 0..20u32 {
        let bodies: Vec<_> = (0..50u32).map(|n| (round * 50 + n).to_le_bytes()).collect();
        let commands: Vec<_> = bodies.iter().map(|b| (publish(), &b[..])).collect();
        let outcomes = stream.send(&group, &commands).await.expect("leads");
        assert!(outcomes.iter().all(|o| *o == Outcome::Published { matched: 1 }));
        want.extend(bodies.iter().map(|b| b.to_vec()));
        if round == 10 {
            group.compact().await.expect("a snapshot");
        }
    }
    assert_eq!(owed(&group, session), want);
    let mut hash = group.with_state(Broker::state_hash);
    stop(disk, group).await;
    for _ in 0..3 {
        let (disk, group) = start(&io).await;
        assert_eq!(group.with_state(Broker::state_hash), hash);
        assert_eq!(owed(&group, session), want);
        // A gateway that does not know whether its last batch was taken sends it again.
        stream.next -= 1;
        let again = stream.send(&group, &[(publish(), b"again")]).await.expect("leads");
        assert_eq!(again, [Outcome::Published { matched: 1 }]);
        assert_eq!(owed(&group, session).len(), want.len(), "taken once");
        hash = group.with_state(Broker::state_hash);
        stop(disk, group).await;
    }
}

#[tokio::test]
async fn many_submitters_share_entries() {
    let io: Arc<dyn Io> = Arc::new(MemoryIo::new(1 << 30));
    let (disk, group) = start(&io).await;
    let mut stream = Stream { next: 1 };
    subscribed(&group, &mut stream).await;
    let before = group.with_state(Broker::applied);
    let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..1_000 {
        let mut body = Vec::new();
        publish().encode(b"x", &mut body);
        let head = Batch {
            gateway_epoch: GATEWAY,
            stream: 1,
            first_sequence: stream.next,
            count: 1,
            crc: 0,
            confirmed_upto: 0,
        };
        stream.next += 1;
        let (ends, tx) = (vec![body.len() as u32], tx.clone());
        let reply = Box::new(move |result| drop(tx.send(result)));
        group.submit(CommandBatch { head, ends, body: body.into() }, reply);
    }
    for _ in 0..1_000 {
        let outcomes = rx.recv().await.expect("answered").expect("leads");
        assert_eq!(outcomes, [Outcome::Published { matched: 1 }]);
    }
    let entries = group.with_state(Broker::applied) - before;
    assert!(entries < 100, "1,000 submissions in {entries} entries");
    stop(disk, group).await;
}
