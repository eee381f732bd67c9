//! SUBSCRIBE and UNSUBSCRIBE of filters that consume queues.

use std::rc::Rc;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::Command;
use fluxmq_commands::command::queue::{Arguments, QueueCommand, Start, Stays};
use fluxmq_names::{ErrorCode, Kind, place};
use gateway_core::backend::QueueGroup;
use mqtt_codec::{QoS, ReasonCode};
use tokio::task::spawn_local;

use super::{Consumer, Source, Subscription, Wishes};
use crate::client::Client;
use crate::durable_publish::refusal;

/// How long a message may be kept that is acknowledged by name, ms. Else it is kept as long as the connection lives.
const MANUAL_LEASE_MS: u32 = 30_000;
/// Tries to join a group whose queue went away in between.
const TRIES: usize = 5;

// === impl Client ===

impl Client {
    /// A queue and a group of it, made when they do not exist.
    pub(super) async fn find_by_name(
        &self,
        name: &str,
        (group, start): (Option<&str>, Start),
    ) -> Result<QueueGroup, ErrorCode> {
        let backend = self.worker.backend().ok_or(ErrorCode::Unavailable)?;
        let shard = place(Kind::Queue, "/", name, backend.shards()).0;
        // `default` is the group every work queue has; a stream has none of itself.
        let group = group.filter(|group| *group != "default");
        backend.find_queue(shard, ("/", name), Arguments::default(), (group, start)).await
    }

    /// Begins to consume what `filter` says.
    ///
    /// # Errors
    /// The reason code of SUBACK.
    pub(crate) async fn consume(
        &self,
        filter: &str,
        (qos, identifier): (QoS, u32),
        wishes: &Wishes,
    ) -> Result<(), ReasonCode> {
        let source = Source::of(filter, qos).ok_or(ReasonCode::TOPIC_FILTER_INVALID)?;
        let known = self
            .leased
            .borrow()
            .iter()
            .any(|l| l.subscriptions.iter().any(|s| *s.filter == *filter));
        if known {
            self.stop_consuming(filter).await;
        }
        for _ in 0..TRIES {
            match self.join(filter, &source, (qos, identifier), wishes).await {
                Ok(()) => return Ok(()),
                // The last member left in between, and the queue with him.
                Err(ErrorCode::NotFound) => {}
                Err(code) => return Err(refusal(code)),
            }
        }
        Err(ReasonCode::UNSPECIFIED)
    }

    async fn join(
        &self,
        filter: &str,
        source: &Source,
        (qos, identifier): (QoS, u32),
        wishes: &Wishes,
    ) -> Result<(), ErrorCode> {
        let backend = self.worker.backend().ok_or(ErrorCode::Unavailable)?.clone();
        let manual = wishes.manual && matches!(source, Source::Queue { .. });
        let (at, member) = match source {
            Source::Queue { name, group, .. } => {
                let group = wishes.group.as_deref().or(group.as_deref());
                let start = wishes.start.unwrap_or(Start::First);
                let at = self.find_by_name(name, (group, start)).await?;
                (at, (0, Stays::WithGateway))
            }
            Source::Shared { group, filter } => {
                let name = format!("{group}/{filter}");
                let shard = place(Kind::Shared, "/", &name, backend.shards()).0;
                let hidden = Arguments { hidden: true, auto_delete: true, ..Arguments::default() };
                let name = format!("$share/{name}");
                let first = (None, Start::First);
                let at = backend.find_queue(shard, ("/", &name), hidden, first).await?;
                let bind = QueueCommand::Bind { queue: at.queue, filter, bound: true };
                if let Outcome::Error { code, .. } =
                    backend.call(shard, &Command::Queue(bind), &[]).await
                {
                    return Err(code);
                }
                let member = self.persistent().map_or((0, Stays::WithGateway), |(durable, _)| {
                    let shard = u8::try_from(durable.shard).unwrap_or(u8::MAX);
                    (durable.session, Stays::WithSession(shard))
                });
                (at, member)
            }
        };
        let lease_ms = if manual { MANUAL_LEASE_MS } else { 0 };
        let credit = u32::from(self.terms.window);
        let token = backend.fresh_id();
        // Held until it has begun: when the filter is given up meanwhile, what began ends with this.
        let consumer = Rc::new(Consumer { backend: backend.clone(), token, at });
        let subscription = Subscription {
            filter: filter.into(),
            source: source.clone(),
            token,
            consumer: consumer.clone(),
            qos: source.grants(qos),
            identifier,
            manual,
        };
        // Before it begins: messages may come with the answer.
        self.leased.borrow_mut().get_or_insert_default().subscriptions.push(subscription);
        let begun = backend.consume((token, at), member, (credit, lease_ms), self.this()).await;
        if begun.is_err() {
            drop(self.take_subscription(|s| s.token == token));
        }
        drop(consumer);
        begun
    }

    /// Takes up again what a resumed session consumes.
    pub(crate) fn consume_again(&self, filters: Vec<(String, QoS, u32, Wishes)>) {
        if filters.is_empty() {
            return;
        }
        let client = self.this();
        // What the client says of these filters comes behind.
        self.busy.set(true);
        spawn_local(async move {
            for (filter, qos, identifier, wishes) in filters {
                let begun = client.consume(&filter, (qos, identifier), &wishes).await;
                if let Err(reason) = begun {
                    tracing::warn!(
                        filter,
                        ?reason,
                        "a session cannot consume what it is subscribed to"
                    );
                }
            }
            client.go_on();
        });
    }

    /// UNSUBSCRIBE of a filter that consumes a queue; false when it is none.
    pub(crate) async fn stop_consuming(&self, filter: &str) -> bool {
        let Some(gone) = self.take_subscription(|s| *s.filter == *filter) else { return false };
        let Subscription { source, consumer, .. } = gone;
        let (at, backend) = (consumer.at, consumer.backend.clone());
        drop(consumer);
        if let (Source::Shared { .. }, Some((durable, _))) = (source, self.persistent()) {
            // Its membership is the session's, not the connection's.
            let shard = u8::try_from(durable.shard).unwrap_or(u8::MAX);
            backend.leave_for_good(at, durable.session, shard).await;
        }
        true
    }

    /// The connection is gone: what it holds goes to others.
    pub(crate) fn leave_queues(&self) {
        drop(self.leased.take());
    }
}
