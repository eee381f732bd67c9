use super::*;

const FAR_MS: u64 = 100;

fn all(filter: &str) -> Vec<Change> {
    vec![Change { vhost: "/".into(), filter: filter.into(), class: Class::All }]
}

/// What a round says, by link, as text.
fn round(hub: &mut Hub, now_ms: u64) -> Vec<(u64, String)> {
    let events = hub.close_round(now_ms, &mut |_| Vec::new());
    events.into_iter().map(|(link, event)| (link, said(&event))).collect()
}

fn said(event: &Event) -> String {
    match event {
        Event::Welcome { gateway_epoch, resumed, .. } => {
            format!("welcome {gateway_epoch}{}", if *resumed { " again" } else { "" })
        }
        Event::Deltas { version, deltas } => {
            let each = deltas.iter().filter(|d| matches!(d.source, Source::Gateway(_))).map(|d| {
                let filters: Vec<_> = d.changes.iter().map(|c| c.filter.as_str()).collect();
                let full = if d.full { "=" } else { "+" };
                format!(" {:?}{full}{}", d.source, filters.join(","))
            });
            format!("v{version}{}", each.collect::<String>())
        }
        Event::Done { id } => format!("done {id}"),
        Event::Others(others) => format!("others {others}"),
        Event::Lease { nonce, .. } => format!("lease {nonce}"),
        Event::GatewayGone { epoch } => format!("gone {epoch}"),
        Event::Resend { peer } => format!("resend {peer}"),
        Event::Live { .. } => "live".into(),
        other => format!("{other:?}"),
    }
}

fn texts(round: &[(u64, String)]) -> Vec<(u64, &str)> {
    round.iter().map(|(link, text)| (*link, text.as_str())).collect()
}

/// Two gateways, 10 on link 1 with the filter "a", 20 on link 2, everything acknowledged.
fn two() -> Hub {
    let mut hub = Hub::new(1, std::iter::empty(), 0);
    hub.join(10, 1, false, 0);
    round(&mut hub, 0);
    hub.join(20, 2, false, 0);
    hub.announce(10, 1, true, all("a"));
    round(&mut hub, 0);
    hub.acknowledged(10, 1);
    hub.acknowledged(20, 1);
    assert_eq!(texts(&round(&mut hub, 0)), [(1, "done 1")]);
    hub
}

#[test]
fn alone_a_gateway_is_asked_for_nothing_and_its_barriers_are_passed_at_once() {
    let mut hub = Hub::new(1, std::iter::empty(), 0);
    hub.join(10, 1, true, 0);
    let said = round(&mut hub, 0);
    assert_eq!(texts(&said), [(1, "v0"), (1, "others false"), (1, "welcome 10")]);
    hub.shard_changed(0, "/", "x", Class::All);
    hub.announce(10, 5, false, Vec::new());
    let said = round(&mut hub, 0);
    assert_eq!(texts(&said), [(1, "v1"), (1, "done 5")], "the filter comes before its barrier");
    assert_eq!(hub.next_due_ms(), None);
}

#[test]
fn a_second_gateway_is_welcome_when_the_first_has_said_what_it_has() {
    let mut hub = Hub::new(1, std::iter::empty(), 0);
    hub.join(10, 1, false, 0);
    round(&mut hub, 0);
    hub.join(20, 2, false, 0);
    assert_eq!(texts(&round(&mut hub, 0)), [(1, "others true")], "no table yet");
    hub.announce(10, 7, true, all("a"));
    let said = round(&mut hub, 0);
    let expected = [(2, "v1 Gateway(10)=a"), (2, "others true"), (2, "welcome 20")];
    assert_eq!(texts(&said), expected);
    hub.acknowledged(20, 1);
    assert_eq!(texts(&round(&mut hub, 0)), [(1, "done 7")], "20 has the filter");
}

#[test]
fn done_comes_when_all_others_have_acknowledged() {
    let mut hub = two();
    hub.announce(10, 7, false, all("b"));
    assert_eq!(texts(&round(&mut hub, 0)), [(2, "v2 Gateway(10)+b")]);
    hub.announce(10, 8, false, Vec::new());
    assert!(round(&mut hub, 0).is_empty(), "also a barrier waits for what others caused");
    hub.acknowledged(20, 2);
    assert_eq!(texts(&round(&mut hub, 0)), [(1, "done 7"), (1, "done 8")]);
}

