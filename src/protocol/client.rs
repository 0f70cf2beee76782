//! What a command and the service say to each other.
//!
//! The command connects to the service's Unix socket and sends [`Hello`]; the service
//! answers with [`Welcome`], and where the builds agree the command sends one [`Request`].
//! These two greetings keep their shape in every build. With [`Request::Run`] it passes, as `SCM_RIGHTS` on the request's first
//! byte, the service's end of one socket pair per stream, in the order of
//! [`Streams::kinds`](super::session::Streams::kinds). The service answers with any number
//! of [`Answer::Progress`] and [`Answer::Warning`], and one last answer.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::session::{Directory, ExitStatus, Input, Program, Streams};
use crate::error::Failure;
use crate::network::ports::Forwarded;

/// The first frame of a command: the build, so that a command never talks to a service
/// of another version.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Hello {
    /// The identity of the executable.
    pub build: String,
}

/// The first frame of the service.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Welcome {
    /// The identity of the executable.
    pub build: String,
    /// Distros are in use. A service that meets another build and is not busy leaves.
    pub busy: bool,
}

/// What a command asks of the service.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Request {
    /// Make a running distro's disk longer, and its file system with it.
    Grow {
        /// Which.
        distro: Uuid,
        /// In bytes.
        size: u64,
    },
    /// Attach a disk of the user's. Answered with [`Answer::Mounted`].
    Mount(Mount),
    /// Run one command; the connection then carries [`Input`] frames to the service.
    Run(Run),
    /// End the VM with all distros, then the service.
    Shutdown {
        /// Do not ask the guest.
        force: bool,
    },
    /// What runs.
    Status {
        /// And what it is used for, which the guests have to be asked.
        uses: bool,
    },
    /// End one distro. Answered with [`Answer::Done`] also where it does not run.
    Terminate {
        /// Which.
        distro: Uuid,
    },
    /// Let go of a disk of the user's, or of all.
    Unmount {
        /// The disk, absolute.
        path: Option<PathBuf>,
    },
}

/// A disk of the user's.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Mount {
    /// The image or the device, absolute.
    pub path: PathBuf,
    /// As the user named it.
    pub shown: PathBuf,
    /// It may be a regular file.
    pub vhd: bool,
    /// What to mount of it; nothing where absent.
    pub mount: Option<MountPart>,
}

/// What to mount of a disk.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct MountPart {
    /// The name of the directory in `/mnt/wsl`; made of the path where absent.
    pub name: Option<String>,
    /// The number of the partition; the whole disk where absent.
    pub partition: Option<u32>,
    /// The file system; looked for where absent.
    pub kind: Option<String>,
    /// Mount options, separated by commas.
    pub options: String,
}

/// What became of a disk that is attached.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Mounted {
    /// It is mounted in the directory of that name in `/mnt/wsl`.
    At {
        /// The name.
        name: String,
    },
    /// It is attached, as was asked for.
    Bare,
    /// It could not be mounted.
    Not {
        /// The step that failed, and the system's reason.
        reason: String,
    },
}

/// A command to run.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Run {
    /// The distro.
    pub distro: Uuid,
    /// What to run.
    pub program: Program,
    /// The user's name; the distro's default where absent.
    pub user: Option<String>,
    /// Where.
    pub directory: Directory,
    /// Variables from the host.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// What each standard descriptor is.
    pub streams: Streams,
}

/// What a command sends while its session runs.
pub type RunInput = Input;

/// What the service answers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum Answer {
    /// The request is carried out.
    Done,
    /// The session's command ended.
    Exited(ExitStatus),
    /// The request failed.
    Failed(Failure),
    /// The disk is attached.
    Mounted(Mounted),
    /// Long work goes on.
    Progress(Progress),
    /// The session's command runs.
    Started,
    /// What runs.
    Status(Status),
    /// A line for the user, without `wslr: warning: `.
    Warning(String),
}

/// How far a long piece of work is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Progress {
    /// What is being done.
    pub label: String,
    /// Steps done.
    pub done: u64,
    /// Steps in all; 0 where it is not known.
    pub total: u64,
}

/// What runs.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Status {
    /// The service's process.
    pub process: u32,
    /// The running VM.
    pub machine: Option<Machine>,
    /// The running distros.
    pub distros: Vec<RunningDistro>,
    /// The ports on which version 2's listen.
    pub ports: Vec<Forwarded>,
}

/// The running VM.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Machine {
    /// `uname -r` of the guest.
    pub kernel: String,
    /// Virtual processors.
    pub processors: u32,
    /// Memory in bytes.
    pub memory: u64,
}

/// A running distro.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RunningDistro {
    /// Its id.
    pub distro: Uuid,
    /// Sessions with a living process.
    pub sessions: u32,
    /// What else keeps it running, each as a short text; empty where it was not asked for.
    pub uses: Vec<String>,
}
