//! The few packets of MQTT 3.1.1 the generator needs, written from the standard.

/// Header length and body length of the packet at the start of `bytes`, once both are known.
pub(crate) fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut len = 0;
    for n in 0..4 {
        let byte = *bytes.get(1 + n)?;
        len |= usize::from(byte & 0x7F) << (7 * n);
        if byte < 0x80 {
            return Some((2 + n, len));
        }
    }
    None
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

/// CONNECT of a clean session without keep-alive.
pub(crate) fn connect(out: &mut Vec<u8>, client_id: &str) {
    out.push(0x10);
    put_length(out, 12 + client_id.len());
    out.extend_from_slice(&[0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0]);
    put_text(out, client_id);
}

/// SUBSCRIBE to one filter under packet id 1.
pub(crate) fn subscribe(out: &mut Vec<u8>, filter: &str, qos: u8) {
    out.push(0x82);
    put_length(out, 5 + filter.len());
    out.extend_from_slice(&[0, 1]);
    put_text(out, filter);
    out.push(qos);
}

/// The head of a PUBLISH up to its payload.
pub(crate) fn publish_head(out: &mut Vec<u8>, topic: &str, qos: u8, id: u16, payload: usize) {
    out.push(0x30 | qos << 1);
    put_length(out, 2 + topic.len() + if qos > 0 { 2 } else { 0 } + payload);
    put_text(out, topic);
    if qos > 0 {
        out.extend_from_slice(&id.to_be_bytes());
    }
}

/// One of the acknowledgements, by its first byte.
pub(crate) fn acknowledge(out: &mut Vec<u8>, first: u8, id: [u8; 2]) {
    out.extend_from_slice(&[first, 2, id[0], id[1]]);
}