#[test]
fn a_gateway_that_does_not_acknowledge_loses_its_lease_and_holds_nobody_longer() {
    let mut hub = two();
    hub.announce(10, 7, false, all("b"));
    round(&mut hub, FAR_MS);
    hub.renew(20, 1, FAR_MS + ACK_MS_MAX);
    assert_eq!(texts(&round(&mut hub, FAR_MS)), [(2, "lease 1")]);
    let later = FAR_MS + ACK_MS_MAX + 1;
    hub.renew(20, 2, later);
    hub.renew(10, 3, later);
    assert_eq!(texts(&round(&mut hub, later)), [(1, "lease 3")]);
    let end = FAR_MS + ACK_MS_MAX + LEASE_HERE_MS;
    assert!(hub.expired(end - 1).is_empty());
    assert_eq!(hub.expired(end), [20]);
    hub.end(20);
    let said = round(&mut hub, end);
    assert_eq!(texts(&said), [(1, "gone 20"), (1, "others false"), (1, "done 7")]);
    assert!(!hub.knows(20));
}

#[test]
fn who_could_not_be_heard_while_logd_slept_has_not_lost_its_lease() {
    let mut hub = two();
    assert_eq!(hub.expired(LEASE_HERE_MS), [10, 20]);
    hub.woke_up(LEASE_HERE_MS);
    assert!(hub.expired(LEASE_HERE_MS).is_empty());
    hub.renew(10, 1, LEASE_HERE_MS + 1);
    assert_eq!(hub.expired(2 * LEASE_HERE_MS), [20], "it has had its time");
}

#[test]
fn a_lost_link_withdraws_nothing_and_a_resumed_one_gets_everything() {
    let mut hub = two();
    assert_eq!(hub.link_lost(1), None);
    hub.announce(20, 7, false, all("b"));
    assert!(round(&mut hub, 0).is_empty(), "10 may still route by the table it has");
    assert!(hub.resume(10, 3));
    assert!(round(&mut hub, 0).is_empty(), "it has not said what it has");
    hub.announce(10, 9, true, all("c"));
    let said = round(&mut hub, 0);
    let expected = [
        (2, "v3 Gateway(10)=c"),
        (3, "v3 Gateway(20)=b"),
        (3, "others true"),
        (3, "welcome 10 again"),
        (2, "resend 10"),
    ];
    assert_eq!(texts(&said), expected);
    hub.acknowledged(20, 3);
    assert_eq!(texts(&round(&mut hub, 0)), [(3, "done 9")]);
    hub.acknowledged(10, 3);
    assert_eq!(texts(&round(&mut hub, 0)), [(2, "done 7")], "10 has left its old table");
    assert!(!hub.resume(99, 4));
}

#[test]
fn a_new_hub_answers_nothing_before_all_who_were_registered_are_back_or_gone() {
    let mut hub = Hub::new(1, [10, 20].into_iter(), 0);
    assert!(hub.resume(10, 1));
    hub.announce(10, 1, true, all("a"));
    hub.join(30, 2, false, 0);
    hub.renew(10, 5, 0);
    assert!(round(&mut hub, 0).is_empty());
    assert!(hub.expired(LEASE_HERE_MS - 1).is_empty());
    assert_eq!(hub.expired(LEASE_HERE_MS), [20], "who is back waits, and loses nothing by it");
    hub.end(20);
    let said = round(&mut hub, LEASE_HERE_MS);
    assert!(said.contains(&(1, "welcome 10 again".into())), "{said:?}");
    assert!(said.contains(&(2, "welcome 30".into())), "{said:?}");
}

#[test]
fn a_message_of_logd_is_kept_until_it_is_acknowledged() {
    let mut hub = two();
    let (tx, mut taken) = oneshot::channel();
    hub.live(Bytes::from_static(b"will"), tx);
    let said = round(&mut hub, 0);
    assert_eq!(texts(&said), [(1, "live"), (1, "v2"), (2, "live"), (2, "v2")]);
    hub.acknowledged(10, 2);
    hub.link_lost(2);
    assert!(hub.resume(20, 5));
    hub.announce(20, 1, true, Vec::new());
    let said = round(&mut hub, 0);
    assert!(said.contains(&(5, "live".into())), "{said:?}");
    assert!(taken.try_recv().is_err());
    hub.acknowledged(20, 3);
    hub.acknowledged(10, 3);
    round(&mut hub, 0);
    assert!(taken.try_recv().is_ok());
}
