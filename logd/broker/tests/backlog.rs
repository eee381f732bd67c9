//! A long backlog, settled faster than one command may walk: everything is settled in the end, and
//! nothing of the log is needed any more.

mod shard;

use fluxmq_commands::command::{Command, NEVER, Publish, Settled, Wanted};
use logd_broker::DeliveryCursor;
use shard::Shard;

const MESSAGES: u32 = 60_000;

#[test]
fn settlements_that_come_faster_than_the_cursor_walks_are_kept() {
    let mut shard = Shard::new();
    let (session, epoch) = shard.connect("c", NEVER);
    let filters = vec![Wanted { options: 1, identifier: 0, filter: "t" }];
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
