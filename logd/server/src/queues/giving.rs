//! Messages are given to consumers, under their credit and the room on their links (Q3).

use bytes::Bytes;
use fluxmq_client::contract::{QueueDelivery, append_offset};
use fluxmq_commands::command::queue::{QueueCommand, Sharing};
use fluxmq_commands::command::{self, Command};
use fluxmq_names::hash64;
use logd_broker::QueueMessage;
use logd_raft::Group;

use super::served::{ConsumerKey, Parked, Served};
use super::{Consumer, GroupKey, LEASES_MAX, Queues, lease_end};
use crate::entries::Entries;
use crate::windows::Windows;

/// Messages given to one consumer before the next has its turn.
const TURN: usize = 64;
/// Messages of a keyed group that wait for their member before reading stops.
const PARKED_MAX: usize = 1_000;

/// What giving needs of this node.
pub(crate) struct Means<'a> {
    /// All shards.
    pub(crate) shards: &'a [Group],
    /// Room on links.
    pub(crate) windows: &'a mut Windows,
    /// Commands, where they lie.
    pub(crate) entries: &'a mut Entries,
    /// Clock since boot, and Unix time, ms.
    pub(crate) now_ms: u64,
    pub(crate) unix_ms: u64,
}

// === impl Queues ===

impl Queues {
    /// Gives what can be given.
    pub(crate) fn give(&mut self, means: &mut Means<'_>) {
        if !self.unpresented.is_empty() {
            return;
        }
        for at in std::mem::take(&mut self.ready) {
            let Some(group) = means.shards.get(at.0 as usize) else { continue };
            let served = self.groups.get(&at).filter(|served| served.returns == 0);
            let sharing = served.map(|served| served.view.sharing);
            match sharing {
                Some(Sharing::Keyed) => self.give_by_key(at, group, means),
                Some(_) => self.give_in_turn(at, group, means),
                None => continue,
            }
            self.note_next_return(at, group);
        }
    }

    fn note_next_return(&mut self, at: GroupKey, group: &Group) {
        if let Some(ms) = group.with_state(|b| b.next_return(at.1, at.2)) {
            self.returning.insert((ms, at));
        }
    }

    fn give_in_turn(&mut self, at: GroupKey, group: &Group, means: &mut Means<'_>) {
        while let Some(key) = self.next_consumer(at, means) {
            let (Some(served), Some(consumer)) =
                (self.groups.get_mut(&at), self.consumers.get(&key))
            else {
                return;
            };
            let room = LEASES_MAX.saturating_sub(served.leased());
            let max = TURN.min(consumer.credit as usize).min(room);
            if max == 0 {
                return;
            }
            let (messages, more) = served.read(at, group, max);
            if messages.is_empty() {
                // Who was given nothing keeps his turn: else whoever settles first would be passed over.
                served.order.rotate_right(1);
                if more {
                    continue;
                }
                return;
            }
            self.hand_over(at, group, key, &messages, means);
            if !more {
                // What came was all there is, unless something comes meanwhile.
                if messages.len() < max {
                    return;
                }
            }
        }
    }

    /// Who is next: with credit, on a link with room, and the active one where there is one.
    fn next_consumer(&mut self, at: GroupKey, means: &Means<'_>) -> Option<ConsumerKey> {
        let served = self.groups.get_mut(&at)?;
        let one = matches!(served.view.sharing, Sharing::SingleActive | Sharing::Exclusive);
        for _ in 0..served.order.len() {
            let key = served.order.pop_front()?;
            served.order.push_back(key);
            let Some(consumer) = self.consumers.get(&key) else { continue };
            let Some(link) = consumer.link.filter(|_| consumer.credit > 0) else { continue };
            if one && served.view.active != Some(consumer.member) {
                continue;
            }
            if !means.windows.has_room(link) {
                self.blocked.entry(link).or_default().insert(at);
                continue;
            }
            return Some(key);
        }
        None
    }

    fn hand_over(
        &mut self,
        at: GroupKey,
        group: &Group,
        key: ConsumerKey,
        messages: &[QueueMessage],
        means: &mut Means<'_>,
    ) {
        let Some(consumer) = self.consumers.get(&key) else { return };
        let until_ms = lease_end(means.now_ms, consumer.lease_ms);
        let mut runs = Vec::new();
        for message in messages {
            if message.expiry_ms.is_some_and(|ms| ms <= means.unix_ms) {
                continue;
            }
            let Some(command) = means.entries.read(group, message.position) else {
                tracing::error!(position = message.position, "a message is not in the log");
                continue;
            };
            if let Some(served) = self.groups.get_mut(&at) {
                served.hold(key, message.offset, until_ms, 0);
            }
            self.deliver(at, key, message, command, means);
            append_offset(&mut runs, message.offset);
        }
        self.note_given(key, &runs, until_ms);
    }

    fn deliver(
        &mut self,
        at: GroupKey,
        key: ConsumerKey,
        message: &QueueMessage,
        command: Bytes,
        means: &mut Means<'_>,
    ) {
        let Some(consumer) = self.consumers.get_mut(&key) else { return };
        let Some(link) = consumer.link else { return };
        consumer.credit = consumer.credit.saturating_sub(1);
        means.windows.spend(link, command.len());
        let began = self.began.get(at.0 as usize).copied().unwrap_or_default();
        self.deliveries.entry(link).or_default().push(QueueDelivery {
            token: key.1,
            offset: message.offset,
            count: message.count,
            redelivered: message.count > 0 || message.position < began && at.2 < began,
            dead: message.dead,
            command,
        });
    }

