//! One voter: what was answered is there after a restart, from the log and from a snapshot.

mod stream;

use std::sync::Arc;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::Batch;
use fluxmq_names::ShardId;
use logd_broker::Broker;
use logd_log::io::{Io, MemoryIo};
use logd_log::{AbortOnFatal, Disk, DiskConfig, OpenOptions};
use logd_raft::{CommandBatch, Group, GroupOptions};

use crate::stream::{GATEWAY, Nobody, Stream, owed, publish, subscribed};

fn payloads(group: &Group, session: u64) -> Vec<Vec<u8>> {
    owed(group, session).into_iter().map(|(_, payload)| payload).collect()
}

async fn start(io: &Arc<dyn Io>) -> (Disk, Group) {
    let disk = Disk::start(io.clone(), "/data", DiskConfig::default(), Arc::new(AbortOnFatal))
        .expect("a data directory");
    let (log, _) = disk.open_shard(0, OpenOptions::default()).expect("a shard");
    let options = GroupOptions::alone(ShardId(0), 1);
    let group = Group::start(options, log, Box::new(Nobody)).await.expect("the only voter leads");
    (disk, group)
}

async fn stop(disk: Disk, group: Group) {
    group.stop().await;
    drop(group);
    disk.close();
}

#[tokio::test]
async fn what_was_answered_survives_a_restart() {
    let io: Arc<dyn Io> = Arc::new(MemoryIo::new(1 << 30));
    let (disk, group) = start(&io).await;
    let mut stream = Stream::numbered(1);
    let (session, _) = subscribed(&group, &mut stream).await;
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
    assert_eq!(payloads(&group, session), want);
    let mut hash = group.with_state(Broker::state_hash);
    stop(disk, group).await;
    for _ in 0..3 {
        let (disk, group) = start(&io).await;
        assert_eq!(group.with_state(Broker::state_hash), hash);
        assert_eq!(payloads(&group, session), want);
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
    let mut stream = Stream::numbered(1);
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
