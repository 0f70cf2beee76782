//! The command line with a real Debian in version 1, through the executable and nothing
//! else: what a user of `wsl` relies on, by the number of the behaviour.
//!
//! Each test runs as root and as an ordinary user with subordinate ids. No KVM and no
//! machine is needed; the Debian is made once (`tests/support/make-debian`).

#![allow(clippy::panic, clippy::unwrap_used, reason = "these are tests")]

#[path = "../support/mod.rs"]
mod support;

mod conversion;
mod directories;
mod endurance;
mod errors;
mod escape;
mod export;
mod first_start;
mod fixture;
mod lifetime;
mod listing;
mod manage;
mod single;
#[path = "../support/soak.rs"]
mod soak;
mod storage;
mod streams;
mod surroundings;
#[path = "../machine_distro/terminal.rs"]
mod terminal;
mod words;

/// Each of these functions as a test of root's and of an ordinary user's `wslr`.
macro_rules! as_root_and_as_user {
    ($($name:ident)*) => {
        mod as_root {
            $(#[test]
            fn $name() {
                crate::fixture::run_as(crate::fixture::Whose::Root, super::$name);
            })*
        }
        mod as_user {
            $(#[test]
            fn $name() {
                crate::fixture::run_as(crate::fixture::Whose::User, super::$name);
            })*
        }
    };
}
use as_root_and_as_user;
