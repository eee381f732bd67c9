//! Keeps the link to `logd`: of several addresses the first that answers; a lost link is made again, and no
//! client is dropped meanwhile (G5).

use std::rc::Rc;
use std::time::Duration;

use fluxmq_client::Link;
use fluxmq_client::contract::Event;
use fluxmq_client::transport::{Tls, connect};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::backend::{Backend, Router};

/// Between two rounds over all addresses: doubled each time, from and to.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Connects to the first of `urls` that answers; tries until one does.
pub async fn reach(urls: &[String], tls: Option<&Tls>) -> Link {
    let mut pause = PAUSE_MIN;
    let mut said = false;
    loop {
        for url in urls {
            match connect(url, tls).await {
                Ok(link) => return link,
                Err(error) if !said => tracing::warn!(%error, "logd cannot be reached; trying on"),
                Err(error) => tracing::debug!(%error, "logd cannot be reached"),
            }
        }
        said = true;
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Handles events of the link and of those that follow it, until the gateway leaves. Without `urls` there is
/// one link only.
pub async fn keep(
    backend: Rc<Backend>,
    router: Rc<dyn Router>,
    (urls, tls): (Vec<String>, Option<Tls>),
    mut from: UnboundedReceiver<Event>,
) {
    loop {
        backend.run(from, &*router).await;
        if backend.is_leaving() || urls.is_empty() {
            return;
        }
        tracing::warn!("the link to logd is lost");
        from = loop {
            if let Some(from) = backend.join(reach(&urls, tls.as_ref()).await, &*router).await {
                break from;
            }
        };
        tracing::warn!("the link to logd stands again");
    }
}
