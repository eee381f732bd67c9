//! What the receivers of a run found out together, and when the run is over. The same for all protocols.

use std::cell::{Cell, RefCell};
use std::io::IsTerminal;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::meter::Used;
use crate::options::Load;
use crate::report::{Came, Figures, Report};
use crate::tally::Tally;

/// Bytes of a payload that carry its number, its publisher and its time.
pub(crate) const STAMP_BYTES: usize = 20;
/// A run in which nothing moves for so long is over: what is missing is lost.
const STILL_MAX: Duration = Duration::from_secs(5);

/// What a payload begins with.
#[derive(Clone, Copy)]
pub(crate) struct Stamp {
    pub(crate) number: u64,
    /// When it was sent, or in an open loop when it was due, in ns since the start.
    pub(crate) time_ns: u64,
    pub(crate) publisher: u32,
}

// === impl Stamp ===

impl Stamp {
    pub(crate) fn write(self, payload: &mut [u8]) {
        payload[..8].copy_from_slice(&self.number.to_le_bytes());
        payload[8..16].copy_from_slice(&self.time_ns.to_le_bytes());
        payload[16..STAMP_BYTES].copy_from_slice(&self.publisher.to_le_bytes());
    }

    fn read(payload: &[u8]) -> Option<Self> {
        Some(Self {
            number: u64::from_le_bytes(*payload.first_chunk()?),
            time_ns: u64::from_le_bytes(*payload.get(8..)?.first_chunk()?),
            publisher: u32::from_le_bytes(*payload.get(16..)?.first_chunk()?),
        })
    }
}

/// The books of a run.
pub(crate) struct Account {
    load: Load,
    start: Instant,
    /// The clock as last read: once for each batch, not for each message.
    now_ns: Cell<u64>,
    latency_ns: RefCell<Histogram<u64>>,
    doubled: Cell<u64>,
    reordered: Cell<u64>,
    /// Distinct deliveries, and those of them that are settled.
    received: Cell<u64>,
    settled: Cell<u64>,
    expected: u64,
    /// Publishes that were confirmed.
    confirmed: Cell<u64>,
    /// Everything that is expected was settled.
    complete: Notify,
    /// When the last message was settled: what waits for still runs to end is not part of the run.
    ended: Cell<Option<Instant>>,
}

// === impl Account ===

impl Account {
    /// Books for a run of `load` that starts now and in which `expected` messages are delivered.
    pub(crate) fn new(load: Load, expected: u64) -> Result<Rc<Self>> {
        Ok(Rc::new(Self {
            load,
            start: Instant::now(),
            now_ns: Cell::new(0),
            latency_ns: RefCell::new(Histogram::new(3)?),
            doubled: Cell::new(0),
            reordered: Cell::new(0),
            received: Cell::new(0),
            settled: Cell::new(0),
            expected,
            confirmed: Cell::new(0),
            complete: Notify::new(),
            ended: Cell::new(None),
        }))
    }

    /// Reads the clock: a batch begins.
    pub(crate) fn tick(&self) {
        self.now_ns.set(self.start.elapsed().as_nanos() as u64);
    }

    /// Messages of one publisher that the clock says should have been sent; all when there is no pace.
    pub(crate) fn due(&self) -> u64 {
        if self.load.rate == 0 {
            return self.load.messages;
        }
        let due = self.now_ns.get() as f64 / 1e9 * self.load.rate_of_one();
        (due as u64).min(self.load.messages)
    }

    /// The stamp of message `number` of `publisher`. In an open loop its time is when it was due: what
    /// a slow broker makes wait counts as latency (no coordinated omission).
    pub(crate) fn stamp(&self, number: u64, publisher: u32) -> Stamp {
        let time_ns = match self.load.rate {
            0 => self.now_ns.get(),
            _ => (number as f64 / self.load.rate_of_one() * 1e9) as u64,
        };
        Stamp { number, time_ns, publisher }
    }

    /// A delivery is settled: it was received and nothing more belongs to it.
    pub(crate) fn settled(&self) {
        self.settled.set(self.settled.get() + 1);
        if self.settled.get() == self.expected {
            self.ended.set(Some(Instant::now()));
            self.complete.notify_one();
        }
    }

    /// A publish is confirmed: the broker is at work, though it may deliver nothing meanwhile.
    pub(crate) fn confirmed(&self) {
        self.confirmed.set(self.confirmed.get() + 1);
    }