    // === keyed groups ===

    fn give_by_key(&mut self, at: GroupKey, group: &Group, means: &mut Means<'_>) {
        self.give_parked(at, group, means);
        loop {
            let Some(served) = self.groups.get_mut(&at) else { return };
            let held = served.leased() + served.parked();
            if served.parked() >= PARKED_MAX || held >= LEASES_MAX || !self.any_can_take(at, means)
            {
                return;
            }
            let Some(served) = self.groups.get_mut(&at) else { return };
            let (messages, more) = served.read(at, group, TURN);
            for message in &messages {
                self.give_to_its_member(at, group, message, means);
            }
            if messages.is_empty() && !more {
                return;
            }
        }
    }

    fn any_can_take(&mut self, at: GroupKey, means: &Means<'_>) -> bool {
        self.next_consumer(at, means).is_some()
    }

    fn consumer_of(&self, at: GroupKey, member: u64) -> Option<ConsumerKey> {
        let served = self.groups.get(&at)?;
        let of = |key: &&ConsumerKey| self.consumers.get(*key).is_some_and(|c| c.member == member);
        served.order.iter().find(of).copied()
    }

    fn give_to_its_member(
        &mut self,
        at: GroupKey,
        group: &Group,
        message: &QueueMessage,
        means: &mut Means<'_>,
    ) {
        let Some(command) = means.entries.read(group, message.position) else {
            tracing::error!(position = message.position, "a message is not in the log");
            return;
        };
        // A message without a key goes to anybody, as if its offset were one.
        let unkeyed = message.offset.to_le_bytes();
        let of_message = key_of(&command);
        let bytes = of_message.filter(|key| !key.is_empty()).unwrap_or(&unkeyed);
        let key = hash64(bytes) | 1;
        let member = group.with_state(|b| b.member_for_key(at.1, at.2, bytes));
        let Some(member) = member else { return };
        let parked = Parked { message: *message, key };
        let waits = self.groups.get(&at).is_some_and(|s| s.first_parked(member).is_some());
        if (waits || !self.give_one(at, member, &parked, command, means))
            && let Some(served) = self.groups.get_mut(&at)
        {
            served.park(member, parked);
        }
    }

    /// Gives a message to its member if he can take it, and nobody else holds messages of its key.
    fn give_one(
        &mut self,
        at: GroupKey,
        member: u64,
        parked: &Parked,
        command: Bytes,
        means: &mut Means<'_>,
    ) -> bool {
        let Some(key) = self.consumer_of(at, member) else { return false };
        let Some(Consumer { link: Some(link), credit, lease_ms, .. }) = self.consumers.get(&key)
        else {
            return false;
        };
        let until_ms = lease_end(means.now_ms, *lease_ms);
        if *credit == 0 {
            return false;
        }
        if !means.windows.has_room(*link) {
            self.blocked.entry(*link).or_default().insert(at);
            return false;
        }
        let Some(served) = self.groups.get_mut(&at) else { return false };
        if served.is_owned_by_another(parked.key, key) {
            return false;
        }
        let message = &parked.message;
        if message.expiry_ms.is_some_and(|ms| ms <= means.unix_ms) {
            return true;
        }
        served.hold(key, message.offset, until_ms, parked.key);
        self.deliver(at, key, message, command, means);
        self.note_given(key, &[(message.offset, 1)], until_ms);
        true
    }

    fn give_parked(&mut self, at: GroupKey, group: &Group, means: &mut Means<'_>) {
        let members = self.groups.get(&at).map(Served::parked_members);
        for member in members.into_iter().flatten() {
            while let Some(parked) = self.groups.get(&at).and_then(|s| s.first_parked(member)) {
                let gone = !group.with_state(|b| b.is_open(at.1, at.2, parked.message.offset));
                if !gone {
                    let Some(command) = means.entries.read(group, parked.message.position) else {
                        break;
                    };
                    if !self.give_one(at, member, &parked, command, means) {
                        break;
                    }
                }
                if let Some(served) = self.groups.get_mut(&at) {
                    served.unpark(member);
                }
            }
        }
    }
}

/// The key of a message.
fn key_of(command: &Bytes) -> Option<&[u8]> {
    match command::decode(command).ok()?.0 {
        Command::Queue(QueueCommand::Enqueue(enqueue)) => Some(enqueue.options.key),
        Command::Publish(publish) => Some(publish.options.key),
        _ => None,
    }
}

// === impl Served ===

impl Served {
    /// Up to `max` messages that nobody holds, returned ones first; true = there may be more.
    fn read(&mut self, at: GroupKey, group: &Group, max: usize) -> (Vec<QueueMessage>, bool) {
        let mut messages = Vec::with_capacity(max);
        let mut more = false;
        group.with_state(|b| {
            if !self.returned_done {
                b.returned_to_group(at.1, at.2, self.returned_after, max, &mut messages);
                match messages.last() {
                    Some(last) => self.returned_after = Some(last.offset),
                    None => self.returned_done = true,
                }
                more = !self.returned_done;
            }
            let left = max - messages.len();
            if left > 0 {
                more |= b.owed_to_group(at.1, at.2, &mut self.cursor, left, &mut messages);
            }
        });
        messages.retain(|m| !self.is_taken(m.offset));
        (messages, more)
    }
}
