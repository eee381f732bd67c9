//! Settings of every process: flag over environment over file over default.
//!
//! All programs know all sections, so that one file can serve all of them: a section that is for another program is
//! checked and ignored. Nothing is guessed: an unknown key, an unknown `FLUXMQ_` variable, a value of another type or
//! outside its limits is an error, and all of them are told at once (of mistakes in the shape of the file, the first).

mod declare;
mod environment;
mod file;
mod layer;
mod nearest;
mod reference;
mod sections;
pub mod security;
mod value;

use std::ffi::OsString;
use std::path::Path;

use declare::declare;
use layer::{Apply, Layers};

use crate::listen::ListenAddress;
use crate::program::Program;

pub use reference::as_markdown;
pub use sections::{
    AdminSettings, AmqpSettings, CoapSettings, GrpcSettings, HttpSettings, LogSettings,
    LogdSettings, MqttSettings, MqttWsSettings, NodeSettings, SecuritySettings, Settings,
    StorageSettings,
};
pub(crate) use value::word_or_list;
pub use value::{DataDir, LogLevel, LogdUrls};

/// Port of the admin endpoint of an MQTT gateway: it often runs beside a `logd`, which has 8081.
const GATEWAY_ADMIN_PORT: u16 = 8091;

// === impl Settings ===

impl Settings {
    /// What holds for `program` when nothing is said.
    #[must_use]
    pub fn defaults(program: Program) -> Self {
        let mut settings = Self::default();
        if program == Program::MqttGateway {
            settings.admin.listen = ListenAddress::Loopback(GATEWAY_ADMIN_PORT);
        }
        settings
    }

    /// Reads the file if there is one, then the variables of the environment that begin with `FLUXMQ_`, then has `flags`
    /// set what the command line says, and checks the whole.
    ///
    /// # Errors
    /// Everything that is wrong, a line each.
    pub fn load(
        program: Program,
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        flags: impl FnOnce(&mut Self),
    ) -> Result<Self, Vec<String>> {
        let mut settings = Self::defaults(program);
        let mut apply = Apply { file: String::new(), problems: Vec::new() };
        if let Some(path) = file {
            apply.file = path.display().to_string();
            match file::read(path) {
                Ok(layer) => settings.apply_file(layer, &mut apply),
                Err(problem) => apply.problems.push(problem),
            }
        }
        environment::apply(&mut settings, environment, &mut apply);
        flags(&mut settings);
        settings.check(&mut apply.problems);
        if apply.problems.is_empty() { Ok(settings) } else { Err(apply.problems) }
    }

    /// What is different in `other` and cannot be changed while a gateway runs: sections, and keys of `mqtt`.
    #[must_use]
    pub fn fixed_differences(&self, other: &Self) -> Vec<&'static str> {
        let (ours, theirs) = (&self.mqtt, &other.mqtt);
        let different = [
            ("node", self.node != other.node),
            ("storage", self.storage != other.storage),
            ("mqtt.listen", ours.listen != theirs.listen),
            ("mqtt.proxy_protocol", ours.proxy_protocol != theirs.proxy_protocol),
            ("mqtt.sys_interval_s", ours.sys_interval_s != theirs.sys_interval_s),
            ("mqtt_ws", self.mqtt_ws != other.mqtt_ws),
            ("mqtt_tls", self.mqtt_tls != other.mqtt_tls),
            ("amqp", self.amqp != other.amqp),
            ("http", self.http != other.http),
            ("coap", self.coap != other.coap),
            ("grpc", self.grpc != other.grpc),
            ("admin", self.admin != other.admin),
            ("logd", self.logd != other.logd),
            ("log", self.log != other.log),
        ];
        different.into_iter().filter_map(|(name, different)| different.then_some(name)).collect()
    }

    /// What no key can say alone.
    fn check(&self, problems: &mut Vec<String>) {
        let storage = &self.storage;
        if storage.segment_bytes_first > storage.segment_bytes_max {
            problems.push(format!(
                "storage.segment_bytes_first ({}) is above storage.segment_bytes_max ({})",
                storage.segment_bytes_first, storage.segment_bytes_max
            ));
        }
    }
}

#[cfg(test)]
mod tests;
