//! From the first byte to CONNACK.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::rc::Rc;
use std::time::Duration;

use fluxmq_commands::Outcome;
use fluxmq_commands::command::{self, Command, NEVER};
use fluxmq_names::{ErrorCode, Kind, place};
use fluxmq_proto::message::EMPTY_HEAD;
use gateway_core::backend::Receiver;
use gateway_core::counters::add;
use mqtt_codec::encode::{self, property};
use mqtt_codec::{Connect, Defect, PropertyId, ReasonCode, Value, Version, frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::client::{Client, Close, Terms, Will};
use crate::durable::Durable;
use crate::gateway::Gateway;
use crate::{limits, properties};

/// Bytes of a CONNECT: client id, will and credentials at their longest.
const CONNECT_BYTES_MAX: u32 = 400 * 1024;

/// Reads CONNECT, settles the terms, takes over an older connection and says CONNACK. Returns the
/// client and what was read behind CONNECT; None when the connection is refused or lost.
pub(crate) async fn handshake<S>(io: &mut S, gateway: &Rc<Gateway>) -> Option<(Rc<Client>, Vec<u8>)>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limit = Duration::from_secs(limits::CONNECT_S_MAX);
    let (bytes, len) = tokio::time::timeout(limit, read_packet(io)).await.ok().flatten()?;
    let connect = match Connect::decode(&bytes[..len]) {
        Ok(connect) => connect,
        Err(error) => {
            tracing::debug!(%error, "connect refused");
            add(&gateway.worker.counters.protocol_errors, 1);
            if error.defect == Defect::UnsupportedVersion {
                refuse_version(io, &bytes).await;
            }
            return None;
        }
    };
    let (terms, assigned) = match settle(&connect) {
        Ok(settled) => settled,
        Err(reason) => {
            refuse(io, connect.version, reason).await;
            return None;
        }
    };
    take_over(gateway, &terms.client_id).await;
    let client = Client::new(gateway.worker.clone(), gateway.worker.table("/"), terms);
    gateway.register(&client);
    let present = match open_session(&client, &connect).await {
        Ok(present) => present,
        Err(reason) => {
            gateway.remove(&client);
            client.give_up_client_id();
            refuse(io, connect.version, reason).await;
            return None;
        }
    };
    let mut answer = Vec::new();
    if client.is_v5() {
        connack_properties(&connect, &client, assigned, &mut answer);
    }
    let mut out = client.out.borrow_mut();
    let out = out.writer(&client.worker);
    encode::connack(out, connect.version, present, ReasonCode::SUCCESS, &answer);
    if let Some((durable, backend)) = client.persistent() {
        backend.credit(durable.token, client.terms.window.into());
    }
    let rest = bytes[len..].to_vec();
    Some((client.clone(), rest))
}

