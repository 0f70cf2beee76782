//! The archive client and the downloads against servers on the loopback interface: a
//! self-made archive, signed by keys made for the test. No network, no root.

#![allow(clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod assemble;
mod debs;
mod downloads;
mod fixture;
mod keys;
mod repository;
mod server;
mod surroundings;
