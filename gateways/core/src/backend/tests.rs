use fluxmq_client::contract::{Delta, Event, Submit};
use fluxmq_client::{LogdLink, link};

use super::*;

/// A router that counts what it is told.
#[derive(Default)]
struct Told {
    lost: Cell<u32>,
    live: Cell<u32>,
}

impl Router for Told {
    fn delta(&self, _: &Delta) {}
    fn gateway_gone(&self, _: u64) {}
    fn live(&self, _: &Bytes) {
        self.live.set(self.live.get() + 1);
    }
    fn relayed(&self, command: &Bytes) {
        self.live(command);
    }
    fn class(&self, _: &str, _: &str) -> Class {
        Class::All
    }
    fn filters(&self) -> Vec<Change> {
        Vec::new()
    }
    fn register_all(&self) {}
    fn taken(&self, _: &str, _: u64) {}
    fn lost(&self) {
        self.lost.set(self.lost.get() + 1);
    }
    fn end_batch(&self) {}
}

fn welcome(gateway_epoch: u64, resumed: bool) -> Event {
    Event::Welcome { gateway_epoch, shards: 1, resumed, lease_ms: 0 }
}

/// A registered backend and the end of `logd`.
async fn registered() -> (Rc<Backend>, LogdLink) {
    let (ours, mut theirs) = link();
    theirs.to.send(welcome(1, false));
    let (backend, from) = Backend::register(ours, "g", &Told::default()).await.expect("welcome");
    std::mem::forget(from);
    assert!(matches!(theirs.from.recv().await, Some(Request::Hello { epoch: 0, .. })));
    assert!(matches!(theirs.from.recv().await, Some(Request::Presented)));
    (backend, theirs)
}

/// Submits one command in a frame of its own; its outcome goes to `seen`.
fn submit(backend: &Backend, seen: &Rc<RefCell<Vec<Outcome>>>) {
    let seen = seen.clone();
    let waiter: Waiter = Box::new(move |outcome| seen.borrow_mut().push(outcome.clone()));
    backend.submit(0, &Command::Tick, &[], Some(waiter));
    backend.flush(&Told::default());
}

fn next_frame(logd: &mut LogdLink) -> Option<Submit> {
    match logd.from.try_recv() {
        Ok(Request::Submit(submit)) => Some(submit),
        _ => None,
    }
}

#[tokio::test]
async fn a_refusal_uses_up_no_sequence() {
    let (backend, mut logd) = registered().await;
    let seen = Rc::default();
    for sequence in 1..=3 {
        submit(&backend, &seen);
        assert_eq!(next_frame(&mut logd).map(|f| f.first_sequence), Some(sequence));
    }
    let done = |first_sequence, outcome: Outcome| Event::Outcomes {
        shard: 0,
        first_sequence,
        outcomes: vec![outcome],
    };
    backend.event(done(1, Outcome::Done), &Told::default());
    let refused =
        Event::Refused { shard: 0, first_sequence: 2, count: 1, code: ErrorCode::DiskFull };
    backend.event(refused, &Told::default());
    submit(&backend, &seen);
    assert!(next_frame(&mut logd).is_none(), "it waits for what is in flight");
    let ahead = Outcome::Error { code: ErrorCode::OutOfSequence, detail: 2 };
    backend.event(done(3, ahead.clone()), &Told::default());
    backend.flush(&Told::default());
    let frame = next_frame(&mut logd).expect("now it goes");
    assert_eq!((frame.first_sequence, frame.confirmed_upto), (2, 1));
    backend.event(done(2, Outcome::Done), &Told::default());
    let full = Outcome::refused(ErrorCode::DiskFull);
    assert_eq!(*seen.borrow(), [Outcome::Done, full, ahead, Outcome::Done]);
}

#[tokio::test]
async fn a_refusal_that_overtakes_other_answers_is_told_to_its_own_command() {
    let (backend, _logd) = registered().await;
    let (first, second) = (Rc::default(), Rc::default());
    submit(&backend, &first);
    submit(&backend, &second);
    let refused =
        Event::Refused { shard: 0, first_sequence: 2, count: 1, code: ErrorCode::TooLarge };
    backend.event(refused, &Told::default());
    assert_eq!(*second.borrow(), [Outcome::refused(ErrorCode::TooLarge)]);
    assert!(first.borrow().is_empty());
    let done = Event::Outcomes { shard: 0, first_sequence: 1, outcomes: vec![Outcome::Done] };
    backend.event(done, &Told::default());
    assert_eq!(*first.borrow(), [Outcome::Done]);
}

#[tokio::test]
async fn what_was_not_answered_is_said_again_over_a_new_link_and_answered_once() {
    let (backend, logd) = registered().await;
    let seen = Rc::default();
    submit(&backend, &seen);
    submit(&backend, &seen);
    let done = |first_sequence| Event::Outcomes {
        shard: 0,
        first_sequence,
        outcomes: vec![Outcome::Done],
    };
    backend.event(done(1), &Told::default());
    drop(logd);
    submit(&backend, &seen);
    let (ours, mut theirs) = link();
    theirs.to.send(welcome(1, true));
    let told = Told::default();
    let _from = backend.join(ours, &told).await.expect("welcome");
    assert!(matches!(theirs.from.recv().await, Some(Request::Hello { epoch: 1, .. })));
    assert!(matches!(theirs.from.recv().await, Some(Request::Announce { full: true, .. })));
    for sequence in 2..=3 {
        assert_eq!(next_frame(&mut theirs).map(|f| f.first_sequence), Some(sequence));
    }
    for answer in [done(2), done(2), done(3)] {
        backend.event(answer, &told);
    }
    assert_eq!((seen.borrow().len(), told.lost.get()), (3, 0));
}

#[tokio::test]
async fn an_ended_epoch_ends_all_that_was_under_way() {
    let (backend, _logd) = registered().await;
    let seen = Rc::default();
    submit(&backend, &seen);
    let (ours, theirs) = link();
    theirs.to.send(welcome(9, false));
    let told = Told::default();
    let _from = backend.join(ours, &told).await.expect("welcome");
    assert_eq!(*seen.borrow(), [Outcome::refused(ErrorCode::Fenced)]);
    assert_eq!(told.lost.get(), 1);
    let mut theirs = theirs;
    let mut known = backend.announced().expect("it says anew what it has");
    submit(&backend, &seen);
    let (mut announced, mut submitted) = (0, 0);
    while let Ok(request) = theirs.from.try_recv() {
        match request {
            Request::Announce { id, full: true, .. } => announced = id,
            Request::Submit(submit) => submitted = submit.first_sequence,
            _ => {}
        }
    }
    assert_eq!(submitted, 1, "a new epoch begins at one");
    // The announcement before the welcome came from nobody: only the one behind it is answered.
    backend.event(Event::Done { id: announced }, &told);
    let Ok(Request::Announce { id, .. }) = theirs.from.try_recv() else { panic!("a barrier") };
    backend.event(Event::Done { id }, &told);
    assert!(known.try_recv().is_ok(), "who subscribes is not left waiting");
}
