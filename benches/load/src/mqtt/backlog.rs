//! A persistent session: messages gather while it is away, then it drains them. Memory and disk while it
//! is away, messages a second and order while it drains.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::link::{Bell, Introduction, Link, Role};
use super::wire;
use crate::meter::Meter;
use crate::options::BacklogOptions;
use crate::report::{Came, Figures, Report, publish};
use crate::tally::Tally;

const TOPIC: &str = "backlog/t";
const SESSION: &str = "backlog-session";

/// Bytes of all files below `dir`.
fn disk_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// Publishes all with QoS 1, `window` unanswered.
struct Publisher<'a> {
    options: &'a BacklogOptions,
    payload: Vec<u8>,
    sent: u64,
    answered: u64,
}

impl Role for Publisher<'_> {
    fn packet(&mut self, first: u8, body: &[u8], _: &mut Vec<u8>) -> Result<()> {
        ensure!(first == 0x40, "unexpected packet {first:#x}");
        ensure!(body.get(2).is_none_or(|reason| *reason < 0x80), "publish refused: {body:?}");
        self.answered += 1;
        Ok(())
    }

    fn fill(&mut self, out: &mut Vec<u8>) {
        let o = self.options;
        while self.sent < o.messages && self.sent - self.answered < o.window.into() {
            self.payload[..8].copy_from_slice(&self.sent.to_le_bytes());
            let (id, flags) = ((self.sent % 65_535) as u16 + 1, wire::publish_flags(1, false));
            wire::publish_head(out, o.mqtt, flags, TOPIC, id, self.payload.len());
            out.extend_from_slice(&self.payload);
            self.sent += 1;
        }
    }

    fn is_done(&self) -> bool {
        self.answered == self.options.messages
    }
}

/// What came while the session drained.
#[derive(Default)]
struct Drained {
    tally: RefCell<Tally>,
    distinct: Cell<u64>,
    doubled: Cell<u64>,
    reordered: Cell<u64>,
}

/// Takes all that is owed and acknowledges it.
struct Drain<'a> {
    options: &'a BacklogOptions,
    drained: &'a Drained,
}

impl Role for Drain<'_> {
    fn packet(&mut self, first: u8, body: &[u8], out: &mut Vec<u8>) -> Result<()> {
        ensure!(first >> 4 == 3, "unexpected packet {first:#x}");
        let came = wire::delivery(self.options.mqtt, first, body).context("a PUBLISH cut short")?;
        ensure!(came.payload.len() == self.options.size as usize, "payload of another length");
        let number = came.payload.first_chunk().map(|b| u64::from_le_bytes(*b));
        let number = number.context("a payload without a number")?;
        wire::acknowledge(out, 0x40, came.id);
        let d = self.drained;
        let mut tally = d.tally.borrow_mut();
        let is_late = number < tally.next();
        if !tally.take(number) {
            d.doubled.set(d.doubled.get() + 1);
            return Ok(());
        }
        d.distinct.set(d.distinct.get() + 1);
        d.reordered.set(d.reordered.get() + u64::from(is_late));
        Ok(())
    }

    fn fill(&mut self, _: &mut Vec<u8>) {}

    fn is_done(&self) -> bool {
        self.drained.distinct.get() == self.options.messages
    }
}

async fn open(options: &BacklogOptions, who: &str, persistent: bool, filter: bool) -> Result<Link> {
    let filter = filter.then_some((TOPIC, 1));
    let as_who = Introduction { version: options.mqtt, client_id: who, persistent, filter };
    Link::open(options.target.addr(0), as_who).await
}

/// Publishes for the session that is away.
async fn gather(options: &BacklogOptions) -> Result<Came> {
    let began = Instant::now();
    let link = open(options, "backlog-publisher", false, false).await?;
    let payload = vec![0x5A; options.size as usize];
    let role = Publisher { options, payload, sent: 0, answered: 0 };
    link.drive(role, Bell::default()).await?.0.close().await;
    let seconds = began.elapsed().as_secs_f64();
    Ok(Came { delivered: options.messages, seconds, ..Came::default() })
}

/// The session is back; what has not come after half the limit is lost.
async fn drain(options: &BacklogOptions) -> Result<Came> {
    let (began, drained) = (Instant::now(), Drained::default());
    let link = open(options, SESSION, true, false).await?;
    let role = Drain { options, drained: &drained };
    let driven = link.drive(role, Bell::default());
    let limit = Duration::from_secs(options.limit_s) / 2;
    if let Ok(driven) = tokio::time::timeout(limit, driven).await {
        driven?.0.close().await;
    }
    Ok(Came {
        delivered: drained.distinct.get(),
        lost: options.messages - drained.distinct.get(),
        doubled: drained.doubled.get(),
        reordered: drained.reordered.get(),
        seconds: began.elapsed().as_secs_f64(),
    })
}

async fn both(options: &BacklogOptions) -> Result<Vec<Report>> {
    // What an earlier run left would come first.
    open(options, SESSION, false, false).await?.close().await;
    open(options, SESSION, true, true).await?.close().await;
    let disk = options.data_dir.as_deref().map(disk_bytes);
    let report = |what: &str, came, meter: &Meter| Report {
        workload: format!(
            "MQTT backlog {what}, {} B, window {}, QoS 1",
            options.size, options.window
        ),
        figures: Figures::new(came, meter.read()),
        latency: None,
    };
    let meter = Meter::start(&options.target);
    let gathered = report("publish", gather(options).await?, &meter);
    if let (Some(dir), Some(before)) = (&options.data_dir, disk) {
        let payload = (options.messages * u64::from(options.size)) as f64;
        let grew = disk_bytes(dir).saturating_sub(before);
        println!("files grew by {grew} bytes = {:.3} of the payload", grew as f64 / payload);
    }
    let meter = Meter::start(&options.target);
    let drained = report("drain", drain(options).await?, &meter);
    open(options, SESSION, false, false).await?.close().await;
    Ok(vec![gathered, drained])
}

/// Runs the workload and prints what each half cost.
pub(crate) async fn run(options: BacklogOptions) -> Result<()> {
    let limit = Duration::from_secs(options.limit_s);
    let reports =
        tokio::time::timeout(limit, both(&options)).await.context("not over at --limit-s")??;
    publish(&reports, options.target.json.as_deref())?;
    ensure!(reports.iter().all(|r| r.figures.lost == 0), "messages were lost");
    Ok(())
}