    /// The run as a report; the seconds end with the last message that was settled.
    pub(crate) fn report(&self, workload: String, used: Used) -> Report {
        let end = self.ended.get().unwrap_or_else(Instant::now);
        let came = Came {
            delivered: self.received.get(),
            lost: self.expected - self.received.get(),
            doubled: self.doubled.get(),
            reordered: self.reordered.get(),
            seconds: end.duration_since(self.start).as_secs_f64(),
        };
        let latency = Some((&*self.latency_ns.borrow()).into());
        Report { workload, figures: Figures::new(came, used), latency }
    }

    /// The run as a report when nobody receives: what was sent counts.
    pub(crate) fn sent(&self, workload: String, used: Used) -> Report {
        let seconds = self.start.elapsed().as_secs_f64();
        let came = Came { delivered: self.load.messages, seconds, ..Came::default() };
        Report { workload, figures: Figures::new(came, used), latency: None }
    }

    /// Waits until publishers and receivers are done, one of them fails, or nothing moves any more.
    pub(crate) async fn finish(
        &self,
        mut sending: JoinSet<Result<()>>,
        mut receiving: JoinSet<Result<()>>,
    ) -> Result<()> {
        let sent = async {
            while let Some(done) = sending.join_next().await {
                done??;
            }
            Ok::<_, anyhow::Error>(())
        };
        let done = async { tokio::join!(sent, self.complete.notified()).0 };
        let failed = async {
            match receiving.join_next().await {
                Some(done) => done?.and(Err(anyhow::anyhow!("a receiver ended early"))),
                None => std::future::pending().await,
            }
        };
        let limited = tokio::time::timeout(Duration::from_secs(self.load.limit_s), async {
            tokio::select! {
                done = done => done,
                failed = failed => failed,
                () = self.watch() => Ok(()),
            }
        });
        limited.await.context("the run is not over at --limit-s")?
    }

    /// Shows progress on a terminal; ends when nothing moves any more.
    async fn watch(&self) {
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new(self.expected)
        } else {
            ProgressBar::hidden()
        };
        let style = "{bar:40} {human_pos} of {human_len}, {per_sec}, {eta} left";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or(ProgressStyle::default_bar()));
        let mut moved = (0, Instant::now());
        let mut beats = tokio::time::interval(Duration::from_millis(200));
        while moved.1.elapsed() < STILL_MAX {
            beats.tick().await;
            bar.set_position(self.received.get());
            let delivered = self.received.get() + self.settled.get() + self.doubled.get();
            let at = delivered + self.confirmed.get();
            if at != moved.0 {
                moved = (at, Instant::now());
            }
        }
        bar.finish_and_clear();
    }
}

/// One who receives, of whatever protocol.
pub(crate) struct Receiver {
    pub(crate) account: Rc<Account>,
    /// By publisher; receivers that share a queue share the tallies.
    pub(crate) tallies: Rc<RefCell<Vec<Tally>>>,
    /// One behind the highest number of each publisher this receiver saw.
    after: Vec<u64>,
}

// === impl Receiver ===

impl Receiver {
    pub(crate) fn new(account: &Rc<Account>, tallies: &Rc<RefCell<Vec<Tally>>>) -> Self {
        let after = vec![0; tallies.borrow().len()];
        Self { account: account.clone(), tallies: tallies.clone(), after }
    }

    /// Checks and counts a payload. A repeat is counted apart; None says that it was one.
    pub(crate) fn message(&mut self, payload: &[u8]) -> Result<Option<Stamp>> {
        let account = &self.account;
        ensure!(payload.len() == account.load.size as usize, "payload of another length");
        let stamp = Stamp::read(payload).context("payload without a stamp")?;
        let at = stamp.publisher as usize;
        let mut tallies = self.tallies.borrow_mut();
        let tally = tallies.get_mut(at).context("payload of an unknown publisher")?;
        if !tally.take(stamp.number) {
            account.doubled.set(account.doubled.get() + 1);
            return Ok(None);
        }
        if stamp.number < self.after[at] {
            account.reordered.set(account.reordered.get() + 1);
        } else {
            self.after[at] = stamp.number + 1;
        }
        account.received.set(account.received.get() + 1);
        let latency_ns = account.now_ns.get().saturating_sub(stamp.time_ns);
        let _ = account.latency_ns.borrow_mut().record(latency_ns.max(1));
        Ok(Some(stamp))
    }
}

/// Empty tallies for `publishers`.
pub(crate) fn tallies(publishers: u32) -> Rc<RefCell<Vec<Tally>>> {
    Rc::new(RefCell::new((0..publishers).map(|_| Tally::default()).collect()))
}
