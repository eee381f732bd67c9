//! The part of a connection that others reach: the routing thread's other connections, the timer
//! wheel and the answers of `logd`. The socket itself belongs to [`crate::connection`].

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Waker};
use std::time::Duration;

use gateway_core::authz::Access;
use gateway_core::counters::add;
use gateway_core::message::{LiveMessage, Subscriber};
use gateway_core::rate_limit::RateLimit;
use gateway_core::shared_group::Chosen;
use gateway_core::timer_wheel::Timed;
use gateway_core::worker::{SharedTable, Worker, now_ms};
use mqtt_codec::{DecodeError, ReasonCode, Version};
use tokio::task::spawn_local;

use crate::authentication::Identity;
use crate::durable::Durable;
use crate::gateway::Gateway;
use crate::inbound::Inbound;
use crate::out_buffer::OutBuffer;
use crate::outbound::Outbound;
use crate::queues::Leased;
use crate::settings::Settings;

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// The client said DISCONNECT; its will goes out only if it asked for that (0x04).
    ByClient { publish_will: bool, expiry_s: Option<u32> },
    /// The socket ended or failed.
    Lost,
    /// We end it, and say why to MQTT 5 clients.
    ByServer(ReasonCode),
    /// The client sent what breaks the rules.
    Broken(DecodeError),
}

impl Close {
    /// Whether the will is published (MQTT-3.1.2-8).
    pub(crate) fn publishes_will(self) -> bool {
        !matches!(self, Self::ByClient { publish_will: false, .. })
    }

    /// What an MQTT 5 client is told, and in which words.
    pub(crate) fn told(self) -> Option<(ReasonCode, &'static str)> {
        match self {
            Self::ByServer(reason) => Some((reason, "")),
            Self::Broken(error) => Some((error.reason(), error.what)),
            Self::ByClient { .. } | Self::Lost => None,
        }
    }
}

/// The will of a transient session.
pub(crate) struct Will {
    pub(crate) topic: Box<str>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) expiry_s: Option<u32>,
    pub(crate) delay_s: u32,
    pub(crate) head: Vec<u8>,
    pub(crate) payload: Box<[u8]>,
}

/// What CONNECT settled for the length of the connection.
pub(crate) struct Terms {
    pub(crate) version: Version,
    pub(crate) client_id: Rc<str>,
    /// 0 = none.
    pub(crate) keep_alive_s: u16,
    /// Messages of QoS ≥ 1 in flight to the client.
    pub(crate) window: u16,
    /// Largest packet the client takes.
    pub(crate) packet_bytes_max: u32,
    /// How long the session is to outlive the connection.
    pub(crate) expiry_s: u32,
    /// Topic aliases the client takes from us.
    pub(crate) aliases_out: u16,
    /// The client takes reason strings on every packet that may have one (MQTT-3.1.2-29).
    pub(crate) problem_info: bool,
    /// What the client may do.
    pub(crate) access: Access,
    /// Who it is, and by which authentication method it showed that; None for a client without a name.
    pub(crate) identity: Option<Box<Identity>>,
    /// Published when the connection ends without DISCONNECT.
    pub(crate) will: Option<Box<Will>>,
}

/// One connected client.
pub(crate) struct Client {
    pub(crate) worker: Rc<Worker>,
    pub(crate) settings: Rc<Settings>,
    pub(crate) terms: Terms,
    pub(crate) table: SharedTable,
    /// Filters subscribed on the live path, to be taken back at the end.
    pub(crate) filters: RefCell<Vec<Rc<str>>>,
    pub(crate) out: RefCell<OutBuffer>,
    pub(crate) inbound: RefCell<Option<Box<Inbound>>>,
    pub(crate) outbound: RefCell<Option<Box<Outbound>>>,
    /// The queues it consumes.
    pub(crate) leased: RefCell<Option<Box<Leased>>>,
    /// What the client may send in a second.
    rate: Option<Box<RateLimit>>,
    /// The client sent more than it may: it is not read.
    paused: Cell<bool>,
    /// A subscription is under way: what follows it waits.
    pub(crate) busy: Cell<bool>,
    /// The gateway's name for the connection.
    pub(crate) token: u64,
    /// Answers to its publishes that are still to come, and whether it waits for them to be gone.
    unanswered: Cell<u32>,
    leaving: Cell<bool>,
    durable: OnceCell<Durable>,
    close: Cell<Option<Close>>,
    last_read_s: Cell<u32>,
    /// In the wake list, or woken and not yet run.
    queued: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    this: Weak<Self>,
}

// === impl Client ===

impl Client {
    pub(crate) fn new(gateway: &Gateway, table: SharedTable, terms: Terms) -> Rc<Self> {
        let worker = gateway.worker.clone();
        let token = worker.backend().map_or(0, |backend| backend.fresh_id());
        let client = Rc::new_cyclic(|this| Self {
            token,
            unanswered: Cell::new(0),
            leaving: Cell::new(false),
            last_read_s: Cell::new(worker.wheel.now_s()),
            worker,
            settings: gateway.settings(),
            rate: RateLimit::new(&gateway.settings().rates, now_ms()),
            paused: Cell::new(false),
            terms,
            table,
            filters: RefCell::default(),
            out: RefCell::default(),
            inbound: RefCell::default(),
            outbound: RefCell::default(),
            leased: RefCell::default(),
            busy: Cell::new(false),
            durable: OnceCell::new(),
            close: Cell::new(None),
            queued: Cell::new(false),
            waker: RefCell::new(None),
            this: this.clone(),
        });
        if let Some(deadline) = client.keep_alive_deadline() {
            let timed: Weak<Self> = client.this.clone();
            client.worker.wheel.set(timed, deadline);
        }
        client
    }

