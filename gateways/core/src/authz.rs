//! Who may publish and subscribe to what: ordered rules over topic patterns (design §9), the same for every protocol.
//!
//! The first rule that fits decides. A pattern is a topic filter in which `%u` stands for the user name and `%c` for the
//! client id. For a publish, and for every single message before it is delivered, a pattern fits if it matches the
//! topic; for a subscription, if everything the filter matches lies within the pattern. So `deny a/secret` before
//! `allow a/#` lets a client subscribe to `a/#`, and keeps `a/secret` from it.

use std::cell::Cell;
use std::rc::Rc;

use fluxmq_names::{filter_matches, validate_filter};

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It may be done.
    Allow,
    /// It may not.
    Deny,
}

/// What is to be done with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send messages to it.
    Publish,
    /// Get messages from it.
    Subscribe,
}

/// A rule as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleConfig {
    /// What it says.
    pub effect: Effect,
    /// Users it is for; empty = everybody, also those without a name.
    pub users: Vec<String>,
    /// Actions it is for; empty = all.
    pub actions: Vec<Action>,
    /// Topic patterns it is for.
    pub topics: Vec<String>,
}

// === impl RuleConfig ===

impl RuleConfig {
    /// What is wrong with it, a line each.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let bad = self.topics.iter().filter(|t| validate_filter(t).is_err());
        let mut all: Vec<_> = bad.map(|t| format!("{t:?} is no topic filter")).collect();
        if self.topics.is_empty() {
            all.push("a rule needs topics; \"#\" means all".into());
        }
        all
    }

    fn is_for(&self, user: Option<&str>) -> bool {
        self.users.is_empty() || user.is_some_and(|user| self.users.iter().any(|u| u == user))
    }
}

// === impl Rules ===

impl Rules {
    /// The first rule that fits decides.
    fn allow(&self, fits: impl Fn(&Rule) -> bool) -> bool {
        let first = self.rules.iter().find(|r| fits(r));
        first.map_or(self.otherwise, |r| r.effect) == Effect::Allow
    }
}

/// A rule for one client.
#[derive(Clone)]
struct Rule {
    effect: Effect,
    publish: bool,
    subscribe: bool,
    pattern: Box<str>,
}

/// What one client may do, which may change while it is connected.
#[derive(Default)]
pub struct Access {
    /// None: everything. Empty while it is looked at, which nothing does twice at once: a `RefCell` would be larger, and
    /// every connection has one.
    rules: Cell<Option<Rc<Rules>>>,
}

#[derive(Clone)]
struct Rules {
    rules: Vec<Rule>,
    otherwise: Effect,
    /// A subscription may be wider than what the client may get.
    filters_deliveries: bool,
}

// === impl Access ===

impl Access {
    /// What `user` with `client_id` may do by `rules`; `otherwise` where none fits.
    #[must_use]
    pub fn new(
        rules: &[RuleConfig],
        otherwise: Effect,
        user: Option<&str>,
        client_id: &str,
    ) -> Self {
        if rules.is_empty() && otherwise == Effect::Allow {
            return Self::default();
        }
        let mut own = Vec::new();
        for config in rules.iter().filter(|r| r.is_for(user)) {
            let is_for = |action| config.actions.is_empty() || config.actions.contains(&action);
            for topic in &config.topics {
                let Some(pattern) = fill_in(topic, config.effect, user, client_id) else {
                    continue;
                };
                own.push(Rule {
                    effect: config.effect,
                    publish: is_for(Action::Publish),
                    subscribe: is_for(Action::Subscribe),
                    pattern: pattern.into(),
                });
            }
        }
        let filters_deliveries = own.iter().any(|r| r.subscribe && r.effect == Effect::Deny);
        let rules = Rules { rules: own, otherwise, filters_deliveries };
        Self { rules: Cell::new(Some(Rc::new(rules))) }
    }

    /// From now on the client may do what `other` says. It may have subscribed to more: each delivery is looked at.
    pub fn replace(&self, other: Self) {
        let rules = other.rules.take().map(|rules| {
            let mut rules = Rc::unwrap_or_clone(rules);
            rules.filters_deliveries = true;
            Rc::new(rules)
        });
        self.rules.set(rules);
    }

    /// Whether a message may be sent to `topic`.
    #[must_use]
    pub fn may_publish(&self, topic: &str) -> bool {
        self.decide(|r| r.publish && filter_matches(&r.pattern, topic))
    }

    /// Whether `filter` (of a shared subscription: the part behind the group) may be subscribed to.
    #[must_use]
    pub fn may_subscribe(&self, filter: &str) -> bool {
        self.decide(|r| r.subscribe && covers(&r.pattern, filter))
    }

    /// Whether a message of `topic` may be delivered to who may subscribe.
    #[inline]
    #[must_use]
    pub fn may_receive(&self, topic: &str) -> bool {
        self.with_rules(|all| {
            !all.filters_deliveries
                || all.allow(|r| r.subscribe && filter_matches(&r.pattern, topic))
        })
    }

    fn decide(&self, fits: impl Fn(&Rule) -> bool) -> bool {
        self.with_rules(|all| all.allow(fits))
    }

