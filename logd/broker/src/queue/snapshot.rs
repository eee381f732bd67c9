//! Queues in snapshots.

use super::blocks::{Blocks, Item, Place};
use super::{Counters, Group, Member, MovesTo, Moving, Queue, Scheduled};
use fluxmq_commands::command::queue::{Arguments, DeadLetter, Recipient, Sharing};
use fluxmq_commands::wire::{Reader, WireError, Write};

use crate::pages::Pages;

/// Where the reason of a dead letter would stand.
const TO_A_SESSION: u8 = 0;

fn put_bits(map: &std::collections::BTreeMap<u64, u128>, out: &mut Vec<u8>) {
    out.put_u32(map.len() as u32);
    for (block, bits) in map {
        out.put_u64(*block);
        out.put_u64(*bits as u64);
        out.put_u64((bits >> 64) as u64);
    }
}

fn bits(r: &mut Reader<'_>) -> Result<std::collections::BTreeMap<u64, u128>, WireError> {
    (0..r.u32()?)
        .map(|_| {
            let (block, low, high) = (r.u64()?, r.u64()?, r.u64()?);
            Ok((block, u128::from(low) | u128::from(high) << 64))
        })
        .collect()
}

fn put_key(key: &[u8], out: &mut Vec<u8>) {
    out.put_u32(key.len() as u32);
    out.extend_from_slice(key);
}

fn key(r: &mut Reader<'_>) -> Result<Box<[u8]>, WireError> {
    let len = r.u32()?;
    Ok(r.take(len as usize)?.into())
}

// === impl Queue ===

impl Queue {
    pub(crate) fn save(&self, pages: &mut Pages<'_>) {
        let out = &mut pages.page;
        out.put_str(&self.vhost);
        out.put_str(&self.name);
        self.arguments().encode(out);
        out.put_u32(self.bindings.len() as u32);
        self.bindings.iter().for_each(|b| out.put_str(b));
        self.blocks.save(pages);
        let out = &mut pages.page;
        for n in [
            self.floor,
            self.base.offset,
            self.live,
            self.bytes,
            self.last_move,
            self.touched_ms,
            self.review,
        ] {
            out.put_u64(n);
        }
        self.counters.numbers().into_iter().for_each(|n| out.put_u64(n));
        put_bits(&self.dead, out);
        out.put_u32(self.groups.len() as u32);
        for (id, group) in &self.groups {
            out.put_u64(*id);
            group.save(out);
        }
        out.put_u32(self.scheduled.len() as u32);
        for ((ms, id), scheduled) in &self.scheduled {
            out.put_u64(*ms);
            out.put_u64(*id);
            out.put_u64(scheduled.item.expiry_ms);
            out.put_u8(scheduled.item.priority);
            out.put_u32(scheduled.item.size);
            put_key(&scheduled.key, out);
        }
        out.put_u32(self.moving.len() as u32);
        for (n, moving) in &self.moving {
            out.put_u64(*n);
            out.put_u64(moving.position);
            out.put_u8(moving.priority);
            out.put_u32(moving.size);
            match &moving.to {
                MovesTo::DeadLetterQueue(dead) => dead.encode(out),
                MovesTo::Session(to) => {
                    out.put_u8(TO_A_SESSION);
                    to.encode(out);
                }
            }
        }
        self.save_known(out);
    }

    fn save_known(&self, out: &mut Vec<u8>) {
        out.put_u32(self.ids.len() as u32);
        for (ms, id) in &self.ids {
            out.put_u64(*ms);
            out.put_str(id);
        }
        out.put_u32(self.producers.len() as u32);
        for (name, sequence) in &self.producers {
            out.put_str(name);
            out.put_u64(*sequence);
        }
        out.put_u32(self.key_offsets.len() as u32);
        for (offset, key) in &self.key_offsets {
            out.put_u64(*offset);
            put_key(key, out);
        }
    }

