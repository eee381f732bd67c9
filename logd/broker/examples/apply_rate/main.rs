//! What apply costs: `cargo run --release -p logd-broker --example apply_rate [sessions|queue|queues]`.
//! Times are of the CPU, not of the clock on the wall; `queue` and `queues` say what memory they took.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring tool")]

mod queues;

use std::time::Duration;

use fluxmq_commands::command::{Batch, Command, Connect, NEVER, Publish, Settled, Wanted};
use fluxmq_commands::{EntryBuilder, Outcome};
use fluxmq_names::ShardId;
use logd_broker::{Broker, DeliveryCursor};

const GATEWAY: u64 = 5;
const MESSAGES: u64 = 1_000_000;
const BATCH: u64 = 100;

fn head(first_sequence: u64, count: u32) -> Command<'static> {
    Command::Batch(Batch {
        gateway_epoch: GATEWAY,
        stream: 1,
        first_sequence,
        count,
        crc: 0,
        confirmed_upto: first_sequence - 1,
    })
}

fn main() {
    let what = std::env::args().nth(1).unwrap_or_default();
    match &*what {
        "queue" => queues::one_queue(),
        "queues" => queues::interleaved(),
        _ => sessions(),
    }
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

fn sessions() {
    let mut broker = Broker::new(ShardId(0));
    let mut sequence = 1;
    let mut say = |broker: &mut Broker, index: u64, command: Command<'_>| {
        let mut builder = EntryBuilder::default();
        builder.push(|out| head(sequence, 1).encode(&[], out));
        builder.push(|out| command.encode(&[], out));
        sequence += 1;
        broker.apply(index, &builder.close(1)).unwrap().outcomes.pop().unwrap().1
    };
    let connect = Connect {
        vhost: "/",
        client_id: "c",
        clean_start: false,
        expiry_s: NEVER,
        window: 100,
        token: 1,
        will: None,
    };
    let Outcome::Connected(session) = say(&mut broker, 1, Command::Connect(connect)) else {
        panic!("not connected")
    };
    let (session, epoch) = (session.session, session.epoch);
    let filters = vec![Wanted { options: 1, identifier: 0, filter: "bench/+/x", more: "" }];
    say(&mut broker, 2, Command::Subscribe { session, epoch, filters });

    let body = [7; 256];
    let publish = Publish { qos: 1, vhost: "/", topic: "bench/1/x", ..Publish::default() };
    let payload = |first: u64| {
        let mut builder = EntryBuilder::default();
        builder.push(|out| head(first, BATCH as u32).encode(&[], out));
        for _ in 0..BATCH {
            builder.push(|out| Command::Publish(publish).encode(&body, out));
        }
        builder.close(1)
    };
    let entries: Vec<_> = (0..MESSAGES / BATCH).map(|n| payload(3 + n * BATCH)).collect();
    let start = cpu();
    for (n, entry) in entries.iter().enumerate() {
        let applied = broker.apply(3 + n as u64, entry).unwrap();
        assert_eq!(applied.outcomes[99].1, Outcome::Published { matched: 1 });
    }
    let each = |start: Duration| (cpu() - start).as_nanos() as u64 / MESSAGES;
    println!("apply of a PUBLISH to one inbox: {} ns", each(start));
    println!("snapshot of {MESSAGES} owed: {} bytes", broker.snapshot().encode().len());

    let start = cpu();
    let mut cursor = DeliveryCursor::at_start(broker.session(session).unwrap());
    let (mut owed, mut seen) = (Vec::new(), 0);
    while seen < MESSAGES {
        owed.clear();
        broker.owed_from(session, &mut cursor, 100, &mut owed);
        seen += owed.len() as u64;
    }
    println!("read of an owed message: {} ns", each(start));

    let start = cpu();
    for n in 0..MESSAGES / BATCH {
        let first = n * BATCH;
        let ranges = vec![Settled { first, count: BATCH as u32, received: false }];
        let mut builder = EntryBuilder::default();
        builder.push(|out| head(3 + MESSAGES + n, 1).encode(&[], out));
        let sent_upto = first + BATCH;
        let settle = Command::Settle { session, epoch, sent_upto, ranges };
        builder.push(|out| settle.encode(&[], out));
        broker.apply(20_000 + n, &builder.close(1)).unwrap();
    }
    println!("settlement of a message, {BATCH} a command: {} ns", each(start));
    assert_eq!(broker.live_references(), 0);
}
