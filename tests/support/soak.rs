//! Random operations on distros, one after the other and some beside them: nothing may
//! hang, and no status or output may be wrong. The same seed gives the same operations.

use std::io::{Read, Write};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

use crate::support::Home;

const DONE: &str = "The operation completed successfully.\n";

/// What is operated on.
pub struct Soak<'a> {
    /// Where the distros are.
    pub home: &'a Home,
    /// Their names; the first one's kernel may be crashed.
    pub distros: [&'a str; 2],
    /// They are of version 2.
    pub has_machine: bool,
    /// How long one operation may take.
    pub limit: Duration,
}

/// A command that runs beside what is done.
struct Beside {
    child: Child,
    /// A word when it runs; the end of the channel where it ends before.
    word: Receiver<()>,
    /// The word was there.
    runs: bool,
}

/// The state of a run.
struct Run<'a> {
    soak: Soak<'a>,
    random: StdRng,
    /// Commands that run beside; how they end is not of interest, but that they do.
    beside: Vec<Beside>,
    step: u32,
    what: String,
}

impl Soak<'_> {
    /// Operates for a time, `WSLR_SOAK_SECONDS` where that is set, with the seed of
    /// `WSLR_SOAK_SEED` or a new one, which is printed.
    pub fn run(self, usual: Duration) {
        let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
        let time = number("WSLR_SOAK_SECONDS").map_or(usual, Duration::from_secs);
        let seed = number("WSLR_SOAK_SEED").unwrap_or_else(rand::random);
        println!("soak: seed {seed}, {time:?}");
        let random = StdRng::seed_from_u64(seed);
        let mut run = Run { soak: self, random, beside: Vec::new(), step: 0, what: String::new() };
        let end = Instant::now() + time;
        while Instant::now() < end {
            run.step();
        }
        run.shutdown(&[]);
        // A command that began late has begun all anew.
        run.shutdown(&[]);
        println!("soak: {} operations", run.step);
    }
}

