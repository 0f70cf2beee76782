//! The guest's log: the kernel's, which the host keeps.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;

/// Writes one line to the kernel log at level "warning"; where there is none, the line
/// is lost, as nothing else is left to tell it to.
pub fn warn(message: impl Display) {
    if let Ok(mut log) = OpenOptions::new().write(true).open("/dev/kmsg") {
        // One write is one record; a record is at most about 1000 bytes.
        let mut line = format!("<4>wslr: {message}").replace('\n', " ").into_bytes();
        line.truncate(900);
        line.push(b'\n');
        let _ = log.write_all(&line);
    }
}
