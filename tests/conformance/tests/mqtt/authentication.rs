//! Users, rules, and enhanced authentication (MQTT 5 §4.12).

use aws_lc::{Proof, first};
use conformance::broker::{Broker, Options};
use conformance::wire::{
    Client, Connect, Packet, binary, packet, properties, publish, text_property,
};
use gateway_core::authz::{Action, Effect, RuleConfig};
use gateway_core::scram::ScramCredential;
use gateway_core::security::{SecurityConfig, UserConfig, hash_password};

use crate::BOTH;

const METHOD: &str = "SCRAM-SHA-256";

/// What a SCRAM client does, by functions of the server's library that stand for a calculator.
mod aws_lc {
    use std::num::NonZeroU32;

    use aws_lc_rs::{digest, hmac, pbkdf2};
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD as BASE64;

    /// The client's first message.
    pub(super) fn first(user: &str) -> String {
        format!("n,,n={user},r=client-nonce")
    }

    /// The client's last message and what the server must answer.
    pub(super) struct Proof {
        pub(super) last: String,
        pub(super) verifier: String,
    }

    fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().to_vec()
    }

    impl Proof {
        pub(super) fn new(user: &str, password: &str, server_first: &str) -> Self {
            let field = |k| server_first.split(',').find_map(|f| f.strip_prefix(k)).expect("there");
            let salt = BASE64.decode(field("s=")).expect("base64");
            let rounds = NonZeroU32::new(field("i=").parse().expect("a number")).expect("not 0");
            let mut salted = [0; 32];
            let password = password.as_bytes();
            pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, password, &mut salted);
            let without = format!("c=biws,r={}", field("r="));
            let message = format!("n={user},r=client-nonce,{server_first},{without}");
            let client_key = mac(&salted, b"Client Key");
            let stored = digest::digest(&digest::SHA256, &client_key);
            let signature = mac(stored.as_ref(), message.as_bytes());
            let proof: Vec<u8> = client_key.iter().zip(signature).map(|(k, s)| k ^ s).collect();
            let verifier = mac(&mac(&salted, b"Server Key"), message.as_bytes());
            Self {
                last: format!("{without},p={}", BASE64.encode(proof)),
                verifier: format!("v={}", BASE64.encode(verifier)),
            }
        }
    }
}

/// A broker that knows ann, by password and SCRAM, and may be told rules.
fn broker(allow_anonymous: bool, rules: Vec<RuleConfig>) -> Broker {
    let scram = ScramCredential::derive(b"secret", b"0123456789abcdef", 4_096).encode();
    let ann = UserConfig {
        name: "ann".into(),
        password_hash: hash_password(b"secret"),
        scram: Some(scram),
    };
    let users = vec![ann];
    let security = SecurityConfig { allow_anonymous, users, rules, ..SecurityConfig::default() };
    Broker::start(Options { security, ..Options::default() })
}

fn rule(effect: Effect, actions: &[Action], topics: &[&str]) -> RuleConfig {
    let topics = topics.iter().map(|t| (*t).to_owned()).collect();
    RuleConfig { effect, users: Vec::new(), actions: actions.to_vec(), topics }
}

fn everything() -> Vec<RuleConfig> {
    vec![rule(Effect::Allow, &[], &["#"])]
}

fn as_user(level: u8, user: &str, password: &str) -> Connect {
    Connect {
        user: Some(user.into()),
        password: Some(password.into()),
        ..Connect::new(level, "somebody")
    }
}

/// Method and data.
fn method(data: &[u8]) -> Vec<u8> {
    [text_property(0x15, METHOD), vec![0x16], binary(data)].concat()
}

fn auth(reason: u8, props: &[u8]) -> Vec<u8> {
    packet(0xF0, &[&[reason][..], &properties(props)].concat())
}

fn data(packet: &Packet) -> String {
    String::from_utf8(packet.property(0x16).expect("data")[2..].to_vec()).expect("text")
}

fn scram_connect(user: &str) -> Connect {
    Connect { properties: method(first(user).as_bytes()), ..Connect::new(5, "scram") }
}

/// 5.0: 3.1.4-2 3.2.2-7 3.2.2-6 3.1.4-6
/// 3.1.1: 3.2.2-4 3.2.2-5 3.1.4-5
#[test]
fn who_is_not_known_is_refused() {
    let broker = broker(false, everything());
    for (level, bad, anonymous) in [(3, 4, 5), (4, 4, 5), (5, 0x86, 0x87)] {
        let mut good = Client::connect(broker.address(), &as_user(level, "ann", "secret"));
        good.nothing_more();
        for connect in [as_user(level, "ann", "wrong"), as_user(level, "eve", "secret")] {
            let (mut client, connack) = Client::try_connect(broker.address(), &connect);
            assert_eq!(connack.body[..2], [0, bad]);
            client.closed(0);
        }
        let (mut client, connack) =
            Client::try_connect(broker.address(), &Connect::new(level, "nobody"));
        assert_eq!(connack.body[..2], [0, anonymous]);
        client.closed(0);
    }
}

