//! One command running in a distro: the relay process and what it needs.

pub mod bus;
pub mod command;
pub mod environment;
pub mod login;
pub mod plumbing;
pub mod pump;
pub mod relay;
pub mod terminal;
pub mod users;

use std::fs::File;
use std::os::fd::OwnedFd;

use crate::config::wslconf::WslConf;
use crate::protocol::session::StreamKind;

/// What every session of a distro finds.
#[derive(Debug)]
pub struct Surroundings {
    /// The distro's registered name.
    pub distro: String,
    /// Its host name.
    pub hostname: String,
    /// What its `wsl.conf` says.
    pub conf: WslConf,
}

/// A session as the distro's init receives it.
#[derive(Debug)]
pub struct Handover {
    /// Holds the encoded [`Session`](crate::protocol::session::Session).
    pub request: File,
    /// The control stream, its requests read so far but for none after the session's.
    pub control: OwnedFd,
    /// The byte streams.
    pub streams: Vec<(StreamKind, OwnedFd)>,
    /// What the user is told before the command starts.
    pub warnings: Vec<String>,
    /// Where to ask for the user's login session, in a distro with systemd.
    pub logins: Option<OwnedFd>,
}
