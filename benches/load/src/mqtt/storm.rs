//! A connect storm: many clients at once connect and subscribe, each to a filter of its own.

use std::cell::{Cell, RefCell};
use std::io::Read as _;
use std::rc::Rc;
use std::time::Instant;

use anyhow::Result;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use super::link::{Introduction, Link};
use super::socket::{Tls, tls};
use crate::meter::Meter;
use crate::options::StormOptions;
use crate::report::{Came, Figures, Report, publish};

struct Storm {
    options: StormOptions,
    tls: Option<Tls>,
    next: Cell<u32>,
    refused: Cell<u64>,
    latency_ns: RefCell<Histogram<u64>>,
    links: RefCell<Vec<Link>>,
}

// === impl Storm ===

impl Storm {
    /// Connects one client after the other until all are there.
    async fn connect(self: Rc<Self>) -> Result<()> {
        while self.next.get() < self.options.connections {
            let n = self.next.replace(self.next.get() + 1);
            let began = Instant::now();
            let as_who = Introduction {
                version: self.options.mqtt,
                client_id: &format!("{}-{n}", self.options.name),
                persistent: self.options.persistent,
                filter: Some((&format!("{}/{n}/t", self.options.name), 1)),
            };
            let addr = self.options.target.addr(n as usize);
            match Link::open_over(addr, as_who, self.tls.as_ref()).await {
                Ok(link) => {
                    let latency_ns = began.elapsed().as_nanos() as u64;
                    let _ = self.latency_ns.borrow_mut().record(latency_ns.max(1));
                    self.links.borrow_mut().push(link);
                }
                Err(error) => {
                    if self.refused.replace(self.refused.get() + 1) == 0 {
                        eprintln!("first connection refused: {error:#}");
                    }
                }
            }
        }
        Ok(())
    }
}

/// Makes the connections, `at_once` at a time; latency is from the first SYN to SUBACK.
pub(crate) async fn run(options: StormOptions) -> Result<()> {
    let tls = options.tls.as_deref().map(tls).transpose()?;
    let storm = Rc::new(Storm {
        options,
        tls,
        next: Cell::new(0),
        refused: Cell::new(0),
        latency_ns: RefCell::new(Histogram::new(3)?),
        links: RefCell::default(),
    });
    let options = &storm.options;
    let meter = Meter::start(&options.target);
    let began = Instant::now();
    let mut connecting = JoinSet::new();
    for _ in 0..options.at_once {
        connecting.spawn_local(storm.clone().connect());
    }
    while let Some(done) = connecting.join_next().await {
        done??;
    }
    let came = Came {
        delivered: storm.links.borrow().len() as u64,
        lost: storm.refused.get(),
        seconds: began.elapsed().as_secs_f64(),
        ..Came::default()
    };
    let report = Report {
        workload: format!(
            "MQTT storm of {} connections{}, {} at once, a subscription each",
            options.connections,
            if options.tls.is_some() { " over TLS" } else { "" },
            options.at_once
        ),
        figures: Figures::new(came, meter.read()),
        latency: Some((&*storm.latency_ns.borrow()).into()),
    };
    publish(&[report], options.target.json.as_deref())?;
    if options.hold {
        // Nothing happens meanwhile: the connections are to be looked at.
        std::io::stdin().read_to_end(&mut Vec::new())?;
    }
    anyhow::ensure!(came.lost == 0, "connections were refused");
    Ok(())
}