impl Run<'_> {
    fn step(&mut self) {
        self.step += 1;
        match self.random.gen_range(0..100) {
            0..30 => self.status(),
            30..40 => self.signal(),
            40..55 => self.bytes(),
            55..65 => self.at_once(),
            65..75 => self.leave_beside(),
            75..82 => self.kill_a_client(),
            82..86 => self.daemon(),
            86..90 => self.listing(),
            90..96 => self.terminate(),
            96 => self.shutdown(&[]),
            97 => self.shutdown(&["--force"]),
            98 => self.kill_the_service(),
            _ => self.crash(),
        }
    }

    fn begin(&mut self, what: impl Into<String>) {
        self.what = what.into();
        println!("soak: {}: {}", self.step, self.what);
    }

    fn distro(&mut self) -> String {
        self.soak.distros[self.random.gen_range(0..2)].to_owned()
    }

    /// Starts words in a distro, with pipes.
    fn start(&self, distro: &str, words: &[&str]) -> Child {
        let mut test = self.soak.home.wslr([&["-d", distro, "--"], words].concat());
        let command = test.command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Waits for an end that must come.
    fn end(&self, child: &mut Child) -> ExitStatus {
        let end = Instant::now() + self.soak.limit;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "step {} hangs: {}", self.step, self.what);
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Gives input to a command, and takes what it writes and its status.
    fn finish(&self, mut child: Child, input: Vec<u8>) -> (Option<i32>, Vec<u8>, String) {
        let mut stdin = child.stdin.take().unwrap();
        let writer = thread::spawn(move || _ = stdin.write_all(&input));
        let read = |mut stream: Box<dyn Read + Send>| {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).unwrap();
                bytes
            })
        };
        let stdout = read(Box::new(child.stdout.take().unwrap()));
        let stderr = read(Box::new(child.stderr.take().unwrap()));
        let status = self.end(&mut child).code();
        writer.join().unwrap();
        let stderr = String::from_utf8_lossy(&stderr.join().unwrap()).into_owned();
        (status, stdout.join().unwrap(), stderr)
    }

    #[track_caller]
    fn check(&self, outcome: &(Option<i32>, Vec<u8>, String), status: i32, output: &[u8]) {
        let is_right = outcome.0 == Some(status) && outcome.1 == output;
        if !is_right {
            self.print_logs();
        }
        assert!(
            is_right,
            "step {}: {}: status {:?} in place of {status}, {} bytes in place of {}, {}",
            self.step,
            self.what,
            outcome.0,
            outcome.1.len(),
            output.len(),
            outcome.2
        );
    }

    /// The ends of the logs, for whoever looks for the reason.
    fn print_logs(&self) {
        for entry in fs::read_dir(self.soak.home.data("logs")).into_iter().flatten().flatten() {
            let log = fs::read(entry.path()).unwrap_or_default();
            let end = String::from_utf8_lossy(&log[log.len().saturating_sub(4096)..]).into_owned();
            println!("--- {}\n{end}", entry.path().display());
        }
    }

    fn status(&mut self) {
        let (distro, status) = (self.distro(), self.random.gen_range(0..256));
        self.begin(format!("{distro} exits with {status}"));
        let line = format!("echo {status}; exit {status}");
        let child = self.start(&distro, &["sh", "-c", &line]);
        self.check(&self.finish(child, Vec::new()), status, format!("{status}\n").as_bytes());
    }

    fn signal(&mut self) {
        let signals = [1, 2, 6, 9, 15];
        let (distro, at) = (self.distro(), self.random.gen_range(0..signals.len()));
        let signal = signals[at];
        self.begin(format!("{distro} dies by signal {signal}"));
        let child = self.start(&distro, &["sh", "-c", &format!("kill -{signal} $$")]);
        self.check(&self.finish(child, Vec::new()), 128 + signal, b"");
    }

    fn bytes(&mut self) {
        let (distro, length) = (self.distro(), self.random.gen_range(0..2_000_000));
        self.begin(format!("{distro} gives {length} bytes back"));
        let mut bytes = vec![0; length];
        self.random.fill_bytes(&mut bytes);
        let child = self.start(&distro, &["cat"]);
        self.check(&self.finish(child, bytes.clone()), 0, &bytes);
    }

    fn at_once(&mut self) {
        let count = self.random.gen_range(2..12);
        self.begin(format!("{count} commands at once"));
        let children: Vec<_> = (0..count)
            .map(|number| {
                let distro = self.distro();
                let line = format!("echo {number}; sleep 0.0{number}; exit {number}");
                self.start(&distro, &["sh", "-c", &line])
            })
            .collect();
        for (number, child) in children.into_iter().enumerate() {
            let outcome = self.finish(child, Vec::new());
            let status = i32::try_from(number).unwrap();
            self.check(&outcome, status, format!("{number}\n").as_bytes());
        }
    }

    /// Leaves a command running that ends with its distro at the latest.
    fn leave_beside(&mut self) {
        let (distro, is_awaited) = (self.distro(), self.random.gen_bool(0.5));
        self.begin(format!("{distro} goes on"));
        if self.beside.len() >= 8 {
            return;
        }
        let mut child = self.start(&distro, &["sh", "-c", "echo; exec sleep 100000"]);
        let mut stdout = child.stdout.take().unwrap();
        let (tell, word) = channel();
        thread::spawn(move || stdout.read_exact(&mut [0]).map(|()| tell.send(())));
        let mut beside = Beside { child, word, runs: false };
        if is_awaited {
            assert!(self.runs(&mut beside), "step {}: {}", self.step, self.what);
        }
        self.beside.push(beside);
    }

    /// Waits until a command runs or has ended, and says whether it runs.
    fn runs(&self, beside: &mut Beside) -> bool {
        let word = beside.word.recv_timeout(self.soak.limit);
        let hangs = word == Err(RecvTimeoutError::Timeout);
        assert!(!hangs, "step {}: a command neither runs nor ends: {}", self.step, self.what);
        beside.runs = word.is_ok();
        beside.runs
    }

    fn kill_a_client(&mut self) {
        self.begin("a client is killed");
        if !self.beside.is_empty() {
            let at = self.random.gen_range(0..self.beside.len());
            let mut child = self.beside.swap_remove(at).child;
            let _ = child.kill();
            self.end(&mut child);
        }
    }

    fn daemon(&mut self) {
        let distro = self.distro();
        self.begin(format!("{distro} starts a daemon"));
        let line = "setsid sleep 100000 </dev/null >/dev/null 2>&1 &";
        let child = self.start(&distro, &["sh", "-c", line]);
        self.check(&self.finish(child, Vec::new()), 0, b"");
    }

    /// Runs a verb, which must succeed.
    fn verb(&mut self, words: &[&str]) -> Vec<u8> {
        let mut test = self.soak.home.wslr(words);
        let command = test.command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let outcome = self.finish(command.spawn().unwrap(), Vec::new());
        assert_eq!(outcome.0, Some(0), "step {}: {}: {}", self.step, self.what, outcome.2);
        outcome.1
    }

    fn listing(&mut self) {
        self.begin("listings");
        assert_ne!(self.verb(&["--status", "--json"]), b"");
        assert_ne!(self.verb(&["--list", "--verbose"]), b"");
    }

    fn terminate(&mut self) {
        let distro = self.distro();
        self.begin(format!("{distro} is terminated"));
        assert_eq!(self.verb(&["--terminate", &distro]), DONE.as_bytes());
    }

    fn shutdown(&mut self, options: &[&str]) {
        self.begin(format!("a shutdown {options:?}"));
        assert_eq!(self.verb(&[&["--shutdown"], options].concat()), b"");
        self.end_beside();
    }

    /// All that ran beside has ended with what it ran in. What had not begun may have found
    /// the end over, and begins after it.
    fn end_beside(&mut self) {
        for mut beside in std::mem::take(&mut self.beside) {
            if !beside.runs && self.runs(&mut beside) {
                let _ = beside.child.kill();
            }
            let status = self.end(&mut beside.child);
            assert!(!status.success(), "step {}: {}", self.step, self.what);
        }
    }

    fn kill_the_service(&mut self) {
        self.begin("the service is killed");
        let status = self.verb(&["--status", "--json"]);
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
        let Some(process) = status["service"]["process"].as_i64() else { return };
        let process = nix::unistd::Pid::from_raw(process.try_into().unwrap());
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL).unwrap();
        self.end_beside();
    }

    fn crash(&mut self) {
        let distro = self.soak.distros[0].to_owned();
        if !self.soak.has_machine {
            self.begin(format!("{distro} ends itself"));
            let child = self.start(&distro, &["sh", "-c", "kill -9 -1; sleep 100000"]);
            self.finish(child, Vec::new());
            return;
        }
        self.begin("the kernel crashes");
        let line = "echo c >/proc/sysrq-trigger; sleep 100000";
        let child = self.start(&distro, &["sh", "-c", line]);
        let (status, _, error) = self.finish(child, Vec::new());
        assert!(status == Some(255) && error.contains("WSL_E_VM_CRASHED"), "{status:?} {error}");
        self.end_beside();
    }
}
