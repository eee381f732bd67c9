//! Little-endian reading and writing of commands, outcomes and snapshots.

/// The bytes end too early or say something impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WireError(pub &'static str);

/// Reads from the front of a slice. Never panics, whatever the bytes are.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(
    /// What is left.
    pub &'a [u8],
);

// === impl Reader ===

impl<'a> Reader<'a> {
    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(WireError("ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(WireError("ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    /// A byte.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[b]| b)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Length and UTF-8 text.
    pub fn str(&mut self) -> Result<&'a str, WireError> {
        let len = self.u16()?;
        std::str::from_utf8(self.take(len.into())?).map_err(|_| WireError("not utf-8"))
    }

    /// A variable length number, seven bits a byte, low bits first.
    pub fn var(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError("number is too long"))
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing may be left.
    pub fn end(&self) -> Result<(), WireError> {
        if self.is_empty() { Ok(()) } else { Err(WireError("goes on behind its end")) }
    }
}

/// Appends to a vector.
pub trait Write {
    /// Appends a byte.
    fn put_u8(&mut self, n: u8);
    /// Appends two bytes.
    fn put_u16(&mut self, n: u16);
    /// Appends four bytes.
    fn put_u32(&mut self, n: u32);
    /// Appends eight bytes.
    fn put_u64(&mut self, n: u64);
    /// Appends a variable length number, seven bits a byte.
    fn put_var(&mut self, n: u64);
    /// What is longer than 65,535 bytes is cut at a character; names are checked at the edge.
    fn put_str(&mut self, text: &str);
}

impl Write for Vec<u8> {
    fn put_u8(&mut self, n: u8) {
        self.push(n);
    }

    fn put_u16(&mut self, n: u16) {
        self.extend_from_slice(&n.to_le_bytes());
    }

    fn put_u32(&mut self, n: u32) {
        self.extend_from_slice(&n.to_le_bytes());
    }

    fn put_u64(&mut self, n: u64) {
        self.extend_from_slice(&n.to_le_bytes());
    }

    fn put_var(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.push((n & 0x7F) as u8 | 0x80);
            n >>= 7;
        }
        self.push(n as u8);
    }

    fn put_str(&mut self, text: &str) {
        let mut len = text.len().min(usize::from(u16::MAX));
        while !text.is_char_boundary(len) {
            len -= 1;
        }
        self.put_u16(len as u16);
        self.extend_from_slice(&text.as_bytes()[..len]);
    }
}
