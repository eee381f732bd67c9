use fluxmq_client::{LogdLink, link};

use super::*;

struct Nothing;

impl Router for Nothing {
    fn filters(&self, _: u32, _: &[(String, String, bool)]) {}
    fn live(&self, _: &Bytes) {}
    fn end_batch(&self) {}
}

/// A registered backend and the end of `logd`.
async fn registered() -> (Rc<Backend>, LogdLink) {
    let (mut ours, mut theirs) = link();
    theirs.to.send(Event::Welcome { gateway_epoch: 1, shards: 1 }).expect("open");
    let backend = Backend::register(ours.to, &mut ours.from, "g", &Nothing).await.expect("welcome");
    assert!(matches!(theirs.from.recv().await, Some(Request::Hello { .. })));
    (backend, theirs)
}

/// Submits one command in a frame of its own; its outcome goes to `seen`.
fn submit(backend: &Backend, seen: &Rc<RefCell<Vec<Outcome>>>) {
    let seen = seen.clone();
    let waiter: Waiter = Box::new(move |outcome| seen.borrow_mut().push(outcome.clone()));
    backend.submit(0, &Command::Tick, &[], Some(waiter));
    backend.flush();
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
    backend.event(done(1, Outcome::Done), &Nothing);
    let refused =
        Event::Refused { shard: 0, first_sequence: 2, count: 1, code: ErrorCode::DiskFull };
    backend.event(refused, &Nothing);
    submit(&backend, &seen);
    assert!(next_frame(&mut logd).is_none(), "it waits for what is in flight");
    let ahead = Outcome::Error { code: ErrorCode::OutOfSequence, detail: 2 };
    backend.event(done(3, ahead.clone()), &Nothing);
    backend.flush();
    let frame = next_frame(&mut logd).expect("now it goes");
    assert_eq!((frame.first_sequence, frame.confirmed_upto), (2, 1));
    backend.event(done(2, Outcome::Done), &Nothing);
    let full = Outcome::refused(ErrorCode::DiskFull);
    assert_eq!(*seen.borrow(), [Outcome::Done, full, ahead, Outcome::Done]);
}
