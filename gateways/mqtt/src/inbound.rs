//! What a client sends: publishes, and the answers to ours.

use gateway_core::authz::Access;
use gateway_core::counters::add;
use gateway_core::message::LiveMessage;
use gateway_core::route_cache::RouteCache;
use gateway_core::route_table::Destinations;
use gateway_core::scram::Exchange;
use gateway_core::shared_group::Chosen;
use gateway_core::worker::now_ms;
use mqtt_codec::{
    DecodeError, Disconnect, Packet, PacketType, PropertyId, Publish, QoS, ReasonCode, Version,
    encode,
};

use crate::ack_queue::{Ack, AckKind, AckQueue};
use crate::client::{Client, Close};
use crate::durable_publish::Waiting;
use crate::properties;
use crate::queues;
use crate::send_window::Stage;
use crate::settings::Settings;

/// The incoming state of a connection; made at the first packet that needs it.
#[derive(Default)]
pub(crate) struct Inbound {
    cache: RouteCache,
    /// Topics by alias − 1.
    aliases: Vec<Option<Box<str>>>,
    /// Acknowledgements that wait for `logd`.
    pub(crate) acks: AckQueue,
    /// Packet ids of QoS 2 publishes that are not released, ascending.
    open_ids: Vec<u16>,
    /// The client is showing again who it is.
    pub(crate) exchange: Option<Box<Exchange>>,
}

// === impl Inbound ===

impl Inbound {
    /// The topic of `publish`, through its alias where it has one (MQTT 5 §3.3.2.3.4).
    fn topic<'a>(
        aliases: &'a mut Vec<Option<Box<str>>>,
        publish: &Publish<'a>,
        alias_max: u16,
    ) -> Result<&'a str, Close> {
        const INVALID: Close = Close::ByServer(ReasonCode::TOPIC_ALIAS_INVALID);
        if publish.properties.is_empty() {
            return Ok(publish.topic);
        }
        let Some(alias) = publish.properties.number(PropertyId::TOPIC_ALIAS) else {
            return Ok(publish.topic);
        };
        if alias == 0 || alias > u32::from(alias_max) {
            return Err(INVALID);
        }
        let at = alias as usize - 1;
        if publish.topic.is_empty() {
            return aliases.get(at).and_then(|t| t.as_deref()).ok_or(INVALID);
        }
        if aliases.len() <= at {
            aliases.resize(at + 1, None);
        }
        aliases[at] = Some(publish.topic.into());
        Ok(publish.topic)
    }

    /// What may be published is looked at again.
    pub(crate) fn forget_verdicts(&mut self) {
        self.cache = RouteCache::default();
    }

    /// Frees a packet id; false when it was not open.
    pub(crate) fn forget_id(&mut self, packet_id: u16) -> bool {
        let at = self.open_ids.binary_search(&packet_id);
        at.map(|at| self.open_ids.remove(at)).is_ok()
    }
}

// === impl Client ===

impl Client {
    /// Handles one whole packet.
    pub(crate) fn packet(&self, bytes: &[u8]) -> Result<(), Close> {
        let packet = Packet::decode(bytes, self.terms.version).map_err(|e| self.broken(e))?;
        match packet {
            Packet::Publish(publish) => self.publish(&publish),
            Packet::Puback(ack) if ack.packet_id >= queues::LEASED_FROM => {
                self.puback_leased(ack.packet_id, ack.reason);
                Ok(())
            }
            Packet::Puback(ack) => self.settle(ack.packet_id, Stage::AwaitPuback),
            Packet::Pubrec(ack) => self.received(ack.packet_id, ack.reason),
            Packet::Pubrel(ack) => self.release(ack.packet_id),
            Packet::Pubcomp(ack) => self.settle(ack.packet_id, Stage::AwaitPubcomp),
            Packet::Subscribe(subscribe) => self.subscribe(&subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe),
            Packet::Pingreq => {
                encode::pingresp(self.out.borrow_mut().writer(&self.worker));
                Ok(())
            }
            Packet::Disconnect(disconnect) => Err(self.disconnect(&disconnect)),
            Packet::Auth(auth) => self.reauthenticate(&auth),
            // A second CONNECT (MQTT-3.1.0-2), or what only servers send.
            Packet::Connect(_) | Packet::FromServer(_) => {
                Err(Close::ByServer(ReasonCode::PROTOCOL_ERROR))
            }
        }
    }

    /// A packet that breaks the rules ends its connection.
    pub(crate) fn broken(&self, error: DecodeError) -> Close {
        tracing::debug!(client_id = %self.terms.client_id, %error, "broken packet");
        add(&self.worker.counters.protocol_errors, 1);
        Close::Broken(error)
    }

