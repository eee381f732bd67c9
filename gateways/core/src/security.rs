//! Who a client is, and what it may do: the `security` settings of every protocol (design §9).

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use aws_lc_rs::{hmac, rand};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::authz::{Access, Effect, RuleConfig};
use crate::scram::{Exchange, ScramCredential, ScramError};

/// Passwords checked at once on one routing thread: each takes a core for tens of ms.
const CHECKS_MAX: usize = 2;
/// How long a password that was right needs no checking again.
const REMEMBERED_FOR: Duration = Duration::from_secs(300);
/// Passwords remembered; beyond it the oldest half is forgotten.
const REMEMBERED_MAX: usize = 10_000;

/// A user as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserConfig {
    /// User name.
    pub name: String,
    /// Argon2 hash of the password in PHC form (`$argon2id$v=19$…`), as [`hash_password`] makes it; none = no password.
    pub password_hash: Option<String>,
    /// SCRAM-SHA-256 credential, as [`ScramCredential::encode`] writes it; none = no SCRAM.
    pub scram: Option<String>,
}

/// Users and rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecurityConfig {
    /// Clients without user name are let in although there are users.
    pub allow_anonymous: bool,
    /// The users. Without any, everybody is let in under any name and password.
    pub users: Vec<UserConfig>,
    /// Client ids that may be used: `%u` is the user name, `*` anything. None = any.
    pub client_ids: Vec<String>,
    /// What may be done. Where no rule fits it is denied once there is a user, else allowed.
    pub rules: Vec<RuleConfig>,
}

/// How a client shows who it is.
#[derive(Clone, Copy, Debug)]
pub enum Credentials<'a> {
    /// It does not.
    None,
    /// By a name and perhaps a password.
    Password {
        /// User name.
        user: &'a str,
        /// Empty when there is none.
        password: &'a [u8],
    },
    /// By a certificate that TLS has checked, or another proof made before.
    Proven {
        /// User name.
        user: &'a str,
    },
}

/// The credentials are wrong, or missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad user name or password")]
pub struct Denied;

struct User {
    password_hash: Option<String>,
    scram: Option<ScramCredential>,
}

/// What is checked for users that do not exist or have no password, so that they take as long. Takes tens of ms to make.
pub struct Decoy(Option<String>);

// === impl Decoy ===

impl Decoy {
    /// Makes one.
    #[must_use]
    pub fn make() -> Self {
        Self(hash_password(b"decoy"))
    }
}

/// Users and rules, checked. One per routing thread.
pub struct Security {
    allow_anonymous: bool,
    users: HashMap<String, User>,
    client_ids: Vec<String>,
    rules: Vec<RuleConfig>,
    /// Keys of what is remembered, and salts of users that do not exist.
    secret: hmac::Key,
    remembered: RefCell<HashMap<Box<[u8]>, Instant>>,
    checks: Semaphore,
    /// What is checked for users without a password, so that they take as long.
    decoy: String,
}

// === impl Security ===

impl Security {
    /// Checks all of `config`.
    ///
    /// # Errors
    /// Everything that is wrong with it, a line each.
    pub fn new(config: SecurityConfig) -> Result<Rc<Self>, Vec<String>> {
        let decoy =
            if config.users.is_empty() { Decoy(Some(String::new())) } else { Decoy::make() };
        Self::with_decoy(config, decoy)
    }

