//! SCRAM-SHA-256 (RFC 5802, RFC 7677) from the server's side, sans I/O: two messages in, two out. The password itself
//! is never sent and never kept. Without channel binding. User names and passwords are taken as they are, without
//! `SASLprep`: the same for ASCII.

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

/// The mechanism's name.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// Fewest iterations taken (RFC 7677 §4).
pub const ITERATIONS_MIN: u32 = 4_096;
/// Most iterations taken: clients do the work.
pub const ITERATIONS_MAX: u32 = 1_000_000;
/// Random bytes of a nonce.
const NONCE_BYTES: usize = 18;
const KEY_BYTES: usize = 32;

/// What is kept of a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScramCredential {
    iterations: u32,
    salt: Vec<u8>,
    stored_key: [u8; KEY_BYTES],
    server_key: [u8; KEY_BYTES],
}

/// Why an exchange ends; never tells a client whether the user exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// A message that cannot be read.
    #[error("scram message is malformed")]
    Malformed,
    /// The client insists on channel binding or an extension.
    #[error("scram channel binding and extensions are not supported")]
    Unsupported,
    /// The proof is wrong, or there is no such user.
    #[error("scram proof is wrong")]
    Denied,
}

/// An exchange that waits for the client's final message.
pub struct Exchange {
    /// Who wants in.
    user: String,
    /// None: nobody of that name; it goes on all the same.
    credential: Option<ScramCredential>,
    /// The header that the final message must repeat.
    gs2_header: Vec<u8>,
    nonce: String,
    /// `client-first-message-bare , server-first-message ,`
    auth_message: String,
}

// === impl ScramCredential ===

impl ScramCredential {
    /// What is kept of `password`.
    #[must_use]
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let iterations = iterations.clamp(ITERATIONS_MIN, ITERATIONS_MAX);
        let rounds = std::num::NonZeroU32::new(iterations).unwrap_or(std::num::NonZeroU32::MIN);
        let mut salted = [0; KEY_BYTES];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, password, &mut salted);
        let client_key = mac(&salted, b"Client Key");
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: sha256(&client_key),
            server_key: mac(&salted, b"Server Key"),
        }
    }

    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>` (RFC 5803), as PostgreSQL writes it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(SCRAM_SHA_256)?.strip_prefix('$')?;
        let (parameters, keys) = rest.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let key = |text: &str| BASE64.decode(text).ok()?.try_into().ok();
        let iterations = iterations.parse().ok()?;
        (ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations).then_some(())?;
        Some(Self {
            iterations,
            salt: BASE64.decode(salt).ok().filter(|s| !s.is_empty())?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }

    /// As [`Self::parse`] reads it.
    #[must_use]
    pub fn encode(&self) -> String {
        let [salt, stored, server] =
            [&self.salt[..], &self.stored_key, &self.server_key].map(|b| BASE64.encode(b));
        format!("{SCRAM_SHA_256}${}:{salt}${stored}:{server}", self.iterations)
    }
}

// === impl Exchange ===

impl Exchange {
    /// Takes the client's first message; returns the answer. `find` gives the credential of a user; `secret` makes the
    /// salt of a user that does not exist, the same each time, so that nobody can tell.
    ///
    /// # Errors
    /// See [`ScramError`].
    pub fn begin(
        client_first: &[u8],
        secret: &[u8],
        find: impl FnOnce(&str) -> Option<ScramCredential>,
    ) -> Result<(Self, Vec<u8>), ScramError> {
        let text = std::str::from_utf8(client_first).map_err(|_| ScramError::Malformed)?;
        let mut parts = text.splitn(3, ',');
        let (flag, authorization) = (parts.next(), parts.next());
        let bare = parts.next().ok_or(ScramError::Malformed)?;
        match flag {
            Some("n" | "y") => {}
            Some(f) if f.starts_with("p=") => return Err(ScramError::Unsupported),
            _ => return Err(ScramError::Malformed),
        }
        if authorization != Some("") {
            return Err(ScramError::Unsupported); // to act as somebody else
        }
        let mut fields = bare.split(',');
        let user = fields.next().and_then(|f| f.strip_prefix("n=")).ok_or(ScramError::Malformed)?;
        let user = user.replace("=2C", ",").replace("=3D", "=");
        let own = fields.next().and_then(|f| f.strip_prefix("r=")).ok_or(ScramError::Malformed)?;
        if user.is_empty() || own.is_empty() || own.len() > 1_024 {
            return Err(ScramError::Malformed);
        }
        let mut random = [0; NONCE_BYTES];
        rand::fill(&mut random).map_err(|_| ScramError::Denied)?;
        let nonce = format!("{own}{}", BASE64.encode(random));
        let credential = find(&user);
        let (salt, iterations) = match &credential {
            Some(c) => (BASE64.encode(&c.salt), c.iterations),
            None => (BASE64.encode(&mac(secret, user.as_bytes())[..16]), ITERATIONS_MIN),
        };
        let answer = format!("r={nonce},s={salt},i={iterations}");
        let auth_message = format!("{bare},{answer},");
        let gs2_header = client_first[..client_first.len() - bare.len()].to_vec();
        Ok((Self { user, credential, gs2_header, nonce, auth_message }, answer.into_bytes()))
    }

    /// Takes the client's final message; returns who it is, and the answer that proves us to him.
    ///
    /// # Errors
    /// See [`ScramError`].
    pub fn finish(self, client_final: &[u8]) -> Result<(String, Vec<u8>), ScramError> {
        let text = std::str::from_utf8(client_final).map_err(|_| ScramError::Malformed)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(ScramError::Malformed)?;
        let mut fields = without_proof.split(',');
        let binding =
            fields.next().and_then(|f| f.strip_prefix("c=")).ok_or(ScramError::Malformed)?;
        let nonce =
            fields.next().and_then(|f| f.strip_prefix("r=")).ok_or(ScramError::Malformed)?;
        let binding = BASE64.decode(binding).map_err(|_| ScramError::Malformed)?;
        if binding != self.gs2_header || nonce != self.nonce {
            return Err(ScramError::Denied);
        }
        let proof = BASE64.decode(proof).map_err(|_| ScramError::Malformed)?;
        let proof: [u8; KEY_BYTES] = proof.try_into().map_err(|_| ScramError::Malformed)?;
        let credential = self.credential.ok_or(ScramError::Denied)?;
        let auth_message = self.auth_message + without_proof;
        let signature = mac(&credential.stored_key, auth_message.as_bytes());
        let client_key: Vec<u8> = proof.iter().zip(signature).map(|(p, s)| p ^ s).collect();
        constant_time::verify_slices_are_equal(&sha256(&client_key), &credential.stored_key)
            .map_err(|_| ScramError::Denied)?;
        let verifier = BASE64.encode(mac(&credential.server_key, auth_message.as_bytes()));
        Ok((self.user, format!("v={verifier}").into_bytes()))
    }
}

fn mac(key: &[u8], message: &[u8]) -> [u8; KEY_BYTES] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    let mut bytes = [0; KEY_BYTES];
    bytes.copy_from_slice(tag.as_ref());
    bytes
}

fn sha256(message: &[u8]) -> [u8; KEY_BYTES] {
    let mut bytes = [0; KEY_BYTES];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, message).as_ref());
    bytes
}

#[cfg(test)]
mod tests;
