//! Questions to `logd` that are not answered; they are asked again over a new link.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;
use fluxmq_client::contract::{Request, Subscribed};
use tokio::sync::oneshot;

/// Retained messages as PUBLISH commands, and whether there are more.
pub(super) type Page = (Vec<Bytes>, bool);

/// Who waits for an answer.
pub(super) enum Reply {
    /// Whether there is a durable session.
    Registered(oneshot::Sender<bool>),
    /// The session's subscriptions.
    Opened(oneshot::Sender<Option<Vec<Subscribed>>>),
    /// Retained messages.
    Retained(oneshot::Sender<Page>),
}

/// Questions by the number that comes back.
#[derive(Default)]
pub(super) struct Calls {
    asked: RefCell<BTreeMap<u64, (Request, Reply)>>,
}

// === impl Calls ===

impl Calls {
    /// Remembers a question; returns it to be sent.
    pub(super) fn ask(&self, id: u64, request: Request, reply: Reply) -> Request {
        self.asked.borrow_mut().insert(id, (request.clone(), reply));
        request
    }

    /// Whether a question is open.
    pub(super) fn holds(&self, id: u64) -> bool {
        self.asked.borrow().contains_key(&id)
    }

    /// All open questions, in the order they were asked.
    pub(super) fn again(&self) -> Vec<Request> {
        self.asked.borrow().values().map(|(request, _)| request.clone()).collect()
    }

    /// Nobody answers any more.
    pub(super) fn clear(&self) {
        self.asked.take();
    }

    pub(super) fn registered(&self, id: u64, exists: bool) {
        self.answer(id, |reply| match reply {
            Reply::Registered(tx) => drop(tx.send(exists)),
            other => drop(other),
        });
    }

    pub(super) fn opened(&self, id: u64, subscriptions: Option<Vec<Subscribed>>) {
        self.answer(id, |reply| match reply {
            Reply::Opened(tx) => drop(tx.send(subscriptions)),
            other => drop(other),
        });
    }

    pub(super) fn retained(&self, id: u64, page: Page) {
        self.answer(id, |reply| match reply {
            Reply::Retained(tx) => drop(tx.send(page)),
            other => drop(other),
        });
    }

    fn answer(&self, id: u64, answer: impl FnOnce(Reply)) {
        let asked = self.asked.borrow_mut().remove(&id);
        if let Some((_, reply)) = asked {
            answer(reply);
        }
    }
}