    fn with_rules(&self, allow: impl FnOnce(&Rules) -> bool) -> bool {
        let rules = self.rules.take();
        let allowed = rules.as_deref().is_none_or(allow);
        self.rules.set(rules);
        allowed
    }
}

/// `pattern` with user and client id filled in. A name with a wildcard or a `/` in it would fit more than its owner's
/// topics: it allows nothing, and denies for every name.
fn fill_in(pattern: &str, effect: Effect, user: Option<&str>, id: &str) -> Option<String> {
    let mut filled = pattern.to_owned();
    for (mark, name) in [("%u", user.unwrap_or_default()), ("%c", id)] {
        if !filled.contains(mark) {
            continue;
        }
        if !name.is_empty() && !name.contains(['+', '#', '/']) {
            filled = filled.replace(mark, name);
        } else if effect == Effect::Allow {
            return None;
        } else {
            let wide =
                |level: &str| if level.contains(mark) { "+".into() } else { level.to_owned() };
            filled = filled.split('/').map(wide).collect::<Vec<_>>().join("/");
        }
    }
    Some(filled)
}

/// Whether everything that `filter` matches is matched by `pattern`.
fn covers(pattern: &str, filter: &str) -> bool {
    if filter.starts_with('$') && pattern.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = filter.split('/');
    for want in pattern.split('/') {
        match (want, levels.next()) {
            ("#", _) => return true,
            ("+", Some(level)) if level != "#" => {}
            (want, Some(level)) if want == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(effect: Effect, users: &[&str], actions: &[Action], topics: &[&str]) -> RuleConfig {
        let owned = |all: &[&str]| all.iter().map(|t| (*t).to_owned()).collect();
        RuleConfig { effect, users: owned(users), actions: actions.to_vec(), topics: owned(topics) }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = [
            rule(Effect::Deny, &[], &[Action::Subscribe], &["a/secret"]),
            rule(Effect::Allow, &["ann"], &[], &["a/#"]),
            rule(Effect::Allow, &[], &[Action::Publish], &["%c/+", "%u/x"]),
        ];
        let ann = Access::new(&rules, Effect::Deny, Some("ann"), "c1");
        assert!(ann.may_publish("a/secret") && ann.may_publish("c1/t") && ann.may_publish("ann/x"));
        assert!(!ann.may_publish("b") && !ann.may_publish("c2/t"));
        assert!(ann.may_subscribe("a/#") && ann.may_subscribe("a/+/b"));
        assert!(!ann.may_subscribe("#") && !ann.may_subscribe("a/secret"));
        assert!(ann.may_receive("a/b") && !ann.may_receive("a/secret"));
        let nobody = Access::new(&rules, Effect::Deny, None, "c1");
        assert!(!nobody.may_subscribe("a/b") && nobody.may_publish("c1/t"));
        assert!(!nobody.may_publish("/x"), "no name is no level");
        let open = Access::new(&rules, Effect::Allow, None, "c1");
        assert!(open.may_subscribe("#") && !open.may_receive("a/secret") && open.may_receive("q"));
        let free = Access::default();
        assert!(free.may_publish("x") && free.may_subscribe("#") && free.may_receive("y"));
    }

    #[test]
    fn what_a_client_may_do_changes() {
        let allow = |topic: &str| {
            Access::new(&[rule(Effect::Allow, &[], &[], &[topic])], Effect::Deny, None, "c")
        };
        let access = Access::default();
        assert!(access.may_receive("a"));
        access.replace(allow("b"));
        assert!(access.may_publish("b") && !access.may_publish("a") && !access.may_subscribe("a"));
        assert!(access.may_receive("b") && !access.may_receive("a"), "it was subscribed to before");
        access.replace(Access::default());
        assert!(access.may_receive("a") && access.may_publish("a"));
    }

    #[test]
    fn a_name_cannot_widen_a_pattern() {
        let allow = [rule(Effect::Allow, &[], &[], &["%c/#"])];
        for id in ["#", "+", "a/b", ""] {
            let access = Access::new(&allow, Effect::Deny, None, id);
            assert!(!access.may_subscribe("x/#") && !access.may_publish("a/b/c"), "{id}");
        }
        let deny = [rule(Effect::Deny, &[], &[], &["secret/%c/#"])];
        let access = Access::new(&deny, Effect::Allow, None, "+");
        assert!(!access.may_publish("secret/x/y") && access.may_publish("other/x"));
    }

    #[test]
    fn a_pattern_covers_what_lies_within_it() {
        for (pattern, filter, want) in [
            ("#", "#", true),
            ("#", "a/+/#", true),
            ("#", "$SYS/#", false),
            ("+", "#", false),
            ("+/b", "+/b", true),
            ("a/+", "a/#", false),
            ("a/#", "a", true),
            ("a/#", "a/#", true),
            ("a", "+", false),
            ("a/+/c", "a/b/c", true),
            ("a", "a/b", false),
            ("a/b", "a", false),
        ] {
            assert_eq!(covers(pattern, filter), want, "{pattern} {filter}");
        }
    }

    #[test]
    fn a_rule_says_what_is_wrong_with_it() {
        assert_eq!(rule(Effect::Allow, &[], &[], &["a#", "b/#"]).problems().len(), 1);
        assert_eq!(rule(Effect::Allow, &[], &[], &[]).problems().len(), 1);
    }
}
