//! A PUBLISH of QoS 1 to bytes and back.

use std::hint::black_box;

use mqtt_codec::encode::PublishFrame;
use mqtt_codec::{Packet, QoS, Version};

use crate::PAYLOAD;

const FRAME: PublishFrame<'static> = PublishFrame {
    dup: false,
    qos: QoS::AtLeastOnce,
    retain: false,
    topic: "bench/1/t",
    packet_id: 7,
    properties: &[],
    payload: &PAYLOAD,
};

pub(crate) fn decode() -> Box<dyn FnMut()> {
    let mut bytes = Vec::new();
    FRAME.write(&mut bytes, Version::V5);
    Box::new(move || {
        let packet = Packet::decode(black_box(&bytes), Version::V5);
        assert!(matches!(packet, Ok(Packet::Publish(p)) if p.packet_id == 7));
    })
}

pub(crate) fn encode() -> Box<dyn FnMut()> {
    let mut out = Vec::with_capacity(1_024);
    Box::new(move || {
        out.clear();
        black_box(FRAME).write(&mut out, Version::V5);
        black_box(&out);
    })
}
