//! Memberships as bytes, in entries and snapshots: `n_configs u16, n × {n_ids u16, ids u64}`,
//! `n_nodes u16, n × {id u64, address str}`, little-endian.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use fluxmq_commands::wire::{Reader, WireError, Write};
use openraft::impls::BasicNode;

use crate::type_config::Membership;

pub(crate) fn encode(membership: &Membership) -> Vec<u8> {
    let mut out = Vec::new();
    let configs = membership.get_joint_config();
    out.put_u16(configs.len() as u16);
    for config in configs {
        out.put_u16(config.len() as u16);
        config.iter().for_each(|id| out.put_u64(*id));
    }
    let nodes: Vec<_> = membership.nodes().collect();
    out.put_u16(nodes.len() as u16);
    for (id, node) in nodes {
        out.put_u64(*id);
        out.put_str(&node.addr);
    }
    out
}

pub(crate) fn decode(bytes: &[u8]) -> io::Result<Membership> {
    read(&mut Reader(bytes)).map_err(io::Error::other)
}

fn read(r: &mut Reader<'_>) -> Result<Membership, WireError> {
    let mut configs = Vec::new();
    for _ in 0..r.u16()? {
        let ids = (0..r.u16()?).map(|_| r.u64()).collect::<Result<BTreeSet<_>, _>>()?;
        configs.push(ids);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..r.u16()? {
        nodes.insert(r.u64()?, BasicNode::new(r.str()?));
    }
    r.end()?;
    Membership::new(configs, nodes).map_err(|_| WireError("a voter without a node"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_comes_back() {
        let nodes = BTreeMap::from([(1, BasicNode::new("a:1")), (2, BasicNode::new("b:2"))]);
        let configs = vec![BTreeSet::from([1]), BTreeSet::from([1, 2])];
        let membership = Membership::new(configs, nodes).expect("all voters have nodes");
        let bytes = encode(&membership);
        assert_eq!(decode(&bytes).expect("encoded above"), membership);
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err());
        }
    }
}
