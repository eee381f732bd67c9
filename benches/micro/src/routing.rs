//! Where a topic goes, and handing a message to those it goes to.

use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;

use gateway_core::message::{LiveMessage, Subscriber};
use gateway_core::route_cache::RouteCache;
use gateway_core::route_table::{Destination, RouteTable, SubscriptionOptions};
use gateway_core::shared_group::Chosen;
use gateway_core::worker::Worker;

use crate::PAYLOAD;

/// Filters in the table of the look-ups.
const FILTERS: usize = 10_000;
/// Bytes a receiver gathers before it forgets them.
const GATHERED_MAX: usize = 64 * 1024;

/// Takes a message as a connection does: a copy at the end of a buffer.
#[derive(Default)]
struct Buffer(RefCell<Vec<u8>>);

impl Subscriber for Buffer {
    fn deliver(&self, message: &LiveMessage<'_>, _: &Destination) -> bool {
        let mut out = self.0.borrow_mut();
        if out.len() > GATHERED_MAX {
            out.clear();
        }
        out.extend_from_slice(message.topic.as_bytes());
        out.extend_from_slice(message.payload);
        true
    }

    fn wake(&self) {}
}

fn subscriber() -> Rc<dyn Subscriber> {
    Rc::new(Buffer::default())
}

const OPTIONS: SubscriptionOptions = SubscriptionOptions {
    qos: 1,
    no_local: false,
    retain_as_published: false,
    identifier: 0,
    durable: false,
};

/// Half of the filters exact, half with a wildcard; three match each topic that is looked up.
fn table(filters: usize) -> RouteTable {
    let mut table = RouteTable::default();
    let someone = subscriber();
    for n in 0..filters / 2 {
        let site = n % 100;
        table.subscribe(&format!("site/{site}/device/{n}/state"), &someone, OPTIONS);
        table.subscribe(&format!("site/{site}/+/{n}/#"), &someone, OPTIONS);
    }
    table.subscribe("site/#", &someone, OPTIONS);
    table
}

fn topics() -> Vec<String> {
    (0..64).map(|n| format!("site/{}/device/{n}/state", n % 100)).collect()
}

pub(crate) fn trie() -> Box<dyn FnMut()> {
    let (table, topics) = (table(FILTERS), topics());
    let mut at = 0;
    Box::new(move || {
        at = (at + 1) % topics.len();
        let to = table.resolve(black_box(&topics[at]));
        assert_eq!(to.live.len(), 1);
    })
}

pub(crate) fn cached() -> Box<dyn FnMut()> {
    // A small table: what resolves the first four topics does not show beside the look-ups.
    let (table, topics) = (table(8), topics());
    let mut cache = RouteCache::default();
    let mut at = 0;
    Box::new(move || {
        at = (at + 1) % 4;
        let (to, _) = cache.resolve(&table, black_box(&topics[at]), || 0);
        assert!(!to.is_empty());
    })
}

pub(crate) fn fan_out() -> Box<dyn FnMut()> {
    let worker = Worker::default();
    let mut table = RouteTable::default();
    for _ in 0..50 {
        table.subscribe("bench/0/t", &subscriber(), OPTIONS);
    }
    let to = table.resolve("bench/0/t");
    Box::new(move || {
        let message = LiveMessage {
            topic: "bench/0/t",
            qos: 0,
            retain: false,
            expiry_ms: None,
            head: &[],
            payload: &PAYLOAD,
        };
        worker.deliver_live(&to, black_box(&message), None, &Chosen::default());
        worker.end_batch();
    })
}
