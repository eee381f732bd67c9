//! Checks of the tree itself: layering, sizes, names, bans, and that the documents tell the truth.
//! The checks are the tests below; each rule is a function that is also fed something it must refuse.

#![cfg(test)]

mod bans;
mod documents;
mod layering;
mod sizes;
mod tree;
