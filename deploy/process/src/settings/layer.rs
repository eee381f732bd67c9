//! One source of settings laid over another.

use std::ops::RangeInclusive;

use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;

use super::value::Value;

/// Where a value was said.
#[derive(Clone, Copy)]
pub(crate) enum Origin<'a> {
    /// A line of the file.
    Line(u64),
    /// `FLUXMQ_` and this.
    Variable(&'a str),
}

/// Settings that files and variables can be laid over.
pub(super) trait Layers {
    /// What a file is read into.
    type File;

    /// Takes over what a file says.
    fn apply_file(&mut self, layer: Self::File, apply: &mut Apply);

    /// Takes over the variable `FLUXMQ_{name}`; false when there is no such key.
    fn apply_variable(&mut self, name: &str, text: &str, apply: &mut Apply) -> bool;
}

/// Takes over values and gathers what is wrong with them.
pub(super) struct Apply {
    /// The file, for messages.
    pub(super) file: String,
    /// A line each.
    pub(super) problems: Vec<String>,
}

// === impl Apply ===

impl Apply {
    /// Takes over `value` if it is within its limits.
    pub(super) fn set<T: Value>(
        &mut self,
        field: &mut T,
        value: T,
        key: &str,
        origin: Origin<'_>,
        limits: Option<RangeInclusive<T>>,
    ) {
        match limits {
            Some(limits) if !limits.contains(&value) => {
                let place = self.place(origin, key);
                let limits = T::limits(&limits);
                self.problems.push(format!("{place}: {value} is out of bounds: {limits}"));
            }
            _ => *field = value,
        }
    }

    /// Reads a variable.
    pub(super) fn read<T: Value>(
        &mut self,
        field: &mut T,
        text: &str,
        key: &str,
        origin: Origin<'_>,
        limits: Option<RangeInclusive<T>>,
    ) {
        match T::read(text) {
            Ok(value) => self.set(field, value, key, origin, limits),
            Err(why) => self.problems.push(format!("{}: {why}", self.place(origin, key))),
        }
    }

    fn place(&self, origin: Origin<'_>, key: &str) -> String {
        match origin {
            Origin::Line(line) => format!("{}: {key}, line {line}", self.file),
            Origin::Variable(name) => format!("FLUXMQ_{name}"),
        }
    }
}

/// A value that is there: `key:` with nothing behind it is a mistake, not a default.
pub(super) fn given<'de, T, D>(deserializer: D) -> Result<Option<Spanned<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Spanned::deserialize(deserializer).map(Some)
}
