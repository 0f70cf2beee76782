//! The user's terminal while a Linux command has it: raw, so that every key reaches the
//! command, and as it was before on every way out.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, Once, PoisonError};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};

use crate::protocol::session::WindowSize;

mod ioctl {
    nix::ioctl_read_bad!(window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);
}

/// The terminal of standard input and how to set it back.
#[derive(Debug)]
pub struct Raw {
    terminal: OwnedFd,
    before: Mutex<Option<Termios>>,
}

/// What the panic hook restores: a release build ends without running destructors.
static PANIC: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);

impl Raw {
    /// The terminal on that descriptor, as it is.
    ///
    /// # Errors
    /// Where the descriptor cannot be duplicated.
    pub fn new(terminal: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { terminal: terminal.try_clone_to_owned()?, before: Mutex::new(None) })
    }

    /// Makes the terminal raw, unless this process is in the background: there it would be
    /// stopped, although it may never read a key.
    pub fn enter(&self) {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        if before.is_some() || !in_foreground(self.terminal.as_fd()) {
            return;
        }
        let Ok(saved) = tcgetattr(&self.terminal) else { return };
        let mut raw = saved.clone();
        cfmakeraw(&mut raw);
        if tcsetattr(&self.terminal, SetArg::TCSANOW, &raw).is_ok() {
            restore_on_panic(&self.terminal, &saved);
            *before = Some(saved);
        }
    }

    /// Sets the terminal back.
    pub fn leave(&self) {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(saved) = before.take()
            && in_foreground(self.terminal.as_fd())
        {
            let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &saved);
        }
        PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Whether this process may use the terminal: it is in its foreground process group.
#[must_use]
pub fn in_foreground(terminal: BorrowedFd<'_>) -> bool {
    tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp())
}

/// The terminal's size in character cells.
#[must_use]
pub fn window_size(terminal: BorrowedFd<'_>) -> Option<WindowSize> {
    use std::os::fd::AsRawFd;
    let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open, and the request writes one `winsize` to the pointer.
    unsafe { ioctl::window_size(terminal.as_raw_fd(), &raw mut size) }.ok()?;
    Some(WindowSize { columns: size.ws_col, rows: size.ws_row })
}

fn restore_on_panic(terminal: &OwnedFd, saved: &Termios) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if let Ok(mut entry) = PANIC.try_lock()
                && let Some((terminal, saved)) = entry.take()
            {
                let _ = tcsetattr(&terminal, SetArg::TCSANOW, &saved);
            }
            next(panic);
        }));
    });
    if let Ok(terminal) = terminal.try_clone() {
        let entry = Some((terminal, saved.clone()));
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = entry;
    }
}