    /// Whether packets must wait, because a window towards `logd` is used up or a subscription is
    /// under way (T3). What is owed to others goes on.
    pub(crate) fn must_wait(&self) -> bool {
        let window = || self.worker.backend().is_some_and(|b| b.must_wait(&|| self.subscriber()));
        self.is_held() || window()
    }

    /// Whether the packet that begins with `first` must wait. PINGREQ and DISCONNECT need no window.
    pub(crate) fn must_hold(&self, first: u8) -> bool {
        let passes = matches!(first >> 4, 12 | 14);
        if passes { self.busy.get() } else { self.must_wait() }
    }

    /// Everything a read brought is handled.
    pub(crate) fn end_batch(&self) {
        self.return_credit();
        self.worker.end_batch();
    }

    fn publish(&self, publish: &Publish<'_>) -> Result<(), Close> {
        let counters = &self.worker.counters;
        let (counter, kind) = match publish.qos {
            QoS::AtMostOnce => (&counters.received_qos0, None),
            QoS::AtLeastOnce => (&counters.received_qos1, Some(AckKind::Puback)),
            QoS::ExactlyOnce => (&counters.received_qos2, Some(AckKind::Pubrec)),
        };
        add(counter, 1);
        if cfg!(planted = "slow_publish") {
            // About a fifth of what a QoS 1 message costs, for `benches/versus/planted.sh`.
            let mix =
                |sum: u64, word: &[u8]| (sum ^ u64::from(word[0])).wrapping_mul(0x0100_0000_01B3);
            std::hint::black_box(publish.payload.chunks(8).fold(0, mix));
        }
        let bytes = publish.topic.len() + publish.payload.len();
        self.charge(|rate, now_ms| rate.message(bytes, now_ms));
        self.check_capabilities(publish)?;
        let mut inbound = self.inbound.borrow_mut();
        let Inbound { cache, aliases, acks, open_ids, .. } = &mut **inbound.get_or_insert_default();
        let packet_id = publish.packet_id;
        if publish.qos != QoS::AtMostOnce && self.is_repeat(open_ids, acks, publish)? {
            return Ok(());
        }
        let topic = Inbound::topic(aliases, publish, self.settings.topic_alias_max)?;
        let (to, verdict) = cache.resolve(&self.table.borrow(), topic, || {
            check_topic(topic, &self.terms.access, &self.settings).0
        });
        let refused =
            if verdict == 0 { check_message(publish, topic) } else { ReasonCode(verdict) };
        if refused.is_failure() {
            return self.refuse(kind, packet_id, refused, acks, open_ids);
        }
        let mut head = self.worker.scratch();
        properties::to_head(&publish.properties, &mut head);
        let expiry_s = properties::expiry_s(&publish.properties);
        let message = LiveMessage {
            topic,
            qos: publish.qos as u8,
            retain: publish.retain,
            expiry_ms: expiry_s.map(|s| now_ms() + u64::from(s) * 1_000),
            head: &head,
            payload: publish.payload,
        };
        if publish.qos == QoS::ExactlyOnce && self.persistent().is_some() {
            let ticket = acks.push(Ack { kind: AckKind::Pubrec, packet_id, reason: 0 }, 1);
            let waiting = Waiting {
                topic: topic.into(),
                retain: publish.retain,
                expiry_ms: message.expiry_ms,
                head: head.clone(),
                payload: publish.payload.into(),
            };
            self.number_publish(packet_id, ticket, waiting);
            return Ok(());
        }
        if topic.starts_with(queues::PREFIX) {
            let ticket = kind.map(|kind| acks.push(Ack { kind, packet_id, reason: 0 }, 1));
            let (topic, expiry_ms) = (topic.to_owned(), message.expiry_ms);
            drop(inbound);
            let (qos, payload) = (publish.qos as u8, publish.payload);
            let message =
                LiveMessage { topic: &topic, qos, retain: false, expiry_ms, head: &head, payload };
            return self.publish_by_name(&message, queues::offset_of(publish), ticket);
        }
        self.route(&to, &message, kind.map(|kind| (kind, packet_id)), acks);
        Ok(())
    }

