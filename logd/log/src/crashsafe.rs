//! Small files that are either the old or the new one after a crash.

use std::io;
use std::path::Path;

use crate::io::Io;

/// Writes a small file beside its place, syncs it, renames it into place and syncs the directory.
pub(crate) fn write_file(io: &dyn Io, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    match io.remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = io.create(&temporary)?;
    file.write_at(&[bytes], 0)?;
    file.sync_data()?;
    io.rename(&temporary, path)?;
    match path.parent() {
        Some(parent) => io.sync_dir(parent),
        None => Ok(()),
    }
}

/// Reads a file that must not be larger than `max` bytes; `None` if it does not exist.
pub(crate) fn read_file(io: &dyn Io, path: &Path, max: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match io.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result?,
    };
    let len = usize::try_from(file.len()?).unwrap_or(usize::MAX);
    if len > max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "file too large"));
    }
    let mut bytes = vec![0; len];
    let n = file.read_at(&mut bytes, 0)?;
    bytes.truncate(n);
    Ok(Some(bytes))
}
