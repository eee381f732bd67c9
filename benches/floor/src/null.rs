//! The null server, against which the generator's own ceiling is measured (`floor --null ADDR`). What is
//! published is acknowledged and discarded. A subscription to `null/COUNT/BYTES` gets COUNT messages of
//! BYTES with the generator's stamp (number, no time, publisher 0), at most [`WINDOW`] unacknowledged.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::length;

/// Messages on their way that are not acknowledged (QoS 1, 2).
const WINDOW: u64 = 200;
/// Bytes written at once.
const WRITE_BYTES: usize = 64 * 1024;
/// The length of the generator's stamp.
const STAMP_BYTES: usize = 20;

/// Serves one connection after the other, for ever.
pub(crate) fn serve(address: &str) -> std::io::Result<()> {
    let listener = TcpListener::bind(address)?;
    eprintln!("null server on {}", listener.local_addr()?);
    for socket in listener.incoming() {
        let mut socket = socket?;
        socket.set_nodelay(true)?;
        // The end of a connection is the client's business.
        let _ = Null::default().run(&mut socket);
    }
    Ok(())
}

#[derive(Default)]
struct Null {
    out: Vec<u8>,
    /// Topic, QoS and payload of what is sent.
    qos: u8,
    size: usize,
    count: u64,
    sent: u64,
    settled: u64,
}

// === impl Null ===

impl Null {
    fn run(&mut self, socket: &mut TcpStream) -> std::io::Result<()> {
        let mut memory = vec![0; 256 * 1024];
        let (mut filled, mut at) = (0, 0);
        loop {
            self.fill();
            if !self.out.is_empty() {
                socket.write_all(&self.out)?;
                self.out.clear();
                // Without acknowledgements there is nothing to wait for.
                if self.qos == 0 && self.sent < self.count {
                    continue;
                }
            }
            let read = socket.read(&mut memory[filled..])?;
            if read == 0 {
                return Ok(());
            }
            filled += read;
            while let Some((header, len)) = length(&memory[at..filled])
                && at + header + len <= filled
            {
                let body = at + header..at + header + len;
                self.packet(memory[at], &memory[body.clone()]);
                at = body.end;
            }
            memory.copy_within(at..filled, 0);
            (filled, at) = (filled - at, 0);
        }
    }

    fn packet(&mut self, first: u8, body: &[u8]) {
        match first >> 4 {
            1 => self.out.extend_from_slice(&[0x20, 2, 0, 0]),
            3 => self.published(first, body),
            4 | 7 => self.settled += 1,
            5 => self.out.extend_from_slice(&[0x62, 2, body[0], body[1]]),
            6 => self.out.extend_from_slice(&[0x70, 2, body[0], body[1]]),
            8 => self.subscribed(body),
            _ => {}
        }
    }

    fn published(&mut self, first: u8, body: &[u8]) {
        let qos = (first >> 1) & 3;
        if qos > 0 {
            let at = 2 + (usize::from(body[0]) << 8 | usize::from(body[1]));
            let answer = if qos == 1 { 0x40 } else { 0x50 };
            self.out.extend_from_slice(&[answer, 2, body[at], body[at + 1]]);
        }
    }

    fn subscribed(&mut self, body: &[u8]) {
        self.qos = body[body.len() - 1];
        self.out.extend_from_slice(&[0x90, 3, body[0], body[1], self.qos]);
        let filter = String::from_utf8_lossy(&body[4..body.len() - 1]).into_owned();
        let mut numbers = filter.split('/').skip(1).map_while(|n| n.parse::<u64>().ok());
        self.count = numbers.next().unwrap_or(0);
        self.size = numbers.next().unwrap_or(256) as usize;
    }

    /// Appends the messages that may go.
    fn fill(&mut self) {
        let limit = if self.qos == 0 { self.count } else { self.count.min(self.settled + WINDOW) };
        let id_bytes = if self.qos == 0 { 0 } else { 2 };
        let len = 2 + 1 + id_bytes + self.size.max(STAMP_BYTES);
        while self.sent < limit && self.out.len() < WRITE_BYTES {
            self.out.push(0x30 | self.qos << 1);
            // Two bytes of length: the payloads of the rows are between 128 and 16,383 bytes.
            self.out.extend_from_slice(&[(len % 128) as u8 | 0x80, (len / 128) as u8, 0, 1, b'n']);
            if self.qos > 0 {
                let id = (self.sent % 65_535) as u16 + 1;
                self.out.extend_from_slice(&id.to_be_bytes());
            }
            let stamp = self.out.len();
            self.out.resize(stamp + self.size.max(STAMP_BYTES), 0);
            self.out[stamp..stamp + 8].copy_from_slice(&self.sent.to_le_bytes());
            self.sent += 1;
        }
    }
}
