//! What is announced of many filters: a first level with more than [`FILTERS_MAX`] below it is announced as one filter,
//! `level/#`, and this gateway filters at delivery (R1).

use std::collections::{BTreeMap, HashMap};

use fluxmq_client::contract::{Change, Class};

/// Filters below one first level that are announced each.
const FILTERS_MAX: usize = 1_000;
/// So few are announced each again.
const FILTERS_FEW: usize = FILTERS_MAX / 2;

/// The filters below one first level.
#[derive(Default)]
struct Group {
    filters: HashMap<Box<str>, Class>,
    /// How many of them are of class `all`.
    all: usize,
    /// What is announced instead of them.
    as_one: Option<Class>,
}

/// What was announced, by virtual host and first level.
#[derive(Default)]
pub(super) struct Prefixes {
    groups: BTreeMap<(Box<str>, Box<str>), Group>,
}

/// The first level of a filter that has one without a wildcard. Of a shared subscription everybody has to know the group.
fn first_level(filter: &str) -> Option<&str> {
    let first = filter.split('/').next().unwrap_or_default();
    (first != "$share" && !first.contains(['+', '#'])).then_some(first)
}

// === impl Prefixes ===

impl Prefixes {
    /// Nothing is announced any more.
    pub(super) fn clear(&mut self) {
        self.groups.clear();
    }

    /// What is to be announced of filters that changed.
    pub(super) fn announce(&mut self, changes: Vec<Change>) -> Vec<Change> {
        let mut out = Vec::new();
        for change in changes {
            let Some(first) = first_level(&change.filter) else {
                out.push(change);
                continue;
            };
            let key = (change.vhost.as_str().into(), first.into());
            let group = self.groups.entry(key.clone()).or_default();
            group.set(&change);
            group.say(change, &key.1, &mut out);
            if group.filters.is_empty() {
                self.groups.remove(&key);
            }
        }
        out
    }
}

// === impl Group ===

impl Group {
    fn set(&mut self, change: &Change) {
        let before = match change.class {
            Class::Gone => self.filters.remove(&*change.filter),
            class => self.filters.insert(change.filter.as_str().into(), class),
        };
        self.all -= usize::from(before == Some(Class::All));
        self.all += usize::from(change.class == Class::All);
    }

    fn say(&mut self, change: Change, first: &str, out: &mut Vec<Change>) {
        let vhost = change.vhost.clone();
        let one = |class| Change { vhost: vhost.clone(), filter: format!("{first}/#"), class };
        let each = |filter: &str, class: &Class| Change {
            vhost: vhost.clone(),
            filter: filter.to_string(),
            class: *class,
        };
        let gone = |c: Change| Change { class: Class::Gone, ..c };
        let class = if self.all > 0 { Class::All } else { Class::Zero };
        match self.as_one {
            None if self.filters.len() > FILTERS_MAX => {
                // In one version: no topic is without.
                out.extend(self.filters.iter().map(|(f, c)| gone(each(f, c))));
                out.push(one(class));
                self.as_one = Some(class);
            }
            // A fault planted to prove that the chaos harness finds it (design §12).
            None if fluxmq_names::planted!("filter_not_announced")
                && self.filters.len() % 50 == 7 => {}
            None => out.push(change),
            Some(_) if self.filters.len() <= FILTERS_FEW => {
                out.push(one(Class::Gone));
                out.extend(self.filters.iter().map(|(f, c)| each(f, c)));
                self.as_one = None;
            }
            Some(said) if said != class => {
                out.push(one(class));
                self.as_one = Some(class);
            }
            // Who subscribes waits for a version that carries it, if only to have others look at what they have under way.
            Some(_) if change.class != Class::Gone && out.last() != Some(&one(class)) => {
                out.push(one(class));
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(filter: &str, class: Class) -> Change {
        Change { vhost: "/".into(), filter: filter.into(), class }
    }

    /// What somebody has who was told everything.
    #[derive(Default)]
    struct Told(HashMap<String, Class>);

    impl Told {
        fn hear(&mut self, changes: Vec<Change>) {
            for c in changes {
                match c.class {
                    Class::Gone => drop(self.0.remove(&c.filter)),
                    class => drop(self.0.insert(c.filter, class)),
                }
            }
        }
    }

    #[test]
    fn many_are_announced_as_one_and_few_again_each() {
        let (mut prefixes, mut told) = (Prefixes::default(), Told::default());
        told.hear(prefixes.announce(vec![change("+/x", Class::All), change("b/1", Class::All)]));
        for n in 0..=FILTERS_MAX {
            told.hear(prefixes.announce(vec![change(&format!("a/{n}"), Class::Zero)]));
        }
        let expected = [("+/x", Class::All), ("a/#", Class::Zero), ("b/1", Class::All)];
        let expected = expected.map(|(f, c)| (f.to_owned(), c));
        assert_eq!(told.0, expected.clone().into());
        assert!(prefixes.announce(vec![change("a/0", Class::Gone)]).is_empty());
        let again = vec![change("a/0", Class::Zero), change("a/more", Class::Zero)];
        assert_eq!(prefixes.announce(again), [change("a/#", Class::Zero)], "once more, and once");
        assert_eq!(prefixes.announce(vec![change("a/0", Class::All)]), [change("a/#", Class::All)]);
        assert_eq!(
            prefixes.announce(vec![change("a/0", Class::Zero)]),
            [change("a/#", Class::Zero)]
        );
        told.hear(prefixes.announce(vec![change("a/#", Class::All)]));
        for n in 0..=FILTERS_MAX {
            told.hear(prefixes.announce(vec![change(&format!("a/{n}"), Class::Gone)]));
        }
        let expected = [("+/x", Class::All), ("b/1", Class::All)].map(|(f, c)| (f.to_owned(), c));
        let mut expected: HashMap<_, _> = expected.into();
        expected.extend([("a/#".into(), Class::All), ("a/more".into(), Class::Zero)]);
        assert_eq!(told.0, expected, "a filter that reads like the one stays");
        told.hear(
            prefixes.announce(vec![change("a/#", Class::Gone), change("a/more", Class::Gone)]),
        );
        assert_eq!(prefixes.groups.len(), 1, "nothing is kept of what is gone");
        prefixes.clear();
        assert!(prefixes.groups.is_empty());
    }
}
