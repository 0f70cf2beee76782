//! The executable as its user meets it: exact output, exact status, in a temporary home,
//! without KVM and without a network. Names begin with the number of the behaviour.

#![allow(clippy::panic, clippy::unwrap_used, reason = "these are tests")]

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod export;
mod generated;
mod grammar;
mod import;
mod install;
mod listing;
mod manage;
mod manifest;
mod mount;
mod registry;
mod versions;
