//! Whether a process works, and whether it can serve: what `/healthz` and `/readyz` say.
//!
//! Neither is guessed, and neither costs anything while nobody asks: a check is asked when somebody wants to know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;

/// How long a runtime may take to run a task and count as alive.
const TURN_MAX: Duration = Duration::from_secs(2);

/// What is wrong, in a few words.
pub type Answer = Result<(), String>;

type Check = Arc<dyn Fn() -> Answer + Send + Sync>;

/// Checks of one process; clones are handles to the same ones.
#[derive(Clone, Default)]
pub struct Health {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Without them the process should be started anew.
    alive: Mutex<Vec<(String, Check)>>,
    /// Without them it cannot serve just now.
    ready: Mutex<Vec<(String, Check)>>,
    draining: AtomicBool,
}

// === impl Health ===

impl Health {
    /// The process can serve only while `check` says so. It is asked on the admin thread and should not wait.
    pub fn ready_when(&self, name: &str, check: impl Fn() -> Answer + Send + Sync + 'static) {
        self.shared.ready.lock().push((name.to_owned(), Arc::new(check)));
    }

    /// The process is alive only while the runtime behind `handle` turns: whoever asks has it run a task.
    pub fn alive_when_turns(&self, name: &str, handle: Handle) {
        let check = move || {
            let (ran, wait) = channel();
            handle.spawn(async move { ran.send(()) });
            match wait.recv_timeout(TURN_MAX) {
                Ok(()) => Ok(()),
                Err(RecvTimeoutError::Disconnected) => Err("has ended".into()),
                Err(RecvTimeoutError::Timeout) => {
                    Err(format!("has not turned for {} s", TURN_MAX.as_secs()))
                }
            }
        };
        self.shared.alive.lock().push((name.to_owned(), Arc::new(check)));
    }

    /// The process is going down: it is alive but serves nobody new.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
    }

    /// What keeps the process from being alive, a line each.
    #[must_use]
    pub fn ailments(&self) -> Vec<String> {
        ask(&self.shared.alive)
    }

    /// What keeps the process from serving, a line each.
    #[must_use]
    pub fn obstacles(&self) -> Vec<String> {
        let mut all = self.ailments();
        all.extend(ask(&self.shared.ready));
        if self.shared.draining.load(Ordering::Acquire) {
            all.push("draining".into());
        }
        all
    }
}

fn ask(checks: &Mutex<Vec<(String, Check)>>) -> Vec<String> {
    // Checks run without the lock: one that hangs must not keep others from being added.
    let checks = checks.lock().clone();
    let answers = checks.iter().map(|(name, check)| (name, check()));
    answers.filter_map(|(name, answer)| Some(format!("{name}: {}", answer.err()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_every_check_says_so() {
        let health = Health::default();
        assert!(health.obstacles().is_empty());
        let up = Arc::new(AtomicBool::new(false));
        let seen = up.clone();
        health.ready_when("link", move || {
            if seen.load(Ordering::Relaxed) { Ok(()) } else { Err("is down".into()) }
        });
        assert_eq!(health.obstacles(), ["link: is down"]);
        assert!(health.ailments().is_empty(), "it is alive all the same");
        up.store(true, Ordering::Relaxed);
        assert!(health.obstacles().is_empty());
        health.drain();
        assert_eq!(health.obstacles(), ["draining"]);
    }

    #[test]
    fn a_runtime_that_stands_still_is_not_alive() {
        let health = Health::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        health.alive_when_turns("owner", runtime.handle().clone());
        // Nobody drives it.
        assert_eq!(health.ailments(), ["owner: has not turned for 2 s"]);
        assert_eq!(health.obstacles(), health.ailments());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let driven = std::thread::spawn(move || runtime.block_on(stopped));
        assert!(health.ailments().is_empty());
        drop(stop);
        assert!(driven.join().expect("it ended").is_err());
        assert_eq!(health.ailments(), ["owner: has ended"]);
    }
}
