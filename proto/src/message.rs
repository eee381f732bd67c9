//! The message as it is stored and relayed: encoded once at ingress (design §7), opaque to `logd`.
//!
//! A message is a head and the payload behind it. Head: `version u8 = 1, flags u8, n_fields u16`, then
//! the fields `tag u8, len u16, bytes`, little-endian; user properties repeat in the order given.
//! `docs/internals/commands.md` has the table. An empty head stands for one without fields.

/// Version of the encoding.
const VERSION: u8 = 1;
/// Bytes before the fields.
const FIXED: usize = 4;
/// Flag: the payload is UTF-8 text.
const UTF8: u8 = 1;
/// Flag: the publisher stated the payload format.
const FORMAT_STATED: u8 = 4;

/// A field of the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Field<'a> {
    /// Tag 1: MIME type of the payload.
    ContentType(&'a str),
    /// Tag 3: correlation data.
    CorrelationId(&'a [u8]),
    /// Tag 4: where an answer goes.
    ReplyTo(&'a str),
    /// Tag 16: user property with a string value.
    UserProperty(&'a str, &'a str),
    /// Any other tag, as bytes.
    Other(u8, &'a [u8]),
}

/// The head of a message without fields, where one must stand: in what is stored.
pub const EMPTY_HEAD: [u8; FIXED] = [VERSION, 0, 0, 0];

/// Splits a stored message into the bytes of its head and its payload.
#[must_use]
pub fn split(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, payload) = Head::split(message)?;
    Some((&message[..message.len() - payload.len()], payload))
}

/// Appends a head to `out`; [`HeadWriter::finish`] removes it again when it holds nothing.
pub struct HeadWriter<'o> {
    out: &'o mut Vec<u8>,
    start: usize,
    fields: u16,
}

// === impl HeadWriter ===

impl<'o> HeadWriter<'o> {
    /// Begins a head at the end of `out`.
    pub fn new(out: &'o mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(&[VERSION, 0, 0, 0]);
        Self { out, start, fields: 0 }
    }

    /// The publisher states whether the payload is UTF-8 text.
    pub fn payload_format(&mut self, utf8: bool) {
        self.out[self.start + 1] |= FORMAT_STATED | if utf8 { UTF8 } else { 0 };
    }

    /// Appends a field. What is longer than its length field can say is left out; the edges of all
    /// protocols keep their fields below that.
    pub fn field(&mut self, field: Field<'_>) {
        match field {
            Field::ContentType(text) => self.put(1, &[text.as_bytes()]),
            Field::CorrelationId(bytes) => self.put(3, &[bytes]),
            Field::ReplyTo(text) => self.put(4, &[text.as_bytes()]),
            Field::UserProperty(name, value) => {
                // Both come from length fields of 16 bits; together they need 32: split in two parts.
                let (Ok(name_len), Ok(value_len)) =
                    (u16::try_from(name.len()), u16::try_from(value.len()))
                else {
                    return;
                };
                self.begin(16);
                self.out.extend_from_slice(&name_len.to_le_bytes());
                self.out.extend_from_slice(name.as_bytes());
                self.out.push(0);
                self.out.extend_from_slice(&value_len.to_le_bytes());
                self.out.extend_from_slice(value.as_bytes());
            }
            Field::Other(tag, bytes) => self.put(tag, &[bytes]),
        }
    }

    /// Ends the head; nothing is left in `out` when nothing was put in.
    pub fn finish(self) {
        if self.fields == 0 && self.out[self.start + 1] == 0 {
            self.out.truncate(self.start);
            return;
        }
        self.out[self.start + 2..self.start + FIXED].copy_from_slice(&self.fields.to_le_bytes());
    }

    fn begin(&mut self, tag: u8) {
        self.out.push(tag);
        self.fields += 1;
    }

    fn put(&mut self, tag: u8, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|p| p.len()).sum();
        let Ok(len) = u16::try_from(len) else { return };
        self.begin(tag);
        self.out.extend_from_slice(&len.to_le_bytes());
        parts.iter().for_each(|p| self.out.extend_from_slice(p));
    }
}

/// A head that is read where it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head<'a> {
    flags: u8,
    fields: &'a [u8],
}

// === impl Head ===

impl<'a> Head<'a> {
    /// Reads the head of `message`; returns it and the payload. None when the bytes are no message.
    #[must_use]
    pub fn split(message: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (fixed, mut rest) = message.split_at_checked(FIXED)?;
        if fixed[0] != VERSION {
            return None;
        }
        let fields = rest;
        for _ in 0..u16::from_le_bytes([fixed[2], fixed[3]]) {
            (_, rest) = read_field(rest)?;
        }
        let fields = &fields[..fields.len() - rest.len()];
        Some((Self { flags: fixed[1], fields }, rest))
    }

    /// Reads a head without its payload; an empty one has no fields.
    #[must_use]
    pub fn read(head: &'a [u8]) -> Option<Self> {
        if head.is_empty() {
            return Some(Self::default());
        }
        Self::split(head).filter(|(_, rest)| rest.is_empty()).map(|(head, _)| head)
    }

    /// What the publisher said of the payload: true for UTF-8 text, None when it said nothing.
    #[must_use]
    pub fn payload_format(&self) -> Option<bool> {
        (self.flags & FORMAT_STATED != 0).then_some(self.flags & UTF8 != 0)
    }

    /// The fields in their order.
    pub fn fields(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let mut rest = self.fields;
        std::iter::from_fn(move || {
            let (field, behind) = read_field(rest)?;
            rest = behind;
            Some(field)
        })
    }
}

fn read_field(bytes: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (value, rest) = read_block(rest)?;
    let text = || std::str::from_utf8(value).ok();
    let field = match tag {
        1 => Field::ContentType(text()?),
        3 => Field::CorrelationId(value),
        4 => Field::ReplyTo(text()?),
        16 => {
            let name = text()?;
            let (0, rest) = rest.split_first().map(|(t, r)| (*t, r))? else {
                return None;
            };
            let (value, rest) = read_block(rest)?;
            return Some((Field::UserProperty(name, std::str::from_utf8(value).ok()?), rest));
        }
        tag => Field::Other(*tag, value),
    };
    Some((field, rest))
}

fn read_block(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_le_bytes(*len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_comes_back() {
        let mut out = b"before".to_vec();
        let mut head = HeadWriter::new(&mut out);
        head.payload_format(true);
        let fields = [
            Field::ContentType("text/plain"),
            Field::CorrelationId(&[1, 2, 3]),
            Field::ReplyTo("a/b"),
            Field::UserProperty("k", "1"),
            Field::UserProperty("k", ""),
            Field::Other(14, &[9; 8]),
        ];
        fields.iter().for_each(|f| head.field(*f));
        head.finish();
        let head_len = out.len();
        out.extend_from_slice(b"payload");
        let (head, payload) = Head::split(&out[6..]).expect("written above");
        assert_eq!(payload, b"payload");
        assert_eq!(head.payload_format(), Some(true));
        assert_eq!(head.fields().collect::<Vec<_>>(), fields);
        assert_eq!(Head::read(&out[6..head_len]), Some(head));
        for cut in 6..head_len {
            assert_eq!(Head::split(&out[6..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn nothing_takes_no_bytes() {
        let mut out = Vec::new();
        HeadWriter::new(&mut out).finish();
        assert!(out.is_empty());
        assert_eq!(Head::read(&[]).map(|h| h.fields().count()), Some(0));
    }
}
