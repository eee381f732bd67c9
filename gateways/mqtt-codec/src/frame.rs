//! The fixed header (MQTT 5 §2.1): how long is the next packet?

use crate::error::{DecodeError, Defect};
use crate::packet::PacketType;

/// A fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedHeader {
    /// What packet it is.
    pub packet_type: PacketType,
    /// The four flag bits; checked for every packet but PUBLISH, where they carry meaning.
    pub flags: u8,
    /// Bytes of the header itself, 2–5.
    pub header_len: usize,
    /// Bytes behind it.
    pub remaining_len: usize,
}

// === impl FixedHeader ===

impl FixedHeader {
    /// Bytes of the whole packet.
    #[must_use]
    pub fn total_len(&self) -> usize {
        self.header_len + self.remaining_len
    }
}

/// Reads the fixed header at the start of `bytes`; None while it is incomplete.
///
/// # Errors
/// Unknown packet type or flags, a length that is not a variable byte integer, or more than
/// `packet_bytes_max` bytes in all (0x95): found before the packet is read.
#[inline]
pub fn peek(bytes: &[u8], packet_bytes_max: u32) -> Result<Option<FixedHeader>, DecodeError> {
    let Some(first) = bytes.first() else {
        return Ok(None);
    };
    let packet_type = PacketType::from_bits(first >> 4)
        .ok_or(DecodeError::malformed("packet type 0 is reserved"))?;
    let flags = first & 0x0F;
    if packet_type != PacketType::Publish && flags != packet_type.flags() {
        return Err(DecodeError::malformed("reserved flags of the fixed header are wrong"));
    }
    let mut remaining_len = 0;
    for (at, shift) in [0, 7, 14, 21].into_iter().enumerate() {
        let Some(byte) = bytes.get(1 + at) else {
            return Ok(None);
        };
        remaining_len |= usize::from(byte & 0x7F) << shift;
        if byte & 0x80 != 0 {
            continue;
        }
        if *byte == 0 && at > 0 {
            return Err(DecodeError::malformed("remaining length is not minimal"));
        }
        let header = FixedHeader { packet_type, flags, header_len: 2 + at, remaining_len };
        if header.total_len() as u64 > u64::from(packet_bytes_max) {
            return Err(DecodeError::new(Defect::TooLarge, "packet is larger than the maximum"));
        }
        return Ok(Some(header));
    }
    Err(DecodeError::malformed("remaining length is longer than four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_at_their_borders() {
        for (bytes, want) in [
            (&[0x30, 0x00][..], Some(2)),
            (&[0x30, 0x7F], Some(129)),
            (&[0x30, 0x80, 0x01], Some(131)),
            (&[0x30, 0xFF, 0x7F], Some(16_386)),
            (&[0x30, 0x80, 0x80, 0x01], Some(16_388)),
            (&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], Some(268_435_460)),
            (&[0x30], None),
            (&[], None),
            (&[0x30, 0x80, 0x80], None),
        ] {
            let header = peek(bytes, u32::MAX).expect("well-formed");
            assert_eq!(header.map(|h| h.total_len()), want, "{bytes:x?}");
        }
    }

    #[test]
    fn what_is_wrong_is_found_before_the_packet_is_read() {
        for bytes in [
            &[0x00, 0x00][..],               // type 0
            &[0x60, 0x02],                   // PUBREL without its flags (MQTT-2.1.3-1)
            &[0x81, 0x02],                   // SUBSCRIBE likewise
            &[0x30, 0x80, 0x00],             // not minimal
            &[0x30, 0xFF, 0xFF, 0xFF, 0xFF], // five bytes
        ] {
            assert_eq!(peek(bytes, u32::MAX).map_err(|e| e.defect), Err(Defect::Malformed));
        }
        assert_eq!(peek(&[0x30, 99], 100).map_err(|e| e.defect), Err(Defect::TooLarge));
        assert!(peek(&[0x30, 98], 100).is_ok());
    }
}
