//! Sends the memory image of a process that crashed to the host (B161).
//!
//! The kernel starts the machine's init, as a process of its own beside the first one, with
//! the image on standard input (core(5)). Such a process is outside of all distros and sees
//! the initial root as the kernel unpacked it, without anything mounted.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};

use super::{init, log};
use crate::protocol::frame;
use crate::protocol::guest::{CRASH_PORT, CrashDump};

/// The argument that makes the machine's init the receiver of a memory image.
const ARGUMENT: &str = "--crash-dump";

/// What is sent at once.
const PIECE: usize = 64 << 10;

/// How many images are sent at once; the kernel throws the others away.
const CONCURRENCY: &str = "4";

/// Has the kernel give the images of processes that crash to this program. What fails is
/// logged: it means no more than files named `core`.
pub fn receive() {
    // As the process itself knows its number.
    let pattern = format!("|/init {ARGUMENT} %p %s %E");
    for (name, value) in [("core_pipe_limit", CONCURRENCY), ("core_pattern", &pattern)] {
        if let Err(error) = fs::write(format!("/proc/sys/kernel/{name}"), value) {
            log::warn(format_args!("cannot set kernel.{name}: {error}"));
        }
    }
}

/// Sends an image and ends, where the kernel has started this process for one.
pub fn run_if_called() {
    let mut words = std::env::args_os();
    if words.next().is_some_and(|name| name == "/init")
        && words.next().is_some_and(|word| word == ARGUMENT)
    {
        let sent = init::connect_to_host(CRASH_PORT)
            .map(fs::File::from)
            .and_then(|mut host| send(words, &mut io::stdin(), &mut host));
        std::process::exit(i32::from(sent.is_err()));
    }
}

fn send(
    words: impl Iterator<Item = OsString>,
    image: &mut impl Read,
    host: &mut impl Write,
) -> io::Result<()> {
    let mut words = words.map(|word| word.to_string_lossy().into_owned());
    let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    let (process, signal) = (number(), number());
    let executable = words.next().unwrap_or_default();
    frame::write(host, &CrashDump { process, signal, executable }).map_err(io::Error::other)?;
    let mut piece = vec![0; PIECE];
    loop {
        // A zero-length piece ends the image.
        let mut length = 0;
        while let Some(rest) = piece.get_mut(length..).filter(|rest| !rest.is_empty()) {
            match image.read(rest) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // No longer than a piece.
        host.write_all(&(length as u32).to_le_bytes())?;
        host.write_all(piece.get(..length).unwrap_or_default())?;
        if length == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b161_an_image_is_sent_in_pieces_with_an_end() {
        let words = ["12", "11", "!bin!sh"].map(OsString::from);
        let image = vec![7; PIECE + 5];
        let mut sent = Vec::new();
        send(words.into_iter(), &mut image.as_slice(), &mut sent).unwrap();
        let mut rest = sent.as_slice();
        let crash: CrashDump = frame::read(&mut rest).unwrap();
        let executable = "!bin!sh".to_owned();
        assert_eq!(crash, CrashDump { process: 12, signal: 11, executable });
        let mut lengths = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            lengths.push(length);
            assert!(after[..length].iter().all(|byte| *byte == 7));
            rest = &after[length..];
        }
        assert_eq!(lengths, [PIECE, 5, 0]);
    }
}