/// One whole packet and what came with it.
async fn read_packet<S: AsyncRead + Unpin>(io: &mut S) -> Option<(Vec<u8>, usize)> {
    let mut bytes = Vec::with_capacity(512);
    loop {
        match frame::peek(&bytes, CONNECT_BYTES_MAX) {
            Ok(Some(header)) if header.total_len() <= bytes.len() => {
                return Some((bytes, header.total_len()));
            }
            Ok(_) => {}
            Err(_) => return None,
        }
        if io.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// Says which protocol is not spoken, in the form nearest to it (MQTT-3.1.2-2; 3.1.1: 3.1.2-2).
async fn refuse_version<S: AsyncWrite + Unpin>(io: &mut S, bytes: &[u8]) {
    // The level stands behind the protocol name; one above 5 is likely to read like 5.
    let newer = bytes.get(2..9).is_some_and(|b| b[..6] == *b"\0\x04MQTT" && b[6] > 5);
    let version = if newer { Version::V5 } else { Version::V311 };
    refuse(io, version, ReasonCode::UNSUPPORTED_PROTOCOL_VERSION).await;
}

/// Says CONNACK with `reason` and closes.
async fn refuse<S: AsyncWrite + Unpin>(io: &mut S, version: Version, reason: ReasonCode) {
    let mut out = Vec::new();
    encode::connack(&mut out, version, false, reason, &[]);
    let _ = io.write_all(&out).await;
    let _ = io.shutdown().await;
}

/// The terms of a connection, and whether its client id was made up here.
fn settle(connect: &Connect<'_>) -> Result<(Terms, bool), ReasonCode> {
    let number = |id| connect.properties.number(id);
    let is_v5 = connect.version == Version::V5;
    if connect.properties.text(PropertyId::AUTH_METHOD).is_some() {
        return Err(ReasonCode::BAD_AUTHENTICATION_METHOD);
    }
    let assigned = connect.client_id.is_empty();
    // Before 5.0 only a clean session may leave the id to the server (3.1.1: 3.1.3-8); 3.1 not at all.
    let may_be_empty = is_v5 || (connect.version == Version::V311 && connect.clean_start);
    if (assigned && !may_be_empty) || connect.client_id.len() > limits::CLIENT_ID_BYTES_MAX {
        return Err(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
    }
    let client_id = if assigned { made_up_id() } else { connect.client_id.into() };
    let keep_alive_s = match connect.keep_alive_s {
        // A client before 5.0 cannot be told of another value.
        s if !is_v5 => s,
        0 => limits::KEEP_ALIVE_S_MAX,
        s => s.min(limits::KEEP_ALIVE_S_MAX),
    };
    let window = number(PropertyId::RECEIVE_MAXIMUM)
        .map_or(limits::WINDOW_MAX, |n| u16::try_from(n).unwrap_or(u16::MAX))
        .min(limits::WINDOW_MAX);
    // Before 5.0 a session that is not clean has no end.
    let forever = if connect.clean_start { 0 } else { NEVER };
    let expiry_s = if is_v5 { number(PropertyId::SESSION_EXPIRY).unwrap_or(0) } else { forever };
    let terms = Terms {
        version: connect.version,
        client_id,
        keep_alive_s,
        window,
        packet_bytes_max: number(PropertyId::MAXIMUM_PACKET_SIZE).unwrap_or(u32::MAX),
        expiry_s,
        will: connect.will.as_ref().map(|w| Box::new(will(w))),
    };
    Ok((terms, assigned))
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
        let limit = Duration::from_secs(limits::TAKEOVER_S_MAX);
        let _ = tokio::time::timeout(limit, gone).await;
    }
}

/// What MQTT 5 clients are told (§3.2.2.3): the limits that hold, and what is not built yet.
fn connack_properties(connect: &Connect<'_>, client: &Client, assigned: bool, out: &mut Vec<u8>) {
    let mut number = |id, n: u32| property(out, id, Value::Number(n));
    let has_log = client.worker.backend().is_some();
    if client.terms.expiry_s > 0 && !has_log {
        number(PropertyId::SESSION_EXPIRY, 0);
    }
    number(PropertyId::RECEIVE_MAXIMUM, limits::INFLIGHT_IN_MAX.into());
    if !has_log {
        number(PropertyId::RETAIN_AVAILABLE, 0);
    }
    number(PropertyId::MAXIMUM_PACKET_SIZE, limits::PACKET_BYTES_MAX);
    number(PropertyId::TOPIC_ALIAS_MAXIMUM, limits::TOPIC_ALIAS_MAX.into());
    number(PropertyId::SHARED_SUBSCRIPTION_AVAILABLE, 0);
    if client.terms.keep_alive_s != connect.keep_alive_s {
        number(PropertyId::SERVER_KEEP_ALIVE, client.terms.keep_alive_s.into());
    }
    if assigned {
        property(out, PropertyId::ASSIGNED_CLIENT_ID, Value::Text(&client.terms.client_id));
    }
}
