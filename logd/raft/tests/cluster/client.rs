//! Gateways as the cluster sees them: each sends batches under its own sequence until they are answered, to whoever
//! leads, and remembers what it sent, what was acknowledged and what was read and settled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fluxmq_commands::command::{self, Batch, Command, Connect, NEVER, Publish, Settled, Wanted};
use fluxmq_commands::{Outcome, slot_of};
use fluxmq_names::Position;
use logd_broker::{DeliveryCursor, Owed};
use logd_raft::{CommandBatch, Group, SubmitError};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::cluster::Cluster;
use crate::node::NODES;
use crate::random::Random;

const GATEWAY: u64 = 9;
/// How long a gateway waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Messages of a session that are looked at.
const ALL: usize = 1_000_000;

/// The session that keeps everything, and the one that settles what it read.
pub(crate) const KEEP: &str = "keep";
pub(crate) const DROP: &str = "drop";

/// A message: who sent it and its number among the sender's.
pub(crate) type Message = (u32, u64);

/// What is known outside.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) sent: BTreeMap<Message, &'static str>,
    pub(crate) acknowledged: BTreeSet<Message>,
    /// A settlement of it was sent.
    pub(crate) settled: BTreeSet<Message>,
    pub(crate) sessions: BTreeMap<&'static str, (u64, u64)>,
    pub(crate) confirmed: u64,
}

pub(crate) type Shared = Arc<Mutex<History>>;
/// The groups that can be reached, by node.
pub(crate) type Groups = Arc<Mutex<BTreeMap<u64, Group>>>;

/// A gateway's stream.
pub(crate) struct Client {
    pub(crate) stream: u32,
    pub(crate) groups: Groups,
    pub(crate) history: Shared,
    pub(crate) random: Random,
    /// Told when something is acknowledged.
    acknowledged: Arc<Notify>,
    next: u64,
    published: u64,
    to: u64,
}

// === impl Client ===

impl Client {
    pub(crate) fn new(stream: u32, cluster: &Cluster, history: Shared, random: Random) -> Self {
        let (groups, acknowledged) = (cluster.groups.clone(), cluster.acknowledged.clone());
        Self { stream, groups, history, random, acknowledged, next: 1, published: 0, to: 1 }
    }

