//! PROXY protocol version 2: a proxy in front says, before anything else, where a connection comes from.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// How every header begins.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes behind the first 16; addresses take 36 at most, the rest are fields nobody here reads.
const REST_BYTES_MAX: usize = 2_048;

/// Reads the header; nothing behind it. None when the proxy speaks for itself (a health check, say) or for something
/// that has no address.
///
/// # Errors
/// Anything but a header of version 2, and failures of the socket.
pub async fn read_header<S: AsyncRead + Unpin>(io: &mut S) -> io::Result<Option<SocketAddr>> {
    let mut head = [0; 16];
    io.read_exact(&mut head).await?;
    let len = usize::from(u16::from_be_bytes([head[14], head[15]]));
    let known = head[..12] == SIGNATURE && head[12] >> 4 == 2 && len <= REST_BYTES_MAX;
    if !known {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a PROXY header of version 2"));
    }
    let mut rest = vec![0; len];
    io.read_exact(&mut rest).await?;
    match head[12] & 0x0F {
        0 => Ok(None),
        1 => Ok(source(head[13], &rest)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "unknown PROXY command")),
    }
}

fn source(family: u8, rest: &[u8]) -> Option<SocketAddr> {
    let port = |at: usize| rest.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    match family {
        0x11 => {
            let ip: [u8; 4] = rest.get(..4)?.try_into().ok()?;
            Some(SocketAddr::new(IpAddr::from(ip), port(8)?))
        }
        0x21 => {
            let ip: [u8; 16] = rest.get(..16)?.try_into().ok()?;
            Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip)), port(32)?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family], &len, rest].concat()
    }

    async fn read(bytes: &[u8]) -> (io::Result<Option<SocketAddr>>, usize) {
        let mut io = bytes;
        let got = read_header(&mut io).await;
        (got, io.len())
    }

    #[tokio::test]
    async fn the_source_is_read_and_nothing_behind_the_header() {
        let v4 = [10, 0, 0, 1, 10, 0, 0, 2, 0x12, 0x34, 0x07, 0x5B, 3, 0, 1, 9];
        let mut bytes = header(1, 0x11, &v4);
        bytes.extend_from_slice(b"CONNECT");
        let (got, left) = read(&bytes).await;
        assert_eq!(got.expect("a header"), Some("10.0.0.1:4660".parse().expect("an address")));
        assert_eq!(left, 7);
        let mut v6 = [0; 36];
        v6[15] = 1;
        v6[33] = 80;
        let (got, _) = read(&header(1, 0x21, &v6)).await;
        assert_eq!(got.expect("a header"), Some("[::1]:80".parse().expect("an address")));
        for (command, family) in [(0, 0), (1, 0), (1, 0x31)] {
            let (got, _) = read(&header(command, family, &[0; 216])).await;
            assert_eq!(got.expect("a header"), None);
        }
    }

    #[tokio::test]
    async fn anything_else_is_refused() {
        let mut long = header(1, 0x11, &[]);
        long[14] = 0xFF;
        let v1 = b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n".to_vec();
        for bytes in [v1, long, header(2, 0x11, &[0; 12]), header(1, 0x11, &[0; 12])[..20].to_vec()]
        {
            assert!(read(&bytes).await.0.is_err(), "{bytes:?}");
        }
        let (short, _) = read(&header(1, 0x11, &[0; 5])).await;
        assert_eq!(short.expect("a header"), None, "no whole address");
    }
}
