//! SUBSCRIBE and UNSUBSCRIBE.

use std::rc::Rc;

use fluxmq_client::contract::Subscribed;
use fluxmq_commands::Outcome;
use fluxmq_commands::command::{Command, Wanted as WantedFilter};
use gateway_core::route_table::{RouteTable, SubscriptionOptions};
use mqtt_codec::{
    PropertyId, QoS, ReasonCode, Subscribe, SubscribeOptions, Unsubscribe, encode, topic,
};
use tokio::task::spawn_local;

use crate::client::{Client, Close};
use crate::inbound::NAME_BYTES_MAX;
use crate::queues::{self, PREFIX, Source, Wishes};
use crate::retained::Wanted;

/// Bytes of filters in one command, which has room for 64 KiB.
const COMMAND_BYTES_MAX: usize = 64_000;

/// A filter of a SUBSCRIBE and what it was answered with.
struct Asked {
    filter: String,
    options: SubscribeOptions,
    code: ReasonCode,
    fresh: bool,
}

// === impl Asked ===

impl Asked {
    /// The MQTT 5 options byte, with the QoS that is granted.
    fn byte(&self) -> u8 {
        let o = &self.options;
        o.qos as u8
            | u8::from(o.no_local) << 2
            | u8::from(o.retain_as_published) << 3
            | o.retain_handling << 4
    }

    /// What queue it consumes: one by name, or that of a shared subscription.
    fn source(&self) -> Option<Source> {
        Source::of(&self.filter, self.options.qos)
    }

    fn consumes(&self) -> bool {
        self.source().is_some()
    }

    /// Whether retained messages are to be sent (MQTT-3.3.1-9 to -11); never to a shared subscription.
    fn wants_retained(&self) -> bool {
        !self.code.is_failure()
            && topic::shared(&self.filter).is_none()
            && !self.consumes()
            && (self.options.retain_handling == 0
                || (self.options.retain_handling == 1 && self.fresh))
    }
}

// === impl Client ===

impl Client {
    pub(crate) fn subscribe(&self, subscribe: &Subscribe<'_>) -> Result<(), Close> {
        self.charge(|rate, now_ms| rate.subscribe(subscribe.filters().count(), now_ms));
        let identifier = subscribe.properties.number(PropertyId::SUBSCRIPTION_ID).unwrap_or(0);
        let packet_id = subscribe.packet_id;
        let mut asked: Vec<_> = subscribe.filters().map(|(f, o)| self.check(f, o)).collect();
        if identifier > 0 && !self.settings.subscription_ids_available {
            let refused = ReasonCode::SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED;
            asked.iter_mut().for_each(|a| a.code = refused);
        }
        // From now on what comes live overtakes what is read; ended by `send_retained`.
        self.worker.replays.begin(self.token);
        if asked.iter().any(|a| a.consumes() && !a.code.is_failure())
            && self.worker.backend().is_some()
        {
            let Some(wishes) = queues::wishes_of(subscribe) else {
                asked
                    .iter_mut()
                    .filter(|a| a.consumes())
                    .for_each(|a| a.code = ReasonCode::TOPIC_FILTER_INVALID);
                self.write_suback(packet_id, &asked);
                return Ok(());
            };
            let client = self.this();
            self.busy.set(true);
            spawn_local(async move {
                client.subscribe_queues(&mut asked, identifier, wishes).await;
                client.finish_subscribe(packet_id, asked, identifier).await;
            });
            return Ok(());
        }
        if self.persistent().is_some() {
            let client = self.this();
            self.busy.set(true);
            spawn_local(async move {
                client.subscribe_session(&mut asked, identifier, &Wishes::default()).await;
                client.finish_subscribe(packet_id, asked, identifier).await;
            });
            return Ok(());
        }
        for asked in asked.iter_mut().filter(|a| !a.code.is_failure()) {
            self.subscribe_plain(asked, identifier);
        }
        // A fault planted to prove that the chaos harness finds it (design §12).
        let announced = || self.worker.backend().and_then(|backend| backend.announced());
        let known =
            if fluxmq_names::planted!("suback_before_barrier") { None } else { announced() };
        if let Some(known) = known {
            let client = self.this();
            self.busy.set(true);
            spawn_local(async move {
                // SUBACK comes when every gateway knows the filters (R4).
                let _ = known.await;
                client.finish_subscribe(packet_id, asked, identifier).await;
            });
            return Ok(());
        }
        self.write_suback(packet_id, &asked);
        let wanted = wanted(asked, identifier);
        if wanted.is_empty() || self.worker.backend().is_none() {
            self.worker.replays.end(self.token);
            return Ok(());
        }
        let client = self.this();
        spawn_local(async move { client.send_retained(wanted).await });
        Ok(())
    }

