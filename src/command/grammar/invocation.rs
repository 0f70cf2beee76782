//! What a command line asks for.

use std::ffi::OsString;
use std::path::PathBuf;

use uuid::Uuid;

use crate::command::table::Verb;
use crate::image::compressor::Compression;
use crate::protocol::session::{Directory, Program};

/// One command line, understood.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Invocation {
    /// Show the usage.
    Help,
    /// Show the usage of one verb.
    HelpFor(&'static Verb),
    /// Make an archive or a disk of a distro.
    Export(Export),
    /// Make a distro of an archive or a disk.
    Import(Import),
    /// Make a distro of a disk where it lies.
    ImportInPlace {
        /// Its name.
        name: String,
        /// The disk.
        file: PathBuf,
    },
    /// Install a distro.
    Install(Install),
    /// List distros.
    List(List),
    /// Change one thing of a distro.
    Manage(Manage),
    /// Attach a disk of the user's.
    Mount(Mount),
    /// Let go of a disk of the user's.
    Unmount {
        /// Which; all of them where absent.
        disk: Option<PathBuf>,
    },
    /// Run a command or a shell.
    Run(Run),
    /// Make a distro the default one.
    SetDefault {
        /// Its name.
        name: String,
    },
    /// Choose the version of new distros.
    SetDefaultVersion {
        /// 1 or 2.
        version: u32,
    },
    /// Convert a distro.
    SetVersion {
        /// Its name.
        name: String,
        /// 1 or 2.
        version: u32,
    },
    /// End everything.
    Shutdown {
        /// Do not ask the guest.
        force: bool,
    },
    /// Show the default distro and what runs.
    Status {
        /// As JSON.
        json: bool,
    },
    /// End a distro.
    Terminate {
        /// Its name.
        name: String,
    },
    /// Remove a distro.
    Unregister {
        /// Its name.
        name: String,
    },
    /// Fetch the current kernel.
    Update,
    /// Show the versions of the parts.
    Version {
        /// As JSON.
        json: bool,
    },
}

/// Which distro a command is for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Selection {
    /// The default one.
    #[default]
    Default,
    /// By id.
    Id(Uuid),
    /// By name, ignoring case.
    Name(String),
}

/// A command or shell to run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Run {
    /// In which distro.
    pub distro: Selection,
    /// As whom; the distro's default user where absent.
    pub user: Option<String>,
    /// Where; the directory of the host's current one where absent (B005).
    pub directory: Option<Directory>,
    /// What.
    pub program: Program,
}

/// What to list, and how.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct List {
    /// Also distros that are being installed, converted or removed.
    pub all: bool,
    /// As JSON.
    pub json: bool,
    /// What can be installed, in place of what is.
    pub online: bool,
    /// Names only.
    pub quiet: bool,
    /// Only those that run.
    pub running: bool,
    /// With state and version.
    pub verbose: bool,
}

/// A disk of the user's, and what to mount of it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Mount {
    /// The image or the device.
    pub disk: PathBuf,
    /// Attach it and mount nothing.
    pub bare: bool,
    /// It is an image.
    pub vhd: bool,
    /// The name of the directory in `/mnt/wsl`.
    pub name: Option<String>,
    /// The file system.
    pub kind: Option<String>,
    /// Mount options.
    pub options: String,
    /// The number of the partition.
    pub partition: Option<u32>,
}

/// What to make of a distro, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// The file to write; `-` is standard output.
    pub file: OsString,
    /// What to write.
    pub format: ExportFormat,
}

/// What is made of a distro.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ExportFormat {
    /// A tar archive.
    Archive(Compression),
    /// A disk; the file's name tells which.
    Disk,
}

/// What to change of which distro.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Manage {
    /// The distro's name.
    pub name: String,
    /// What to change.
    pub action: ManageAction,
}

/// One thing of a distro that can be changed (behaviour reference 1.11).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ManageAction {
    /// Make another distro of it.
    Clone {
        /// The other's name.
        name: String,
        /// The directory of its disk.
        location: Option<PathBuf>,
    },
    /// Give the space of free blocks back.
    Compact,
    /// Delete a snapshot.
    DeleteSnapshot {
        /// Its name.
        snapshot: String,
    },
    /// Show the snapshots.
    ListSnapshots {
        /// As JSON.
        json: bool,
    },
    /// Keep it in another directory.
    Move {
        /// Which.
        to: PathBuf,
    },
    /// Make its disk larger or smaller.
    Resize {
        /// In bytes.
        size: u64,
    },
    /// Make it what it was when a snapshot was taken.
    Restore {
        /// The snapshot's name.
        snapshot: String,
    },
    /// Take a snapshot.
    Snapshot {
        /// Its name.
        snapshot: String,
    },
    /// Whether its disk gives space back by itself.
    SetSparse {
        /// It does.
        sparse: bool,
    },
    /// The user that commands run as where none is named.
    SetDefaultUser {
        /// The user's name in the distro.
        user: String,
    },
}

/// What to make a distro of, and how.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Import {
    /// Its name.
    pub name: String,
    /// The directory of its files.
    pub location: PathBuf,
    /// The archive or disk; `-` is standard input.
    pub file: OsString,
    /// 1 or 2; chosen where absent.
    pub version: Option<u32>,
    /// It is a disk.
    pub vhd: bool,
}

/// What to install, and how.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Install {
    /// The manifest's name; its default where absent.
    pub distro: Option<String>,
    /// An archive in place of a manifest's entry; `-` is standard input.
    pub from_file: Option<OsString>,
    /// The directory of its files.
    pub location: Option<PathBuf>,
    /// The name to register.
    pub name: Option<String>,
    /// Prepare the kernel only.
    pub no_distribution: bool,
    /// Do not open it.
    pub no_launch: bool,
    /// The size of its disk in bytes.
    pub size: Option<u64>,
    /// 1 or 2; chosen where absent.
    pub version: Option<u32>,
}
