//! Scenarios with rumqttc, in 3.1.1 and 5: HOST PORT

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(15);

/// What a client was told, in either version.
enum Told {
    Connected { present: bool },
    Answered,
    Message { topic: String, payload: Vec<u8>, qos: u8, retain: bool },
    Closed,
}

/// Scenarios of one version: its module's names, and what differs.
macro_rules! scenarios {
    ($version:ident, $label:literal, $client:ident, $options:ident, $qos:ident, $event:ident, $packet:ident, $will:expr,
     $open:expr, $kept:expr) => {
        mod $version {
            use super::*;

            pub(crate) struct Peer {
                pub(crate) client: $client,
                told: Receiver<Told>,
                pub(crate) present: bool,
                early: Vec<Told>,
            }

            impl Peer {
                fn open(at: (&str, u16), id: &str, kept: bool, will: Option<&str>) -> Self {
                    let mut options = $options::new(id, at.0, at.1);
                    options.set_keep_alive(Duration::from_secs(30));
                    $open(&mut options);
                    if kept {
                        $kept(&mut options);
                    }
                    if let Some(topic) = will {
                        options.set_last_will($will(topic));
                    }
                    let (client, mut connection) = $client::new(options, 100);
                    let (tell, told) = channel();
                    std::thread::spawn(move || {
                        for event in connection.iter() {
                            let told = match event {
                                Ok($event::Incoming($packet::ConnAck(a))) => {
                                    Told::Connected { present: a.session_present }
                                }
                                Ok($event::Incoming($packet::SubAck(_) | $packet::PubAck(_) | $packet::PubComp(_))) => {
                                    Told::Answered
                                }
                                Ok($event::Incoming($packet::Publish(p))) => Told::Message {
                                    topic: String::from_utf8(Vec::from(p.topic)).expect("utf-8"),
                                    payload: p.payload.to_vec(),
                                    qos: p.qos as u8,
                                    retain: p.retain,
                                },
                                Ok(_) => continue,
                                Err(_) => {
                                    let _ = tell.send(Told::Closed);
                                    return;
                                }
                            };
                            if tell.send(told).is_err() {
                                return;
                            }
                        }
                    });
                    let mut peer = Self { client, told, present: false, early: Vec::new() };
                    match peer.told.recv_timeout(LONG).expect("CONNACK") {
                        Told::Connected { present } => peer.present = present,
                        _ => panic!("something before CONNACK"),
                    }
                    peer
                }

                fn answered(&mut self) {
                    loop {
                        match self.told.recv_timeout(LONG).expect("an answer") {
                            Told::Answered => return,
                            Told::Closed => panic!("closed"),
                            other => self.early.push(other),
                        }
                    }
                }

                fn subscribe(&mut self, filter: &str, qos: $qos) {
                    self.client.subscribe(filter, qos).expect("sent");
                    self.answered();
                }

                fn publish(&mut self, topic: &str, qos: u8, retain: bool, payload: &[u8]) {
                    let level = [$qos::AtMostOnce, $qos::AtLeastOnce, $qos::ExactlyOnce][usize::from(qos)];
                    self.client.publish(topic, level, retain, payload.to_vec()).expect("sent");
                    if qos > 0 {
                        self.answered();
                    }
                }

                fn next(&mut self) -> (String, Vec<u8>, u8, bool) {
                    loop {
                        let told = match self.early.is_empty() {
                            false => self.early.remove(0),
                            true => self.told.recv_timeout(LONG).expect("a message"),
                        };
                        if let Told::Message { topic, payload, qos, retain } = told {
                            return (topic, payload, qos, retain);
                        }
                    }
                }

                fn close(self) {
                    self.client.disconnect().expect("sent");
                    while !matches!(self.told.recv_timeout(LONG), Ok(Told::Closed) | Err(_)) {}
                }
            }

            pub(crate) fn run(at: (&str, u16)) {
                let name = concat!("rumqttc-", $label);
                let mut reader = Peer::open(at, &format!("{name}-r"), false, None);
                let mut writer = Peer::open(at, &format!("{name}-w"), false, None);
                reader.subscribe(&format!("{name}/#"), $qos::ExactlyOnce);
                for qos in 0..3 {
                    for size in [0, 200, 1_000_000] {
                        let payload = vec![qos; size];
                        writer.publish(&format!("{name}/x"), qos, false, &payload);
                        let got = reader.next();
                        assert!(got.1 == payload && got.2 == qos, "qos {qos}, {size} bytes");
                    }
                }
                for n in 0..300u16 {
                    writer
                        .client
                        .publish(format!("{name}/order"), $qos::AtLeastOnce, false, n.to_be_bytes().to_vec())
                        .expect("sent");
                }
                for n in 0..300u16 {
                    assert_eq!(reader.next().1, n.to_be_bytes(), "order");
                }
                (0..300).for_each(|_| writer.answered());
                writer.publish(&format!("{name}-kept"), 1, true, b"kept");
                reader.subscribe(&format!("{name}-kept"), $qos::AtLeastOnce);
                assert!(reader.next().3, "retained");
                writer.publish(&format!("{name}-kept"), 1, true, b"");
                assert!(reader.next().1.is_empty());
                let topic = format!("{name}/will");
                // Its thread ends at the next event that nobody wants, and closes without DISCONNECT.
                let Peer { client, told, .. } = Peer::open(at, &format!("{name}-m"), false, Some(&topic));
                drop(told);
                client.subscribe("any", $qos::AtMostOnce).expect("sent");
                assert_eq!(reader.next().0, topic, "the will");
                let id = format!("{name}-a");
                let mut away = Peer::open(at, &id, true, None);
                assert!(!away.present);
                away.subscribe(&format!("{name}-away"), $qos::ExactlyOnce);
                away.close();
                for qos in [1, 2] {
                    writer.publish(&format!("{name}-away"), qos, false, &[qos]);
                }
                let mut away = Peer::open(at, &id, true, None);
                assert!(away.present, "the session is there");
                for qos in [1, 2] {
                    let got = away.next();
                    assert_eq!((got.1, got.2), (vec![qos], qos), "kept session");
                }
                println!("ok rumqttc, MQTT {}", $label);
            }
        }
    };
}

use rumqttc::v5::mqttbytes::QoS as QoS5;
use rumqttc::v5::mqttbytes::v5::{LastWill as LastWill5, Packet as Packet5};
use rumqttc::v5::{Client as Client5, Event as Event5, MqttOptions as Options5};
use rumqttc::{Client, Event, LastWill, MqttOptions, Packet, QoS};

const BIG: usize = 2_000_000;

scenarios!(
    v311,
    "3.1.1",
    Client,
    MqttOptions,
    QoS,
    Event,
    Packet,
    |topic: &str| LastWill::new(topic, "gone", QoS::AtLeastOnce, false),
    |o: &mut MqttOptions| {
        o.set_max_packet_size(BIG, BIG);
    },
    |o: &mut MqttOptions| {
        o.set_clean_session(false);
    }
);
scenarios!(
    v5,
    "5",
    Client5,
    Options5,
    QoS5,
    Event5,
    Packet5,
    |topic: &str| LastWill5::new(topic, "gone", QoS5::AtLeastOnce, false, None),
    |o: &mut Options5| {
        o.set_max_packet_size(Some(BIG as u32));
    },
    |o: &mut Options5| {
        o.set_clean_start(false).set_session_expiry_interval(Some(3_600));
    }
);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let host = arguments.next().expect("HOST");
    let port = arguments.next().expect("PORT").parse().expect("a port");
    v311::run((&host, port));
    v5::run((&host, port));
}
