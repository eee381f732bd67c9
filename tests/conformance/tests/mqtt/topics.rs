//! Topic names, filters and which match.

use conformance::wire::{Client, Connect, publish, subscribe, unsubscribe, user};

use crate::{BOTH, at};

/// 5.0: 4.7.1-1 4.7.1-2 4.7.2-1 4.7.3-4 3.3.2-3 3.10.4-1
/// 3.1.1: 4.7.1-2 4.7.1-3 4.7.2-1 4.7.3-4 3.3.2-3 3.8.3-2
#[test]
fn filters_match_as_the_standard_says() {
    // Filter, topics that match, topics that do not; below a first level of their own.
    let cases: &[(&str, &[&str], &[&str])] = &[
        (
            "sport/tennis/player1/#",
            &[
                "sport/tennis/player1",
                "sport/tennis/player1/ranking",
                "sport/tennis/player1/score/w",
            ],
            &["sport/tennis", "sport/tennis/player12"],
        ),
        ("sport/#", &["sport", "sport/", "sport/x"], &["sports"]),
        (
            "sport/tennis/+",
            &["sport/tennis/p", "sport/tennis/"],
            &["sport/tennis/p/r", "sport/tennis"],
        ),
        ("+", &["finance", ""], &["/finance", "a/b"]),
        ("/+", &["/finance"], &["finance"]),
        ("+/+", &["/finance", "a/b"], &["a", "a/b/c"]),
        ("+/tennis/#", &["x/tennis", "x/tennis/y"], &["tennis"]),
        ("a//b", &["a//b"], &["a/b", "a/x/b"]),
        ("Accounts", &["Accounts"], &["ACCOUNTS", "accounts", "Accounts/"]),
        ("Accounts payable", &["Accounts payable"], &["Accounts%20payable"]),
        ("e\u{301}", &["e\u{301}"], &["\u{E9}"]), // not normalised
        ("\u{1F980}/+", &["\u{1F980}/x"], &["x/\u{1F980}"]),
    ];
    for level in BOTH {
        let mut writer = Client::clean(at(), level, &format!("match-w-{level}"));
        for (n, (filter, good, bad)) in cases.iter().enumerate() {
            let root = format!("m{level}-{n}");
            let mut client = Client::clean(at(), level, &root);
            client.subscribe(&[(&format!("{root}/{filter}"), 0), ("match/end", 0)]);
            for topic in bad.iter().chain(*good) {
                writer.send(&publish(level, 0, &format!("{root}/{topic}"), 0, &[], b""));
            }
            writer.send(&publish(level, 0, "match/end", 0, &[], b""));
            for topic in *good {
                assert_eq!(client.receive().topic, format!("{root}/{topic}"), "{filter}");
            }
            assert_eq!(client.receive().topic, "match/end", "{filter}");
        }
    }
}

/// 5.0: 4.7.2-1
/// 3.1.1: 4.7.2-1
#[test]
fn a_leading_wildcard_does_not_match_a_dollar() {
    for level in BOTH {
        for kept in [false, true] {
            let id = format!("dollar-{level}-{kept}");
            let connect = if kept { Connect::kept(level, &id) } else { Connect::new(level, &id) };
            let mut client = Client::connect(at(), &connect);
            let end = format!("{id}/end");
            client.subscribe(&[(&format!("+/{id}"), 1), (&format!("$x/{id}"), 1), (&end, 1)]);
            let mut writer = Client::clean(at(), level, &format!("{id}-w"));
            writer.publish(2, &format!("$y/{id}"), 1, b"no");
            writer.publish(2, &format!("$x/{id}"), 1, b"once");
            writer.publish(2, &format!("x/{id}"), 1, b"yes");
            assert_eq!(client.receive().payload, b"once");
            assert_eq!(client.receive().payload, b"yes");
            client.nothing_more();
        }
    }
}

/// 5.0: 4.7.3-3 4.7.3-1
/// 3.1.1: 4.7.3-3 4.7.3-1
#[test]
fn names_may_be_as_long_as_their_length_can_say() {
    for level in BOTH {
        let topic = "x".repeat(65_535);
        let mut client = Client::clean(at(), level, &format!("long-{level}"));
        assert_eq!(client.subscribe(&[(&topic, 0)]), [0]);
        client.publish(0, &topic, 0, b"x");
        assert_eq!(client.receive().topic, topic);
        assert_eq!(client.subscribe(&[("/", 0)]), [0]);
        client.publish(0, "/", 0, b"x");
        assert_eq!(client.receive().topic, "/");
    }
}

#[test]
fn a_topic_of_too_many_levels_is_refused() {
    let deep = vec!["l"; 129].join("/");
    let mut client = Client::clean(at(), 5, "deep");
    assert_eq!(client.publish(2, &deep, 1, b"x"), 0x90);
    assert_eq!(client.publish(4, &deep, 1, b"x"), 0x90);
    assert_eq!(client.publish(2, &deep[2..], 1, b"x"), 0x10);
    client.send(&publish(5, 0, &deep, 0, &[], b"x"));
    client.closed(0x90);
}

/// The standard allows 65,535 bytes; a command of the log has 64 KiB for all names in it.
#[test]
fn names_as_long_as_they_may_be_do_no_harm() {
    let long = |byte: &str, n: usize| byte.repeat(n);
    for kept in [false, true] {
        let name = format!("long-{kept}");
        let connect = if kept { Connect::kept(5, &name) } else { Connect::new(5, &name) };
        let mut client = Client::connect(at(), &connect);
        assert_eq!(client.subscribe(&[(&format!("{name}/#"), 1)]), [1]);
        let topic = |n: usize| format!("{name}/{}", long("t", n - name.len() - 1));
        assert_eq!(client.publish(2, &topic(65_535), 1, b"x"), 0x90);
        assert_eq!(client.publish(2, &topic(60_000), 2, b"x"), 0);
        assert_eq!(client.receive().topic.len(), 60_000);
        // More than one command has room for.
        let filters = ["a", "b", "c"].map(|byte| format!("{name}-{}", long(byte, 40_000)));
        let wanted: Vec<_> = filters.iter().map(|f| (&**f, 1)).collect();
        assert_eq!(client.subscribe(&wanted), [1, 1, 1]);
        assert_eq!(client.publish(2, &filters[2], 3, b"y"), 0);
        assert_eq!(client.receive().payload, b"y");
        let code = if kept { 0x8F } else { 1 };
        assert_eq!(client.subscribe(&[(&long("d", 65_535), 1), ("long/e", 1)]), [code, 1]);
        let too_long = long("d", 65_535);
        let all: Vec<_> = filters.iter().map(|f| &**f).chain([&*too_long]).collect();
        client.send(&unsubscribe(5, 9, &all));
        let code = if kept { 0x11 } else { 0 };
        assert_eq!(client.expect(0xB0, 9).codes(5), [0, 0, 0, code]);
        let group = user("consumer-group", &long("g", 65_535));
        client.send(&subscribe(5, 10, &group, &[("$queue/long", 1)]));
        assert_eq!(client.expect(0x90, 10).codes(5), [0x8F]);
        let will = Connect::new(5, &format!("{name}-will")).will(&long("w", 65_535), b"", 1, false);
        assert_eq!(Client::try_connect(at(), &will).1.body[1], 0x90);
    }
}
