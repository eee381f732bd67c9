//! What goes to and fro before a connection is one: whole packets, each awaited, and refusals.

use std::time::Duration;

use gateway_core::transport::Peer;
use mqtt_codec::encode::{self, property};
use mqtt_codec::{DecodeError, Defect, PropertyId, ReasonCode, Value, Version, frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// Why there will be no connection.
pub(crate) enum Refused {
    /// CONNACK says so.
    Told(ReasonCode, &'static str),
    /// There is nobody to tell, or nothing to tell him in.
    Gone,
}

// === impl Refused ===

impl Refused {
    pub(crate) fn told(reason: ReasonCode) -> Self {
        Self::Told(reason, "")
    }

    pub(crate) fn broken(error: DecodeError) -> Self {
        Self::Told(error.reason(), error.what)
    }
}

/// A socket before CONNACK.
pub(crate) struct Greeting<'a, S> {
    io: &'a mut S,
    pub(crate) peer: &'a Peer,
    deadline: Instant,
    /// Read, and not yet looked at.
    rest: Vec<u8>,
}

// === impl Greeting ===

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Greeting<'a, S> {
    pub(crate) fn new(io: &'a mut S, peer: &'a Peer, deadline: Instant) -> Self {
        Self { io, peer, deadline, rest: Vec::with_capacity(512) }
    }

    /// The next whole packet, of at most `bytes_max` bytes. [`Refused::Gone`] when none comes in time.
    pub(crate) async fn read_packet(&mut self, bytes_max: u32) -> Result<Vec<u8>, Refused> {
        loop {
            if let Some(header) = frame::peek(&self.rest, bytes_max).map_err(|_| Refused::Gone)?
                && header.total_len() <= self.rest.len()
            {
                let behind = self.rest.split_off(header.total_len());
                return Ok(std::mem::replace(&mut self.rest, behind));
            }
            match timeout_at(self.deadline, self.io.read_buf(&mut self.rest)).await {
                Ok(Ok(1..)) => {}
                _ => return Err(Refused::Gone),
            }
        }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let written = async {
            self.io.write_all(bytes).await?;
            self.io.flush().await
        };
        timeout_at(self.deadline, written).await.ok().and_then(Result::ok).ok_or(Refused::Gone)
    }

    /// What was read behind the packets that were taken.
    pub(crate) fn into_rest(self) -> Vec<u8> {
        self.rest
    }

    /// What cannot be read as a CONNECT is not answered. A version that is not spoken is, in the form nearest to it
    /// (MQTT-3.1.2-2; 3.1.1: 3.1.2-2), and a CONNECT of 5.0 that says what it must not.
    pub(crate) async fn refuse_broken(&mut self, bytes: &[u8], error: DecodeError) {
        // Type, at most four bytes of length, and the protocol's name and level.
        let level = bytes.windows(7).take(6).find_map(|w| (w[..6] == *b"\0\x04MQTT").then(|| w[6]));
        let version = match level {
            Some(5..) => Version::V5,
            _ => Version::V311,
        };
        let is_connect = level == Some(5) && bytes[0] == 0x10;
        match error.defect {
            Defect::Malformed => {}
            Defect::UnsupportedVersion => self.refuse(version, error.reason(), error.what).await,
            _ if is_connect => self.refuse(version, error.reason(), error.what).await,
            _ => {}
        }
    }

    /// Says CONNACK with `reason` and closes.
    pub(crate) async fn refuse(&mut self, version: Version, reason: ReasonCode, text: &str) {
        let mut properties = Vec::new();
        if !text.is_empty() {
            property(&mut properties, PropertyId::REASON_STRING, Value::Text(text));
        }
        let mut out = Vec::new();
        encode::connack(&mut out, version, false, reason, &properties);
        let _ = self.write(&out).await;
        let _ = timeout_at(self.deadline, self.io.shutdown()).await;
        // Not reset before it is read: see `gateway::say_goodbye`.
        let limit = self.deadline.min(Instant::now() + Duration::from_secs(1));
        let mut unread = [0; 512];
        while let Ok(Ok(1..)) = timeout_at(limit, self.io.read(&mut unread)).await {}
    }
}
