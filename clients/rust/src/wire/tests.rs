use std::collections::VecDeque;

use bytes::Bytes;
use fluxmq_commands::{Connected, Outcome};
use fluxmq_names::ErrorCode;
use fluxmq_proto::v1::{
    AttachReply, AttachRequest, PublishReply, PublishRequest, RoutesReply, RoutesRequest,
};
use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::contract::*;
use crate::{Frame, Lane};

/// Packs all frames, encodes and decodes every message, and gives what comes out.
fn through<F: std::fmt::Debug, M: Message<F>>(frames: Vec<F>) -> Vec<F> {
    let mut queue = VecDeque::from(frames);
    let mut came = Vec::new();
    while !queue.is_empty() {
        let bytes = M::pack(&mut queue).encode_to_vec();
        let message = M::decode(&bytes[..]).expect("encoded above");
        message.unpack(&mut |frame| came.push(frame)).expect("packed above");
    }
    came
}

fn same<F: std::fmt::Debug + Clone, M: Message<F>>(frames: &[F]) {
    assert_eq!(format!("{:?}", through::<F, M>(frames.to_vec())), format!("{frames:?}"));
}

fn relay() -> Relay {
    Relay { peer: 7, first: 3, ends: vec![1, 3], body: Bytes::from_static(b"abc") }
}

fn changes() -> Vec<Change> {
    [Class::Gone, Class::All, Class::Zero, Class::Every]
        .map(|class| Change { vhost: "/".into(), filter: "a/+".into(), class })
        .to_vec()
}

fn delivery(token: u64, command: &Bytes, identifiers: &[u32]) -> Delivery {
    Delivery {
        token,
        number: token * 10,
        qos: (token % 3) as u8,
        retain: token.is_multiple_of(2),
        dup: token.is_multiple_of(3),
        release: token.is_multiple_of(5),
        identifiers: identifiers.to_vec(),
        command: command.clone(),
    }
}

#[test]
fn requests_come_back_in_order() {
    let submit = Submit {
        shard: 1,
        first_sequence: 2,
        confirmed_upto: 1,
        ends: vec![2, 4],
        body: Bytes::from_static(b"abcd"),
    };
    let publish = [
        Request::Submit(submit),
        Request::Relay(relay()),
        Request::RelayTaken { peer: 1, upto: 2 },
    ];
    let control = [
        Request::Hello { name: "g".into(), epoch: 4, role: Role::Gateway },
        Request::Hello { name: "p".into(), epoch: 0, role: Role::Program },
        Request::SendLive { id: 1, command: Bytes::from_static(b"x") },
        Request::Announce { id: 3, full: true, changes: changes() },
        Request::Ack { version: 0 },
        Request::Renew { nonce: 9 },
        Request::Leave,
    ];
    let register = |how| Request::Register {
        token: 1,
        shard: 2,
        vhost: "/".into(),
        client_id: "c".into(),
        how,
    };
    let deliver = [
        register(Registration::Look),
        register(Registration::New),
        register(Registration::Again),
        Request::Open { token: 1, shard: 2, session: 3, epoch: 4, from: 5 },
        Request::Credit { token: 1, count: 10 },
        Request::Close { token: 1 },
        Request::Credit { token: 2, count: 10 },
        Request::Window { bytes: 5 },
        Request::Unregister { token: 1 },
        Request::ReadRetained {
            id: 1,
            shard: 0,
            vhost: "/".into(),
            filter: "#".into(),
            after: "a".into(),
        },
    ];
    assert!(publish.iter().all(|f| f.lane() == Lane::Publish));
    assert!(control.iter().all(|f| f.lane() == Lane::Control));
    assert!(deliver.iter().all(|f| f.lane() == Lane::Deliver));
    same::<_, PublishRequest>(&publish);
    same::<_, RoutesRequest>(&control);
    // The window is the sum of what stands behind each other and comes last.
    let mut expected = deliver.to_vec();
    expected.swap(7, 8);
    let came = through::<_, AttachRequest>(deliver.to_vec());
    assert_eq!(came.len(), expected.len());
    let at = |all: &[Request], text: &str| {
        all.iter().position(|f| format!("{f:?}").starts_with(text)).expect(text)
    };
    assert!(at(&came, "Open") < at(&came, "Credit"), "nothing has credit before it is open");
    assert!(at(&came, "Credit") < at(&came, "Close"));
}