/// 5.0: 3.9.3-2 3.4.2-1 3.5.2-1 4.3.3-9
/// 3.1.1: 3.3.5-2 3.9.3-2
#[test]
fn rules_hold_for_publish_subscribe_and_every_delivery() {
    let rules = vec![
        rule(Effect::Deny, &[Action::Subscribe], &["public/secret"]),
        rule(Effect::Allow, &[Action::Subscribe], &["public/#"]),
        rule(Effect::Allow, &[Action::Publish], &["public/#", "%u/%c"]),
    ];
    let broker = broker(true, rules);
    for (level, refused) in [(4, 0x80), (5, 0x87)] {
        let ann = as_user(level, "ann", "secret");
        let kept = Connect { clean: false, ..Connect::kept(level, "rules-reader") };
        for connect in [Connect::new(level, "rules-reader"), kept] {
            let mut reader = Client::connect(broker.address(), &connect);
            assert_eq!(
                reader.subscribe(&[("public/#", 2), ("#", 0), ("public/secret", 0), ("x", 1)]),
                [2, refused, refused, refused]
            );
            let mut writer = Client::connect(broker.address(), &ann);
            for qos in [0u8, 2, 4] {
                writer.publish(qos, "public/secret", 1, b"secret");
                writer.publish(qos, "public/x", 1, b"x");
                assert_eq!(reader.receive().payload, b"x");
            }
            reader.nothing_more();
            assert!(writer.publish(2, "ann/somebody", 1, b"own") < 0x80);
            let code = if level == 5 { 0x87 } else { 0 };
            assert_eq!(writer.publish(2, "other", 1, b"no"), code);
            assert_eq!(writer.publish(4, "other", 1, b"no"), code);
            assert_eq!(writer.publish(4, "public/x", 1, b"the id is free"), 0);
            assert_eq!(reader.receive().payload, b"the id is free");
            writer.send(&publish(level, 0, "other", 0, &[], b"no"));
            writer.nothing_more();
        }
        let will = Connect::new(level, "rules-will").will("other", b"x", 0, false);
        let (mut client, connack) = Client::try_connect(broker.address(), &will);
        assert_eq!(connack.body[1], if level == 5 { 0x87 } else { 5 });
        client.closed(0);
    }
}

/// 5.0: 4.12.0-2 4.12.0-5 3.15.2-1 3.2.0-1
#[test]
fn scram_lets_in_who_knows_the_password() {
    let broker = broker(false, everything());
    let mut client = Client::open(broker.address(), 5);
    client.send(&scram_connect("ann").bytes());
    let challenge = client.read();
    assert_eq!((challenge.first, challenge.body[0]), (0xF0, 0x18));
    assert_eq!(challenge.property(0x15).expect("the method")[2..], *METHOD.as_bytes());
    let proof = Proof::new("ann", "secret", &data(&challenge));
    client.send(&auth(0x18, &method(proof.last.as_bytes())));
    let connack = client.read();
    assert_eq!((connack.first, connack.body[1]), (0x20, 0));
    assert_eq!(connack.property(0x15).expect("the method")[2..], *METHOD.as_bytes());
    assert_eq!(data(&connack), proof.verifier, "the server knows it, too");
    client.nothing_more();
    // Again, while messages go on.
    for _ in 0..2 {
        client.send(&auth(0x19, &method(first("ann").as_bytes())));
        let challenge = client.read();
        assert_eq!((challenge.first, challenge.body[0]), (0xF0, 0x18));
        client.nothing_more();
        let proof = Proof::new("ann", "secret", &data(&challenge));
        client.send(&auth(0x18, &method(proof.last.as_bytes())));
        let done = client.read();
        assert_eq!((done.first, done.body[0]), (0xF0, 0));
        assert_eq!(data(&done), proof.verifier);
    }
}

