//! The signals a command gets while its Linux command runs: passed on, or acted upon.

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::protocol::frame;
use crate::protocol::session::Input;
use crate::terminal::raw::{Raw, window_size};
use crate::terminal::relay::Gate;

/// So many signals that ask for the end, within [`PATIENCE`], make the command leave
/// whatever the guest does.
const INSISTENCE: usize = 3;
const PATIENCE: Duration = Duration::from_secs(2);

/// Passes signals on from now to the end of the process.
///
/// Signals that were ignored when the process started (`nohup`, a shell's background job)
/// stay ignored.
///
/// # Errors
/// Where the handlers cannot be set or no thread can be started.
pub fn forward(
    connection: &UnixStream,
    raw: Option<&Arc<Raw>>,
    terminal: bool,
    gate: &Arc<Gate>,
) -> io::Result<()> {
    let ignored = ignored();
    let mut wanted = vec![SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGCONT];
    wanted.retain(|signal| ignored >> (signal - 1) & 1 == 0);
    if terminal {
        wanted.push(SIGWINCH);
    }
    if raw.is_some() {
        wanted.push(SIGTSTP);
    }
    let mut signals = Signals::new(wanted)?;
    let mut courier = Courier {
        connection: connection.try_clone()?,
        raw: raw.cloned(),
        terminal,
        gate: Arc::clone(gate),
        recent: Vec::new(),
    };
    // The window may have changed since the request named its size.
    courier.resize();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            courier.deliver(signal);
        }
    })?;
    Ok(())
}

struct Courier {
    connection: UnixStream,
    raw: Option<Arc<Raw>>,
    /// The session has a terminal.
    terminal: bool,
    gate: Arc<Gate>,
    /// When the last signals came that ask for the end.
    recent: Vec<Instant>,
}

impl Courier {
    fn deliver(&mut self, signal: i32) {
        match signal {
            SIGWINCH => self.resize(),
            SIGTSTP => {
                if let Some(raw) = &self.raw {
                    raw.leave();
                }
                // Stops the process; what follows runs when it continues.
                let _ = emulate_default_handler(SIGTSTP);
                self.resume();
            }
            SIGCONT => self.resume(),
            // The terminal is gone, and with it everything the user could still see.
            SIGHUP if self.raw.is_some() => self.give_up(signal),
            _ => {
                self.recent.retain(|time| time.elapsed() < PATIENCE);
                self.recent.push(Instant::now());
                if self.recent.len() >= INSISTENCE {
                    self.give_up(signal);
                }
                self.send(Input::Signal(signal));
            }
        }
    }

    fn resume(&mut self) {
        if let Some(raw) = &self.raw {
            raw.enter();
        }
        self.gate.open();
        self.resize();
    }

    fn resize(&mut self) {
        use std::os::fd::AsFd;
        if !self.terminal {
            return;
        }
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let descriptors = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        if let Some(size) = descriptors.into_iter().find_map(window_size) {
            self.send(Input::Resize(size));
        }
    }

    fn give_up(&mut self, signal: i32) {
        self.send(Input::Hangup);
        if let Some(raw) = &self.raw {
            raw.leave();
        }
        std::process::exit(128 + signal);
    }

    fn send(&mut self, input: Input) {
        // A service that is gone shows where its answers are read.
        let _ = frame::write(&mut self.connection, &input);
    }
}

/// The signals this process ignores, one bit each from signal 1 (`proc(5)`, `SigIgn`).
fn ignored() -> u64 {
    fs::read_to_string("/proc/self/status")
        .unwrap_or_default()
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok())
        .unwrap_or(0)
}
