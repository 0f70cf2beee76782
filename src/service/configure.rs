//! The first start of a distro assembled from a package archive: its packages are
//! configured inside it, once, before anything else runs there.
//!
//! The image brings a script that does the work and can be run again after an
//! interruption, and a file with the number of its packages.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use uuid::Uuid;

use super::attempt::Attempt;
use super::error::{Ended, ServiceError};
use super::session;
use super::supervisor::Supervisor;
use super::vm::Vm;
use crate::error::Failure;
use crate::protocol::client::Progress;
use crate::protocol::session::{Directory, ExitStatus, Output, Program, Session, Streams, User};

/// Prints the number of packages, then configures them. A script that is gone has done its
/// work: whoever ran it was stopped before that was written down.
const SCRIPT: &str = "cat /usr/lib/wslr/packages 2>/dev/null || echo 0
[ ! -e /usr/lib/wslr/configure ] || exec /usr/lib/wslr/configure 2>&1";

/// Sessions of the service itself count down from here, clients' count up from one.
const SESSION: u64 = u64::MAX;

/// How much of one line of the script's output is kept, in bytes.
const LINE_LIMIT: u64 = 4096;

/// Runs the script as root and reports its progress.
///
/// # Errors
/// Where it fails; what it said is in a log that the failure names.
pub fn run(
    supervisor: &Supervisor,
    vm: &Arc<Vm>,
    distro: Uuid,
    name: &str,
    attempt: &Arc<Attempt>,
) -> Result<(), Failure> {
    let log = supervisor.paths.logs().join(format!("configure-{distro}.log"));
    let fail = |error: &ServiceError| Failure::new("Wsl/Service", error);
    let state = |source| ServiceError::State { action: "write", path: log.clone(), source };
    let mut log_file = File::create(&log).map_err(|source| fail(&state(source)))?;
    let (output, theirs) = UnixStream::pair()
        .map_err(|source| fail(&ServiceError::System { action: "make a socket", source }))?;
    let session = Session {
        distro,
        program: Program::Arguments(
            ["/bin/sh", "-c", SCRIPT].map(|word| word.as_bytes().to_vec()).to_vec(),
        ),
        user: User::Number(0),
        directory: Directory::Path(b"/".to_vec()),
        environment: Vec::new(),
        streams: Streams { terminal: None, stdin: false, stdout: true, stderr: false },
    };
    let number = SESSION ^ u64::from(distro.as_fields().0);
    let mut control = session::open(vm, number, &session, vec![OwnedFd::from(theirs)])?;
    follow(output, &mut log_file, attempt).map_err(|source| fail(&state(source)))?;
    let outcome = session::outcome(&mut control);
    let _ = control.shutdown(Shutdown::Both);
    let ended = match outcome {
        Ok(Output::Exited(ExitStatus::Code(0))) => return Ok(()),
        _ if supervisor.stopped(distro, attempt) => {
            return Err(fail(&ServiceError::Stopped { name: name.to_owned() }));
        }
        Ok(Output::Exited(status)) => Ended(Some(status)),
        Ok(Output::Failed(error)) => {
            return Err(Failure::new("Wsl/Service/CreateInstance", &error));
        }
        Ok(Output::Started | Output::Warning(_)) => Ended(None),
        Err(_) => match vm.end() {
            Some(end) => return Err(end.clone()),
            None => Ended(None),
        },
    };
    Err(fail(&ServiceError::Configure { name: name.to_owned(), ended, log: log.clone() }))
}

/// Reads the script's output to its end: into the log, and as progress.
fn follow(output: UnixStream, log: &mut impl Write, attempt: &Attempt) -> std::io::Result<()> {
    let mut reader = BufReader::new(output);
    let mut total = None;
    let mut done = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = std::io::Read::take(&mut reader, LINE_LIMIT).read_until(b'\n', &mut line);
        // A torn connection is the end; the control stream tells what it means.
        if read.unwrap_or(0) == 0 {
            return Ok(());
        }
        log.write_all(&line)?;
        let text = String::from_utf8_lossy(&line);
        match total {
            None => total = Some(text.trim().parse::<u64>().unwrap_or(0)),
            Some(total) if text.starts_with("Setting up ") => {
                done += 1;
                let package = text.split_whitespace().nth(2).unwrap_or_default();
                let label = format!("Setting up {}", printable(package));
                attempt.progress(Progress { label, done, total: total.max(done) });
            }
            Some(_) => {}
        }
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_counts_the_packages_set_up() {
        let (output, mut script) = UnixStream::pair().unwrap();
        script
            .write_all(b"3\nnoise\nSetting up libc6:amd64 (2.41) ...\n\xff\nSetting up dash (1)\n")
            .unwrap();
        drop(script);
        let attempt = Attempt::default();
        let mut log = Vec::new();
        follow(output, &mut log, &attempt).unwrap();
        attempt.finish(Ok(Vec::new()));
        assert!(log.starts_with(b"3\nnoise\n"));
        let second = Attempt::default();
        let (output, mut script) = UnixStream::pair().unwrap();
        script.write_all(b"2\nSetting up \x1b[31mdash (1)\n").unwrap();
        drop(script);
        follow(output, &mut Vec::new(), &second).unwrap();
        let mut seen = Vec::new();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                second.wait(|progress| {
                    second.finish(Ok(Vec::new()));
                    seen.push(progress);
                    true
                })
            });
            waiting.join().unwrap();
        });
        assert_eq!(seen, [Progress { label: "Setting up [31mdash".to_owned(), done: 1, total: 2 }]);
    }
}
