//! Who a client is: by name and password, by the certificate TLS has checked, or by an exchange of AUTH packets
//! (MQTT 5 §4.12), which may be repeated later.

use std::cell::RefCell;
use std::rc::Rc;

use gateway_core::scram::{Exchange, SCRAM_SHA_256, ScramError};
use gateway_core::security::{Credentials, Security};
use mqtt_codec::encode::{self, property};
use mqtt_codec::{Auth, Connect, Packet, PropertyId, ReasonCode, Value, Version};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::client::{Client, Close};
use crate::greeting::{Greeting, Refused};

/// Bytes of an AUTH packet.
const AUTH_BYTES_MAX: u32 = 8 * 1024;

/// Who a client is.
pub(crate) struct Identity {
    pub(crate) user: Box<str>,
    /// It was shown by SCRAM, and may be again, by the users there are then.
    pub(crate) scram: Option<RefCell<Rc<Security>>>,
    /// It was shown by a certificate.
    pub(crate) certified: bool,
}

/// Finds out who sends `connect`. Properties that CONNACK must have because of it are appended to `answer`.
pub(crate) async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    greeting: &mut Greeting<'_, S>,
    security: &Rc<Security>,
    connect: &Connect<'_>,
    answer: &mut Vec<u8>,
) -> Result<Option<Box<Identity>>, Refused> {
    if let Some(method) = connect.properties.text(PropertyId::AUTH_METHOD) {
        if method != SCRAM_SHA_256 || !security.has_scram() {
            return Err(Refused::told(ReasonCode::BAD_AUTHENTICATION_METHOD));
        }
        let data = connect.properties.binary(PropertyId::AUTH_DATA).unwrap_or_default();
        let user = exchange(greeting, security, data, answer).await?;
        let scram = Some(RefCell::new(security.clone()));
        return Ok(Some(Box::new(Identity { user: user.into(), scram, certified: false })));
    }
    let certified = greeting.peer.certificate_user.clone();
    let credentials = match (&certified, connect.username) {
        (Some(user), _) => Credentials::Proven { user },
        (None, Some(user)) => {
            let password = connect.password.unwrap_or_default();
            Credentials::Password { user, password }
        }
        (None, None) => Credentials::None,
    };
    match security.authenticate(credentials).await {
        Ok(user) => Ok(user.map(|user| {
            let certified = certified.is_some();
            Box::new(Identity { user: user.into(), scram: None, certified })
        })),
        Err(_) if connect.username.is_none() => Err(Refused::told(ReasonCode::NOT_AUTHORIZED)),
        Err(_) => Err(Refused::told(ReasonCode::BAD_USER_NAME_OR_PASSWORD)),
    }
}

/// One AUTH each way between CONNECT and CONNACK.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    greeting: &mut Greeting<'_, S>,
    security: &Security,
    client_first: &[u8],
    answer: &mut Vec<u8>,
) -> Result<String, Refused> {
    let (exchange, server_first) = security.begin_scram(client_first).map_err(refusal)?;
    let mut out = Vec::new();
    write_auth(&mut out, ReasonCode::CONTINUE_AUTHENTICATION, &server_first);
    greeting.write(&out).await?;
    let bytes = greeting.read_packet(AUTH_BYTES_MAX).await?;
    let packet = Packet::decode(&bytes, Version::V5).map_err(Refused::broken)?;
    let auth = match packet {
        Packet::Auth(auth) => auth,
        Packet::Disconnect(_) => return Err(Refused::Gone),
        _ => return Err(Refused::told(ReasonCode::PROTOCOL_ERROR)), // MQTT-3.1.2-30
    };
    if auth.reason != ReasonCode::CONTINUE_AUTHENTICATION || !has_method(&auth) {
        return Err(Refused::told(ReasonCode::PROTOCOL_ERROR));
    }
    let data = auth.properties.binary(PropertyId::AUTH_DATA).unwrap_or_default();
    let (user, server_final) = exchange.finish(data).map_err(refusal)?;
    put_method(answer, &server_final);
    Ok(user)
}

fn refusal(error: ScramError) -> Refused {
    match error {
        ScramError::Malformed => Refused::told(ReasonCode::PROTOCOL_ERROR),
        ScramError::Unsupported => Refused::told(ReasonCode::BAD_AUTHENTICATION_METHOD),
        ScramError::Denied => Refused::told(ReasonCode::NOT_AUTHORIZED),
    }
}

fn has_method(auth: &Auth<'_>) -> bool {
    auth.properties.text(PropertyId::AUTH_METHOD) == Some(SCRAM_SHA_256)
}

/// Method (MQTT-4.12.0-5) and data.
fn put_method(out: &mut Vec<u8>, data: &[u8]) {
    property(out, PropertyId::AUTH_METHOD, Value::Text(SCRAM_SHA_256));
    property(out, PropertyId::AUTH_DATA, Value::Binary(data));
}

fn write_auth(out: &mut Vec<u8>, reason: ReasonCode, data: &[u8]) {
    let mut properties = Vec::new();
    put_method(&mut properties, data);
    encode::auth(out, reason, &properties);
}

// === impl Client ===

impl Client {
    /// Users and rules are others: what the client does next is up to them, and whoever is not let in any more goes.
    pub(crate) fn judge_again(&self, security: &Rc<Security>) {
        let identity = self.terms.identity.as_deref();
        let user = identity.map(|identity| &*identity.user);
        if let Some(scram) = identity.and_then(|identity| identity.scram.as_ref()) {
            *scram.borrow_mut() = security.clone();
        }
        self.terms.access.replace(security.access(user, &self.terms.client_id));
        if let Some(inbound) = self.inbound.borrow_mut().as_deref_mut() {
            inbound.forget_verdicts();
        }
        if !security.knows(user) && !identity.is_some_and(|identity| identity.certified) {
            self.close(Close::ByServer(ReasonCode::NOT_AUTHORIZED));
        }
    }

    /// AUTH from a client that is in: it shows again who it is (MQTT 5 §4.12.1).
    pub(crate) fn reauthenticate(&self, auth: &Auth<'_>) -> Result<(), Close> {
        const BROKEN: Close = Close::ByServer(ReasonCode::PROTOCOL_ERROR);
        const DENIED: Close = Close::ByServer(ReasonCode::NOT_AUTHORIZED);
        let identity = self.terms.identity.as_deref().filter(|_| has_method(auth));
        let Some((security, known)) =
            identity.and_then(|i| Some((i.scram.as_ref()?.borrow(), &*i.user)))
        else {
            return Err(BROKEN); // MQTT-4.12.0-7, MQTT-4.12.1-1
        };
        let data = auth.properties.binary(PropertyId::AUTH_DATA).unwrap_or_default();
        let mut inbound = self.inbound.borrow_mut();
        let inbound = inbound.get_or_insert_default();
        let (reason, data) = match (auth.reason, inbound.exchange.take()) {
            (ReasonCode::REAUTHENTICATE, _) => {
                let (exchange, data) = security.begin_scram(data).map_err(|_| DENIED)?;
                inbound.exchange = Some(Box::new(exchange));
                (ReasonCode::CONTINUE_AUTHENTICATION, data)
            }
            (ReasonCode::CONTINUE_AUTHENTICATION, Some(exchange)) => {
                let exchange: Exchange = *exchange;
                let (user, data) = exchange.finish(data).map_err(|_| DENIED)?;
                if user != known {
                    return Err(DENIED);
                }
                (ReasonCode::SUCCESS, data)
            }
            _ => return Err(BROKEN),
        };
        write_auth(self.out.borrow_mut().writer(&self.worker), reason, &data);
        Ok(())
    }
}
