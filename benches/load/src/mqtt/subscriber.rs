//! A subscriber: checks what it gets and plays its part of the handshakes.

use std::collections::VecDeque;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail, ensure};

use super::flow::Topic;
use super::link::{Role, ring};
use super::wire::{self, Version};
use crate::account::Receiver;

/// One connection that receives.
pub(crate) struct Subscriber {
    pub(crate) receiver: Receiver,
    pub(crate) version: Version,
    pub(crate) qos: u8,
    /// The topics of all publishers.
    pub(crate) topics: Rc<[Topic]>,
    /// Its place among the subscribers of a topic.
    pub(crate) place: usize,
    /// Publishers of whom something came in this batch.
    touched: Vec<u32>,
    /// Ids of QoS 2 messages that are not released.
    open: VecDeque<[u8; 2]>,
}

// === impl Subscriber ===

impl Subscriber {
    pub(crate) fn new(
        receiver: Receiver,
        (version, qos): (Version, u8),
        topics: &Rc<[Topic]>,
        place: usize,
    ) -> Self {
        let (topics, touched, open) = (topics.clone(), Vec::new(), VecDeque::new());
        Self { receiver, version, qos, topics, place, touched, open }
    }

    fn message(&mut self, first: u8, body: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let came = wire::delivery(self.version, first, body).context("a PUBLISH cut short")?;
        ensure!(came.qos == self.qos, "delivered with qos {}", came.qos);
        match came.qos {
            0 => {}
            1 => wire::acknowledge(out, 0x40, came.id),
            _ => wire::acknowledge(out, 0x50, came.id),
        }
        let Some(stamp) = self.receiver.message(came.payload)? else { return Ok(()) };
        if came.qos == 2 {
            self.open.push_back(came.id);
        } else {
            self.receiver.account.settled();
        }
        if self.touched.last() != Some(&stamp.publisher) {
            self.touched.push(stamp.publisher);
        }
        Ok(())
    }
}

impl Role for Subscriber {
    fn batch(&mut self) {
        self.receiver.account.tick();
    }

    fn packet(&mut self, first: u8, body: &[u8], out: &mut Vec<u8>) -> Result<()> {
        match first >> 4 {
            3 => self.message(first, body, out)?,
            6 => {
                let id = *body.first_chunk().context("a PUBREL cut short")?;
                if let Some(at) = self.open.iter().position(|o| *o == id) {
                    self.open.remove(at);
                    self.receiver.account.settled();
                }
                wire::acknowledge(out, 0x70, id);
            }
            other => bail!("unexpected packet {other}"),
        }
        Ok(())
    }

    fn fill(&mut self, _: &mut Vec<u8>) {
        // The publishers learn of all that came in one read at once.
        for publisher in self.touched.drain(..) {
            let topic = &self.topics[publisher as usize];
            let next = self.receiver.tallies.borrow()[publisher as usize].next();
            topic.delivered.borrow_mut()[self.place] = next;
            ring(&topic.publisher);
        }
    }

    fn is_done(&self) -> bool {
        false
    }
}
