//! One timer wheel per routing thread, one second a slot (T2: no connection has a timer of its own).

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

/// Seconds one turn of the wheel takes; later deadlines go round again.
const SLOTS: u32 = 512;

/// Something with a deadline.
pub trait Timed {
    /// Called at the second asked for, never earlier. Returns the next deadline in seconds of the
    /// wheel's clock, or None when there is none.
    fn on_time(self: Rc<Self>, now_s: u32) -> Option<u32>;
}

/// What is due in one slot: deadline and whose.
type Slot = Vec<(u32, Weak<dyn Timed>)>;

/// Deadlines by second.
pub struct TimerWheel {
    slots: RefCell<Vec<Slot>>,
    now_s: Cell<u32>,
}

impl Default for TimerWheel {
    fn default() -> Self {
        let slots = std::iter::repeat_with(Vec::new).take(SLOTS as usize).collect();
        Self { slots: RefCell::new(slots), now_s: Cell::new(0) }
    }
}

// === impl TimerWheel ===

impl TimerWheel {
    /// Seconds since the wheel was made, coarse.
    pub fn now_s(&self) -> u32 {
        self.now_s.get()
    }

    /// Has `timed` called when the clock reaches `deadline_s` (the next second at the earliest).
    pub fn set(&self, timed: Weak<dyn Timed>, deadline_s: u32) {
        let deadline_s = deadline_s.max(self.now_s.get() + 1);
        self.slots.borrow_mut()[(deadline_s % SLOTS) as usize].push((deadline_s, timed));
    }

    /// Moves the clock to `now_s`, second by second, and calls what is due.
    pub fn advance(&self, now_s: u32) {
        while self.now_s.get() < now_s {
            let now = self.now_s.get() + 1;
            self.now_s.set(now);
            let slot = (now % SLOTS) as usize;
            let due = std::mem::take(&mut self.slots.borrow_mut()[slot]);
            for (deadline, timed) in due {
                if deadline > now {
                    self.slots.borrow_mut()[slot].push((deadline, timed));
                } else if let Some(strong) = timed.upgrade()
                    && let Some(next) = strong.on_time(now)
                {
                    self.set(timed, next);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bell {
        rung: RefCell<Vec<u32>>,
        again: Cell<Option<u32>>,
    }

    impl Timed for Bell {
        fn on_time(self: Rc<Self>, now_s: u32) -> Option<u32> {
            self.rung.borrow_mut().push(now_s);
            self.again.take()
        }
    }

    #[test]
    fn deadlines_come_once_and_in_time_also_behind_a_full_turn() {
        let wheel = TimerWheel::default();
        let bell = Rc::new(Bell { rung: RefCell::default(), again: Cell::new(Some(9)) });
        let weak = Rc::downgrade(&bell);
        wheel.set(weak.clone(), 3);
        wheel.set(weak.clone(), 3 + SLOTS);
        wheel.advance(2);
        assert!(bell.rung.borrow().is_empty());
        wheel.advance(2 * SLOTS);
        assert_eq!(*bell.rung.borrow(), [3, 9, 3 + SLOTS]);
        drop(bell);
        wheel.set(weak, 0);
        wheel.advance(2 * SLOTS + 2);
    }
}
