//! Retained messages for new subscriptions (MQTT 5 §3.3.1.3, §3.8.3.1; design R9): read behind the barrier, beside live
//! delivery.

use fluxmq_commands::command::{self, Command};
use mqtt_codec::QoS;
use mqtt_codec::encode::PublishFrame;

use crate::client::Client;
use crate::properties;

/// A subscription that wants the retained messages.
pub(crate) struct Wanted {
    pub(crate) filter: String,
    pub(crate) qos: u8,
    pub(crate) identifier: u32,
}

// === impl Client ===

impl Client {
    /// Sends the retained messages of every wanted filter, and ends the read that began with SUBSCRIBE.
    pub(crate) async fn send_retained(&self, wanted: Vec<Wanted>) {
        self.read_retained(wanted).await;
        self.worker.replays.end(self.token);
    }

    async fn read_retained(&self, wanted: Vec<Wanted>) {
        let Some(backend) = self.worker.backend().cloned() else { return };
        for wanted in wanted {
            // What was routed before the subscription and cannot be read yet.
            for command in backend.retained_under_way("/", &wanted.filter) {
                if let Some(topic) = self.send_one_retained(&command, &wanted) {
                    self.worker.replays.note(self.token, &topic);
                }
            }
            for shard in 0..backend.shards() {
                let mut after = String::new();
                loop {
                    let (page, more) = backend.retained(shard, "/", &wanted.filter, &after).await;
                    if self.closing().is_some() {
                        return;
                    }
                    for command in &page {
                        if let Some(topic) = self.send_one_retained(command, &wanted) {
                            after = topic;
                        }
                    }
                    self.wake_task();
                    if !more || page.is_empty() {
                        break;
                    }
                }
            }
        }
    }

    /// Sends one; returns its topic.
    fn send_one_retained(&self, bytes: &[u8], wanted: &Wanted) -> Option<String> {
        let Ok((Command::Publish(publish), message)) = command::decode(bytes) else { return None };
        let (head, payload) = fluxmq_proto::message::split(message)?;
        let topic = publish.topic.to_owned();
        let mut properties = Vec::new();
        if self.is_v5() {
            properties::from_head(head, &mut properties);
            if wanted.identifier > 0 {
                properties::put_identifiers(&[wanted.identifier], &mut properties);
            }
        }
        let overtaken = self.worker.replays.is_overtaken(self.token, publish.topic);
        // What deletes is nothing to be sent, but nothing older is either.
        if overtaken || payload.is_empty() || !self.terms.access.may_receive(publish.topic) {
            return Some(topic);
        }
        if publish.expiry_ms.is_some_and(|ms| !self.put_expiry(ms, &mut properties)) {
            return Some(topic);
        }
        let qos = publish.qos.min(wanted.qos);
        if qos > 0 && self.persistent().is_some() {
            // `logd` copies it into the session's list (R9).
            return Some(topic);
        }
        let frame = PublishFrame {
            dup: false,
            qos: QoS::from_bits(qos)?,
            retain: true,
            topic: publish.topic,
            packet_id: 0,
            properties: &properties,
            payload,
        };
        self.send(frame, publish.expiry_ms);
        Some(topic)
    }
}
