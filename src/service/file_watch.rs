//! Watches a file of the host's settings while a machine runs.
//!
//! Nothing polls: a change of the file, or of the link to it, wakes a thread.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// The directories in which a change of the file shows: its own, and its target's.
fn directories(file: &Path) -> Vec<PathBuf> {
    let target = std::fs::canonicalize(file).ok();
    let parents = [Some(file.to_owned()), target].into_iter().flatten();
    let mut parents: Vec<_> = parents.filter_map(|path| Some(path.parent()?.to_owned())).collect();
    parents.dedup();
    parents
}

/// Calls `changed` once, and after each change, until the other end of `stop` is closed.
///
/// # Errors
/// The system's.
pub fn follow(file: &Path, stop: &UnixStream, mut changed: impl FnMut()) -> io::Result<()> {
    loop {
        // Anew each time: the link may lead elsewhere now.
        let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let interest = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO;
        let names: Vec<_> = [Some(file.to_owned()), std::fs::canonicalize(file).ok()]
            .into_iter()
            .flatten()
            .filter_map(|path| path.file_name().map(ToOwned::to_owned))
            .collect();
        for directory in directories(file) {
            watch.add_watch(&directory, interest)?;
        }
        changed();
        loop {
            let interests = [watch.as_fd(), stop.as_fd()];
            let mut polled = interests.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut polled, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                result => result?,
            };
            if polled.last().and_then(PollFd::any) == Some(true) {
                return Ok(());
            }
            let events = watch.read_events().unwrap_or_default();
            // Other files of the directory change too.
            if events.iter().any(|event| event.name.as_ref().is_none_or(|it| names.contains(it))) {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn b202_every_way_to_change_the_file_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("run")).unwrap();
        fs::write(path("run/stub.conf"), "search a\n").unwrap();
        fs::write(path("run/other.conf"), "search other\n").unwrap();
        symlink("run/stub.conf", path("resolv.conf")).unwrap();
        let (file, (ours, theirs)) = (path("resolv.conf"), UnixStream::pair().unwrap());
        let (tell, told) = channel();
        let thread = std::thread::spawn(move || {
            follow(&file, &theirs, || {
                tell.send(fs::read_to_string(&file).unwrap_or_default()).unwrap()
            })
        });
        let wait = |text: &str| {
            // A file is empty for a moment while it is written.
            while told.recv_timeout(Duration::from_secs(20)).unwrap() != text {}
        };
        wait("search a\n");
        fs::write(path("run/stub.conf"), "search b\n").unwrap();
        wait("search b\n");
        fs::write(path("run/new"), "search c\n").unwrap();
        fs::rename(path("run/new"), path("run/stub.conf")).unwrap();
        wait("search c\n");
        symlink("run/other.conf", path("link")).unwrap();
        fs::rename(path("link"), path("resolv.conf")).unwrap();
        wait("search other\n");
        fs::remove_file(path("resolv.conf")).unwrap();
        wait("");
        drop(ours);
        thread.join().unwrap().unwrap();
    }
}
