//! Stub; see the issue tracker.
