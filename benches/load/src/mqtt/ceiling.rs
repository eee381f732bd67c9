//! What the generator can do at most, against `floor --null`: a server that acknowledges and discards what
//! is published, and sends numbered messages that nobody published.

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use super::flow::{Flow, Publisher};
use super::link::{Bell, Introduction, Link};
use super::subscriber::Subscriber;
use super::wire::Version;
use crate::account::{Account, Receiver, tallies};
use crate::meter::Meter;
use crate::options::{CeilingOptions, FlowOptions, Shape};
use crate::report::{Report, publish};

const VERSION: Version = Version::V311;

fn introduction<'a>(client_id: &'a str, filter: Option<(&'a str, u8)>) -> Introduction<'a> {
    Introduction { version: VERSION, client_id, persistent: false, filter }
}

/// One publisher, nobody receives. With QoS 0 there is no answer: the run ends when all is written.
async fn send(options: &CeilingOptions) -> Result<Report> {
    let o = options;
    let link = Link::open(o.target.addr(0), introduction("ceiling-p", None)).await?;
    let flow = FlowOptions {
        target: o.target.clone(),
        load: o.load.clone(),
        shape: Shape::Pairs,
        qos: o.qos,
        mqtt: VERSION,
        persistent: false,
        deaf: 0,
    };
    let topics = Flow::topics(1, 0);
    let meter = Meter::start(&o.target);
    let account = Account::new(o.load.clone(), 0)?;
    let role = Publisher::new(&flow, &account, &topics, 0);
    link.drive(role, topics[0].publisher.clone()).await?;
    let used = meter.read();
    Ok(account.sent(format!("MQTT ceiling, sending QoS {}, {} B", o.qos, o.load.size), used))
}

/// One subscriber; the filter says how much the null server is to send.
async fn receive(options: &CeilingOptions) -> Result<Report> {
    let o = options;
    let filter = format!("null/{}/{}", o.load.messages, o.load.size);
    let filter = Some((filter.as_str(), o.qos));
    let link = Link::open(o.target.addr(0), introduction("ceiling-s", filter)).await?;
    let meter = Meter::start(&o.target);
    let account = Account::new(o.load.clone(), o.load.messages)?;
    let receiver = Receiver::new(&account, &tallies(1));
    let role = Subscriber::new(receiver, (VERSION, o.qos), &Flow::topics(1, 1), 0);
    let mut receiving = JoinSet::new();
    receiving.spawn_local(async move { link.drive(role, Bell::default()).await.map(drop) });
    account.finish(JoinSet::new(), receiving).await?;
    let used = meter.read();
    Ok(account.report(format!("MQTT ceiling, receiving QoS {}, {} B", o.qos, o.load.size), used))
}

/// Measures both directions.
pub(crate) async fn run(mut options: CeilingOptions) -> Result<()> {
    options.load.publishers = 1;
    let reports = [send(&options).await?, receive(&options).await?];
    publish(&reports, options.target.json.as_deref())?;
    ensure!(reports.iter().all(|r| r.figures.lost == 0), "messages were lost");
    let [send, receive] = reports.map(|r| r.figures.own_cpu_us_per_message);
    let fans = [1.0, 50.0].map(|fan| 1e6 * fan / (send + fan * receive));
    println!(
        "one core of the generator, per delivered message: 1 → 1 {:.0}/s, 1 → 50 {:.0}/s",
        fans[0], fans[1]
    );
    Ok(())
}
