//! The guest's log: the kernel's, which the host keeps. On the host itself, where the
//! kernel's log is not ours to write to, it is standard error, which the service keeps.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

static STANDARD_ERROR: AtomicBool = AtomicBool::new(false);

/// Makes standard error the log, of this process and those forked from it.
pub fn to_standard_error() {
    STANDARD_ERROR.store(true, Ordering::Relaxed);
}

/// Writes one line to the log, the kernel's at level "warning"; where there is none, the
/// line is lost, as nothing else is left to tell it to.
pub fn warn(message: impl Display) {
    if STANDARD_ERROR.load(Ordering::Relaxed) {
        let _ = writeln!(std::io::stderr(), "{message}");
        return;
    }
    if let Ok(mut log) = OpenOptions::new().write(true).open("/dev/kmsg") {
        // One write is one record; a record is at most about 1000 bytes.
        let mut line = format!("<4>wslr: {message}").replace('\n', " ").into_bytes();
        line.truncate(900);
        line.push(b'\n');
        let _ = log.write_all(&line);
    }
}
