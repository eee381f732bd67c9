//! Broken packets for a live broker: `fuzz_connection HOST:PORT SECONDS [SEED]`.
//!
//! Each connection sends valid packets of 3.1, 3.1.1 or 5 with bytes flipped, cut, doubled, inserted or mixed, in pieces
//! of any size, and reads little or all of what comes back. A well-behaved pair of clients checks all the while that a
//! message still reaches its subscriber, and that what the broker sends are packets. Stops at the first finding.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use conformance::wire::{
    Client, Connect, ack, four, packet, properties, publish, subscribe, text_property, two,
    unsubscribe, user,
};

/// A small generator of numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

fn connect(random: &mut Random, level: u8) -> Vec<u8> {
    let id = format!("fuzz-{}", random.below(20));
    let mut connect =
        if random.below(2) == 0 { Connect::new(level, &id) } else { Connect::kept(level, &id) };
    if level == 5 {
        for property in
            [two(0x21, 5), four(0x27, 2_000), two(0x22, 3), vec![0x17, 0], user("k", "v")]
        {
            if random.below(3) == 0 {
                connect.properties.extend(property);
            }
        }
    }
    if random.below(3) == 0 {
        let qos = random.below(3) as u8;
        connect = connect.will("fuzz/will", b"gone", qos, random.below(2) == 0);
    }
    if random.below(4) == 0 {
        connect.user = Some("user".into());
        connect.password = Some(b"password".to_vec());
    }
    connect.bytes()
}

/// One packet behind CONNECT.
fn any(random: &mut Random, level: u8) -> Vec<u8> {
    let id = 1 + random.below(6) as u16;
    let topic = ["fuzz/a", "fuzz/b/c", "$SYS/x", ""][random.below(4)];
    let filter = ["fuzz/#", "fuzz/+", "$share/g/fuzz/a", "+/b/c", "fuzz/a"][random.below(5)];
    let mut props = Vec::new();
    if level == 5 {
        for property in [
            two(0x23, 1 + random.below(33) as u16),
            vec![0x01, 1],
            four(0x02, random.below(3) as u32),
            text_property(0x08, "fuzz/answer"),
            user("name", "value"),
        ] {
            if random.below(4) == 0 {
                props.extend(property);
            }
        }
    }
    match random.below(12) {
        0..=3 => {
            let first = (random.below(3) as u8) << 1 | random.below(2) as u8;
            let len = random.below(200);
            publish(level, first, topic, id, &props, &vec![b'x'; len])
        }
        4 => subscribe(level, id, &[], &[(filter, random.below(3) as u8)]),
        5 => unsubscribe(level, id, &[filter]),
        6 => ack([0x40, 0x50, 0x62, 0x70][random.below(4)], id),
        7 => vec![0xC0, 0],
        8 if level == 5 => packet(
            0xF0,
            &[&[0x19][..], &properties(&text_property(0x15, "SCRAM-SHA-256"))].concat(),
        ),
        9 if level == 5 => packet(0xE0, &[0x04]),
        10 => vec![0xE0, 0],
        _ => publish(level, 2, topic, id, &props, b""),
    }
}

fn break_it(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 if !bytes.is_empty() => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.next() as u8),
            4 if !bytes.is_empty() => {
                let end = (at + random.below(30)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            _ if !bytes.is_empty() => {
                let end = (at + random.below(10)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {}
        }
    }
}

/// One connection; returns the bytes sent.
fn attack(at: SocketAddr, random: &mut Random) -> usize {
    let level = 3 + random.below(3) as u8;
    let mut bytes = connect(random, level);
    if random.below(4) == 0 {
        break_it(random, &mut bytes);
    }
    for _ in 0..random.below(20) {
        let mut one = any(random, level);
        if random.below(3) == 0 {
            break_it(random, &mut one);
        }
        bytes.extend(one);
    }
    let Ok(mut io) = TcpStream::connect(at) else { panic!("the broker does not accept") };
    let _ = io.set_nodelay(true);
    let _ = io.set_read_timeout(Some(Duration::from_millis(1 + random.below(5) as u64)));
    let mut sent = 0;
    while sent < bytes.len() {
        let end = (sent + 1 + random.below(bytes.len())).min(bytes.len());
        if io.write_all(&bytes[sent..end]).is_err() {
            break;
        }
        sent = end;
        if random.below(3) == 0 {
            let _ = io.read(&mut vec![0; 1 + random.below(4_096)]);
        }
    }
    if random.below(2) == 0 {
        let _ = io.read(&mut [0; 4_096]);
    }
    sent
}

/// A message still finds its way.
fn check(pair: &mut (Client, Client), n: u16) {
    let (writer, reader) = pair;
    assert!(writer.publish(2 + 2 * (n % 2) as u8, "check/me", n, &n.to_be_bytes()) < 0x80);
    assert_eq!(reader.receive().payload, n.to_be_bytes());
}

#[allow(clippy::print_stdout)]
fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next();
    let at: SocketAddr = next().and_then(|a| a.parse().ok()).expect("HOST:PORT");
    let seconds: u64 = next().and_then(|s| s.parse().ok()).expect("SECONDS");
    let seed = next().and_then(|s| s.parse().ok()).unwrap_or(0x5EED);
    println!("seed {seed}");
    let mut random = Random(seed);
    let mut pair =
        (Client::clean(at, 5, "check-w"), Client::connect(at, &Connect::kept(4, "check-r")));
    pair.1.subscribe(&[("check/+", 2)]);
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut connections, mut bytes, mut checks) = (0u64, 0u64, 0u16);
    while Instant::now() < until {
        bytes += attack(at, &mut random) as u64;
        connections += 1;
        if connections % 50 == 0 {
            checks = checks % 60_000 + 1;
            check(&mut pair, checks);
        }
    }
    check(&mut pair, 60_001);
    println!("{connections} connections, {bytes} bytes: no finding");
}