    /// As [`Self::new`], with a decoy that was made before.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_decoy(config: SecurityConfig, decoy: Decoy) -> Result<Rc<Self>, Vec<String>> {
        let mut problems = Vec::new();
        let mut users = HashMap::new();
        for user in config.users {
            let name = &user.name;
            if name.is_empty() {
                problems.push("a user needs a name".into());
            }
            if user.password_hash.as_ref().is_some_and(|h| PasswordHash::new(h).is_err()) {
                problems.push(format!("user {name:?}: password_hash is no argon2 hash"));
            }
            let scram = user.scram.as_deref().map(ScramCredential::parse);
            if scram == Some(None) {
                problems.push(format!("user {name:?}: scram is no SCRAM-SHA-256 credential"));
            }
            let known = User { password_hash: user.password_hash, scram: scram.flatten() };
            if users.insert(user.name.clone(), known).is_some() {
                problems.push(format!("user {name:?} stands twice", name = user.name));
            }
        }
        for (n, rule) in config.rules.iter().enumerate() {
            problems.extend(rule.problems().iter().map(|p| format!("rule {}: {p}", n + 1)));
        }
        let secret = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new());
        let (Some(decoy), Ok(secret)) = (decoy.0, secret) else {
            problems.push("the system gives no random bytes".into());
            return Err(problems);
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Rc::new(Self {
            allow_anonymous: config.allow_anonymous,
            users,
            client_ids: config.client_ids,
            rules: config.rules,
            secret,
            remembered: RefCell::default(),
            checks: Semaphore::new(CHECKS_MAX),
            decoy,
        }))
    }

    /// Everybody may do everything.
    ///
    /// # Panics
    /// If the system gives no random bytes.
    #[must_use]
    pub fn open() -> Rc<Self> {
        Self::new(SecurityConfig::default()).expect("nothing is configured that could be wrong")
    }

    /// Whether who was let in as `user`, None without a name, would be let in still. Who showed a certificate needs not be
    /// among the users.
    #[must_use]
    pub fn knows(&self, user: Option<&str>) -> bool {
        self.users.is_empty()
            || user.map_or(self.allow_anonymous, |user| self.users.contains_key(user))
    }

    /// Whether there is somebody who can prove himself by SCRAM.
    #[must_use]
    pub fn has_scram(&self) -> bool {
        self.users.values().any(|u| u.scram.is_some())
    }

    /// The user's name, None for a client without one.
    ///
    /// # Errors
    /// The credentials are wrong, or needed and missing.
    pub async fn authenticate(
        &self,
        credentials: Credentials<'_>,
    ) -> Result<Option<String>, Denied> {
        match credentials {
            Credentials::Proven { user } => Ok(Some(user.to_owned())),
            Credentials::Password { user, .. } if self.users.is_empty() => {
                Ok(Some(user.to_owned()))
            }
            Credentials::Password { user, password } => {
                self.check(user, password).await.then(|| Some(user.to_owned())).ok_or(Denied)
            }
            Credentials::None if self.users.is_empty() || self.allow_anonymous => Ok(None),
            Credentials::None => Err(Denied),
        }
    }

    /// What `user` with `client_id` may do.
    #[must_use]
    pub fn access(&self, user: Option<&str>, client_id: &str) -> Access {
        let otherwise = if self.users.is_empty() { Effect::Allow } else { Effect::Deny };
        Access::new(&self.rules, otherwise, user, client_id)
    }

    /// Whether `user` may use `client_id`. A pattern with `%u` fits nobody who has no name.
    #[must_use]
    pub fn may_use(&self, user: Option<&str>, client_id: &str) -> bool {
        self.client_ids.is_empty() || self.client_ids.iter().any(|p| fits(p, user, client_id))
    }

    /// Begins a SCRAM exchange.
    ///
    /// # Errors
    /// See [`ScramError`].
    pub fn begin_scram(&self, client_first: &[u8]) -> Result<(Exchange, Vec<u8>), ScramError> {
        let secret = hmac::sign(&self.secret, b"salt");
        Exchange::begin(client_first, secret.as_ref(), |user| self.users.get(user)?.scram.clone())
    }

    async fn check(&self, user: &str, password: &[u8]) -> bool {
        let key = self.key(user, password);
        let now = Instant::now();
        if self.remembered.borrow().get(&key).is_some_and(|until| *until > now) {
            return true;
        }
        let known = self.users.get(user).and_then(|u| u.password_hash.clone());
        let exists = known.is_some();
        let hash = known.unwrap_or_else(|| self.decoy.clone());
        let password = password.to_vec();
        let Ok(_permit) = self.checks.acquire().await else { return false };
        let check = move || {
            let verify = |h| Argon2::default().verify_password(&password, &h).is_ok();
            PasswordHash::new(&hash).is_ok_and(verify)
        };
        let right = tokio::task::spawn_blocking(check).await.unwrap_or(false) && exists;
        if right {
            self.remember(key, Instant::now());
        }
        right
    }

    fn key(&self, user: &str, password: &[u8]) -> Box<[u8]> {
        let mut context = hmac::Context::with_key(&self.secret);
        context.update(&(user.len() as u64).to_le_bytes());
        context.update(user.as_bytes());
        context.update(password);
        context.sign().as_ref().into()
    }

    fn remember(&self, key: Box<[u8]>, now: Instant) {
        let mut remembered = self.remembered.borrow_mut();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, until| *until > now + REMEMBERED_FOR / 2);
        }
        if remembered.len() < REMEMBERED_MAX {
            remembered.insert(key, now + REMEMBERED_FOR);
        }
    }
}