    pub(crate) fn load(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let (vhost, name) = (r.str()?.into(), r.str()?.into());
        let arguments = Arguments::decode(r)?;
        let sized = Self::sized(&arguments);
        let mut q = Self {
            vhost,
            name,
            dead_letter: arguments.dead_letter.into(),
            arguments: Arguments { dead_letter: "", ..arguments },
            ..Self::default()
        };
        for _ in 0..r.u32()? {
            q.bindings.insert(r.str()?.into());
        }
        q.blocks = Blocks::load(r, sized)?;
        q.floor = r.u64()?;
        let base = r.u64()?;
        (q.live, q.bytes, q.last_move, q.touched_ms) = (r.u64()?, r.u64()?, r.u64()?, r.u64()?);
        q.review = r.u64()?;
        q.base = q.blocks.at(base, Place::default());
        q.counters = Counters::load(r)?;
        q.dead = bits(r)?;
        for _ in 0..r.u32()? {
            q.groups.insert(r.u64()?, Group::load(r)?);
        }
        for _ in 0..r.u32()? {
            let at = (r.u64()?, r.u64()?);
            let (expiry_ms, priority, size) = (r.u64()?, r.u8()?, r.u32()?);
            let item = Item { position: at.1, expiry_ms, priority, size, dead: None };
            q.scheduled.insert(at, Scheduled { item, key: key(r)? });
            q.scheduled_at.insert(at.1, at.0);
        }
        for _ in 0..r.u32()? {
            let n = r.u64()?;
            let (position, priority, size) = (r.u64()?, r.u8()?, r.u32()?);
            let to = match r.0.first() {
                Some(&TO_A_SESSION) => {
                    r.u8()?;
                    MovesTo::Session(Recipient::decode(r)?)
                }
                _ => MovesTo::DeadLetterQueue(DeadLetter::decode(r)?),
            };
            q.moving.insert(n, Moving { position, to, priority, size });
        }
        q.load_known(r)?;
        let expiring = q.blocks.iter().filter(|(_, b)| b.min_expiry > 0);
        q.expiring = expiring.map(|(number, b)| (b.min_expiry, number)).collect();
        Ok(q)
    }

    fn load_known(&mut self, r: &mut Reader<'_>) -> Result<(), WireError> {
        for _ in 0..r.u32()? {
            let (ms, id): (_, Box<str>) = (r.u64()?, r.str()?.into());
            self.id_times.insert(id.clone(), ms);
            self.ids.push_back((ms, id));
        }
        for _ in 0..r.u32()? {
            self.producers.insert(r.str()?.into(), r.u64()?);
        }
        for _ in 0..r.u32()? {
            let (offset, key) = (r.u64()?, key(r)?);
            self.keys.insert(key.clone(), offset);
            self.key_offsets.insert(offset, key);
        }
        Ok(())
    }
}

// === impl Counters ===

impl Counters {
    fn numbers(&self) -> [u64; 8] {
        [
            self.expired,
            self.overflowed,
            self.rejected,
            self.delivery_limited,
            self.compacted,
            self.dead_lettered,
            self.cycled,
            self.repeats,
        ]
    }

    fn load(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            expired: r.u64()?,
            overflowed: r.u64()?,
            rejected: r.u64()?,
            delivery_limited: r.u64()?,
            compacted: r.u64()?,
            dead_lettered: r.u64()?,
            cycled: r.u64()?,
            repeats: r.u64()?,
        })
    }
}

// === impl Group ===

impl Group {
    fn save(&self, out: &mut Vec<u8>) {
        out.put_str(&self.name);
        out.put_u8(self.sharing as u8);
        out.put_u64(self.cursor);
        put_bits(&self.settled, out);
        out.put_u32(self.counts.len() as u32);
        for (offset, count) in &self.counts {
            out.put_u64(*offset);
            out.put_u32(*count);
            out.put_u64(self.waiting.get(offset).copied().unwrap_or_default());
        }
        out.put_u32(self.members.len() as u32);
        for (token, member) in &self.members {
            out.put_u64(*token);
            out.put_u64(member.gateway);
            out.put_u64(member.consumer);
            out.put_u8(member.priority);
        }
        out.put_u64(self.active.unwrap_or(u64::MAX));
        out.put_u64(self.epoch);
    }

    fn load(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut g = Self { name: r.str()?.into(), ..Self::default() };
        g.sharing = Sharing::from_number(r.u8()?.into())?;
        g.cursor = r.u64()?;
        g.settled = bits(r)?;
        for _ in 0..r.u32()? {
            let (offset, count, until_ms) = (r.u64()?, r.u32()?, r.u64()?);
            g.give_again(offset, count, until_ms);
        }
        for _ in 0..r.u32()? {
            let token = r.u64()?;
            let member = Member { gateway: r.u64()?, consumer: r.u64()?, priority: r.u8()? };
            g.members.insert(token, member);
        }
        g.active = Some(r.u64()?).filter(|active| *active != u64::MAX);
        g.epoch = r.u64()?;
        Ok(g)
    }
}
