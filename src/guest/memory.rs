//! Frees the memory in which the machine's kernel keeps files, so that its free pages go back
//! to the host (B136).

use std::fs;
use std::io;
use std::thread;
use std::time::Duration;

use super::job::Outcome;
use super::{cgroup, log};
use crate::config::meminfo;
use crate::protocol::guest::GuestError;

/// What is left to the kernel where it is done gradually, in bytes.
const FLOOR: u64 = 64 << 20;

/// What is freed at once at least, in bytes, and as a part of all.
const STEP: u64 = 64 << 20;
const STEP_PART: u64 = 8;

/// How long lies between two steps.
const PAUSE: Duration = Duration::from_secs(1);

/// How much may come back into the cache during a pause, in pages, before it is left alone.
const MISSED: u64 = 256;

/// How often the kernel is asked for one step: what it cannot free now it may a moment later.
const ATTEMPTS: usize = 3;

/// Frees all that is cached, or little by little what is not missed.
///
/// # Errors
/// The system's.
pub fn reclaim(gradually: bool) -> Outcome {
    // What is not on the disk yet cannot be freed.
    nix::unistd::sync();
    let freed = match gradually {
        true => reclaim_gradually(),
        false => fs::write("/proc/sys/vm/drop_caches", "3"),
    };
    freed.map_err(|error| GuestError::system("freeing cached memory", &error))?;
    // Only large free pieces are reported.
    if let Err(error) = fs::write("/proc/sys/vm/compact_memory", "1") {
        log::warn(format_args!("memory is not compacted: {error}"));
    }
    Ok(Vec::new())
}

fn reclaim_gradually() -> io::Result<()> {
    let mut missed = refaults();
    while let Some(step) = next_step(cached()) {
        if free(step)? == 0 {
            break;
        }
        thread::sleep(PAUSE);
        let now = refaults();
        if now.saturating_sub(std::mem::replace(&mut missed, now)) > MISSED {
            break;
        }
    }
    Ok(())
}

/// How much to free next; `None` where it is enough.
fn next_step(cached: u64) -> Option<u64> {
    let above = cached.checked_sub(FLOOR).filter(|above| *above >= FLOOR / 4)?;
    Some(above.min(STEP.max(cached / STEP_PART)))
}

/// Frees cached pages; gives about how much.
fn free(bytes: u64) -> io::Result<u64> {
    let before = cached();
    let file = format!("{}/memory.reclaim", cgroup::USER);
    for _ in 0..ATTEMPTS {
        // Files only: what programs have is not swapped out for this. A kernel before 6.9
        // does not know the word.
        let reclaimed =
            fs::write(&file, format!("{bytes} swappiness=0")).or_else(|error| match error.kind() {
                io::ErrorKind::InvalidInput => fs::write(&file, bytes.to_string()),
                _ => Err(error),
            });
        match reclaimed {
            // Less than asked for could be freed.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => {
                result?;
                break;
            }
        }
    }
    Ok(before.saturating_sub(cached()))
}

/// What is cached of files, in bytes.
fn cached() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let of = |name| meminfo::of(&text, name).unwrap_or(0);
    // Memory file systems are no cache.
    (of("Cached") + of("Buffers")).saturating_sub(of("Shmem"))
}

/// How many pages of files have come back soon after they were freed, ever.
fn refaults() -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("workingset_refault_file "));
    lines.next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b136_steps_are_bounded_and_end() {
        assert_eq!(next_step(4 << 30), Some(512 << 20));
        assert_eq!(next_step(256 << 20), Some(64 << 20));
        assert_eq!(next_step(100 << 20), Some(36 << 20));
        assert_eq!(next_step(70 << 20), None);
        assert_eq!(next_step(0), None);
    }
}
