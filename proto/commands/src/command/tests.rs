use proptest::prelude::*;

use super::*;

fn samples() -> Vec<Command<'static>> {
    let publish = Publish { qos: 1, vhost: "/", topic: "a/b", ..Publish::default() };
    let full = Publish {
        qos: 2,
        retain: true,
        store: true,
        empty: true,
        expiry_ms: Some(9),
        key: Some(Key { shard: 1, id: 2, n: 3 }),
        lowest_open: Some(4),
        publisher: Some((5, 6)),
        list: Some(ToList {
            session: 7,
            replay: 8,
            shard: 9,
            source: 10,
            identifiers: &[1, 0, 0, 0, 2, 0, 0, 0],
        }),
        options: OPTIONS,
        ..publish
    };
    let connect = Connect {
        vhost: "/",
        client_id: "c",
        clean_start: true,
        expiry_s: NEVER,
        window: 100,
        token: 7,
        will: None,
    };
    let will = Will { qos: 2, retain: true, delay_s: 1, expiry_s: 2, topic: "w" };
    let mut all = session_samples();
    all.extend(queue_samples().into_iter().map(Command::Queue));
    all.push(Command::Queue(QueueCommand::Transaction { count: 3 }));
    all.extend([
        Command::Batch(Batch {
            gateway_epoch: 1,
            stream: 2,
            first_sequence: 3,
            count: 4,
            crc: 5,
            confirmed_upto: 6,
        }),
        Command::Tick,
        Command::Publish(publish),
        Command::Publish(full),
        Command::GatewayRegister { name: "g", address: "h" },
        Command::GatewayEnded { epoch: 3 },
        Command::EndGatewaysBefore { epoch: 3 },
        Command::OwedDone { id: 5 },
        Command::Connect(connect),
        Command::Connect(Connect { clean_start: false, will: Some(will), ..connect }),
        Command::ForgetKeys { shard: 3, ids: vec![4, 5] },
        Command::KeysForgotten { ids: vec![6] },
    ]);
    all
}

const OPTIONS: Options<'static> =
    Options { priority: 3, deliver_at_ms: 4, message_id: "m", key: b"k", producer: Some(("p", 5)) };

const RECIPIENT: queue::Recipient = queue::Recipient { shard: 1, session: 2, identifier: 3 };

fn queue_samples() -> Vec<QueueCommand<'static>> {
    let arguments = queue::Arguments {
        retention: queue::Retention::Policy,
        durability: queue::Durability::Replicated,
        overflow: queue::Overflow::DeadLetter,
        max_messages: 1,
        max_bytes: 2,
        max_age_ms: 3,
        message_ttl_ms: 4,
        expires_ms: 5,
        delivery_limit: 6,
        backoff_ms: 7,
        backoff_max_ms: 8,
        levels: 9,
        dedup_window_ms: 10,
        compact: true,
        auto_delete: true,
        hidden: true,
        sharing: queue::Sharing::Keyed,
        dead_letter: "d",
    };
    assert_eq!(arguments.difference(&queue::Arguments::default()), (1 << 18) - 1);
    let dead = queue::DeadLetter {
        reason: queue::DeadReason::Expired,
        hops: 1,
        count: 2,
        shard: 3,
        queue: 4,
        offset: 5,
    };
    let full = queue::Enqueue {
        queues: &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0],
        expiry_ms: Some(1),
        key: Some(Key { shard: 1, id: 2, n: 3 }),
        lowest_open: Some(4),
        options: OPTIONS,
        dead: Some(dead),
    };
    let (queue, group) = (7, 8);
    let verdict = |verdict| queue::Settlement { verdict, first: 1, count: 2 };
    let (start, sharing) = (queue::Start::Time(9), queue::Sharing::Keyed);
    let stays = queue::Stays::WithSession(3);
    vec![
        QueueCommand::Declare { vhost: "/", name: "q", arguments, passive: true },
        QueueCommand::Delete { queue, if_empty: true, if_unused: false },
        QueueCommand::Purge { queue },
        QueueCommand::Bind { queue, filter: "a/#", bound: true },
        QueueCommand::Enqueue(full),
        QueueCommand::Enqueue(queue::Enqueue::default()),
        QueueCommand::Settle {
            queue,
            group,
            token: 1,
            verdicts: vec![verdict(queue::Verdict::Reject), verdict(queue::Verdict::Release)],
        },
        QueueCommand::CancelScheduled { queue, ids: vec![1, 2] },
        QueueCommand::GroupCreate { queue, name: "g", start, sharing },
        QueueCommand::GroupDelete { queue, group },
        QueueCommand::GroupSeek { queue, group, start: queue::Start::Offset(3) },
        QueueCommand::GroupCopy { queue, group, name: "h" },
        QueueCommand::GroupJoin { queue, group, consumer: 1, priority: 2, stays },
        QueueCommand::GroupLeave { queue, group, token: 3 },
        QueueCommand::Expire { queue, spared: vec![(1, 2)] },
        QueueCommand::Moved { queue, dropped: true, numbers: vec![1] },
        QueueCommand::Touch { queue },
        QueueCommand::Give { queue, group, offset: 9, to: None },
        QueueCommand::Give { queue, group, offset: 9, to: Some(RECIPIENT) },
    ]
}

fn session_samples() -> Vec<Command<'static>> {
    let (session, epoch) = (8, 9);
    vec![
        Command::Disconnect { session, epoch, publish_will: true, expiry_s: Some(4), sent_upto: 1 },
        Command::Subscribe {
            session,
            epoch,
            filters: vec![
                Wanted { options: 0x2E, identifier: 7, filter: "a/#", more: "" },
                Wanted { options: 1, identifier: 0, filter: "$queue/q", more: "ack=manual" },
            ],
        },
        Command::Unsubscribe { session, epoch, filters: vec!["a", "b/+"] },
        Command::Settle {
            session,
            epoch,
            sent_upto: 9,
            ranges: vec![Settled { first: 1, count: 2, received: true }],
        },
        Command::RetainedLimits { messages: 1, bytes: 2 },
        Command::Qos2Open { session, epoch, packet_id: 5 },
        Command::Qos2Close { session, epoch, packet_id: 5 },
        Command::SentUpto { session, epoch, number: 4 },
        Command::Trim { session, number: 4 },
        Command::Drop { session, ranges: vec![(1, 2)] },
        Command::ReplayAt {
            session,
            replay: 1,
            shard: 2,
            after: "a",
            progress: Progress::ShardDone,
        },
    ]
}

#[test]
fn commands_come_back_and_cut_ones_are_refused() {
    for command in samples() {
        let mut bytes = Vec::new();
        command.encode(b"body", &mut bytes);
        assert_eq!(decode(&bytes), Ok((command.clone(), &b"body"[..])));
        for cut in 0..bytes.len() - 4 {
            assert!(decode(&bytes[..cut]).is_err(), "{command:?} cut at {cut}");
        }
    }
}

#[test]
fn an_unknown_operation_is_an_error() {
    assert!(decode(&[99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(op in 0u16..400, bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let mut slot = op.to_le_bytes().to_vec();
        slot.extend_from_slice(&(bytes.len() as u16 / 2).to_le_bytes());
        slot.extend_from_slice(&bytes);
        let _ = decode(&slot);
    }
}
