//! What is served, to whom and how, from the settings of the process.

use std::net::TcpListener;
use std::path::PathBuf;

use fluxmq_process::Settings as ProcessSettings;
use fluxmq_process::listen::ListenAddress;
use fluxmq_process::settings::security as said;
use fluxmq_process::startup::Listeners;
use gateway_core::admission::ConnectionLimits;
use gateway_core::authz::{Action, Effect, RuleConfig};
use gateway_core::listener::ListenerConfig;
use gateway_core::security::{SecurityConfig, UserConfig};
use gateway_core::tls::{ClientCertificate, TlsConfig};
use gateway_core::websocket::{Origins, WebSocketConfig};

use crate::settings::Settings;

/// What is served, to whom and how.
#[derive(Default)]
pub struct Config {
    /// MQTT itself.
    pub settings: Settings,
    /// Users and rules.
    pub security: SecurityConfig,
    /// Limits over all listeners.
    pub limits: ConnectionLimits,
    /// Bound sockets that do not block, and what runs over each.
    pub listeners: Vec<(TcpListener, ListenerConfig)>,
}

/// Names and addresses of all MQTT listeners, for [`Config::new`].
#[must_use]
pub fn addresses(settings: &ProcessSettings) -> [(&'static str, &ListenAddress); 4] {
    [
        ("mqtt", &settings.mqtt.listen),
        ("mqtt-ws", &settings.mqtt_ws.listen),
        ("mqtt-tls", &settings.mqtt_tls.listen),
        ("mqtt-wss", &settings.mqtt_tls.listen_ws),
    ]
}

// === impl Config ===

impl Config {
    /// What `settings` say; the sockets are taken out of `listeners`, bound to [`addresses`].
    #[must_use]
    pub fn new(settings: &ProcessSettings, listeners: &mut Listeners) -> Self {
        let (mqtt, ws) = (&settings.mqtt, &settings.mqtt_ws);
        let web_socket = WebSocketConfig {
            path: ws.path.0.clone(),
            origins: match &ws.origins {
                said::Origins::SameHost => Origins::SameHost,
                said::Origins::Any => Origins::Any,
                said::Origins::These(these) => Origins::These(these.clone()),
            },
            message_bytes_max: mqtt.packet_bytes_max as usize,
            ..WebSocketConfig::default()
        };
        let plain = ListenerConfig {
            proxy_protocol: mqtt.proxy_protocol,
            open_s_max: mqtt.connect_s_max,
            ..ListenerConfig::default()
        };
        let web = ListenerConfig { web_socket: Some(web_socket), ..plain.clone() };
        let tls = Some(tls(settings));
        let secure = ListenerConfig { tls: tls.clone(), ..plain.clone() };
        let secure_web = ListenerConfig { tls, ..web.clone() };
        let kinds = [plain, web, secure, secure_web];
        let mut all = Vec::new();
        for ((name, _), kind) in addresses(settings).into_iter().zip(kinds) {
            all.extend(listeners.take(name).into_iter().map(|socket| (socket, kind.clone())));
        }
        let (security, limits) = (security(settings), limits(settings));
        Self { settings: settings.into(), security, limits, listeners: all }
    }
}

/// What `settings` say of connections.
pub(crate) fn limits(settings: &ProcessSettings) -> ConnectionLimits {
    let mqtt = &settings.mqtt;
    ConnectionLimits {
        connections_max: mqtt.connections_max,
        connections_per_address_max: mqtt.connections_per_address_max,
        connections_per_address_per_s: mqtt.connections_per_address_per_s,
    }
}

fn tls(settings: &ProcessSettings) -> TlsConfig {
    let tls = &settings.mqtt_tls;
    let authorities = &tls.client_authorities.0;
    TlsConfig {
        certificate: PathBuf::from(&tls.certificate.0),
        key: PathBuf::from(&tls.key.0),
        client_authorities: (!authorities.is_empty()).then(|| PathBuf::from(authorities)),
        client_certificate: match tls.client_certificate {
            said::ClientCertificate::None => ClientCertificate::None,
            said::ClientCertificate::Optional => ClientCertificate::Optional,
            said::ClientCertificate::Required => ClientCertificate::Required,
        },
        user_from_certificate: tls.user_from_certificate,
        only_tls13: tls.only_tls13,
    }
}

/// Users and rules of `settings`.
pub(crate) fn security(settings: &ProcessSettings) -> SecurityConfig {
    let security = &settings.security;
    let user = |user: &said::UserSettings| UserConfig {
        name: user.name.clone(),
        password_hash: user.password_hash.clone(),
        scram: user.scram.clone(),
    };
    let action = |action: &said::Action| match action {
        said::Action::Publish => Action::Publish,
        said::Action::Subscribe => Action::Subscribe,
    };
    let rule = |rule: &said::RuleSettings| RuleConfig {
        effect: match rule.effect {
            said::Effect::Allow => Effect::Allow,
            said::Effect::Deny => Effect::Deny,
        },
        users: rule.users.clone(),
        actions: rule.actions.iter().map(action).collect(),
        topics: rule.topics.clone(),
    };
    SecurityConfig {
        allow_anonymous: security.allow_anonymous,
        users: security.users.0.iter().map(user).collect(),
        client_ids: security.client_ids.0.clone(),
        rules: security.rules.0.iter().map(rule).collect(),
    }
}
