//! From the first byte to CONNACK.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::time::Duration;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::{self, Command, NEVER};
use fluxmq_names::{ErrorCode, Kind, place};
use fluxmq_proto::message::EMPTY_HEAD;
use gateway_core::authz::Access;
use gateway_core::backend::Receiver;
use gateway_core::counters::add;
use gateway_core::transport::Peer;
use mqtt_codec::encode::{self, property};
use mqtt_codec::{Connect, PropertyId, ReasonCode, Value, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::authentication::authenticate;
use crate::client::{Client, Close, Terms, Will};
use crate::durable::Durable;
use crate::gateway::Gateway;
use crate::greeting::{Greeting, Refused};
use crate::inbound::{NAME_BYTES_MAX, check_topic};
use crate::properties;
use crate::settings::Settings;

/// Bytes of a CONNECT: client id, will and credentials at their longest.
const CONNECT_BYTES_MAX: u32 = 400 * 1024;

/// Reads CONNECT, finds out who it is, settles the terms, takes over an older connection and says CONNACK. Returns the
/// client and what was read behind CONNECT; None when the connection is refused or lost.
pub(crate) async fn handshake<S>(
    io: &mut S,
    gateway: &Rc<Gateway>,
    peer: Box<Peer>,
) -> Option<(Rc<Client>, Vec<u8>)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limit = Duration::from_secs(gateway.settings().connect_s_max.into());
    let mut greeting = Greeting::new(io, &peer, Instant::now() + limit);
    let bytes = greeting.read_packet(CONNECT_BYTES_MAX).await.ok()?;
    let connect = match Connect::decode(&bytes) {
        Ok(connect) => connect,
        Err(error) => {
            tracing::debug!(%error, peer = ?peer.address, "connect refused");
            add(&gateway.worker.counters.protocol_errors, 1);
            greeting.refuse_broken(&bytes, error).await;
            return None;
        }
    };
    match welcome(&mut greeting, gateway, &connect).await {
        Ok(client) => Some((client, greeting.into_rest())),
        Err(Refused::Told(reason, text)) => {
            tracing::debug!(reason = reason.name(), peer = ?peer.address, "connect refused");
            greeting.refuse(connect.version, reason, text).await;
            None
        }
        Err(Refused::Gone) => None,
    }
}

/// All between CONNECT and CONNACK.
async fn welcome<S: AsyncRead + AsyncWrite + Unpin>(
    greeting: &mut Greeting<'_, S>,
    gateway: &Rc<Gateway>,
    connect: &Connect<'_>,
) -> Result<Rc<Client>, Refused> {
    if gateway.worker.is_draining() {
        return Err(Refused::told(ReasonCode::SERVER_UNAVAILABLE));
    }
    let (mut terms, assigned) = settle(connect, &gateway.settings()).map_err(Refused::told)?;
    let mut answer = Vec::new();
    terms.identity = authenticate(greeting, &gateway.security(), connect, &mut answer).await?;
    let user = terms.identity.as_ref().map(|i| &*i.user);
    if !assigned && !gateway.security().may_use(user, &terms.client_id) {
        return Err(Refused::told(ReasonCode::NOT_AUTHORIZED));
    }
    terms.access = gateway.security().access(user, &terms.client_id);
    check_will(connect, &terms, &gateway.settings()).map_err(Refused::told)?;
    take_over(gateway, &terms.client_id).await;
    let client = Client::new(gateway, gateway.worker.table("/"), terms);
    gateway.register(&client);
    let present = match open_session(&client, connect).await {
        Ok(present) => present,
        Err(reason) => {
            gateway.remove(&client);
            client.give_up_client_id();
            return Err(Refused::told(reason));
        }
    };
    if client.is_v5() {
        connack_properties(connect, &client, assigned, &mut answer);
    }
    let mut out = client.out.borrow_mut();
    let out = out.writer(&client.worker);
    encode::connack(out, connect.version, present, ReasonCode::SUCCESS, &answer);
    if let Some((durable, backend)) = client.persistent() {
        backend.credit(durable.token, client.terms.window.into());
    }
    Ok(client.clone())
}