    fn check(&self, filter: &str, mut options: SubscribeOptions) -> Asked {
        let settings = &self.settings;
        if options.qos as u8 > settings.qos_max {
            options.qos = QoS::from_bits(settings.qos_max).unwrap_or(QoS::AtMostOnce);
        }
        let filters = self.filters.borrow();
        let known = filters.iter().any(|f| **f == *filter);
        let shared = topic::shared(filter);
        let plain = shared.map_or(filter, |(_, plain)| plain);
        let stored = shared.is_some() || plain.starts_with(PREFIX) || self.persistent().is_some();
        let code = if !self.terms.access.may_subscribe(plain) {
            ReasonCode::NOT_AUTHORIZED
        } else if !settings.wildcard_available && filter.contains(['+', '#']) {
            ReasonCode::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED
        } else if (filter.len() > NAME_BYTES_MAX && stored)
            || plain.split('/').count() > settings.topic_levels_max as usize
        {
            ReasonCode::TOPIC_FILTER_INVALID
        } else if !known && filters.len() >= settings.subscriptions_max as usize {
            ReasonCode::QUOTA_EXCEEDED
        } else {
            ReasonCode(options.qos as u8)
        };
        Asked { filter: filter.to_owned(), options, code, fresh: !known }
    }

    /// Commits the subscriptions, then makes them known (R4: SUBACK comes behind the barrier).
    async fn subscribe_session(&self, asked: &mut [Asked], identifier: u32, wishes: &Wishes) {
        let Some((_, backend)) = self.persistent() else { return };
        let mut good: Vec<_> = asked.iter_mut().filter(|a| !a.code.is_failure()).collect();
        let more = wishes.to_text();
        let size = |a: &&mut Asked| a.filter.len() + more.len();
        for piece in good.as_mut_slice().chunk_by_mut(fits_into_a_command(size)) {
            self.subscribe_piece(piece, identifier, &more).await;
        }
        backend.barrier(&*self.worker).await;
    }

    /// Commits as many subscriptions as one command has room for.
    async fn subscribe_piece(&self, piece: &mut [&mut Asked], identifier: u32, more: &str) {
        let Some((durable, backend)) = self.persistent() else { return };
        let (shard, session, epoch) = (durable.shard, durable.session, durable.epoch);
        let wanted = |a: &&mut Asked| (a.byte(), if a.consumes() { more } else { "" });
        let filters = piece
            .iter()
            .map(|a| (wanted(a), &*a.filter))
            .map(|((options, more), filter)| WantedFilter { options, identifier, filter, more })
            .collect();
        let command = Command::Subscribe { session, epoch, filters };
        let outcome = backend.call(shard, &command, &[]).await;
        let Outcome::Subscribed(codes) = outcome else {
            piece.iter_mut().for_each(|a| a.code = ReasonCode::UNSPECIFIED);
            return;
        };
        for (asked, (code, fresh)) in piece.iter_mut().zip(codes) {
            asked.code = ReasonCode(code);
            asked.fresh = fresh;
            if !asked.code.is_failure() {
                let options = live_options(asked.byte(), identifier, true);
                self.subscribe_live(&asked.filter, options);
                if asked.options.qos == QoS::AtMostOnce {
                    self.announce_for_retained(asked);
                }
            }
        }
    }

