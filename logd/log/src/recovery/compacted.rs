//! Compacted segments found on opening, and what they replace: of an old and a new one exactly one stays.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::segment_paths;
use crate::commit::Engine;
use crate::compacted::Compacted;
use crate::config::OpenOptions;
use crate::error::OpenError;
use crate::format::{SEGMENT_HEADER, SegmentHeader};

/// All compacted segments by first index; removes what a crash left beside them of what they replace. Returns also the
/// bytes of damaged ones that were set aside because the operator said so.
pub(super) fn load(
    engine: &Engine,
    id: u64,
    log_dir: &Path,
    options: OpenOptions,
) -> Result<(Vec<Arc<Compacted>>, u64), OpenError> {
    let failed = |error| OpenError::Io { shard: id, error };
    let mut all = Vec::new();
    let mut given_up = 0;
    let names = engine.io.list(log_dir).map_err(failed)?;
    for entry in names.into_iter().filter(|entry| entry.name.ends_with(".cmp")) {
        let path = log_dir.join(entry.name);
        match Compacted::open(&*engine.io, &path, id).map_err(failed)? {
            Ok(copies) => all.push(copies),
            Err(damage) if !options.accept_damage => return Err(damage.into()),
            Err(_) => given_up += set_aside(engine, &path).map_err(failed)?,
        }
    }
    let replaced = |all: &[Compacted], salt| all.iter().any(|c| c.replaces.contains(&salt));
    let mut removed = false;
    for path in segment_paths(engine, log_dir).map_err(failed)? {
        let Some(salt) = salt_of(engine, &path).map_err(failed)? else { continue };
        let Some(copies) = all.iter().find(|c| c.replaces.contains(&salt)) else { continue };
        // Nothing goes before what stands for it was read.
        copies.verify()?;
        engine.io.remove_file(&path).map_err(failed)?;
        let _ = engine.io.remove_file(&path.with_extension("idx"));
        removed = true;
    }
    let old: Vec<u64> = all.iter().map(|c| c.header.salt).filter(|s| replaced(&all, *s)).collect();
    for copies in all.iter().filter(|c| c.replaces.iter().any(|salt| old.contains(salt))) {
        copies.verify()?;
    }
    for copies in all.extract_if(.., |c| old.contains(&c.header.salt)) {
        engine.io.remove_file(&copies.path).map_err(failed)?;
        removed = true;
    }
    if removed || given_up > 0 {
        engine.io.sync_dir(log_dir).map_err(failed)?;
    }
    all.sort_by_key(|copies| copies.header.first);
    Ok((all.into_iter().map(Arc::new).collect(), given_up))
}

fn salt_of(engine: &Engine, path: &Path) -> io::Result<Option<u64>> {
    let mut bytes = [0; SEGMENT_HEADER];
    let read = engine.io.open(path)?.read_at(&mut bytes, 0)?;
    let header = SegmentHeader::decode(&bytes).ok().filter(|_| read == bytes.len());
    Ok(header.map(|header| header.salt))
}

fn set_aside(engine: &Engine, path: &Path) -> io::Result<u64> {
    let len = engine.io.open(path)?.len()?;
    engine.io.rename(path, &path.with_extension("damaged"))?;
    Ok(len)
}