/// The terms of a connection, and whether its client id was made up here.
fn settle(connect: &Connect<'_>, settings: &Settings) -> Result<(Terms, bool), ReasonCode> {
    let number = |id| connect.properties.number(id);
    let is_v5 = connect.version == Version::V5;
    let assigned = connect.client_id.is_empty();
    // Before 5.0 only a clean session may leave the id to the server (3.1.1: 3.1.3-8); 3.1 not at all.
    let may_be_empty = settings.empty_client_id
        && (is_v5 || (connect.version == Version::V311 && connect.clean_start));
    let too_long = connect.client_id.len() > settings.client_id_bytes_max as usize;
    if (assigned && !may_be_empty) || too_long {
        return Err(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
    }
    let client_id = if assigned { made_up_id() } else { connect.client_id.into() };
    let keep_alive_s = match (connect.keep_alive_s, settings.keep_alive_s_max) {
        // A client before 5.0 cannot be told of another value.
        (s, _) if !is_v5 => s,
        (s, 0) => s,
        (0, max) => max,
        (s, max) => s.min(max),
    };
    let window = number(PropertyId::RECEIVE_MAXIMUM)
        .map_or(settings.window_max, |n| u16::try_from(n).unwrap_or(u16::MAX))
        .min(settings.window_max);
    // Before 5.0 a session that is not clean has no end.
    let forever = if connect.clean_start { 0 } else { NEVER };
    let expiry_s = if is_v5 { number(PropertyId::SESSION_EXPIRY).unwrap_or(0) } else { forever };
    let aliases_out = number(PropertyId::TOPIC_ALIAS_MAXIMUM).unwrap_or(0);
    let aliases_out = aliases_out.min(settings.topic_alias_out_max.into());
    let terms = Terms {
        version: connect.version,
        client_id,
        keep_alive_s,
        window,
        packet_bytes_max: number(PropertyId::MAXIMUM_PACKET_SIZE).unwrap_or(u32::MAX),
        expiry_s: expiry_s.min(settings.session_expiry_s_max),
        aliases_out: u16::try_from(aliases_out).unwrap_or(0),
        problem_info: number(PropertyId::REQUEST_PROBLEM_INFO) != Some(0),
        access: Access::default(),
        identity: None,
        will: connect.will.as_ref().map(|w| Box::new(will(w))),
    };
    Ok((terms, assigned))
}

/// A will is refused like the publish it will be, only earlier.
fn check_will(connect: &Connect<'_>, terms: &Terms, settings: &Settings) -> Result<(), ReasonCode> {
    let Some(will) = &connect.will else { return Ok(()) };
    if will.qos as u8 > settings.qos_max {
        return Err(ReasonCode::QOS_NOT_SUPPORTED); // MQTT-3.2.2-12
    }
    if will.retain && !settings.retain_available {
        return Err(ReasonCode::RETAIN_NOT_SUPPORTED); // MQTT-3.2.2-13
    }
    let is_text = will.properties.number(PropertyId::PAYLOAD_FORMAT) == Some(1);
    if is_text && std::str::from_utf8(will.payload).is_err() {
        return Err(ReasonCode::PAYLOAD_FORMAT_INVALID);
    }
    if will.topic.len() > NAME_BYTES_MAX {
        return Err(ReasonCode::TOPIC_NAME_INVALID);
    }
    match check_topic(will.topic, &terms.access, settings) {
        ReasonCode::SUCCESS => Ok(()),
        refused => Err(refused),
    }
}

fn will(will: &mqtt_codec::Will<'_>) -> Will {
    let mut head = Vec::new();
    properties::to_head(&will.properties, &mut head);
    Will {
        topic: will.topic.into(),
        qos: will.qos as u8,
        retain: will.retain,
        expiry_s: properties::expiry_s(&will.properties),
        delay_s: will.properties.number(PropertyId::WILL_DELAY).unwrap_or(0),
        head,
        payload: will.payload.into(),
    }
}

/// Makes or resumes what the client has in `logd` (G1); true when a session was there.
async fn open_session(client: &Rc<Client>, connect: &Connect<'_>) -> Result<bool, ReasonCode> {
    let Some(backend) = client.worker.backend().cloned() else { return Ok(false) };
    let terms = &client.terms;
    let shard = place(Kind::Session, "/", &terms.client_id, backend.shards()).0;
    let token = client.token;
    let mut wanted = terms.expiry_s > 0 || terms.will.is_some();
    if backend.has_others() {
        wanted |= backend.take_client_id(token, shard, "/", &terms.client_id).await;
        if client.closing().is_some() {
            return Err(ReasonCode::SESSION_TAKEN_OVER);
        }
    } else if !wanted {
        wanted = backend.look(token, shard, "/", &terms.client_id).await;
    }
    if !wanted {
        return Ok(false);
    }
    let will = terms.will.as_ref().map(|w| command::Will {
        qos: w.qos,
        retain: w.retain,
        delay_s: w.delay_s,
        expiry_s: w.expiry_s.unwrap_or(0),
        topic: &w.topic,
    });
    let command = Command::Connect(command::Connect {
        vhost: "/",
        client_id: &terms.client_id,
        clean_start: connect.clean_start,
        expiry_s: terms.expiry_s,
        window: terms.window,
        token,
        will,
    });
    let message: Vec<&[u8]> = match &terms.will {
        Some(w) if w.head.is_empty() => vec![&EMPTY_HEAD, &w.payload],
        Some(w) => vec![&w.head, &w.payload],
        None => Vec::new(),
    };
    let connected = match backend.call(shard, &command, &message).await {
        Outcome::Connected(connected) => connected,
        Outcome::Error { code: ErrorCode::LimitExceeded, .. } => {
            return Err(ReasonCode::QUOTA_EXCEEDED);
        }
        _ => return Err(ReasonCode::SERVER_UNAVAILABLE),
    };
    let (session, epoch) = (connected.session, connected.epoch);
    let persistent = terms.expiry_s > 0 || connected.present;
    client.set_durable(Durable::new(shard, session, epoch, token, persistent));
    if persistent {
        let receiver: Rc<dyn Receiver> = client.clone();
        let opened = backend.open(token, shard, session, epoch, receiver).await;
        client.restore_subscriptions(&opened.ok_or(ReasonCode::SESSION_TAKEN_OVER)?);
    }
    Ok(connected.present)
}

/// An id no client would choose.
fn made_up_id() -> Rc<str> {
    let random = RandomState::new().hash_one(0u8);
    format!("auto-{random:016x}").into()
}

/// Ends the older connection of this client id and waits until it is gone (MQTT-3.1.4-3, design G1).
async fn take_over(gateway: &Gateway, client_id: &str) {
    let gone = async {
        while let Some(older) = gateway.find(client_id) {
            let departure = gateway.departures.notified();
            older.close(Close::ByServer(ReasonCode::SESSION_TAKEN_OVER));
            drop(older);
            departure.await;
        }
    };
    if gateway.find(client_id).is_some() {
        add(&gateway.worker.counters.takeovers, 1);
        let limit = Duration::from_secs(gateway.settings().takeover_s_max.into());
        let _ = tokio::time::timeout(limit, gone).await;
    }
}

/// What MQTT 5 clients are told (§3.2.2.3): the limits that hold, and what this server does not do.
fn connack_properties(connect: &Connect<'_>, client: &Client, assigned: bool, out: &mut Vec<u8>) {
    let mut number = |id, n: u32| property(out, id, Value::Number(n));
    let settings = &client.settings;
    let has_log = client.worker.backend().is_some();
    let asked_s = connect.properties.number(PropertyId::SESSION_EXPIRY).unwrap_or(0);
    let granted_s = if has_log { client.terms.expiry_s } else { 0 };
    if granted_s != asked_s {
        number(PropertyId::SESSION_EXPIRY, granted_s);
    }
    number(PropertyId::RECEIVE_MAXIMUM, settings.inflight_in_max.into());
    if settings.qos_max < 2 {
        number(PropertyId::MAXIMUM_QOS, settings.qos_max.into());
    }
    if !has_log || !settings.retain_available {
        number(PropertyId::RETAIN_AVAILABLE, 0);
    }
    number(PropertyId::MAXIMUM_PACKET_SIZE, settings.packet_bytes_max);
    if settings.topic_alias_max > 0 {
        number(PropertyId::TOPIC_ALIAS_MAXIMUM, settings.topic_alias_max.into());
    }
    if !settings.wildcard_available {
        number(PropertyId::WILDCARD_SUBSCRIPTION_AVAILABLE, 0);
    }
    if !settings.subscription_ids_available {
        number(PropertyId::SUBSCRIPTION_IDS_AVAILABLE, 0);
    }
    if client.terms.keep_alive_s != connect.keep_alive_s {
        number(PropertyId::SERVER_KEEP_ALIVE, client.terms.keep_alive_s.into());
    }
    if assigned {
        property(out, PropertyId::ASSIGNED_CLIENT_ID, Value::Text(&client.terms.client_id));
    }
}
