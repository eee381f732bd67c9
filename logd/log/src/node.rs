//! Identity and lock of a data directory: `node/NODE` and `node/LOCK`.
//!
//! `NODE`, 64 bytes: `magic "LOGDNODE" · version u16 · 0 u16 · 0 u32 · node u64 · cluster u128 · created µs u64 · 0 … · crc
//! u32 at 60`.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::DiskConfig;
use crate::crashsafe;
use crate::error::{Damage, StartError};
use crate::format::{Put, VERSION, u32_at, u64_at};
use crate::io::{Io, Lock};

const SIZE: usize = 64;
const MAGIC: &[u8; 8] = b"LOGDNODE";

/// Who a data directory belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) node: u64,
    pub(crate) cluster: u128,
}

impl Node {
    fn encode(&self, created_us: u64) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let mut put = Put { bytes: &mut bytes, at: 0 };
        put.slice(MAGIC);
        put.u16(VERSION);
        put.u16(0);
        put.u32(0);
        put.u64(self.node);
        put.slice(&self.cluster.to_le_bytes());
        put.u64(created_us);
        let crc = crc32fast::hash(&bytes[..SIZE - 4]);
        bytes[SIZE - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// Opens or makes the identity of `dir` and takes its lock.
pub(crate) fn open(
    io: &dyn Io,
    dir: &Path,
    config: &DiskConfig,
) -> Result<(Node, Box<dyn Lock>), StartError> {
    let failed = |error| StartError::Io { dir: dir.to_owned(), error };
    create_dir_all(io, dir).map_err(failed)?;
    let node_dir = dir.join("node");
    let names = io.list(dir).map_err(failed)?;
    let ours = names.iter().any(|entry| entry.is_dir && entry.name == "node");
    if !ours && names.iter().any(|entry| entry.name != "lost+found") {
        return Err(StartError::Foreign { dir: dir.to_owned() });
    }
    if !ours {
        io.create_dir(&node_dir).and_then(|()| io.sync_dir(dir)).map_err(failed)?;
    }
    let lock = match io.lock(&node_dir.join("LOCK")) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(StartError::Locked { dir: dir.to_owned() });
        }
        result => result.map_err(failed)?,
    };
    let path = node_dir.join("NODE");
    if let Some(bytes) = crashsafe::read_file(io, &path, 4096).map_err(failed)? {
        return Ok((check(dir, &path, &bytes, config)?, lock));
    }
    // Without NODE there must be nothing else: it is written before the first shard.
    if names.iter().any(|entry| entry.name != "lost+found" && entry.name != "node") {
        return Err(StartError::Foreign { dir: dir.to_owned() });
    }
    let node = Node {
        node: config.node_id.unwrap_or_else(|| io.random()),
        cluster: config
            .cluster_id
            .unwrap_or_else(|| u128::from(io.random()) << 64 | u128::from(io.random())),
    };
    crashsafe::write_file(io, &path, &node.encode(io.now_us())).map_err(failed)?;
    Ok((node, lock))
}

fn check(dir: &Path, path: &Path, bytes: &[u8], config: &DiskConfig) -> Result<Node, StartError> {
    let damaged = |what: &str| {
        StartError::Damaged(Damage { file: path.to_owned(), offset: 0, what: what.into() })
    };
    if bytes.len() < SIZE || &bytes[..8] != MAGIC {
        return Err(damaged("not an identity file"));
    }
    if u32_at(bytes, SIZE - 4) != crc32fast::hash(&bytes[..SIZE - 4]) {
        return Err(damaged("identity checksum"));
    }
    let found = u16::from_le_bytes([bytes[8], bytes[9]]);
    if found > VERSION {
        return Err(StartError::Newer { dir: dir.to_owned(), found, supported: VERSION });
    }
    let cluster = u128::from(u64_at(bytes, 32)) << 64 | u128::from(u64_at(bytes, 24));
    let node = Node { node: u64_at(bytes, 16), cluster };
    let other = |what, found: String, expected: String| StartError::OtherNode {
        dir: dir.to_owned(),
        what,
        found,
        expected,
    };
    if let Some(expected) = config.node_id.filter(|id| *id != node.node) {
        return Err(other("node", node.node.to_string(), expected.to_string()));
    }
    if let Some(expected) = config.cluster_id.filter(|id| *id != node.cluster) {
        return Err(other("cluster", format!("{:032x}", node.cluster), format!("{expected:032x}")));
    }
    Ok(node)
}

/// Makes a directory and what is missing above it, each durable in its parent.
fn create_dir_all(io: &dyn Io, dir: &Path) -> io::Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    let mut at = dir;
    while !at.as_os_str().is_empty() && at != Path::new("/") {
        match io.list(at) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(at.to_owned()),
            Err(error) => return Err(error),
        }
        match at.parent() {
            Some(parent) => at = parent,
            None => break,
        }
    }
    for path in missing.iter().rev() {
        io.create_dir(path)?;
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            // The parent may be the root of a simulated disk, which has no entry of its own.
            let _ = io.sync_dir(parent);
        }
    }
    Ok(())
}
