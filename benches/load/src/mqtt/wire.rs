//! The few packets of MQTT 3.1.1 and 5 the generator needs, written from the standards.

use clap::ValueEnum;

/// Protocol version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Version {
    /// MQTT 3.1.1.
    #[value(name = "3.1.1")]
    V311,
    /// MQTT 5.0.
    #[value(name = "5")]
    V5,
}

/// Seconds a persistent session of MQTT 5 outlives its connection.
const SESSION_EXPIRY_S: u32 = 3_600;

/// A number of up to four bytes at the start of `bytes`: its length and value.
fn number(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for n in 0..4 {
        let byte = *bytes.get(n)?;
        value |= usize::from(byte & 0x7F) << (7 * n);
        if byte < 0x80 {
            return Some((1 + n, value));
        }
    }
    None
}

/// Header length and body length of the packet at the start of `bytes`, once both are known.
pub(crate) fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let (len, body) = number(bytes.get(1..)?)?;
    Some((1 + len, body))
}

/// The first packet in `bytes`, once it is whole: all of it, and its body.
pub(crate) fn packet(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, len) = length(bytes)?;
    let packet = bytes.get(..header + len)?;
    Some((packet, &packet[header..]))
}

fn put_length(out: &mut Vec<u8>, mut len: usize) {
    while len >= 128 {
        out.push((len % 128) as u8 | 0x80);
        len /= 128;
    }
    out.push(len as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Seconds of silence the broker is asked to bear: longer than any run, and not 0, which some brokers refuse.
const KEEP_ALIVE_S: u16 = 600;

/// CONNECT; a session that is not `persistent` starts clean and ends with its connection.
pub(crate) fn connect(out: &mut Vec<u8>, version: Version, client_id: &str, persistent: bool) {
    let level = if version == Version::V5 { 5 } else { 4 };
    let flags = if persistent { 0 } else { 2 };
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', level, flags];
    body.extend_from_slice(&KEEP_ALIVE_S.to_be_bytes());
    match (version, persistent) {
        (Version::V311, _) => {}
        (Version::V5, false) => body.push(0),
        (Version::V5, true) => {
            body.extend_from_slice(&[5, 0x11]);
            body.extend_from_slice(&SESSION_EXPIRY_S.to_be_bytes());
        }
    }
    put_text(&mut body, client_id);
    out.push(0x10);
    put_length(out, body.len());
    out.extend_from_slice(&body);
}

/// SUBSCRIBE to one filter under packet id 1.
pub(crate) fn subscribe(out: &mut Vec<u8>, version: Version, filter: &str, qos: u8) {
    let properties = usize::from(version == Version::V5);
    out.push(0x82);
    put_length(out, 5 + properties + filter.len());
    out.extend_from_slice(&[0, 1]);
    out.extend(std::iter::repeat_n(0, properties));
    put_text(out, filter);
    out.push(qos);
}

/// The first byte of a PUBLISH.
pub(crate) fn publish_flags(qos: u8, retain: bool) -> u8 {
    0x30 | qos << 1 | u8::from(retain)
}

/// The head of a PUBLISH up to its payload.
pub(crate) fn publish_head(
    out: &mut Vec<u8>,
    version: Version,
    flags: u8,
    topic: &str,
    id: u16,
    payload: usize,
) {
    let has_id = flags & 6 != 0;
    let properties = usize::from(version == Version::V5);
    out.push(flags);
    put_length(out, 2 + topic.len() + if has_id { 2 } else { 0 } + properties + payload);
    put_text(out, topic);
    if has_id {
        out.extend_from_slice(&id.to_be_bytes());
    }
    out.extend(std::iter::repeat_n(0, properties));
}

/// A PUBLISH from the broker.
pub(crate) struct Delivery<'a> {
    pub(crate) qos: u8,
    pub(crate) id: [u8; 2],
    pub(crate) payload: &'a [u8],
}

/// Reads a PUBLISH; None when it is cut short.
pub(crate) fn delivery(version: Version, first: u8, body: &[u8]) -> Option<Delivery<'_>> {
    let qos = (first >> 1) & 3;
    let mut at = 2 + usize::from(u16::from_be_bytes(*body.first_chunk()?));
    let mut id = [0, 0];
    if qos > 0 {
        id = *body.get(at..)?.first_chunk()?;
        at += 2;
    }
    if version == Version::V5 {
        let (len, properties) = number(body.get(at..)?)?;
        at += len + properties;
    }
    Some(Delivery { qos, id, payload: body.get(at..)? })
}

/// One of the acknowledgements, by its first byte.
pub(crate) fn acknowledge(out: &mut Vec<u8>, first: u8, id: [u8; 2]) {
    out.extend_from_slice(&[first, 2, id[0], id[1]]);
}

/// DISCONNECT, the same in both versions.
pub(crate) const DISCONNECT: [u8; 2] = [0xE0, 0];
