//! Maximum packet size towards clients, topic aliases towards clients, `$SYS`, shutting down.

use conformance::broker::{Broker, Options};
use conformance::wire::{Client, Connect, four, two, user};
use mqtt_gateway::Settings;

use crate::at;

/// 5.0: 3.1.2-24 3.1.2-25
#[test]
fn what_is_too_large_for_a_client_counts_as_delivered() {
    for kept in [false, true] {
        let id = format!("size-{kept}");
        let mut connect = if kept { Connect::kept(5, &id) } else { Connect::new(5, &id) };
        connect.properties.extend(four(0x27, 100));
        let mut client = Client::connect(at(), &connect);
        client.subscribe(&[(&id, 2)]);
        let mut writer = Client::clean(at(), 5, &format!("{id}-w"));
        for (n, qos) in [0u8, 2, 4].into_iter().enumerate() {
            let id16 = n as u16 + 1;
            assert_eq!(writer.publish(qos, &id, id16, &[0; 200]), 0);
            assert_eq!(writer.publish_with(qos, &id, id16, &user("k", &"v".repeat(99)), b"x"), 0);
            assert_eq!(writer.publish(qos, &id, id16, b"small"), 0);
            assert_eq!(client.receive().payload, b"small");
        }
        client.nothing_more();
        client.disconnect();
        if kept {
            Client::connect(at(), &Connect::kept(5, &id)).nothing_more();
        }
    }
}

/// 5.0: 3.1.2-26 3.1.2-27 3.3.2-11 3.3.2-8 3.3.2-10
#[test]
fn aliases_are_used_as_far_as_the_client_allows() {
    for kept in [false, true] {
        for allowed in [0u16, 2] {
            let name = format!("alias-out-{kept}-{allowed}");
            let mut connect = if kept { Connect::kept(5, &name) } else { Connect::new(5, &name) };
            if allowed > 0 {
                connect.properties.extend(two(0x22, allowed));
            }
            let mut client = Client::connect(at(), &connect);
            client.subscribe(&[(&format!("{name}/+"), 1)]);
            let mut writer = Client::clean(at(), 5, &format!("{name}-w"));
            let mut known = std::collections::HashMap::new();
            for n in 0..12u16 {
                let topic = format!("{name}/{}", n % 3);
                writer.publish(2, &topic, 1, &[n as u8]);
                let got = client.receive();
                let alias = got.property(0x23).first().map(|a| u16::from_be_bytes([a[0], a[1]]));
                let means = match alias {
                    None => got.topic,
                    Some(alias) => {
                        assert!((1..=allowed).contains(&alias), "{alias}");
                        if got.topic.is_empty() {
                            known.get(&alias).cloned().expect("told before")
                        } else {
                            known.insert(alias, got.topic.clone());
                            got.topic
                        }
                    }
                };
                assert_eq!(means, topic);
            }
            assert_eq!(known.len(), usize::from(allowed));
        }
    }
}

#[test]
fn sys_topics_come_to_those_who_subscribe_and_from_nobody_else() {
    let settings = Settings { sys_interval_s: 1, ..Settings::default() };
    let broker = Broker::start(Options { settings, ..Options::default() });
    let mut client = Client::clean(broker.address(), 5, "sys");
    client.subscribe(&[("$SYS/#", 1), ("#", 1)]);
    let mut seen = std::collections::HashMap::new();
    while seen.len() < 9 {
        let got = client.receive();
        assert!(got.topic.starts_with("$SYS/broker/") && !got.retain && got.qos == 0);
        seen.insert(got.topic, String::from_utf8(got.payload).expect("text"));
    }
    assert!(seen["$SYS/broker/version"].starts_with("fluxmq "));
    assert_eq!(seen["$SYS/broker/clients/connected"], "1");
    let mut writer = Client::clean(broker.address(), 5, "sys-w");
    assert_eq!(writer.publish(2, "$SYS/broker/version", 1, b"mine"), 0x87);
    let mut old = Client::clean(broker.address(), 4, "sys-old");
    assert_eq!(old.publish(2, "$SYS/broker/version", 1, b"mine"), 0);
    loop {
        let got = client.receive();
        assert_ne!(got.payload, b"mine");
        if got.topic == "$SYS/broker/clients/connected" && got.payload == b"3" {
            break;
        }
    }
}

/// 5.0: 3.14.2-1
#[test]
fn clients_are_told_when_the_server_goes_and_where_to() {
    for (reference, reason) in [("", 0x8B), ("other.example:1883", 0x9C)] {
        let settings = Settings { server_reference: reference.into(), ..Settings::default() };
        let broker = Broker::start(Options { settings, ..Options::default() });
        let mut new = Client::clean(broker.address(), 5, "drain-5");
        let mut old = Client::clean(broker.address(), 4, "drain-4");
        let thread = std::thread::spawn(move || broker.drain());
        let said = new.read();
        assert_eq!((said.first, said.reason()), (0xE0, reason));
        let told = said.property(0x1C).map(|t| t[2..].to_vec());
        assert_eq!(told, (!reference.is_empty()).then(|| reference.as_bytes().to_vec()));
        new.closed(0);
        old.closed(0);
        thread.join().expect("it ends when all are gone");
    }
}
