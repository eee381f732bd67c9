//! SUBSCRIBE and UNSUBSCRIBE of a session on the live path.

use std::rc::Rc;

use gateway_core::route_table::SubscriptionOptions;
use mqtt_codec::{PropertyId, ReasonCode, Subscribe, SubscribeOptions, Unsubscribe, encode, topic};

use crate::client::{Client, Close};
use crate::limits;

// === impl Client ===

impl Client {
    pub(crate) fn subscribe(&self, subscribe: &Subscribe<'_>) -> Result<(), Close> {
        let identifier = subscribe.properties.number(PropertyId::SUBSCRIPTION_ID).unwrap_or(0);
        let codes: Vec<u8> = subscribe
            .filters()
            .map(|(filter, options)| self.subscribe_one(filter, options, identifier).0)
            .collect();
        let mut out = self.out.borrow_mut();
        let out = out.writer(&self.worker);
        encode::suback(out, self.terms.version, subscribe.packet_id, &codes);
        Ok(())
    }

    fn subscribe_one(
        &self,
        filter: &str,
        options: SubscribeOptions,
        identifier: u32,
    ) -> ReasonCode {
        if topic::shared(filter).is_some() {
            return ReasonCode::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED;
        }
        if filter.split('/').count() > limits::TOPIC_LEVELS_MAX {
            return ReasonCode::TOPIC_FILTER_INVALID;
        }
        let mut filters = self.filters.borrow_mut();
        let known = filters.iter().any(|f| **f == *filter);
        if !known && filters.len() >= limits::SUBSCRIPTIONS_MAX {
            return ReasonCode::QUOTA_EXCEEDED;
        }
        let granted = SubscriptionOptions {
            qos: options.qos as u8,
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            identifier,
            durable: false,
        };
        self.table.borrow_mut().subscribe(filter, &self.subscriber(), granted);
        if !known {
            filters.push(Rc::from(filter));
        }
        ReasonCode(options.qos as u8)
    }

    pub(crate) fn unsubscribe(&self, unsubscribe: &Unsubscribe<'_>) -> Result<(), Close> {
        let me = self.subscriber();
        let mut filters = self.filters.borrow_mut();
        let codes: Vec<u8> = unsubscribe
            .filters()
            .map(|filter| {
                let Some(at) = filters.iter().position(|f| **f == *filter) else {
                    return ReasonCode::NO_SUBSCRIPTION_EXISTED.0;
                };
                filters.swap_remove(at);
                self.table.borrow_mut().unsubscribe(filter, &me);
                ReasonCode::SUCCESS.0
            })
            .collect();
        let mut out = self.out.borrow_mut();
        let out = out.writer(&self.worker);
        encode::unsuback(out, self.terms.version, unsubscribe.packet_id, &codes);
        Ok(())
    }
}