/// 5.0: 4.12.0-1 4.12.0-3 4.12.0-4 4.12.1-1 4.12.1-2 3.1.2-30 3.15.1-1 3.15.2-2 3.15.2-3
#[test]
fn scram_keeps_everybody_else_out() {
    let broker = broker(false, everything());
    let begin = |user: &str| {
        let mut client = Client::open(broker.address(), 5);
        client.send(&scram_connect(user).bytes());
        let challenge = client.read();
        assert_eq!(challenge.first, 0xF0, "also for a user that does not exist");
        (client, challenge)
    };
    for (user, password) in [("ann", "wrong"), ("eve", "secret")] {
        let (mut client, challenge) = begin(user);
        let proof = Proof::new(user, password, &data(&challenge));
        client.send(&auth(0x18, &method(proof.last.as_bytes())));
        assert_eq!(client.read().body[..2], [0, 0x87]);
        client.closed(0);
    }
    let (_, challenge) = begin("ann");
    let proof = Proof::new("ann", "secret", &data(&challenge));
    let other = [text_property(0x15, "OTHER"), vec![0x16], binary(proof.last.as_bytes())].concat();
    for bytes in [
        vec![0xC0, 0], // anything but AUTH
        publish(5, 0, "t", 0, &[], b"x"),
        auth(0x00, &method(proof.last.as_bytes())), // not "continue"
        auth(0x18, &other),                         // another method
        auth(0x18, &method(proof.last.as_bytes())), // the proof of another exchange
        auth(0x18, &method(b"")),
        vec![0xF1, 0],
    ] {
        let (mut client, _) = begin("ann");
        client.send(&bytes);
        if let Ok(connack) = client.try_read() {
            assert_eq!((connack.first, connack.body[0]), (0x20, 0), "{bytes:x?}");
            assert!(connack.body[1] >= 0x80);
            client.closed(0);
        }
    }
    let unknown = Connect { properties: text_property(0x15, "GS2-KRB5"), ..Connect::new(5, "krb") };
    let (mut client, connack) = Client::try_connect(broker.address(), &unknown);
    assert_eq!(connack.body[..2], [0, 0x8C]);
    client.closed(0);
    // In, and then: another method, a wrong password, another user, out of turn.
    for (reason, props) in [
        (0x19, other.clone()),
        (0x18, method(b"x")),
        (0x00, method(b"x")),
        (0x19, method(b"nonsense")),
    ] {
        let (mut client, challenge) = begin("ann");
        let proof = Proof::new("ann", "secret", &data(&challenge));
        client.send(&auth(0x18, &method(proof.last.as_bytes())));
        assert_eq!(client.read().body[1], 0);
        client.send(&auth(reason, &props));
        client.closed(0);
    }
}

/// 5.0: 4.12.0-6
#[test]
fn without_a_method_there_is_none_in_the_answers() {
    let broker = broker(false, everything());
    let connect = as_user(5, "ann", "secret");
    let (mut client, connack) = Client::try_connect(broker.address(), &connect);
    assert_eq!((connack.property(0x15), connack.property(0x16)), (None, None));
    client.nothing_more();
}

/// 5.0: 3.1.4-2
/// 3.1.1: 3.1.4-2
#[test]
fn nobody_takes_over_the_session_of_another_user() {
    let user = |name: &str| UserConfig {
        name: name.into(),
        password_hash: hash_password(b"secret"),
        scram: None,
    };
    let security = SecurityConfig {
        allow_anonymous: true,
        users: vec![user("ann"), user("bob")],
        client_ids: vec!["%u:*".into()],
        rules: everything(),
    };
    let broker = Broker::start(Options { security, ..Options::default() });
    for level in BOTH {
        let kept = |who: &str, id: &str| Connect {
            user: Some(who.into()),
            password: Some(b"secret".to_vec()),
            ..Connect::kept(level, id)
        };
        let mut ann = Client::connect(broker.address(), &kept("ann", "ann:1"));
        ann.subscribe(&[("for/ann", 1)]);
        let nameless = Connect::kept(level, "ann:1");
        for stranger in [kept("bob", "ann:1"), kept("bob", "ann"), nameless] {
            let (mut refused, connack) = Client::try_connect(broker.address(), &stranger);
            assert_eq!(connack.body[1], if level == 5 { 0x87 } else { 5 });
            refused.closed(0);
        }
        ann.nothing_more();
        let mut bob = Client::connect(broker.address(), &kept("bob", "bob:1"));
        assert!(bob.publish(2, "for/ann", 1, b"x") < 0x80);
        assert_eq!(ann.receive().payload, b"x");
        // His own he takes over, and an id that the server makes up is nobody's.
        let again = Client::connect(broker.address(), &kept("ann", "ann:1"));
        ann.closed(if level == 5 { 0x8E } else { 0 });
        again.disconnect();
        let made_up = Connect { clean: true, ..kept("bob", "") };
        Client::connect(broker.address(), &made_up).disconnect();
    }
}
