//! Retained messages: set, read by new subscriptions, cleared.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::link::{Bell, Introduction, Link, Role};
use super::wire;
use crate::meter::Meter;
use crate::options::RetainedOptions;
use crate::report::{Came, Figures, Report, publish};

/// Publishes one retained message a topic with QoS 1.
struct Setter<'a> {
    options: &'a RetainedOptions,
    /// Bytes of payload; 0 clears.
    size: usize,
    sent: u64,
    answered: u64,
}

impl Role for Setter<'_> {
    fn packet(&mut self, first: u8, body: &[u8], _: &mut Vec<u8>) -> Result<()> {
        ensure!(first == 0x40, "unexpected packet {first:#x}");
        ensure!(body.get(2).is_none_or(|reason| *reason < 0x80), "publish refused: {body:?}");
        self.answered += 1;
        Ok(())
    }

    fn fill(&mut self, out: &mut Vec<u8>) {
        let o = self.options;
        while self.sent < o.topics && self.sent - self.answered < o.window.into() {
            let id = (self.sent % 65_535) as u16 + 1;
            let topic = format!("retained/{}", self.sent);
            let flags = wire::publish_flags(1, true);
            wire::publish_head(out, o.mqtt, flags, &topic, id, self.size);
            out.resize(out.len() + self.size, 0x5A);
            self.sent += 1;
        }
    }

    fn is_done(&self) -> bool {
        self.answered == self.options.topics
    }
}

/// Counts what a new subscription gets, with QoS 0.
struct Reader<'a> {
    options: &'a RetainedOptions,
    received: u64,
}

impl Role for Reader<'_> {
    fn packet(&mut self, first: u8, body: &[u8], _: &mut Vec<u8>) -> Result<()> {
        match first {
            0x31 => {}
            // Subscribed by this connection itself, so that both count as one.
            0x90 => return Ok(()),
            other => bail!("unexpected packet {other:#x}"),
        }
        let came = wire::delivery(self.options.mqtt, first, body).context("cut short")?;
        ensure!(came.payload.len() == self.options.size as usize, "payload of another length");
        self.received += 1;
        Ok(())
    }

    fn fill(&mut self, _: &mut Vec<u8>) {}

    fn is_done(&self) -> bool {
        self.received == self.options.topics
    }
}

async fn set(options: &RetainedOptions, size: usize) -> Result<()> {
    let (client_id, version) = ("retained-setter", options.mqtt);
    let as_who = Introduction { version, client_id, persistent: false, filter: None };
    let link = Link::open(options.target.addr(0), as_who).await?;
    let role = Setter { options, size, sent: 0, answered: 0 };
    link.drive(role, Bell::default()).await?.0.close().await;
    Ok(())
}

async fn read(options: &RetainedOptions, n: u32) -> Result<()> {
    let as_who = Introduction {
        version: options.mqtt,
        client_id: &format!("retained-{n}"),
        persistent: false,
        filter: Some(("retained/#", 0)),
    };
    let link = Link::open(options.target.addr(n as usize), as_who).await?;
    link.drive(Reader { options, received: 0 }, Bell::default()).await?.0.close().await;
    Ok(())
}

async fn all(options: &RetainedOptions) -> Result<Vec<Report>> {
    let o = options;
    let mut reports = Vec::new();
    let mut say = |what: &str, delivered, began: Instant, meter: &Meter| {
        let seconds = began.elapsed().as_secs_f64();
        let came = Came { delivered, seconds, ..Came::default() };
        let workload = format!("MQTT retained, {} topics of {} B: {what}", o.topics, o.size);
        let figures = Figures::new(came, meter.read());
        reports.push(Report { workload, figures, latency: None });
    };
    let (began, meter) = (Instant::now(), Meter::start(&o.target));
    set(o, o.size as usize).await?;
    say("set", o.topics, began, &meter);
    let (began, meter) = (Instant::now(), Meter::start(&o.target));
    for n in 0..o.subscribers {
        read(o, n).await?;
    }
    say("read", o.topics * u64::from(o.subscribers), began, &meter);
    let (began, meter) = (Instant::now(), Meter::start(&o.target));
    set(o, 0).await?;
    say("clear", o.topics, began, &meter);
    Ok(reports)
}

/// Runs the workload and prints what it cost.
pub(crate) async fn run(options: RetainedOptions) -> Result<()> {
    let limit = Duration::from_secs(options.limit_s);
    let reports =
        tokio::time::timeout(limit, all(&options)).await.context("not over at --limit-s")??;
    publish(&reports, options.target.json.as_deref())
}