    /// Sends `message` where it goes; `owed` is the acknowledgement that the publisher waits for.
    #[inline]
    fn route(
        &self,
        to: &Destinations,
        message: &LiveMessage<'_>,
        owed: Option<(AckKind, u16)>,
        acks: &mut AckQueue,
    ) {
        let ticket = owed.map(|_| acks.next_ticket());
        let mut takers = 0;
        if !to.shards.is_empty() || message.retain {
            takers = self.publish_durable(to, message, ticket, None);
            if fluxmq_names::planted!("acknowledge_before_commit") {
                takers = 0;
            }
        }
        let chosen = Chosen::in_turn(to, message.qos);
        takers += self.publish_relayed(to, &chosen, message, ticket, None);
        if let Some((kind, packet_id)) = owed {
            let none = to.is_empty();
            let reason =
                if none { ReasonCode::NO_MATCHING_SUBSCRIBERS } else { ReasonCode::SUCCESS };
            if acks.is_empty() && takers == 0 {
                self.write_ack(kind.packet_type(), packet_id, reason);
            } else {
                acks.push(Ack { kind, packet_id, reason: reason.0 }, takers);
            }
        }
        if to.has_live() {
            self.worker.deliver_live(to, message, Some(&self.subscriber()), &chosen);
        }
    }

    /// What this server does not do ends the connection (MQTT 5 §3.2.2.3.4, §3.2.2.3.5).
    fn check_capabilities(&self, publish: &Publish<'_>) -> Result<(), Close> {
        if publish.qos as u8 > self.settings.qos_max {
            return Err(Close::ByServer(ReasonCode::QOS_NOT_SUPPORTED));
        }
        if publish.retain && !self.settings.retain_available {
            return Err(Close::ByServer(ReasonCode::RETAIN_NOT_SUPPORTED));
        }
        Ok(())
    }

    /// Answers a publish that is not taken. Before 5.0 it is acknowledged as usual (3.1.1: 3.3.5-2).
    fn refuse(
        &self,
        kind: Option<AckKind>,
        packet_id: u16,
        reason: ReasonCode,
        acks: &mut AckQueue,
        open_ids: &mut Vec<u16>,
    ) -> Result<(), Close> {
        add(&self.worker.counters.refused, 1);
        let Some(kind) = kind else {
            // QoS 0 has no answer; what is broken in itself ends the connection, what is forbidden does not.
            return match reason {
                ReasonCode::NOT_AUTHORIZED => Ok(()),
                reason => Err(Close::ByServer(reason)),
            };
        };
        let told = if self.is_v5() { reason } else { ReasonCode::SUCCESS };
        if told.is_failure()
            && let Ok(at) = open_ids.binary_search(&packet_id)
        {
            open_ids.remove(at); // MQTT-4.3.3-9
        }
        if acks.is_empty() {
            self.write_ack(kind.packet_type(), packet_id, told);
        } else {
            acks.push(Ack { kind, packet_id, reason: told.0 }, 0);
        }
        Ok(())
    }

    /// Whether a QoS 2 packet id is open already: a repeat is answered, not taken (MQTT-4.3.3-10). A fresh one is
    /// opened. More unanswered than the client was told end the connection (MQTT-3.3.4-7).
    fn is_repeat(
        &self,
        open_ids: &mut Vec<u16>,
        acks: &AckQueue,
        publish: &Publish<'_>,
    ) -> Result<bool, Close> {
        let max = usize::from(self.settings.inflight_in_max);
        let exceeded = Err(Close::ByServer(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED));
        if publish.qos == QoS::AtLeastOnce {
            // Clients before 5.0 cannot know the number; the window towards `logd` bounds them.
            let full = self.is_v5() && open_ids.len() + acks.unanswered_qos1() >= max;
            return if full { exceeded } else { Ok(false) };
        }
        let id = publish.packet_id;
        match open_ids.binary_search(&id) {
            Ok(_) => {
                // The PUBREC of the first may be on its way already.
                if !acks.holds(AckKind::Pubrec, id) {
                    self.write_ack(PacketType::Pubrec, id, ReasonCode::SUCCESS);
                }
                Ok(true)
            }
            Err(_) if open_ids.len() + acks.unanswered_qos1() >= max => exceeded,
            Err(at) => {
                open_ids.insert(at, id);
                Ok(false)
            }
        }
    }

    /// Appends an acknowledgement to what goes out.
    pub(crate) fn write_ack(&self, packet_type: PacketType, packet_id: u16, reason: ReasonCode) {
        let mut out = self.out.borrow_mut();
        let out = out.writer(&self.worker);
        if reason.is_failure() && self.terms.problem_info {
            let text = reason.name();
            let max = self.terms.packet_bytes_max;
            encode::refusal(out, self.terms.version, packet_type, packet_id, reason, text, max);
        } else {
            encode::acknowledgement(out, self.terms.version, packet_type, packet_id, reason);
        }
    }

    /// PUBREL: the packet id is free again (MQTT-4.3.3-11).
    fn release(&self, packet_id: u16) -> Result<(), Close> {
        let mut inbound = self.inbound.borrow_mut();
        let known = inbound.as_mut().is_some_and(|inbound| inbound.forget_id(packet_id));
        if self.persistent().is_some() {
            self.close_id(packet_id);
            return Ok(());
        }
        let reason =
            if known { ReasonCode::SUCCESS } else { ReasonCode::PACKET_IDENTIFIER_NOT_FOUND };
        self.write_ack(PacketType::Pubcomp, packet_id, reason);
        Ok(())
    }