    /// This client as others hold it.
    pub(crate) fn this(&self) -> Rc<Self> {
        self.this.upgrade().expect("called on a client that lives in an Rc")
    }

    /// This client as a subscriber of the route table.
    pub(crate) fn subscriber(&self) -> Rc<dyn Subscriber> {
        self.this()
    }

    /// Ends the connection; the first reason stays.
    pub(crate) fn close(&self, why: Close) {
        if self.close.get().is_none() {
            self.close.set(Some(why));
            self.wake_task();
        }
    }

    /// What the connection has in `logd`.
    pub(crate) fn durable(&self) -> Option<&Durable> {
        self.durable.get()
    }

    /// Sets what the connection has in `logd`; once.
    pub(crate) fn set_durable(&self, durable: Durable) {
        let _ = self.durable.set(durable);
    }

    /// Why the connection ends, once it does.
    pub(crate) fn closing(&self) -> Option<Close> {
        self.close.get()
    }

    /// The task runs: what is queued from now on needs a new wake-up.
    pub(crate) fn running(&self, cx: &Context<'_>) {
        self.queued.set(false);
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Marks the client as having something to send; true when it must be put on the wake list.
    pub(crate) fn queue(&self) -> bool {
        !self.queued.replace(true)
    }

    /// Has the task run.
    pub(crate) fn wake_task(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Something came from the client.
    pub(crate) fn heard(&self) {
        self.last_read_s.set(self.worker.wheel.now_s());
    }

    /// One and a half times the keep-alive after the last packet (MQTT-3.1.2-22).
    fn keep_alive_deadline(&self) -> Option<u32> {
        let keep_alive = u32::from(self.terms.keep_alive_s);
        // One second more: the wheel's clock is coarse and must not cut the client's time short.
        (keep_alive > 0).then(|| self.last_read_s.get() + keep_alive + keep_alive / 2 + 1)
    }

    /// An answer to one of its publishes is to come.
    pub(crate) fn expect_answer(&self) {
        self.unanswered.set(self.unanswered.get() + 1);
    }

    /// One came.
    pub(crate) fn note_answer(&self) {
        self.unanswered.set(self.unanswered.get() - 1);
        if self.leaving.get() {
            self.give_up_client_id();
        }
    }

    /// The connection is gone: another may have its client id when all it published is answered (G1).
    pub(crate) fn give_up_client_id(&self) {
        self.leaving.set(true);
        if self.unanswered.get() == 0
            && let Some(backend) = self.worker.backend().filter(|backend| backend.has_others())
        {
            backend.unregister(self.token);
        }
    }

    /// Charges what the client sent by `charge`; if that was more than it may send it is not read for a while.
    pub(crate) fn charge(&self, charge: impl FnOnce(&RateLimit, u64) -> u64) {
        let Some(rate) = &self.rate else { return };
        let debt_ms = charge(rate, now_ms());
        if debt_ms == 0 || self.paused.replace(true) {
            return;
        }
        add(&self.worker.counters.throttled, 1);
        let client = self.this();
        spawn_local(async move {
            tokio::time::sleep(Duration::from_millis(debt_ms)).await;
            client.paused.set(false);
            client.wake_task();
        });
    }

    /// Nothing is read from the client: it waits for `logd`, or sent more than it may.
    pub(crate) fn is_held(&self) -> bool {
        self.busy.get() || self.paused.get()
    }

    /// Takes back what the client subscribed on the live path.
    pub(crate) fn leave_routes(&self) {
        // The route cache holds subscribers, this one perhaps among them.
        self.inbound.take();
        for filter in self.filters.take() {
            self.remove_live(&filter);
        }
        add(&self.worker.counters.connections_closed, 1);
    }

    /// Publishes the will, if the connection ended so that it is due and `logd` does not know of it.
    pub(crate) fn publish_will(&self, why: Close) {
        if self.durable().is_some() {
            return;
        }
        let Some(will) = self.terms.will.as_ref().filter(|_| why.publishes_will()) else {
            return;
        };
        // Only without a `logd`: else the will is there.
        let to = self.table.borrow().resolve(&will.topic);
        let message = LiveMessage {
            topic: &will.topic,
            qos: will.qos,
            retain: will.retain,
            expiry_ms: will.expiry_s.map(|s| now_ms() + u64::from(s) * 1_000),
            head: &will.head,
            payload: &will.payload,
        };
        let chosen = Chosen::in_turn(&to, message.qos);
        self.worker.deliver_live(&to, &message, None, &chosen);
        self.worker.end_batch();
    }
}

impl Timed for Client {
    fn on_time(self: Rc<Self>, now_s: u32) -> Option<u32> {
        if self.closing().is_some() {
            return None;
        }
        let blocked = self.worker.backend().is_some_and(|backend| backend.is_blocked());
        if blocked || self.is_held() {
            // Who is not read is not silent.
            self.heard();
        }
        let deadline = self.keep_alive_deadline()?;
        if deadline <= now_s {
            self.close(Close::ByServer(ReasonCode::KEEP_ALIVE_TIMEOUT));
            return None;
        }
        Some(deadline)
    }
}
