//! Encodes a state in pieces, so that it is never in memory twice (S10).

use std::io;
use std::mem;

/// Bytes from which on a page is handed on; one thing that cannot be parted makes it longer.
const PAGE: usize = 256 * 1024;

/// Takes pages of a state in order.
pub type Sink<'a> = dyn FnMut(&[u8]) -> io::Result<()> + 'a;

/// The page that is being written, and where those before went.
pub(crate) struct Pages<'a> {
    pub(crate) page: Vec<u8>,
    sink: &'a mut Sink<'a>,
    failed: Option<io::Error>,
}

// === impl Pages ===

impl<'a> Pages<'a> {
    pub(crate) fn new(sink: &'a mut Sink<'a>) -> Self {
        Self { page: Vec::new(), sink, failed: None }
    }

    /// Between two things: hands a full page on. Once that has failed pages are dropped.
    pub(crate) fn turn(&mut self) {
        if self.page.len() >= PAGE {
            self.hand_on();
        }
    }

    fn hand_on(&mut self) {
        if self.failed.is_none() {
            self.failed = (self.sink)(&self.page).err();
        }
        self.page.clear();
    }

    /// Hands on what is left.
    ///
    /// # Errors
    /// The first one of the sink.
    pub(crate) fn end(mut self) -> io::Result<()> {
        self.hand_on();
        mem::take(&mut self.failed).map_or(Ok(()), Err)
    }
}

/// All that `save` writes, in one piece.
pub(crate) fn whole(save: impl FnOnce(&mut Pages<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut sink = |page: &[u8]| {
        bytes.extend_from_slice(page);
        Ok(())
    };
    let mut pages = Pages::new(&mut sink);
    save(&mut pages);
    // A vector takes all.
    let _ = pages.end();
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_handed_on_until_one_fails() {
        let mut seen = Vec::new();
        let mut sink = |page: &[u8]| {
            if seen.len() == 2 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            seen.push(page.len());
            Ok(())
        };
        let mut pages = Pages::new(&mut sink);
        for _ in 0..10 {
            pages.page.resize(pages.page.len() + PAGE / 2, 7);
            pages.turn();
        }
        assert_eq!(pages.end().map_err(|e| e.kind()), Err(io::ErrorKind::StorageFull));
        assert_eq!(seen, [PAGE, PAGE]);
    }
}
