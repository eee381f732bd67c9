//! Bytes on their way to one client.

use std::pin::Pin;
use std::task::{Context, Poll};

use gateway_core::worker::Worker;
use tokio::io::AsyncWrite;

use crate::settings::Settings;

/// Outgoing bytes; owns no memory while there are none (T2).
#[derive(Default)]
pub(crate) struct OutBuffer {
    bytes: Vec<u8>,
    written: usize,
}

// === impl OutBuffer ===

impl OutBuffer {
    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Whether a packet of `more` bytes may be appended.
    pub(crate) fn has_room(&self, more: usize, settings: &Settings) -> bool {
        Settings::has_room(self.len(), more, settings.out_bytes_max)
    }

    /// The place to append frames to.
    pub(crate) fn writer(&mut self, worker: &Worker) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = worker.take_buffer();
        }
        &mut self.bytes
    }

    /// Writes what the socket takes. Ready when all is written.
    pub(crate) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        io: &mut S,
        cx: &mut Context<'_>,
        worker: &Worker,
    ) -> Poll<std::io::Result<()>> {
        let mut blocked = false;
        while self.written < self.bytes.len() {
            match Pin::new(&mut *io).poll_write(cx, &self.bytes[self.written..]) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
                }
                Poll::Ready(Ok(n)) => {
                    self.written += n;
                    gateway_core::counters::add(&worker.counters.writes, 1);
                    gateway_core::counters::add(&worker.counters.bytes_written, n as u64);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    blocked = true;
                    break;
                }
            }
        }
        if blocked {
            // Keep the copy small: move the rest down once the larger half is written.
            if self.written > self.bytes.len() / 2 {
                self.bytes.drain(..self.written);
                self.written = 0;
            }
            return Poll::Pending;
        }
        self.written = 0;
        if self.bytes.capacity() > 0 {
            worker.give_buffer(std::mem::take(&mut self.bytes));
        }
        Pin::new(io).poll_flush(cx)
    }
}
