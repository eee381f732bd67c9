//! On a full disk publishes are refused and settlements go on, also where both come in one batch (S9).

mod stream;

use std::sync::Arc;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::{Command, Settled};
use fluxmq_names::ErrorCode;
use logd_broker::Broker;
use logd_log::io::MemoryIo;
use logd_log::{AbortOnFatal, Disk, DiskConfig, OpenOptions};
use logd_raft::{Group, GroupOptions, SubmitError};

use crate::stream::{Nobody, Stream, owed, publish, subscribed};

const MIB: u64 = 1024 * 1024;

async fn small() -> (Disk, Group) {
    let io = Arc::new(MemoryIo::new(6 * MIB));
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
    let mut stream = Stream { next: 1 };
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