    /// Subscribes with filters of which some consume queues.
    async fn subscribe_queues(&self, asked: &mut [Asked], identifier: u32, wishes: Wishes) {
        for asked in asked.iter_mut().filter(|a| !a.code.is_failure()) {
            let Some(source) = asked.source() else { continue };
            let qos = source.grants(asked.options.qos);
            match self.consume(&asked.filter, (qos, identifier), &wishes).await {
                Ok(()) => {
                    asked.options.qos = qos;
                    asked.code = ReasonCode(qos as u8);
                }
                Err(reason) => asked.code = reason,
            }
        }
        if self.persistent().is_some() {
            self.subscribe_session(asked, identifier, &wishes).await;
            return;
        }
        for asked in asked.iter_mut().filter(|a| !a.code.is_failure()) {
            self.subscribe_plain(asked, identifier);
        }
        if let Some(backend) = self.worker.backend() {
            backend.barrier(&*self.worker).await;
        }
    }

    /// Enters what a transient session subscribed to into the routes.
    fn subscribe_plain(&self, asked: &mut Asked, identifier: u32) {
        asked.fresh = self.subscribe_live(
            &asked.filter,
            live_options(asked.byte(), identifier, asked.consumes()),
        );
        self.announce_for_retained(asked);
    }

    /// Others have subscribed to the filter before, perhaps, and a retained publish went to them and is not there yet:
    /// before it is read, all gateways are to look for such (R9).
    fn announce_for_retained(&self, asked: &Asked) {
        let backend = self.worker.backend().filter(|backend| backend.has_others());
        if let Some(backend) = backend.filter(|_| asked.wants_retained()) {
            backend.filter_changed("/", &asked.filter);
        }
    }

    async fn finish_subscribe(&self, packet_id: u16, asked: Vec<Asked>, identifier: u32) {
        self.write_suback(packet_id, &asked);
        self.go_on();
        self.send_retained(wanted(asked, identifier)).await;
    }

    /// The answer is out: packets are read again, and what was held for it follows.
    pub(crate) fn go_on(&self) {
        self.busy.set(false);
        self.let_go();
        self.pump_leased();
        self.wake_task();
    }

    /// Enters what a resumed session is subscribed to.
    pub(crate) fn restore_subscriptions(&self, subscriptions: &[Subscribed]) {
        let mut queues = Vec::new();
        for s in subscriptions {
            self.subscribe_live(&s.filter, live_options(s.options, s.identifier, true));
            let qos = QoS::from_bits(s.options & 3).unwrap_or(QoS::AtMostOnce);
            if Source::of(&s.filter, qos).is_some() {
                queues.push((s.filter.clone(), qos, s.identifier, Wishes::from_text(&s.more)));
            }
        }
        self.consume_again(queues);
    }

    /// Enters a subscription into the routes; true when it is new.
    fn subscribe_live(&self, filter: &str, options: SubscriptionOptions) -> bool {
        let fresh =
            self.change_live(filter, |table| table.subscribe(filter, &self.subscriber(), options));
        if fresh {
            self.filters.borrow_mut().push(Rc::from(filter));
        }
        fresh
    }

    /// Takes a subscription out of the routes.
    pub(crate) fn remove_live(&self, filter: &str) {
        self.change_live(filter, |table| table.unsubscribe(filter, &self.subscriber()));
    }

    /// Changes the routes; what is another class than before is announced (R1).
    fn change_live<T>(&self, filter: &str, change: impl FnOnce(&mut RouteTable) -> T) -> T {
        let mut table = self.table.borrow_mut();
        let Some(backend) = self.worker.backend().filter(|backend| backend.has_others()) else {
            return change(&mut table);
        };
        let before = table.class(filter);
        let changed = change(&mut table);
        if table.class(filter) != before {
            backend.filter_changed("/", filter);
        }
        changed
    }

