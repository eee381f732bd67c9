//! How many connections there may be: in all, from one address, and how fast they may come from it. A connection beyond
//! a limit is closed before a byte of it is read.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;

use crate::rate_limit::Bucket;

/// Addresses whose rate is remembered; the rates of those without a connection are forgotten beyond it.
const ADDRESSES_MAX: usize = 65_536;

/// Limits on connections; 0 = none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections at a time.
    pub connections_max: u32,
    /// Connections at a time from one address. Of IPv6 the first 64 bits count.
    pub connections_per_address_max: u32,
    /// New connections a second from one address; as many may come at once.
    pub connections_per_address_per_s: u32,
}

#[derive(Default)]
struct FromAddress {
    open: u32,
    rate: Option<Bucket>,
}

/// Connections of one routing thread that count together.
#[derive(Default)]
pub struct Admission {
    limits: Cell<ConnectionLimits>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    open: u32,
    addresses: HashMap<IpAddr, FromAddress>,
}

/// A place among the connections; free again when it is dropped.
pub struct Admitted {
    admission: Rc<Admission>,
    /// Behind a box: most connections are counted under no address, and an idle one must stay small.
    address: Option<Box<IpAddr>>,
}

// === impl Admission ===

impl Admission {
    /// Connections within `limits`.
    #[must_use]
    pub fn new(limits: ConnectionLimits) -> Rc<Self> {
        Rc::new(Self { limits: limits.into(), state: RefCell::default() })
    }

    /// Others hold from now on. Who is connected stays; addresses are counted from their next connection on where they were
    /// not before, and their rates begin anew.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        if self.limits.replace(limits) != limits {
            self.state.borrow_mut().addresses.values_mut().for_each(|from| from.rate = None);
        }
    }

    /// A place for a connection from `address` at `now_ms`; None when a limit is reached.
    pub fn admit(self: &Rc<Self>, address: Option<IpAddr>, now_ms: u64) -> Option<Admitted> {
        let limits = self.limits.get();
        let mut state = self.state.borrow_mut();
        if limits.connections_max > 0 && state.open >= limits.connections_max {
            return None;
        }
        let by_address =
            limits.connections_per_address_max > 0 || limits.connections_per_address_per_s > 0;
        let address = address.filter(|_| by_address).map(network);
        if let Some(address) = address {
            if state.addresses.len() >= ADDRESSES_MAX {
                state.addresses.retain(|_, from| from.open > 0);
            }
            let from = state.addresses.entry(address).or_default();
            let max = limits.connections_per_address_max;
            if max > 0 && from.open >= max {
                return None;
            }
            if limits.connections_per_address_per_s > 0 {
                let full = || Bucket::new(limits.connections_per_address_per_s, now_ms);
                if !from.rate.get_or_insert_with(full).take(1, now_ms) {
                    return None;
                }
            }
            from.open += 1;
        }
        state.open += 1;
        Some(Admitted { admission: self.clone(), address: address.map(Box::new) })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut state = self.admission.state.borrow_mut();
        state.open -= 1;
        let Some(address) = self.address.take() else { return };
        if let Some(from) = state.addresses.get_mut(&address) {
            from.open -= 1;
            if from.open == 0 && from.rate.is_none() {
                state.addresses.remove(&address);
            }
        }
    }
}

/// One household has as many IPv6 addresses as it likes within 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(
            || {
                let [a, b, c, d, ..] = v6.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            },
            IpAddr::V4,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn each_limit_holds_and_places_come_back() {
        let limits = ConnectionLimits {
            connections_max: 3,
            connections_per_address_max: 2,
            connections_per_address_per_s: 0,
        };
        let admission = Admission::new(limits);
        let first = admission.admit(ip("10.0.0.1"), 0).expect("room");
        let _second = admission.admit(ip("::ffff:10.0.0.1"), 0).expect("room");
        assert!(admission.admit(ip("10.0.0.1"), 0).is_none(), "two from one address");
        let _third = admission.admit(ip("2001:db8::1"), 0).expect("room");
        assert!(admission.admit(ip("10.0.0.2"), 0).is_none(), "three in all");
        drop(first);
        let _again = admission.admit(ip("2001:db8::2"), 0).expect("a place came back");
        assert!(admission.admit(ip("2001:db8::3"), 0).is_none());
        assert_eq!(admission.state.borrow().addresses.len(), 2);
    }

    #[test]
    fn connections_come_no_faster_than_said() {
        let limits =
            ConnectionLimits { connections_per_address_per_s: 2, ..ConnectionLimits::default() };
        let admission = Admission::new(limits);
        let admit = |address, now_ms| admission.admit(ip(address), now_ms).is_some();
        assert!(admit("10.0.0.1", 0) && admit("10.0.0.1", 0) && !admit("10.0.0.1", 0));
        assert!(admit("10.0.0.2", 0));
        assert!(!admit("10.0.0.1", 400) && admit("10.0.0.1", 500));
    }

    #[test]
    fn without_limits_no_address_is_remembered() {
        let admission = Admission::new(ConnectionLimits::default());
        let places: Vec<_> = (0..100).map(|_| admission.admit(ip("10.0.0.1"), 0)).collect();
        assert!(
            places.iter().all(Option::is_some) && admission.state.borrow().addresses.is_empty()
        );
    }
}
