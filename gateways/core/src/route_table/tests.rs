use std::cell::RefCell;

use super::*;
use crate::message::LiveMessage;

struct Nobody(RefCell<u32>);

impl Subscriber for Nobody {
    fn deliver(&self, _: &LiveMessage<'_>, _: &Destination) -> bool {
        *self.0.borrow_mut() += 1;
        false
    }
    fn wake(&self) {}
}

fn subscriber() -> Rc<dyn Subscriber> {
    Rc::new(Nobody(RefCell::new(0)))
}

fn options(qos: u8, identifier: u32) -> SubscriptionOptions {
    SubscriptionOptions {
        qos,
        no_local: false,
        retain_as_published: false,
        identifier,
        durable: false,
    }
}

#[test]
fn matching_follows_the_rules_of_4_7() {
    for (filter, topic, want) in [
        ("sport/tennis/player1/#", "sport/tennis/player1", true),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
        ("sport/#", "sport", true),
        ("sport/tennis/+", "sport/tennis/player1", true),
        ("sport/tennis/+", "sport/tennis/player1/ranking", false),
        ("sport/+", "sport", false),
        ("sport/+", "sport/", true),
        ("+/+", "/finance", true),
        ("/+", "/finance", true),
        ("+", "/finance", false),
        ("#", "$SYS/broker", false),
        ("+/monitor", "$SYS/monitor", false),
        ("$SYS/#", "$SYS/", true),
        ("$SYS/+", "$SYS/monitor", true),
        ("a/b", "a/b", true),
        ("a/b", "a/B", false),
        ("a//b", "a//b", true),
        ("a/+/b", "a//b", true),
        ("#", "", true),
    ] {
        let mut table = RouteTable::default();
        table.subscribe(filter, &subscriber(), options(1, 0));
        assert_eq!(table.resolve(topic).live.len() == 1, want, "table: {filter} on {topic}");
        assert_eq!(filter_matches(filter, topic), want, "filter: {filter} on {topic}");
    }
}

#[test]
fn overlapping_subscriptions_are_one_destination_with_the_highest_qos() {
    let (mut table, a, b) = (RouteTable::default(), subscriber(), subscriber());
    table.subscribe("x/y", &a, options(0, 7));
    table.subscribe("x/+", &a, options(2, 9));
    table.subscribe("x/#", &b, options(1, 0));
    let to = table.resolve("x/y");
    assert_eq!(to.live.len(), 2);
    let of_a = to.live.iter().find(|d| Rc::ptr_eq(&d.subscriber, &a)).expect("a is subscribed");
    assert_eq!(of_a.qos, 2);
    assert_eq!(of_a.identifiers.len(), 2);
}

#[test]
fn what_is_removed_leaves_nothing_behind() {
    let (mut table, a) = (RouteTable::default(), subscriber());
    for filter in ["x/y", "x/+/z", "#", "+/a/#"] {
        assert!(table.subscribe(filter, &a, options(1, 0)));
        assert!(!table.subscribe(filter, &a, options(0, 0)), "replaced, not added");
    }
    for filter in ["x/y", "x/+/z", "#", "+/a/#"] {
        assert_eq!(table.class(filter), Class::All);
        assert!(table.unsubscribe(filter, &a));
        assert!(!table.unsubscribe(filter, &a));
    }
    table.set_shard("x/+", 3, Class::All);
    table.set_shard("x/+", 1, Class::All);
    assert_eq!(table.resolve("x/q").shards, [1, 3]);
    table.set_shard("x/+", 1, Class::Gone);
    table.set_shard("x/+", 3, Class::Gone);
    assert!(table.exact.is_empty());
    assert!(table.wild.is_empty());
}

#[test]
fn a_cached_route_survives_changes_that_do_not_touch_its_topic() {
    let (mut table, a) = (RouteTable::default(), subscriber());
    let before = table.generation();
    table.subscribe("other/+", &a, options(1, 0));
    assert!(table.still_valid("my/topic", before));
    table.subscribe("my/#", &a, options(1, 0));
    assert!(!table.still_valid("my/topic", before));
    let before = table.generation();
    for n in 0..RECENT_CHANGES_MAX {
        table.subscribe(&format!("other/{n}"), &a, options(1, 0));
    }
    assert!(table.still_valid("my/topic", before));
    table.subscribe("other/more", &a, options(1, 0));
    assert!(!table.still_valid("my/topic", before), "more changes than are remembered");
}

