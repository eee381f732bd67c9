//! A gateway's stream to a group, for the tests.
#![allow(dead_code)] // each test uses its part

use fluxmq_commands::Outcome;
use fluxmq_commands::command::{Batch, Command, Connect, NEVER, Publish, Wanted};
use logd_broker::{Applied, Broker, DeliveryCursor};
use logd_raft::{CommandBatch, Group, Observer, SubmitError};
use tokio::sync::oneshot;

pub(crate) const GATEWAY: u64 = 9;

pub(crate) struct Nobody;

impl Observer for Nobody {
    fn applied(&self, _: &Broker, _: u64, _: &Applied) {}
}

/// A gateway's stream to the group.
pub(crate) struct Stream {
    pub(crate) stream: u32,
    pub(crate) next: u64,
}

impl Stream {
    pub(crate) fn numbered(stream: u32) -> Self {
        Self { stream, next: 1 }
    }

    pub(crate) async fn send(
        &mut self,
        group: &Group,
        commands: &[(Command<'_>, &[u8])],
    ) -> Result<Vec<Outcome>, SubmitError> {
        let (mut body, mut ends) = (Vec::new(), Vec::new());
        for (command, message) in commands {
            command.encode(message, &mut body);
            ends.push(body.len() as u32);
        }
        let head = Batch {
            gateway_epoch: GATEWAY,
            stream: self.stream,
            first_sequence: self.next,
            count: ends.len() as u32,
            crc: 0,
            confirmed_upto: self.next - 1,
        };
        self.next += ends.len() as u64;
        let (tx, rx) = oneshot::channel();
        let reply = Box::new(move |result| drop(tx.send(result)));
        group.submit(CommandBatch { head, ends, body: body.into() }, reply);
        rx.await.expect("the group answers")
    }
}

pub(crate) fn connect() -> Command<'static> {
    Command::Connect(Connect {
        vhost: "/",
        client_id: "c",
        clean_start: false,
        expiry_s: NEVER,
        window: 10,
        token: 1,
        will: None,
    })
}

pub(crate) fn publish() -> Command<'static> {
    Command::Publish(Publish { qos: 1, vhost: "/", topic: "a", ..Publish::default() })
}

/// Session and epoch of a subscriber to all that is published.
pub(crate) async fn subscribed(group: &Group, stream: &mut Stream) -> (u64, u64) {
    subscribed_to(group, stream, "a").await
}

/// Session and epoch of a subscriber.
pub(crate) async fn subscribed_to(group: &Group, stream: &mut Stream, filter: &str) -> (u64, u64) {
    let outcomes = stream.send(group, &[(connect(), b"")]).await.expect("leads");
    let Outcome::Connected(connected) = &outcomes[0] else { panic!("{outcomes:?}") };
    let (session, epoch) = (connected.session, connected.epoch);
    let filters = vec![Wanted { options: 1, identifier: 0, filter, more: "" }];
    let subscribe = Command::Subscribe { session, epoch, filters };
    stream.send(group, &[(subscribe, b"")]).await.expect("leads");
    (session, epoch)
}

/// Number and payload of all that the session is owed, from the log.
pub(crate) fn owed(group: &Group, session: u64) -> Vec<(u64, Vec<u8>)> {
    let mut owed = Vec::new();
    group.with_state(|broker| {
        let session_state = broker.session(session).expect("it is durable");
        let mut cursor = DeliveryCursor::at_start(session_state);
        broker.owed_from(session, &mut cursor, 100_000, &mut owed);
    });
    owed.iter()
        .map(|o| {
            let position = fluxmq_names::Position(o.position);
            let entry = group.log().entry(position.index()).expect("readable").expect("live");
            let slot = fluxmq_commands::slot_of(&entry, position.slot()).expect("a slot");
            (o.number, fluxmq_commands::command::decode(&slot).expect("a command").1.to_vec())
        })
        .collect()
}