    /// Sends until there are outcomes.
    pub(crate) async fn send(&mut self, commands: &[(Command<'_>, Vec<u8>)]) -> Vec<Outcome> {
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
        let batch = CommandBatch { head, ends, body: body.into() };
        loop {
            match self.once(batch.clone()).await {
                Ok(outcomes) => return outcomes,
                Err(SubmitError::NotLeader { leader: Some(leader) }) if leader != self.to => {
                    self.to = leader;
                }
                Err(_) => self.to = NODES[self.random.below(3) as usize],
            }
            tokio::time::sleep(self.random.millis(5, 100)).await;
        }
    }

    async fn once(&self, batch: CommandBatch) -> Result<Vec<Outcome>, SubmitError> {
        let group = self.groups.lock().get(&self.to).cloned().ok_or(SubmitError::Stopped)?;
        let (tx, rx) = oneshot::channel();
        group.submit(batch, Box::new(move |result| drop(tx.send(result))));
        drop(group);
        match tokio::time::timeout(PATIENCE, rx).await {
            Ok(Ok(result)) => result,
            _ => Err(SubmitError::Stopped),
        }
    }

    /// Makes both sessions.
    pub(crate) async fn subscribe(&mut self) {
        for name in [KEEP, DROP] {
            let connect = Command::Connect(Connect {
                vhost: "/",
                client_id: name,
                clean_start: false,
                expiry_s: NEVER,
                window: 10,
                token: 1,
                will: None,
            });
            let outcomes = self.send(&[(connect, Vec::new())]).await;
            let Outcome::Connected(connected) = &outcomes[0] else { panic!("{outcomes:?}") };
            let (session, epoch) = (connected.session, connected.epoch);
            let filters = vec![Wanted { options: 1, identifier: 0, filter: name, more: "" }];
            let subscribe = Command::Subscribe { session, epoch, filters };
            self.send(&[(subscribe, Vec::new())]).await;
            self.history.lock().sessions.insert(name, (session, epoch));
        }
    }

    /// Publishes a batch and remembers its acknowledgement.
    pub(crate) async fn publish(&mut self) {
        let mut messages = Vec::new();
        for _ in 0..self.random.between(1, 8) {
            self.published += 1;
            let topic = if self.random.chance(25) { KEEP } else { DROP };
            messages.push(((self.stream, self.published), topic));
        }
        self.history.lock().sent.extend(messages.iter().copied());
        let commands: Vec<_> = messages
            .iter()
            .map(|(message, topic)| {
                let publish = Publish { qos: 1, vhost: "/", topic, ..Publish::default() };
                (Command::Publish(publish), payload(*message, &mut self.random))
            })
            .collect();
        let outcomes = self.send(&commands).await;
        let taken = |o: &Outcome| *o == Outcome::Published { matched: 1 };
        assert!(outcomes.iter().all(taken), "stream {}: {outcomes:?}", self.stream);
        assert_eq!(outcomes.len(), messages.len());
        self.history.lock().acknowledged.extend(messages.into_iter().map(|(m, _)| m));
        self.acknowledged.notify_waiters();
    }

    /// Settles some of what the second session is owed, as its leader says.
    pub(crate) async fn settle(&mut self) {
        let groups: Vec<_> = self.groups.lock().values().cloned().collect();
        let Some(group) = groups.into_iter().find(|g| g.leader() == Some(g.node())) else {
            return;
        };
        let Some((session, epoch)) = self.history.lock().sessions.get(DROP).copied() else {
            return;
        };
        let owed = owed(&group, session);
        let upto = owed.len() * self.random.between(20, 95) as usize / 100;
        let Some(first) = owed.first().map(|o| o.number).filter(|_| upto > 0) else { return };
        let contiguous = owed.iter().zip(first..).take(upto).take_while(|(o, n)| o.number == *n);
        let count = contiguous.count();
        let read: Option<Vec<Message>> =
            owed[..count].iter().map(|o| message_at(&group, o.position)).collect();
        let read = read.expect("what is owed is in the leader's log");
        self.history.lock().settled.extend(read);
        let ranges = vec![Settled { first, count: count as u32, received: false }];
        let sent_upto = first + count as u64;
        self.send(&[(Command::Settle { session, epoch, sent_upto, ranges }, Vec::new())]).await;
    }

    /// What a confirmed leader shows holds everything that was acknowledged before it was asked.
    pub(crate) async fn read(&mut self) {
        let node = NODES[self.random.below(3) as usize];
        let Some(group) = self.groups.lock().get(&node).cloned() else { return };
        let (session, before) = {
            let history = self.history.lock();
            let Some((session, _)) = history.sessions.get(KEEP).copied() else { return };
            let kept = |m: &&Message| history.sent.get(m) == Some(&KEEP);
            (session, history.acknowledged.iter().filter(kept).count())
        };
        if group.confirm().await.is_ok() {
            let seen = owed(&group, session).len();
            assert!(seen >= before, "node {node} is confirmed and shows {seen} of {before}");
            self.history.lock().confirmed += 1;
        }
    }
}

/// Number and sender, and bytes that follow from them.
fn payload((stream, number): Message, random: &mut Random) -> Vec<u8> {
    let len = if random.chance(2) { 12_000 } else { random.between(0, 600) as usize };
    let mut bytes = stream.to_le_bytes().to_vec();
    bytes.extend_from_slice(&number.to_le_bytes());
    let mut fill = Random(number ^ u64::from(stream) << 32);
    bytes.extend((0..len).map(|_| fill.next() as u8));
    bytes
}

/// All that a session is owed on a node.
pub(crate) fn owed(group: &Group, session: u64) -> Vec<Owed> {
    let mut owed = Vec::new();
    group.with_state(|broker| {
        let Some(state) = broker.session(session) else { return };
        let mut cursor = DeliveryCursor::at_start(state);
        broker.owed_from(session, &mut cursor, ALL, &mut owed);
    });
    owed
}

/// The message at a position, every byte of it looked at; None when the log does not have it.
pub(crate) fn message_at(group: &Group, position: u64) -> Option<Message> {
    let position = Position(position);
    let entry = group.log().entry(position.index()).expect("readable")?;
    let slot = slot_of(&entry, position.slot())?;
    let (_, body) = command::decode(&slot).ok()?;
    let stream = u32::from_le_bytes(*body.first_chunk()?);
    let number = u64::from_le_bytes(*body[4..].first_chunk()?);
    let mut fill = Random(number ^ u64::from(stream) << 32);
    body[12..].iter().all(|b| *b == fill.next() as u8).then_some((stream, number))
}