fn shown(mut all: Vec<(String, Class)>) -> Vec<(String, Class)> {
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn a_gateway_announces_what_is_subscribed_live() {
    let (mut table, a) = (RouteTable::default(), subscriber());
    let durable = SubscriptionOptions { durable: true, ..options(1, 0) };
    for filter in ["x/y", "x/+/z", "x/+", "x/#", "#", "+/a/#"] {
        table.subscribe(filter, &a, durable);
        assert_eq!(table.class(filter), Class::Zero);
    }
    table.subscribe("x/+", &subscriber(), options(0, 0));
    table.set_gateway("only/there", 7, Class::All);
    let expected = [
        ("#", Class::Zero),
        ("+/a/#", Class::Zero),
        ("x/#", Class::Zero),
        ("x/+", Class::All),
        ("x/+/z", Class::Zero),
        ("x/y", Class::Zero),
    ];
    let expected = expected.map(|(filter, class)| (filter.to_owned(), class));
    assert_eq!(shown(table.live_filters()), expected);
}

#[test]
fn other_gateways_are_destinations_until_they_are_forgotten() {
    let mut table = RouteTable::default();
    table.set_gateway("x/+", 7, Class::Zero);
    table.set_gateway("x/y", 7, Class::All);
    table.set_gateway("x/y", 9, Class::Zero);
    table.set_shard("x/#", 2, Class::All);
    let other = |epoch, zero| OtherGateway { epoch, zero };
    assert_eq!(table.resolve("x/y").gateways, [other(7, false), other(9, true)]);
    assert_eq!(table.resolve("x/z").gateways, [other(7, true)]);
    table.set_gateway("x/y", 7, Class::Gone);
    assert_eq!(table.resolve("x/y").gateways, [other(7, true), other(9, true)]);
    let before = table.generation();
    table.forget(Source::Gateway(7));
    assert!(!table.still_valid("x/z", before));
    assert!(table.resolve("x/z").gateways.is_empty());
    table.forget(Source::Gateway(9));
    table.forget(Source::Shard(2));
    assert!(table.exact.is_empty() && table.wild.is_empty());
}

#[test]
fn what_is_shared_among_gateways_is_for_one_of_them() {
    use crate::shared_group::Chosen;
    let shared = "$share/g/a/+";
    // The same group as two gateways see it, 1 and 2.
    let tables = [2, 1].map(|other| {
        let mut table = RouteTable::default();
        table.subscribe(shared, &subscriber(), options(0, 0));
        table.set_gateway(shared, other, Class::All);
        table
    });
    let class = |filter: &str| tables[0].class(filter);
    assert_eq!(
        (class(shared), class("a/+"), class("$share/h/a/+")),
        (Class::All, Class::Gone, Class::Gone)
    );
    assert_eq!(tables[0].live_filters(), [(shared.to_owned(), Class::All)]);
    let to = tables[0].resolve("a/b");
    assert!(to.gateways.is_empty() && to.shared.len() == 1);
    let turns: Vec<_> = (0..4).map(|_| Chosen::in_turn(&to, 1).gateways()).collect();
    assert_eq!(turns, [vec![], vec![2], vec![], vec![2]]);
    // Who is told of it serves it, who is not does not.
    let chosen = Chosen::in_turn(&to, 0);
    assert!(chosen.is_here(0));
    let chosen = Chosen::in_turn(&to, 0);
    assert!(!chosen.is_here(0) && chosen.groups_of(7).is_empty());
    let bytes = chosen.groups_of(2);
    let groups: Vec<_> = bytes.as_chunks().0.iter().map(|id| u64::from_le_bytes(*id)).collect();
    let there = tables[1].resolve("a/b");
    assert!(Chosen::by_sender(&there, &groups).is_here(0));
    assert!(!Chosen::by_sender(&there, &[]).is_here(0));
    // What all get: each finds the same.
    let mut first = 0;
    for n in 0..100u8 {
        let here =
            [(&to, 1), (&there, 2)].map(|(to, own)| Chosen::by_all(to, 0, own, &[n]).is_here(0));
        assert_ne!(here[0], here[1]);
        first += u32::from(here[0]);
    }
    assert!((20..80).contains(&first), "{first}");
}

#[test]
fn a_shared_subscription_with_a_queue_gets_qos_1_by_it() {
    use crate::shared_group::Chosen;
    let mut table = RouteTable::default();
    table.subscribe("$share/g/a", &subscriber(), options(0, 0));
    table.set_gateway("$share/g/a", 2, Class::Zero);
    let to = table.resolve("a");
    assert!(!Chosen::in_turn(&to, 1).is_here(0) && Chosen::in_turn(&to, 1).gateways().is_empty());
    assert!(!Chosen::by_all(&to, 2, 1, b"x").is_here(0));
    assert!(Chosen::in_turn(&to, 0).is_here(0));
    table.set_gateway("$share/g/a", 2, Class::Gone);
    assert!(Chosen::in_turn(&table.resolve("a"), 1).is_here(0));
    table.set_gateway("$share/g/a", 3, Class::All);
    let who = subscriber();
    table.subscribe("$share/g/a", &who, SubscriptionOptions { durable: true, ..options(1, 0) });
    assert_eq!(table.class("$share/g/a"), Class::Zero);
    table.unsubscribe("$share/g/a", &who);
    table.forget(Source::Gateway(3));
    assert_eq!(table.resolve("a").shared.len(), 1);
}