    /// PUBACK or PUBCOMP: the message that waited for it is settled.
    fn settle(&self, packet_id: u16, waited: Stage) -> Result<(), Close> {
        let mut all = self.outbound.borrow_mut();
        let Some(outbound) = all.as_deref_mut() else {
            return Ok(());
        };
        match outbound.window.find(packet_id) {
            Some((number, stage)) if stage == waited => {
                outbound.window.set(packet_id, Stage::Settled);
                self.settle_number(number);
                self.refill(outbound);
                drop(all);
                self.room_in_window();
                Ok(())
            }
            // An answer to what was settled long ago, or the wrong answer.
            None => Ok(()),
            Some(_) => Err(Close::ByServer(ReasonCode::PROTOCOL_ERROR)),
        }
    }

    /// PUBREC: PUBREL is next; a refusal settles (MQTT-4.3.3-4).
    fn received(&self, packet_id: u16, reason: ReasonCode) -> Result<(), Close> {
        let mut outbound = self.outbound.borrow_mut();
        let found = outbound
            .as_deref_mut()
            .and_then(|o| o.window.find(packet_id).map(|(number, stage)| (o, stage, number)));
        let answer = match found {
            Some((found, Stage::AwaitPubrec, number)) if reason.is_failure() => {
                found.window.set(packet_id, Stage::Settled);
                self.settle_number(number);
                self.refill(found);
                drop(outbound);
                self.room_in_window();
                return Ok(());
            }
            Some((outbound, Stage::AwaitPubrec, number)) if self.persistent().is_some() => {
                outbound.window.set(packet_id, Stage::Received);
                self.commit_received(number);
                return Ok(());
            }
            Some((_, Stage::Received, _)) => return Ok(()),
            Some((outbound, Stage::AwaitPubrec, _)) => {
                outbound.window.set(packet_id, Stage::AwaitPubcomp);
                ReasonCode::SUCCESS
            }
            Some((_, Stage::AwaitPubcomp, _)) => ReasonCode::SUCCESS,
            Some(_) => return Err(Close::ByServer(ReasonCode::PROTOCOL_ERROR)),
            None if reason.is_failure() => return Ok(()),
            None => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
        };
        self.write_ack(PacketType::Pubrel, packet_id, answer);
        Ok(())
    }

    fn disconnect(&self, disconnect: &Disconnect<'_>) -> Close {
        let max = self.settings.session_expiry_s_max;
        let expiry_s = disconnect.session_expiry_s().map(|s| s.min(max));
        if expiry_s.is_some_and(|s| s > 0) && self.terms.expiry_s == 0 {
            return Close::ByServer(ReasonCode::PROTOCOL_ERROR); // MQTT-3.1.2-23, §3.14.2.2.2
        }
        Close::ByClient { publish_will: disconnect.reason != ReasonCode::SUCCESS, expiry_s }
    }

    /// Whether MQTT 5 is spoken.
    pub(crate) fn is_v5(&self) -> bool {
        self.terms.version == Version::V5
    }
}

/// What is stored must have a topic that a command has room for, and a payload that is said to be text must be text (MQTT 5
/// §3.3.2.3.2).
fn check_message(publish: &Publish<'_>, topic: &str) -> ReasonCode {
    let stored = publish.qos != QoS::AtMostOnce || publish.retain;
    if stored && topic.len() > NAME_BYTES_MAX {
        return ReasonCode::TOPIC_NAME_INVALID;
    }
    let is_text = publish.properties.number(PropertyId::PAYLOAD_FORMAT) == Some(1);
    if is_text && std::str::from_utf8(publish.payload).is_err() {
        return ReasonCode::PAYLOAD_FORMAT_INVALID;
    }
    ReasonCode::SUCCESS
}

/// Bytes of a topic or filter that a command has room for, with all that stands beside it (64 KiB).
pub(crate) const NAME_BYTES_MAX: usize = 60_000;

/// Whether a client with `access` may publish to `topic`: success, or why not.
pub(crate) fn check_topic(topic: &str, access: &Access, settings: &Settings) -> ReasonCode {
    if topic.bytes().filter(|b| *b == b'/').count() >= settings.topic_levels_max as usize {
        ReasonCode::TOPIC_NAME_INVALID
    } else if topic.starts_with("$SYS/") || !access.may_publish(topic) {
        ReasonCode::NOT_AUTHORIZED
    } else {
        ReasonCode::SUCCESS
    }
}
