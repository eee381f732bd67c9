//! What was once part of the contract stays: the frozen descriptors against those of today.
//!
//! `FREEZE=1 cargo test -p fluxmq-proto --test compat` writes today's, when something was added.

use std::collections::BTreeMap;
use std::path::Path;

use fluxmq_proto::v1::DESCRIPTORS;
use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};

/// Every field, value of an enum and method, and what it is.
fn parts(bytes: &[u8]) -> BTreeMap<String, String> {
    let set = FileDescriptorSet::decode(bytes).expect("descriptors");
    let mut all = BTreeMap::new();
    for file in &set.file {
        file.message_type.iter().for_each(|m| message(m, file.package(), &mut all));
        for service in &file.service {
            for m in &service.method {
                let what = format!(
                    "{} {} {} {}",
                    m.input_type(),
                    m.client_streaming(),
                    m.output_type(),
                    m.server_streaming()
                );
                all.insert(format!("{}.{}", service.name(), m.name()), what);
            }
        }
    }
    all
}

fn message(m: &DescriptorProto, scope: &str, all: &mut BTreeMap<String, String>) {
    let name = format!("{scope}.{}", m.name());
    for f in &m.field {
        let what = format!("{} {:?} {:?} {}", f.name(), f.label(), f.r#type(), f.type_name());
        all.insert(format!("{name} {}", f.number()), what);
    }
    for e in &m.enum_type {
        for v in &e.value {
            all.insert(format!("{name}.{} {}", e.name(), v.number()), v.name().into());
        }
    }
    m.nested_type.iter().for_each(|nested| message(nested, &name, all));
}

/// What is gone or another.
fn breaches(frozen: &[u8], now: &[u8]) -> Vec<String> {
    let now = parts(now);
    let gone = |(part, what): (String, String)| {
        (now.get(&part) != Some(&what)).then(|| format!("{part}: {what} is {:?}", now.get(&part)))
    };
    parts(frozen).into_iter().filter_map(gone).collect()
}

#[test]
fn what_was_frozen_is_there() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/frozen.bin");
    if std::env::var_os("FREEZE").is_some() {
        std::fs::write(&path, DESCRIPTORS).expect("written");
    }
    let frozen = std::fs::read(&path).expect("tests/frozen.bin is there");
    let found = breaches(&frozen, DESCRIPTORS);
    assert!(found.is_empty(), "{found:#?}");
    assert!(parts(&frozen).len() > 100);
}

#[test]
fn a_field_that_is_another_is_found() {
    let mut set = FileDescriptorSet::decode(DESCRIPTORS).expect("descriptors");
    set.file[0].message_type[0].field[0].number = Some(99);
    assert!(!breaches(DESCRIPTORS, &set.encode_to_vec()).is_empty());
}
