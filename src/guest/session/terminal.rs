//! A session's pseudo-terminal, in the distro's own `devpts`.

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::pty::{posix_openpt, unlockpt};
use nix::sys::termios::{InputFlags, SetArg, tcgetattr, tcsetattr};
use nix::unistd::{Uid, fchown};

use crate::guest::sys;
use crate::protocol::session::{SessionError, WindowSize};

/// Both sides of a pseudo-terminal.
#[derive(Debug)]
pub struct Terminal {
    /// The side of the relay, non-blocking.
    pub master: OwnedFd,
    /// The side of the command, held open so that the terminal outlives a command that
    /// closes and reopens it.
    pub slave: Option<OwnedFd>,
}

impl Terminal {
    /// A new terminal that belongs to the user.
    ///
    /// # Errors
    /// [`SessionError::TerminalLimit`], or the system's.
    pub fn open(size: WindowSize, uid: u32) -> Result<Self, SessionError> {
        let failed = |error: io::Error| SessionError::System {
            action: "opening a terminal".to_owned(),
            reason: error.to_string(),
        };
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let master = match posix_openpt(flags) {
            Err(Errno::ENOSPC) => return Err(SessionError::TerminalLimit),
            result => result.map_err(|error| failed(error.into()))?,
        };
        unlockpt(&master).map_err(|error| failed(error.into()))?;
        let slave = sys::open_peer(&master).map_err(failed)?;
        // The mount sets group `tty` and mode 0620.
        fchown(&slave, Some(Uid::from_raw(uid)), None).map_err(|error| failed(error.into()))?;
        if let Ok(mut settings) = tcgetattr(&slave) {
            settings.input_flags |= InputFlags::IUTF8;
            let _ = tcsetattr(&slave, SetArg::TCSANOW, &settings);
        }
        sys::set_window_size(&master, size).map_err(failed)?;
        Ok(Self { master: master.into(), slave: Some(slave) })
    }
}
