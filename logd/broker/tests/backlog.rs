//! A long backlog, settled faster than one command may walk: everything is settled in the end, and
//! nothing of the log is needed any more.

use fluxmq_commands::command::{Batch, Command, Connect, NEVER, Publish, Settled, Wanted};
use fluxmq_commands::{EntryBuilder, Outcome};
use fluxmq_names::ShardId;
use logd_broker::{Broker, DeliveryCursor, Effect};

const GATEWAY: u64 = 7;
const MESSAGES: u32 = 60_000;

struct Shard {
    broker: Broker,
    index: u64,
    sequence: u64,
}

impl Shard {
    /// Applies an entry of one gateway's commands.
    fn apply(&mut self, commands: &[Command<'_>]) -> (Vec<Outcome>, Vec<Effect>) {
        let mut builder = EntryBuilder::default();
        let head = Batch {
            gateway_epoch: GATEWAY,
            stream: 1,
            first_sequence: self.sequence,
            count: commands.len() as u32,
            crc: 0,
            confirmed_upto: self.sequence - 1,
        };
        builder.push(|out| Command::Batch(head).encode(&[], out));
        commands.iter().for_each(|c| builder.push(|out| c.encode(b"", out)));
        self.sequence += commands.len() as u64;
        self.finish(builder)
    }

    fn tick(&mut self) -> Vec<Effect> {
        let mut builder = EntryBuilder::default();
        builder.push(|out| Command::Tick.encode(b"", out));
        self.finish(builder).1
    }

    fn finish(&mut self, mut builder: EntryBuilder) -> (Vec<Outcome>, Vec<Effect>) {
        self.index += 1;
        let applied = self.broker.apply(self.index, &builder.close(1)).expect("well-formed");
        (applied.outcomes.into_iter().map(|(_, outcome)| outcome).collect(), applied.effects)
    }
}

#[test]
fn settlements_that_come_faster_than_the_cursor_walks_are_kept() {
    let mut shard = Shard { broker: Broker::new(ShardId(0)), index: 0, sequence: 1 };
    let connect = Command::Connect(Connect {
        vhost: "/",
        client_id: "c",
        clean_start: false,
        expiry_s: NEVER,
        window: 1_000,
        token: 1,
        will: None,
    });
    let (outcomes, _) = shard.apply(&[connect]);
    let Outcome::Connected(connected) = &outcomes[0] else { panic!("{outcomes:?}") };
    let (session, epoch) = (connected.session, connected.epoch);
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
    let mut ticks = 0;
    while shard.broker.next_due() == Some(1) {
        shard.tick();
        ticks += 1;
        assert!(ticks < 20, "it comes to an end");
    }
    assert!(ticks > 0, "more than one command may walk");
    let state = shard.broker.session(session).expect("it is persistent");
    assert_eq!(state.cursor, MESSAGES.into());
    let mut owed = Vec::new();
    let mut cursor = DeliveryCursor::at_start(state);
    shard.broker.owed_from(session, &mut cursor, 10, &mut owed);
    assert_eq!(owed, []);
    assert_eq!(shard.broker.live_references(), 0);
}