    fn write_suback(&self, packet_id: u16, asked: &[Asked]) {
        let codes: Vec<u8> = asked.iter().map(|a| a.code.0).collect();
        let mut out = self.out.borrow_mut();
        encode::suback(out.writer(&self.worker), self.terms.version, packet_id, &codes);
    }

    pub(crate) fn unsubscribe(&self, unsubscribe: &Unsubscribe<'_>) -> Result<(), Close> {
        let packet_id = unsubscribe.packet_id;
        let filters: Vec<String> = unsubscribe.filters().map(str::to_owned).collect();
        let codes: Vec<u8> = filters.iter().map(|filter| self.unsubscribe_live(filter).0).collect();
        if self.persistent().is_none() && self.leased.borrow().is_none() {
            self.write_unsuback(packet_id, &codes);
            return Ok(());
        }
        self.busy.set(true);
        let client = self.this();
        spawn_local(async move {
            for filter in &filters {
                client.stop_consuming(filter).await;
            }
            let codes = client.unsubscribe_session(&filters).await.unwrap_or(codes);
            client.write_unsuback(packet_id, &codes);
            client.go_on();
        });
        Ok(())
    }

    async fn unsubscribe_session(&self, filters: &[String]) -> Option<Vec<u8>> {
        let (durable, backend) = self.persistent()?;
        let (session, epoch) = (durable.session, durable.epoch);
        let mut all = Vec::new();
        for piece in filters.chunk_by(fits_into_a_command(|f: &String| f.len().min(NAME_BYTES_MAX)))
        {
            // What is too long for a command nobody is subscribed to.
            let known = |f: &String| f.len() <= NAME_BYTES_MAX;
            let filters = piece.iter().map(|f| if known(f) { f.as_str() } else { "" }).collect();
            let command = Command::Unsubscribe { session, epoch, filters };
            match backend.call(durable.shard, &command, &[]).await {
                Outcome::Unsubscribed(codes) => all.extend(codes),
                _ => all.resize(all.len() + piece.len(), ReasonCode::UNSPECIFIED.0),
            }
        }
        Some(all)
    }

    fn unsubscribe_live(&self, filter: &str) -> ReasonCode {
        let mut filters = self.filters.borrow_mut();
        let Some(at) = filters.iter().position(|f| **f == *filter) else {
            return ReasonCode::NO_SUBSCRIPTION_EXISTED;
        };
        filters.swap_remove(at);
        drop(filters);
        self.remove_live(filter);
        ReasonCode::SUCCESS
    }

    fn write_unsuback(&self, packet_id: u16, codes: &[u8]) {
        let mut out = self.out.borrow_mut();
        encode::unsuback(out.writer(&self.worker), self.terms.version, packet_id, codes);
    }
}

/// What the routes need to know of a subscription. `session`: messages of QoS ≥ 1 come by its inbox (R7).
fn live_options(byte: u8, identifier: u32, session: bool) -> SubscriptionOptions {
    let qos = byte & 3;
    SubscriptionOptions {
        qos,
        no_local: byte & 4 != 0,
        retain_as_published: byte & 8 != 0,
        identifier,
        durable: session && qos > QoS::AtMostOnce as u8,
    }
}

fn wanted(asked: Vec<Asked>, identifier: u32) -> Vec<Wanted> {
    asked
        .into_iter()
        .filter(Asked::wants_retained)
        .map(|a| Wanted { filter: a.filter, qos: a.options.qos as u8, identifier })
        .collect()
}

/// For `chunk_by`: whether the next of a list still goes into the command of those before it.
fn fits_into_a_command<T>(size: impl Fn(&T) -> usize) -> impl FnMut(&T, &T) -> bool {
    // Options, identifier and the lengths of the texts.
    const BESIDE: usize = 9;
    let mut bytes = 0;
    move |last, next| {
        bytes += size(last) + BESIDE;
        let fits = bytes + size(next) + BESIDE <= COMMAND_BYTES_MAX;
        if !fits {
            bytes = 0;
        }
        fits
    }
}
