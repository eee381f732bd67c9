//! When a publisher may send: by the clock, or by what its receivers got.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::account::Account;
#[cfg(feature = "peers")]
use crate::account::Stamp;
use crate::options::Load;

/// Messages a publisher sends at most before it lets others run.
const BURST: u64 = 256;

/// One publisher's way to its receivers.
pub(crate) struct Lane {
    account: Rc<Account>,
    load: Load,
    publisher: u32,
    /// By place of a receiver: one behind the highest number it got. None where acknowledgements bound the
    /// window instead.
    delivered: Option<RefCell<Vec<u64>>>,
    moved: Notify,
}

// === impl Lane ===

impl Lane {
    /// A lane to `places` receivers for each publisher. `answered`: the broker acknowledges what is
    /// published, so the window is the caller's.
    pub(crate) fn all(
        account: &Rc<Account>,
        load: &Load,
        places: u32,
        answered: bool,
    ) -> Rc<[Self]> {
        let lane = |publisher| Self {
            account: account.clone(),
            load: load.clone(),
            publisher,
            delivered: (!answered).then(|| RefCell::new(vec![0; places as usize])),
            moved: Notify::new(),
        };
        (0..load.publishers).map(lane).collect()
    }

    /// Waits until something may go; returns how many. 0: everything was sent.
    pub(crate) async fn allowance(&self, sent: u64) -> u64 {
        if sent >= self.load.messages {
            return 0;
        }
        loop {
            self.account.tick();
            let due = self.account.due().saturating_sub(sent);
            let room = match &self.delivered {
                Some(delivered) if self.load.rate == 0 => {
                    let slowest = delivered.borrow().iter().min().copied().unwrap_or(sent);
                    u64::from(self.load.window).saturating_sub(sent - slowest)
                }
                _ => BURST,
            };
            match due.min(room).min(BURST) {
                0 if due == 0 => tokio::time::sleep(Duration::from_millis(1)).await,
                0 => self.moved.notified().await,
                n => return n,
            }
        }
    }

    /// Stamps `payload` as message `number`.
    pub(crate) fn stamp(&self, number: u64, payload: &mut [u8]) {
        self.account.stamp(number, self.publisher).write(payload);
    }

    /// A publish is confirmed.
    pub(crate) fn confirmed(&self) {
        self.account.confirmed();
    }

    #[cfg(feature = "peers")]
    /// The receiver at `place` got `stamp`.
    pub(crate) fn came(&self, place: usize, stamp: Stamp) {
        if let Some(delivered) = &self.delivered {
            let mut delivered = delivered.borrow_mut();
            delivered[place] = delivered[place].max(stamp.number + 1);
            self.moved.notify_one();
        }
    }
}
