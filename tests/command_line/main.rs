//! The executable as its user meets it: exact output, exact status, in a temporary home,
//! without KVM and without a network. Names begin with the number of the behaviour.

#[path = "../support/mod.rs"]
mod support;

mod grammar;
mod listing;
mod registry;
