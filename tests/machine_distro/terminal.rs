//! A session with a real pseudo-terminal, as a person has one.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};

use crate::fixture::{ALPHA, home};

nix::ioctl_write_ptr_bad!(set_size, nix::libc::TIOCSWINSZ, Winsize);
nix::ioctl_write_int_bad!(set_controlling_terminal, nix::libc::TIOCSCTTY);

/// A terminal and what runs in it.
pub struct Terminal {
    child: Child,
    master: File,
    /// Held open so that its modes can be read when the shell has ended.
    slave: OwnedFd,
    shown: String,
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Terminal {
    /// The shell of a distro.
    fn start() -> Self {
        Self::of(home().wslr(["-d", ALPHA]).command())
    }

    /// A command with a terminal of its own.
    pub fn of(command: &mut Command) -> Self {
        let pair = openpty(Some(&size(24, 80)), None).unwrap();
        let end = || Stdio::from(pair.slave.try_clone().unwrap());
        command.env("TERM", "dumb").env("PS1", "");
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: both calls are system calls that are safe after fork.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                set_controlling_terminal(0, 0)?;
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        Self { child, master: pair.master.into(), slave: pair.slave, shown: String::new() }
    }

    /// Types.
    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until `text` is shown, and forgets all up to its end.
    pub fn expect(&mut self, text: &str) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(at) = self.shown.find(text) {
                self.shown.drain(..at + text.len());
                return;
            }
            assert!(Instant::now() < end, "'{text}' is not in {:?}", self.shown);
            let mut set = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            if poll(&mut set, PollTimeout::from(500_u16)).unwrap() > 0 {
                let mut buffer = [0; 4096];
                let count = self.master.read(&mut buffer).unwrap();
                self.shown.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        }
    }

    /// The status of the command, which must end by itself.
    pub fn status(&mut self) -> Option<i32> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < end, "it did not end: {:?}", self.shown);
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap();
        !modes.local_flags.contains(LocalFlags::ICANON)
    }
}

/// Size and its changes, Ctrl-C, Ctrl-Z and job control, `exit`, and the modes after it.
pub fn session() {
    let mut terminal = Terminal::start();
    // What is typed before the shell reads is not lost; the echo shows the line as typed,
    // so what is expected is never a part of it.
    terminal.type_in("stty size; tty; echo re''ady\n");
    terminal.expect("24 80");
    terminal.expect("/dev/pts/");
    terminal.expect("ready\r\n");
    assert!(terminal.is_raw());

    // SAFETY: the size is a live value of the type that the request takes.
    unsafe { set_size(std::os::fd::AsRawFd::as_raw_fd(&terminal.master), &size(50, 132)) }.unwrap();
    // The new size takes its way through the service and two sockets.
    terminal.type_in("until stty size | grep 132; do sleep 1; done\n");
    terminal.expect("50 132");
    // A key between two programs of a line would belong to neither, so that each program
    // says itself that it is in the foreground.
    terminal.type_in("sh -c 'echo wai''ting; exec sleep 1234'\n");
    terminal.expect("waiting\r\n");
    terminal.type_in("\x03");
    terminal.type_in("echo status $?; echo af''ter\n");
    terminal.expect("status 130");
    terminal.expect("after");

    terminal.type_in("sh -c 'echo wai''ting; exec sleep 4321'\n");
    terminal.expect("waiting\r\n");
    terminal.type_in("\x1a");
    terminal.expect("Stopped");
    terminal.type_in("jobs; kill %1; wait; echo do''ne\n");
    terminal.expect("sleep 4321");
    terminal.expect("done");

    terminal.type_in("exit 7\n");
    assert_eq!(terminal.status(), Some(7));
    assert!(!terminal.is_raw());
}
