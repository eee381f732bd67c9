//! Every step of both QoS 2 handshakes: processes are killed after it and the client goes on at the other gateway.
//! Each message once, under the packet id it had.

use std::io;
use std::time::Duration;

use mqtt_codec::PacketType;

use crate::client::{Client, Message, Packet, message};
use crate::pair::Pair;
use crate::process::Part;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The gateway of the client.
    Gateway,
    /// `logd`.
    Logd,
    /// Both.
    Both,
}

/// All of them.
pub const VICTIMS: [Victim; 3] = [Victim::Gateway, Victim::Logd, Victim::Both];

/// A step of a handshake that is done when the kill comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The publisher has sent PUBLISH, and it was delivered.
    PublishSent,
    /// The publisher has PUBREC.
    PubrecReceived,
    /// The publisher has sent PUBREL.
    PubrelSent,
    /// The publisher has PUBCOMP.
    PubcompReceived,
    /// The subscriber has PUBLISH.
    PublishReceived,
    /// The subscriber has sent PUBREC.
    PubrecSent,
    /// The subscriber has PUBREL.
    PubrelReceived,
    /// The subscriber has sent PUBCOMP.
    PubcompSent,
}

/// All of them, the publisher's first.
pub const STEPS: [Step; 8] = [
    Step::PublishSent,
    Step::PubrecReceived,
    Step::PubrelSent,
    Step::PubcompReceived,
    Step::PublishReceived,
    Step::PubrecSent,
    Step::PubrelReceived,
    Step::PubcompSent,
];

/// A case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What is done.
    pub step: Step,
    /// Who is killed.
    pub victim: Victim,
    /// A gateway that was killed is started again before the client reconnects; else it is dead meanwhile.
    pub revive_first: bool,
    /// Makes names of its own.
    pub number: u64,
}

/// What is wrong, in words; nothing when all is well.
pub type Wrong = Vec<String>;

/// Runs a case.
///
/// # Panics
/// The protocol is broken.
#[must_use]
pub fn run(pair: &mut Pair, case: Case) -> Wrong {
    let at = STEPS.iter().position(|s| *s == case.step).expect("one of them");
    if at < 4 { publisher(pair, case) } else { subscriber(pair, case) }
}

fn kill(pair: &mut Pair, case: Case) {
    if case.victim != Victim::Logd {
        pair.first.kill_part(Part::Front);
        pair.proxies[0].cut();
        pair.proxies[0].restore();
    }
    if case.victim != Victim::Gateway {
        pair.first.restart_logd(&pair.place);
    }
    if case.victim != Victim::Logd && case.revive_first {
        pair.first.revive(&pair.place, Part::Front);
    }
}

fn revive(pair: &mut Pair, case: Case) {
    if case.victim != Victim::Logd && !case.revive_first {
        pair.first.revive(&pair.place, Part::Front);
    }
}

const ID: u16 = 9;

fn publisher(pair: &mut Pair, case: Case) -> Wrong {
    let name = format!("publisher-{}", case.number);
    let topic = format!("to/{name}");
    let mut watchers = [
        pair.transient(1, &format!("transient-{name}")),
        pair.session(1, &format!("session-{name}")),
    ];
    for watcher in &mut watchers {
        watcher.subscribe(&topic, 2).expect("answered");
    }
    let mut client = pair.session(0, &name);
    let mut first = message(&topic, 2, ID, b"first");
    client.send(&first).expect("sent");
    let mut wrong = Wrong::new();
    // Before PUBREC is read: that all have it is known from them.
    wrong.extend(watchers.iter_mut().flat_map(|watcher| expect(watcher, b"first")));
    let steps = STEPS.iter().position(|s| *s == case.step).expect("one of them");
    let mut handshake = || -> io::Result<()> {
        if steps > 0 {
            client.expect_ack(0x50, ID)?;
        }
        if steps > 1 {
            client.acknowledge(PacketType::Pubrel, ID)?;
        }
        if steps > 2 {
            client.expect_ack(0x70, ID)?;
        }
        Ok(())
    };
    handshake().expect("nothing has happened yet");
    kill(pair, case);
    let mut again = pair.session(1, &name);
    if !again.present {
        wrong.push("the publisher's session is lost".into());
    }
    if case.step == Step::PublishSent {
        first.dup = true;
        again.publish(&first).expect("taken");
    } else if case.step != Step::PubcompReceived {
        again.acknowledge(PacketType::Pubrel, ID).expect("sent");
        let packet = again.read().expect("answered");
        if (packet.first, packet.id()) != (0x70, ID) {
            wrong.push(format!("PUBREL is answered by {packet:?}"));
        }
    }
    // The packet id is free again: this is another message.
    again.publish(&message(&topic, 2, ID, b"second")).expect("taken");
    wrong.extend(watchers.iter_mut().flat_map(|watcher| expect(watcher, b"second")));
    revive(pair, case);
    wrong
}

