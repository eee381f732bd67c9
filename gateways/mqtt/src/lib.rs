//! The MQTT gateway: 3.1, 3.1.1 and 5.0 on one port. It terminates connections, keeps the state of
//! transient sessions and routes live messages; everything durable belongs to `logd` (design §2, §6).

mod ack_queue;
mod app;
mod authentication;
mod client;
mod config;
mod connection;
mod delivery;
mod durable;
mod durable_publish;
mod gateway;
mod greeting;
mod handshake;
mod inbound;
mod out_buffer;
mod outbound;
mod properties;
mod queues;
mod reload;
mod retained;
mod send_window;
mod settings;
mod subscriptions;
mod sys_topics;

pub use app::{Serving, Upstream};
pub use config::{Config, addresses};
pub use reload::Reload;
pub use settings::Settings;
