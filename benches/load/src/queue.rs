//! Work queues by the Rust client: confirms, leases, acknowledgements. The same shape as `amqp` and `nats`: every
//! publisher and consumer has a link of its own.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use fluxmq_client::{Client, ClientOptions, Consumer, Message, Publisher, QueueOptions, Receipt};
use tokio::task::JoinSet;

use crate::account::{Account, Receiver, tallies};
use crate::lane::Lane;
use crate::meter::Meter;
use crate::options::{Load, QueueWork};
use crate::report::publish;

/// How long the queues may take to say that they are empty.
const EMPTY_MAX: Duration = Duration::from_secs(10);

struct Work {
    options: QueueWork,
    /// Declares, looks, deletes.
    admin: Client,
    /// Open as long as the run: what was acknowledged last is on its way when a consumer ends.
    clients: Vec<Client>,
}

// === impl Work ===

impl Work {
    async fn client(&mut self) -> Result<Client> {
        let client = connect(&self.options, self.clients.len()).await?;
        self.clients.push(client.clone());
        Ok(client)
    }

    fn queue(&self, number: u32) -> String {
        format!("bench-{}", number % self.options.queues)
    }

    fn queues(&self) -> impl Iterator<Item = String> {
        (0..self.options.queues).map(|number| self.queue(number))
    }

    /// Makes the queues afresh.
    async fn declare(&self) -> Result<()> {
        for queue in self.queues() {
            if self.admin.queue(&queue).await.is_ok() {
                self.admin.delete(&queue, false, false).await?;
            }
            self.admin.declare(&queue, &QueueOptions::work()).await?;
        }
        Ok(())
    }

    /// Consumers, and the number of the queue of each.
    async fn consumers(&mut self) -> Result<Vec<(Consumer, usize)>> {
        let load = self.options.load.clone();
        let mut consumers = Vec::new();
        for number in 0..self.options.queues {
            let queue = self.queue(number);
            for _ in 0..load.subscribers {
                let client = self.client().await?;
                let consumer = client.consumer(&queue).prefetch(load.window);
                consumers.push((consumer.open().await?, number as usize));
            }
        }
        Ok(consumers)
    }

    async fn publishers(&mut self) -> Result<Vec<Publisher>> {
        let mut publishers = Vec::new();
        for number in 0..self.options.load.publishers {
            let queue = self.queue(number);
            publishers.push(self.client().await?.publisher(&queue).await?);
        }
        Ok(publishers)
    }

    /// Waits until every acknowledgement is in the log: what was delivered and not settled would come again.
    async fn all_settled(&self) -> Result<()> {
        let wait = async {
            for queue in self.queues() {
                while self.admin.queue(&queue).await?.messages > 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            Ok::<_, anyhow::Error>(())
        };
        tokio::time::timeout(EMPTY_MAX, wait).await.context("a queue is not empty at the end")?
    }

    fn title(&self) -> String {
        let (o, load) = (&self.options, &self.options.load);
        format!(
            "{} work queues, {} publishers, {} consumers each, {} B, {}",
            o.queues,
            load.publishers,
            load.subscribers,
            load.size,
            load.pace()
        )
    }
}

/// Connection number `n`.
async fn connect(options: &QueueWork, n: usize) -> Result<Client> {
    let urls = vec![format!("http://{}", options.target.addr(n))];
    let unconfirmed_max = options.load.window as usize;
    let client = ClientOptions { urls, unconfirmed_max, ..ClientOptions::default() };
    Ok(Client::connect_with(client).await?)
}

async fn consume(mut consumer: Consumer, mut receiver: Receiver) -> Result<()> {
    loop {
        let first = consumer.next().await?;
        receiver.account.tick();
        let mut next = Some(first);
        while let Some(delivery) = next {
            let stamp = receiver.message(&delivery.message().payload())?;
            consumer.ack(delivery.offset());
            if stamp.is_some() {
                receiver.account.settled();
            }
            next = consumer.try_next()?;
        }
        // Others have their turn: what was said goes out together.
        tokio::task::yield_now().await;
    }
}

async fn produce(publisher: Publisher, load: Load, lanes: Rc<[Lane]>, number: u32) -> Result<()> {
    let lane = &lanes[number as usize];
    let mut payload = vec![0x5A; load.size as usize];
    let mut open: VecDeque<Receipt> = VecDeque::new();
    let mut sent = 0;
    loop {
        let allowance = lane.allowance(sent).await;
        for message in sent..sent + allowance {
            if open.len() == load.window as usize
                && let Some(oldest) = open.pop_front()
            {
                oldest.stored().await?;
                lane.confirmed();
            }
            lane.stamp(message, &mut payload);
            open.push_back(publisher.publish(Message::new(payload.clone())).await?);
        }
        sent += allowance;
        if allowance == 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    for receipt in open {
        receipt.stored().await?;
        lane.confirmed();
    }
    Ok(())
}

/// Runs the workload and prints what it cost.
pub(crate) async fn run(options: QueueWork) -> Result<()> {
    ensure!(options.load.publishers >= options.queues, "a queue without a publisher");
    let admin = connect(&options, 0).await?;
    let mut work = Work { options, admin, clients: Vec::new() };
    work.declare().await?;
    let consumers = work.consumers().await?;
    let publishers = work.publishers().await?;
    let load = work.options.load.clone();
    let meter = Meter::start(&work.options.target);
    let account = Account::new(load.clone(), load.messages * u64::from(load.publishers))?;
    let lanes = Lane::all(&account, &load, 1, true);
    let shared: Vec<_> = work.queues().map(|_| tallies(load.publishers)).collect();
    let (mut receiving, mut sending) = (JoinSet::new(), JoinSet::new());
    for (consumer, queue) in consumers {
        receiving.spawn_local(consume(consumer, Receiver::new(&account, &shared[queue])));
    }
    for (n, publisher) in publishers.into_iter().enumerate() {
        sending.spawn_local(produce(publisher, load.clone(), lanes.clone(), n as u32));
    }
    account.finish(sending, receiving).await?;
    let report = account.report(work.title(), meter.read());
    if report.figures.lost == 0 {
        work.all_settled().await?;
    }
    for queue in work.queues() {
        work.admin.delete(&queue, false, false).await?;
    }
    publish(std::slice::from_ref(&report), work.options.target.json.as_deref())?;
    ensure!(report.figures.lost == 0, "messages were lost");
    Ok(())
}
