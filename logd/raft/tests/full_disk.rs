//! On a full disk publishes are refused and settlements go on, also where both come in one batch (S9).

mod stream;

use std::sync::Arc;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::{Command, Settled};
use fluxmq_names::ErrorCode;
use logd_broker::Broker;
use logd_log::io::{Io, MemoryIo};
use logd_log::{AbortOnFatal, Disk, DiskConfig, OpenOptions, Priority};
use logd_raft::{Group, GroupOptions, SubmitError};

use crate::stream::{Nobody, Stream, owed, publish, subscribed};

const MIB: u64 = 1024 * 1024;

async fn small() -> (Disk, Group) {
    on(Arc::new(MemoryIo::new(6 * MIB))).await
}

async fn on(io: Arc<dyn Io>) -> (Disk, Group) {
    let config = DiskConfig {
        segment_bytes_first: 256 * 1024,
        segment_bytes_max: 256 * 1024,
        low_water_bytes: Some(MIB),
        ..DiskConfig::default()
    };
    let disk = Disk::start(io, "/data", config, Arc::new(AbortOnFatal)).expect("a directory");
    let (log, _) = disk.open_shard(0, OpenOptions::default()).expect("a shard");
    let options = GroupOptions::alone(fluxmq_names::ShardId(0), 1);
    let group = Group::start(options, log, Box::new(Nobody)).await.expect("leads");
    (disk, group)
}

#[tokio::test]
async fn settlements_go_on_when_publishes_are_refused() {
    let (disk, group) = small().await;
    let mut stream = Stream::numbered(1);
    let (session, epoch) = subscribed(&group, &mut stream).await;
    let body = vec![7; 20_000];
    let mut stored = 0u64;
    let refused = loop {
        match stream.send(&group, &[(publish(), &body)]).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(refused, SubmitError::DiskFull);
    assert!(stored > 50, "{stored} messages fit");
    stream.next -= 1;

    let settle = |first: u64, count: u64| {
        let ranges = vec![Settled { first, count: count as u32, received: false }];
        let sent_upto = first + count;
        (Command::Settle { session, epoch, sent_upto, ranges }, &b""[..])
    };
    let first = owed(&group, session)[0].0;
    let mixed = [(publish(), &body[..]), settle(first, 10), (publish(), &body)];
    let outcomes = stream.send(&group, &mixed).await.expect("settlements go on");
    let full = Outcome::refused(ErrorCode::DiskFull);
    assert_eq!(outcomes, [full.clone(), Outcome::Done, full]);
    assert_eq!(owed(&group, session).len() as u64, stored - 10, "ten are settled");
    let refused = stream.send(&group, &[(publish(), &body)]).await;
    assert_eq!(refused, Err(SubmitError::DiskFull), "and publishes are refused as before");
    stream.next -= 1;

    stream.send(&group, &[settle(first + 10, stored - 10)]).await.expect("all is settled");
    // The purge stays some entries behind what is applied: these are they.
    for _ in 0..1_100 {
        stream.send(&group, &[settle(first, 1)]).await.expect("small entries fit the reserve");
    }
    group.compact().await.expect("a snapshot fits");
    let outcomes = stream.send(&group, &[(publish(), &body)]).await.expect("there is room again");
    assert_eq!(outcomes, [Outcome::Published { matched: 1 }]);
    assert!(group.with_state(Broker::applied) > stored);
    group.stop().await;
    drop(group);
    disk.close();
}

/// The room that was promised is gone when the next segment is needed, as when a snapshot or another shard took it: what
/// was taken waits unacknowledged, the core lives, and it goes on when there is room again.
#[tokio::test]
async fn between_two_segments_a_full_log_waits() {
    let io: Arc<dyn Io> = Arc::new(MemoryIo::new(6 * MIB));
    let (disk, group) = on(io.clone()).await;
    let mut stream = Stream::numbered(1);
    let (session, _) = subscribed(&group, &mut stream).await;
    let ballast = std::path::Path::new("/data/ballast");
    let body = vec![7; 20_000];
    for _ in 0..4 {
        stream.send(&group, &[(publish(), &body)]).await.expect("there is room");
    }
    let free = io.free_space(ballast).expect("it knows").free;
    io.create_zeroed(ballast, free).expect("it fits");
    // What was free is known for a while, so this one is taken; it fits into no segment that is there.
    let large = vec![8; 200_000];
    let commands = [(publish(), &large[..])];
    let sending = stream.send(&group, &commands);
    let waits = async {
        while group.log().admit(1, Priority::Freeing).is_ok() {
            tokio::task::yield_now().await;
        }
        assert_eq!(owed(&group, session).len(), 4, "what is not on disk is not acknowledged");
        group.compact().await.expect("a snapshot needs no room in the log");
        io.remove_file(ballast).expect("it is there");
    };
    let (outcomes, ()) = tokio::join!(sending, waits);
    assert_eq!(outcomes.expect("it was only late"), [Outcome::Published { matched: 1 }]);
    let outcomes = stream.send(&group, &[(publish(), &body)]).await;
    assert!(outcomes.is_ok(), "{outcomes:?}");
    group.stop().await;
    drop(group);
    disk.close();
}