/// What is wrong with the next message, which must be this one.
fn expect(watcher: &mut Client, payload: &[u8]) -> Option<String> {
    let got = crate::pair::receive_within(watcher, Duration::from_secs(10));
    match got {
        Some(got) if got.payload == payload => None,
        got => Some(format!("not {}, but {got:?}", String::from_utf8_lossy(payload))),
    }
}

fn subscriber(pair: &mut Pair, case: Case) -> Wrong {
    let name = format!("subscriber-{}", case.number);
    let topic = format!("to/{name}");
    let mut client = pair.session(0, &name);
    client.subscribe(&topic, 2).expect("answered");
    let mut publisher = pair.session(1, &format!("publisher-of-{name}"));
    publisher.publish(&message(&topic, 2, 1, b"first")).expect("taken");
    let packet = client.read().expect("delivered");
    let first = client.message(&packet);
    let steps = STEPS.iter().position(|s| *s == case.step).expect("one of them");
    let mut handshake = || -> io::Result<()> {
        if steps > 4 {
            client.acknowledge(PacketType::Pubrec, first.id)?;
        }
        if steps > 5 {
            let release = client.read()?;
            assert_eq!((release.kind(), release.id()), (6, first.id), "PUBREL");
        }
        if steps > 6 {
            client.acknowledge(PacketType::Pubcomp, first.id)?;
        }
        Ok(())
    };
    handshake().expect("nothing has happened yet");
    kill(pair, case);
    let mut again = pair.session(1, &name);
    let mut wrong = Wrong::new();
    if !again.present {
        wrong.push("the subscriber's session is lost".into());
    }
    publisher.publish(&message(&topic, 2, 2, b"second")).expect("taken");
    wrong.extend(finish(&mut again, case.step, &first));
    revive(pair, case);
    wrong
}

/// Goes on with the handshake; then the second message comes, under the next packet id, and nothing more.
fn finish(client: &mut Client, step: Step, first: &Message) -> Wrong {
    let mut wrong = Wrong::new();
    let (mut released, mut second) = (false, 0);
    let mut repeated = false;
    while let Some(packet) = wait(client, second > 0) {
        if packet.kind() == 6 && packet.id() == first.id {
            released = true;
        } else if packet.kind() == 6 && second > 0 {
            // PUBREL of the second.
        } else if packet.kind() == 3 {
            let got = client.message(&packet);
            let is_first = got.payload == first.payload;
            let may_repeat = matches!(step, Step::PublishReceived | Step::PubrecSent);
            if is_first && may_repeat && got.id == first.id && got.dup {
                repeated = true;
            } else if !is_first && got.id == first.id + 1 {
                second += 1;
            } else {
                wrong.push(format!("unexpected {got:?}"));
            }
        } else {
            wrong.push(format!("unexpected {packet:?}"));
        }
        client.answer(&packet).expect("it stands");
    }
    if second != 1 {
        wrong.push(format!("the second message came {second} times"));
    }
    let must = match step {
        Step::PublishReceived => repeated && released,
        Step::PubrecSent | Step::PubrelReceived => released,
        _ => true,
    };
    if !must {
        wrong.push(format!("the handshake was not taken up: repeated {repeated}, {released}"));
    }
    wrong
}

fn wait(client: &mut Client, is_all_there: bool) -> Option<Packet> {
    let wait = if is_all_there { 150 } else { 5_000 };
    client.read_within(Duration::from_millis(wait)).expect("it stands")
}
