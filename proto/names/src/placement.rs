//! Which shard a thing lives in (design §3).

use crate::ids::ShardId;
use crate::xxh3::xxh3_64;

/// What is placed; the number is part of the hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// An MQTT session, by client id.
    Session = 1,
    /// A retained message, by topic.
    Retained = 2,
    /// A queue, by name.
    Queue = 3,
    /// A shared subscription, by group, `/` and filter.
    Shared = 4,
}

/// The shard of (`kind`, `vhost`, `name`) among `shards`: XXH3-64 with seed 0 over the kind's byte, the
/// vhost, a zero byte and the name, modulo the number of shards. Test vectors: `proto/vectors`.
#[must_use]
pub fn place(kind: Kind, vhost: &str, name: &str, shards: u32) -> ShardId {
    if shards <= 1 {
        return ShardId(0);
    }
    let mut key = Vec::with_capacity(2 + vhost.len() + name.len());
    key.push(kind as u8);
    key.extend_from_slice(vhost.as_bytes());
    key.push(0);
    key.extend_from_slice(name.as_bytes());
    ShardId((xxh3_64(&key) % u64::from(shards)) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of `kind vhost name shards shard`.
    #[test]
    fn vectors() {
        let text = include_str!("../../vectors/placement.txt");
        let lines = text.lines().filter(|l| !l.starts_with('#'));
        let mut count = 0;
        for line in lines {
            let f: Vec<_> = line.split(' ').collect();
            let kind = match f[0] {
                "session" => Kind::Session,
                "retained" => Kind::Retained,
                "queue" => Kind::Queue,
                _ => Kind::Shared,
            };
            let shards = f[3].parse().expect("a number");
            assert_eq!(place(kind, f[1], f[2], shards).0.to_string(), f[4], "{line}");
            count += 1;
        }
        assert!(count >= 8);
    }
}
