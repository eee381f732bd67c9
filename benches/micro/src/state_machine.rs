//! Batches of commands, and what applying and reading them costs: a hundred publishes to one inbox a batch.

use std::hint::black_box;

use bytes::Bytes;
use fluxmq_commands::command::{self, Batch, Command, Connect, NEVER, Publish, Wanted};
use fluxmq_commands::{EntryBuilder, EntryView, Outcome};
use fluxmq_names::ShardId;
use logd_broker::{Broker, DeliveryCursor};

use crate::PAYLOAD;

/// Publishes in an entry.
const BATCH: u64 = 100;
/// Entries before a state machine starts anew.
const ENTRIES: u64 = 200;

/// One entry of `count` commands from `first_sequence` on.
fn entry(first_sequence: u64, count: u32, mut push: impl FnMut(&mut EntryBuilder)) -> Bytes {
    let head = Batch {
        gateway_epoch: 5,
        stream: 1,
        first_sequence,
        count,
        crc: 0,
        confirmed_upto: first_sequence - 1,
    };
    let mut builder = EntryBuilder::default();
    builder.push(|out| Command::Batch(head).encode(&[], out));
    for _ in 0..count {
        push(&mut builder);
    }
    builder.close(1)
}

fn publishes(first_sequence: u64) -> Bytes {
    let publish = Publish { qos: 1, vhost: "/", topic: "bench/1/t", ..Publish::default() };
    let publish = |builder: &mut EntryBuilder| {
        builder.push(|out| Command::Publish(publish).encode(&PAYLOAD, out));
    };
    entry(first_sequence, BATCH as u32, publish)
}

/// A state machine with one session that subscribes to the topic, after two commands; and the session.
fn subscribed() -> (Broker, u64) {
    let mut broker = Broker::new(ShardId(0));
    let connect = Command::Connect(Connect {
        vhost: "/",
        client_id: "c",
        clean_start: false,
        expiry_s: NEVER,
        window: 100,
        token: 1,
        will: None,
    });
    let mut say = |index: u64, command: &Command<'_>| {
        let entry = entry(index, 1, |builder| builder.push(|out| command.encode(&[], out)));
        let applied = broker.apply(index, &entry).expect("a well-formed entry");
        applied.outcomes.into_iter().next_back().expect("an outcome for the command").1
    };
    let Outcome::Connected(connected) = say(1, &connect) else { unreachable!("nobody refuses") };
    let (session, epoch) = (connected.session, connected.epoch);
    let filters = vec![Wanted { options: 1, identifier: 0, filter: "bench/+/t", more: "" }];
    say(2, &Command::Subscribe { session, epoch, filters });
    (broker, session)
}

pub(crate) fn encode_batch() -> Box<dyn FnMut()> {
    Box::new(|| {
        black_box(publishes(black_box(3)));
    })
}

pub(crate) fn decode_batch() -> Box<dyn FnMut()> {
    let entry = publishes(3);
    Box::new(move || {
        let view = EntryView::read(black_box(&entry)).expect("a well-formed entry");
        for slot in 0..view.len() {
            let command = view.slot(slot).map(command::decode);
            assert!(matches!(command, Some(Ok(_))));
        }
    })
}

pub(crate) fn apply() -> Box<dyn FnMut()> {
    let entries: Vec<_> = (0..ENTRIES).map(|n| publishes(3 + n * BATCH)).collect();
    let mut broker = subscribed().0;
    let mut at = 0;
    Box::new(move || {
        if at == entries.len() {
            (broker, at) = (subscribed().0, 0);
        }
        let applied = broker.apply(3 + at as u64, &entries[at]).expect("a well-formed entry");
        assert_eq!(applied.outcomes.len(), BATCH as usize);
        at += 1;
    })
}

pub(crate) fn read_owed() -> Box<dyn FnMut()> {
    let (mut broker, session) = subscribed();
    for n in 0..ENTRIES {
        broker.apply(3 + n, &publishes(3 + n * BATCH)).expect("a well-formed entry");
    }
    let start = move |broker: &Broker| {
        DeliveryCursor::at_start(broker.session(session).expect("it is connected"))
    };
    let mut cursor = start(&broker);
    let mut owed = Vec::new();
    Box::new(move || {
        owed.clear();
        broker.owed_from(session, &mut cursor, BATCH as usize, &mut owed);
        if owed.is_empty() {
            cursor = start(&broker);
        }
        black_box(&owed);
    })
}