/// Whether `text` is what `pattern` says: `%u` the user, `*` anything.
fn fits(pattern: &str, user: Option<&str>, text: &str) -> bool {
    if user.is_none() && pattern.contains("%u") {
        return false;
    }
    // The user's name is put into the parts: a `*` in it is no wildcard.
    let mut parts: Vec<_> =
        pattern.split('*').map(|part| part.replace("%u", user.unwrap_or_default())).collect();
    let last = parts.pop().unwrap_or_default();
    if parts.is_empty() {
        return text == last;
    }
    let mut rest = text;
    for (n, part) in parts.iter().enumerate() {
        let found = rest.find(&**part).filter(|at| n > 0 || *at == 0);
        let Some(at) = found else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(&last)
}

/// The Argon2id hash of a password with a fresh salt, in PHC form; None when the system gives no random bytes.
#[must_use]
pub fn hash_password(password: &[u8]) -> Option<String> {
    Argon2::default().hash_password(password).ok().map(|h| h.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, password: &str) -> UserConfig {
        UserConfig {
            name: name.into(),
            password_hash: hash_password(password.as_bytes()),
            scram: None,
        }
    }

    fn password<'a>(user: &'a str, password: &'a str) -> Credentials<'a> {
        Credentials::Password { user, password: password.as_bytes() }
    }

    #[tokio::test]
    async fn without_users_everybody_is_let_in() {
        let security = Security::open();
        assert_eq!(security.authenticate(Credentials::None).await, Ok(None));
        let named = security.authenticate(password("any", "thing")).await;
        assert_eq!(named, Ok(Some("any".into())));
        assert!(security.access(None, "c").may_publish("x"));
    }

    #[tokio::test]
    async fn with_users_only_they_are() {
        let users =
            vec![user("ann", "right"), UserConfig { name: "bob".into(), ..UserConfig::default() }];
        let config = SecurityConfig { users, ..SecurityConfig::default() };
        let security = Security::new(config.clone()).expect("valid");
        for _ in 0..2 {
            // The second time from memory.
            let good = security.authenticate(password("ann", "right")).await;
            assert_eq!(good, Ok(Some("ann".into())));
        }
        for (name, pass) in [("ann", "wrong"), ("bob", ""), ("bob", "decoy"), ("eve", "right")] {
            assert_eq!(security.authenticate(password(name, pass)).await, Err(Denied), "{name}");
        }
        assert_eq!(security.authenticate(Credentials::None).await, Err(Denied));
        assert!(!security.access(Some("ann"), "c").may_publish("x"), "no rule allows it");
        let open = SecurityConfig { allow_anonymous: true, ..config };
        let open = Security::new(open).expect("valid");
        assert_eq!(open.authenticate(Credentials::None).await, Ok(None));
    }

    #[test]
    fn client_ids_are_those_of_the_user() {
        let config = |client_ids: &[&str]| SecurityConfig {
            client_ids: client_ids.iter().map(|p| (*p).into()).collect(),
            ..SecurityConfig::default()
        };
        let any = Security::new(config(&[])).expect("valid");
        assert!(any.may_use(None, "x") && any.may_use(Some("ann"), "bob"));
        let own = Security::new(config(&["%u", "%u:*", "shared-*-1"])).expect("valid");
        for id in ["ann", "ann:", "ann:x:y", "shared-x-1", "shared--1"] {
            assert!(own.may_use(Some("ann"), id), "{id}");
        }
        for id in ["bob", "bob:x", "ann-x", "xann:", "", "shared-1", "shared-x-2"] {
            assert!(!own.may_use(Some("ann"), id), "{id}");
        }
        assert!(own.may_use(None, "shared-x-1") && !own.may_use(None, ":x"));
        assert!(!own.may_use(None, "") && !own.may_use(Some("a*"), "abc"));
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let mut bad = user("", "x");
        bad.password_hash = Some("plain".into());
        bad.scram = Some("plain".into());
        let rule = RuleConfig {
            effect: Effect::Allow,
            users: Vec::new(),
            actions: Vec::new(),
            topics: vec!["a#".into()],
        };
        let users = vec![bad, user("ann", "1"), user("ann", "2")];
        let config = SecurityConfig { users, rules: vec![rule], ..SecurityConfig::default() };
        let problems = Security::new(config).map(|_| ()).expect_err("much is wrong");
        assert_eq!(problems.len(), 5, "{problems:#?}");
    }
}
