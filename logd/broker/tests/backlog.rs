//! A long backlog, settled faster than one command may walk: everything is settled in the end, and
//! nothing of the log is needed any more.

mod shard;

use fluxmq_commands::command::{Command, NEVER, Publish, Settled, Wanted};
use logd_broker::{Backlog, DeliveryCursor, Excess};
use shard::Shard;

const MESSAGES: u32 = 60_000;

#[test]
fn settlements_that_come_faster_than_the_cursor_walks_are_kept() {
    let mut shard = Shard::new();
    let (session, epoch) = shard.connect("c", NEVER);
    let filters = vec![Wanted { options: 1, identifier: 0, filter: "t", more: "" }];
    shard.apply(&[Command::Subscribe { session, epoch, filters }]);
    let publish = Publish { qos: 1, vhost: "/", topic: "t", ..Publish::default() };
    for _ in 0..MESSAGES / 1_000 {
        shard.apply(&vec![Command::Publish(publish); 1_000]);
    }
    // All of it in four commands, before the cursor had time to walk.
    let quarter = MESSAGES / 4;
    for n in 0..4 {
        let first = u64::from(n * quarter);
        let ranges = vec![Settled { first, count: quarter, received: false }];
        let sent_upto = first + u64::from(quarter);
        shard.apply(&[Command::Settle { session, epoch, sent_upto, ranges }]);
    }
    let ticks = shard.settle_down();
    assert!(ticks > 0 && ticks < 30, "more than one command may walk: {ticks}");
    let state = shard.broker.session(session).expect("it is persistent");
    assert_eq!(state.cursor, MESSAGES.into());
    let mut owed = Vec::new();
    let mut cursor = DeliveryCursor::at_start(state);
    shard.broker.owed_from(session, &mut cursor, 10, &mut owed);
    assert_eq!(owed, []);
    assert_eq!(shard.broker.live_references(), 0);
}

/// Who is over the limit is told by how much, and trimming brings him to it.
#[test]
fn a_trim_brings_a_session_to_its_limit() {
    let mut shard = Shard::new();
    let (session, epoch) = shard.connect("c", NEVER);
    let wanted = |filter| Wanted { options: 1, identifier: 0, filter, more: "" };
    let filters = vec![wanted("t"), wanted("u/+"), wanted("u/#")];
    shard.apply(&[Command::Subscribe { session, epoch, filters }]);
    let publish =
        |topic| Command::Publish(Publish { qos: 1, vhost: "/", topic, ..Publish::default() });
    for _ in 0..3 {
        shard.apply(&vec![publish("t"); 1_000]);
    }
    let limit = |messages| Backlog { messages, bytes: u64::MAX };
    let over = |shard: &Shard, messages| shard.broker.excess(session, limit(messages));
    assert_eq!(shard.broker.backlog(session).messages, 3_000);
    assert_eq!(over(&shard, 3_000), None);
    // The window of 1,000 may be in flight.
    assert_eq!(over(&shard, 1_500), Some(Excess { number: 2_500, messages: 1_500 }));
    assert_eq!(over(&shard, 1), Some(Excess { number: 3_000, messages: 2_000 }));
    // What two filters match is counted once.
    shard.apply(&vec![publish("u/x"); 1_000]);
    assert_eq!(shard.broker.backlog(session).messages, 3_000);
    assert_eq!(over(&shard, 3_000), None);
    shard.lead(&Command::Trim { session, number: 2_500 });
    shard.settle_down();
    let owed = |shard: &Shard| {
        let mut cursor = DeliveryCursor::at_start(shard.broker.session(session).expect("there"));
        let mut owed = Vec::new();
        for _ in 0..10 {
            shard.broker.owed_from(session, &mut cursor, 5_000, &mut owed);
        }
        owed.iter().map(|o| o.number).collect::<Vec<_>>()
    };
    assert_eq!(owed(&shard), (0..1_000).chain(2_500..4_000).collect::<Vec<u64>>());
    // Without a connection what was not sent goes, and with it its place in the log.
    let none =
        Command::Disconnect { session, epoch, publish_will: false, expiry_s: None, sent_upto: 0 };
    shard.apply(&[none]);
    let excess = over(&shard, 400).expect("1,500 of the first filter are left");
    shard.lead(&Command::Trim { session, number: excess.number });
    shard.settle_down();
    let left = owed(&shard);
    assert!(left.len() >= 400 && left.last() == Some(&3_999), "{left:?}");
    assert_eq!(left.first(), Some(&shard.broker.session(session).expect("there").cursor));
    assert!(shard.broker.live_references() < 4_000);
}