#[test]
fn events_come_back_in_order() {
    let outcomes = |outcomes| Event::Outcomes { shard: 1, first_sequence: 5, outcomes };
    let publish = [
        outcomes(vec![Outcome::Done; 3]),
        outcomes(vec![Outcome::Done, Outcome::Connected(Connected::default())]),
        Event::Refused { shard: 1, first_sequence: 2, count: 3, code: ErrorCode::DiskFull },
        Event::Relay(relay()),
        Event::RelayTaken { peer: 1, upto: 2 },
        Event::Resend { peer: 3 },
    ];
    let delta = |source, full| Delta { source, full, changes: changes() };
    let control = [
        Event::Welcome { gateway_epoch: 1, shards: 4, resumed: true, lease_ms: 6_000 },
        Event::Deltas {
            version: 3,
            deltas: vec![delta(Source::Shard(0), true), delta(Source::Gateway(9), false)],
        },
        Event::Others(true),
        Event::Others(false),
        Event::Done { id: 0 },
        Event::Lease { nonce: 1, lease_ms: 2 },
        Event::GatewayGone { epoch: 3 },
        Event::Live { command: Bytes::from_static(b"x") },
        Event::LiveTaken { id: 1 },
    ];
    let (one, two) = (Bytes::from(vec![1; 100]), Bytes::from(vec![2; 300_000]));
    let deliver = [
        Event::Registered { token: 1, exists: true },
        Event::Opened { token: 1, subscriptions: None },
        Event::Opened {
            token: 2,
            subscriptions: Some(vec![Subscribed {
                filter: "a".into(),
                options: 2,
                identifier: 3,
                more: "ack=manual".into(),
            }]),
        },
        Event::Deliveries(vec![delivery(1, &one, &[]), delivery(2, &one, &[4, 5])]),
        Event::Taken { token: 3, client_id: "c".into() },
        Event::Deliveries(vec![delivery(3, &two, &[])]),
        Event::Deliveries(vec![delivery(4, &two, &[]), delivery(5, &Bytes::new(), &[])]),
        Event::Retained { id: 1, commands: vec![one.clone()], more: true },
    ];
    assert!(publish.iter().all(|f| f.lane() == Lane::Publish));
    assert!(control.iter().all(|f| f.lane() == Lane::Control));
    assert!(deliver.iter().all(|f| f.lane() == Lane::Deliver));
    same::<_, PublishReply>(&publish);
    same::<_, RoutesReply>(&control);
    let flat = |events: Vec<Event>| -> Vec<String> {
        let each = events.into_iter().flat_map(|event| match event {
            Event::Deliveries(all) => all.iter().map(|d| format!("{d:?}")).collect(),
            other => vec![format!("{other:?}")],
        });
        each.collect()
    };
    assert_eq!(flat(through::<_, AttachReply>(deliver.to_vec())), flat(deliver.to_vec()));
}

#[test]
fn a_body_travels_once_for_all_who_get_it() {
    let body = Bytes::from(vec![7; 10_000]);
    let all = (0..100).map(|token| delivery(token, &body, &[])).collect();
    let message = AttachReply::pack(&mut VecDeque::from([Event::Deliveries(all)]));
    assert!(message.encoded_len() < 12_000, "{}", message.encoded_len());
}

/// Whatever bytes come, they are frames or an error.
fn survives<F, M: Message<F>>(bytes: &[u8]) {
    if let Ok(message) = M::decode(bytes) {
        let _ = message.unpack(&mut |_| ());
    }
}

proptest! {
    #[test]
    fn bad_messages_are_errors(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        survives::<Request, PublishRequest>(&bytes);
        survives::<Request, AttachRequest>(&bytes);
        survives::<Request, RoutesRequest>(&bytes);
        survives::<Event, PublishReply>(&bytes);
        survives::<Event, AttachReply>(&bytes);
        survives::<Event, RoutesReply>(&bytes);
    }

    #[test]
    fn damaged_deliveries_are_errors_or_deliveries(at in 0usize..400, to in any::<u8>()) {
        let body = Bytes::from_static(b"hello");
        let all = (0..9).map(|token| delivery(token, &body, &[1])).collect();
        let message = AttachReply::pack(&mut VecDeque::from([Event::Deliveries(all)]));
        let mut bytes = message.encode_to_vec();
        let at = at % bytes.len();
        bytes[at] = to;
        survives::<Event, AttachReply>(&bytes);
    }
}
