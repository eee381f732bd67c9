//! What a running `logd` tells of itself: readiness, and its metrics `fluxmq_logd_*` and `fluxmq_log_*`. Everything is read when
//! somebody asks, on his thread; the owner task knows nothing of it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fluxmq_process::health::{Answer, Health};
use fluxmq_process::metrics::{Scrape, Source};
use logd_broker::Broker;
use logd_log::Disk;
use logd_raft::Group;
use tokio::runtime::Handle;

/// What only this process counts.
#[derive(Default)]
pub(crate) struct Counts {
    /// Commands applied.
    pub(crate) commands: AtomicU64,
    /// Messages handed to gateways.
    pub(crate) deliveries: AtomicU64,
    /// Messages handed to consumers of queues.
    pub(crate) queue_deliveries: AtomicU64,
    /// Retained messages copied into lists of sessions.
    pub(crate) replayed: AtomicU64,
    /// Messages dropped from backlogs that were over their limit.
    pub(crate) trimmed: AtomicU64,
    /// Ended sessions whose publish numbers all shards have forgotten.
    pub(crate) forgotten: AtomicU64,
    /// Torn tails that were cut when logs were opened.
    pub(crate) torn_tails: AtomicU64,
}

/// A look at a running `logd`. Clones look at the same one.
#[derive(Clone)]
pub struct Status {
    pub(crate) disk: Disk,
    /// The data shards.
    pub(crate) shards: Vec<Group>,
    pub(crate) meta: Group,
    pub(crate) counts: Arc<Counts>,
    pub(crate) runtime: Handle,
}

// === impl Status ===

impl Status {
    /// Adds to `health` what `logd` needs: that its thread turns, every shard has a leader, the disk has room.
    pub fn report_to(&self, health: &Health) {
        health.alive_when_turns("logd", self.runtime.clone());
        let status = self.clone();
        health.ready_when("shards", move || status.led());
        let status = self.clone();
        health.ready_when("disk", move || status.room());
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        self.shards.iter().chain([&self.meta])
    }

    fn led(&self) -> Answer {
        let without: Vec<_> = self
            .groups()
            .filter(|group| group.leader().is_none())
            .map(|group| group.shard().to_string())
            .collect();
        if without.is_empty() {
            Ok(())
        } else {
            Err(format!("no leader in {}", without.join(", ")))
        }
    }

    fn room(&self) -> Answer {
        let space = self.meta.log().space();
        if !space.full {
            return Ok(());
        }
        Err(format!("is full: {} bytes free, {} reserved", space.free, space.low_water))
    }

    fn sum(&self, read: impl Fn(&Broker) -> u64) -> u64 {
        self.shards.iter().map(|group| group.with_state(&read)).sum()
    }
}

impl Source for Status {
    fn scrape(&self, scrape: &mut Scrape<'_>) -> fmt::Result {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        for (name, help, value) in [
            ("commands", "Commands applied", count(&self.counts.commands)),
            ("deliveries", "Messages handed to gateways", count(&self.counts.deliveries)),
            (
                "queue_deliveries",
                "Messages handed to consumers of queues",
                count(&self.counts.queue_deliveries),
            ),
            (
                "replayed",
                "Retained messages copied for persistent sessions",
                count(&self.counts.replayed),
            ),
            (
                "trimmed",
                "Messages dropped because the backlog of a session was over its limit",
                count(&self.counts.trimmed),
            ),
            (
                "publishers_forgotten",
                "Ended sessions whose QoS 2 publish numbers all shards have forgotten",
                count(&self.counts.forgotten),
            ),
            (
                "retained_refused",
                "Publishes refused because a shard retains no more",
                self.sum(Broker::retained_refused),
            ),
        ] {
            scrape.counter(&format!("fluxmq_logd_{name}"), help, value)?;
        }
        let led = self.shards.iter().filter(|group| group.leader().is_some()).count();
        for (name, help, value) in [
            ("sessions", "Sessions kept", self.sum(|b| b.sessions() as u64)),
            ("retained", "Retained messages kept", self.sum(|b| b.retained() as u64)),
            ("retained_bytes", "Bytes of retained messages", self.sum(Broker::retained_bytes)),
            (
                "owed",
                "References to messages that are not settled",
                self.sum(Broker::live_references),
            ),
            ("shards", "Data shards", self.shards.len() as u64),
            ("shards_led", "Data shards that have a leader", led as u64),
        ] {
            scrape.gauge(&format!("fluxmq_logd_{name}"), help, value)?;
        }
        self.scrape_log(scrape)
    }
}

impl Status {
    fn scrape_log(&self, scrape: &mut Scrape<'_>) -> fmt::Result {
        let disk = self.disk.stats();
        let torn = self.counts.torn_tails.load(Ordering::Relaxed);
        let held = self.groups().map(|group| group.held().as_millis() as u64).sum();
        for (name, help, value) in [
            ("entries", "Raft entries written", disk.entries),
            ("records", "Records written: what one shard adds in one commit round", disk.records),
            ("commit_rounds", "Commit rounds", disk.rounds),
            ("syncs", "Syncs of files of the log", disk.syncs),
            ("written_bytes", "Bytes of records written", disk.bytes),
            ("payload_bytes", "Bytes of entries in them", disk.payload_bytes),
            ("torn_tails", "Torn tails that were cut when logs were opened", torn),
            ("held_ms", "Milliseconds in which publishes waited for space to be freed", held),
        ] {
            scrape.counter(&format!("fluxmq_log_{name}"), help, value)?;
        }
        let sizes = self.groups().map(|group| group.log().size());
        let (segments, bytes) =
            sizes.fold((0, 0), |(n, sum), size| (n + size.segments, sum + size.bytes));
        for (name, help, value) in [
            ("segments", "Segment files, prepared ones included", segments),
            ("disk_bytes", "Bytes of the segment files", bytes),
            ("free_bytes", "Free bytes of the disk", self.meta.log().space().free),
        ] {
            scrape.gauge(&format!("fluxmq_log_{name}"), help, value)?;
        }
        Ok(())
    }
}
