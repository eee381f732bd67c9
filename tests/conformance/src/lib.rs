//! A broker in this process, with whatever settings a test wants, and a client that knows only bytes.
//!
//! The client shares no code with `mqtt-codec`: what both got wrong would not be seen.

pub mod broker;
pub mod wire;
