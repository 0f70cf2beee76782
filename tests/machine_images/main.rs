//! The disks of distros in the real machine, and a distro made of packages.
//!
//! The tests of disks share the home of `fixture`. The rig runs them.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod disks;
#[path = "../support/fixture.rs"]
mod fixture;
mod packages;
#[path = "../support/mod.rs"]
mod support;

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn z_after_a_shutdown_nothing_runs_and_the_disks_are_clean() {
    fixture::end();
}
