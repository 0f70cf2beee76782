//! The processes of a distro, as `/proc` shows them (proc_pid_status(5)).

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Read;

use nix::unistd::Pid;

/// The most processes that are looked at.
const MAXIMUM: usize = 1 << 16;

/// The longest file of a process that is read, in bytes.
const MAXIMUM_FILE: u64 = 64 << 10;

/// One process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Process {
    /// Its number here.
    pub pid: Pid,
    /// Its parent's.
    pub parent: Pid,
    /// The name of its program, printable.
    pub name: String,
    /// Its numbers from this PID namespace to its own.
    pub pids: Vec<i32>,
}

impl Process {
    fn read(pid: Pid) -> Option<Self> {
        Self::parse(pid, &read(pid, "status")?)
    }

    fn parse(pid: Pid, status: &str) -> Option<Self> {
        let field = |name: &str| {
            status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
        };
        let pids = field("NSpid").unwrap_or_default();
        Some(Self {
            pid,
            parent: Pid::from_raw(field("PPid")?.parse().ok()?),
            name: printable(field("Name")?),
            pids: pids.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect(),
        })
    }

    /// Its cgroup in the hierarchy of version 2.
    pub fn group(&self) -> Option<String> {
        let groups = read(self.pid, "cgroup")?;
        groups.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
    }
}

/// The first process of a distro and all that come from it: whoever loses its parent gets
/// one of these as another.
pub fn of_distro(init: Pid) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let all = pids.take(MAXIMUM).filter_map(|pid| Process::read(Pid::from_raw(pid)));
    below(init, all.collect())
}

fn below(init: Pid, all: Vec<Process>) -> Vec<Process> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for process in &all {
        children.entry(process.parent).or_default().push(process.pid);
    }
    let mut found = HashSet::from([init]);
    let mut unseen = vec![init];
    while let Some(pid) = unseen.pop() {
        // Numbers are used again: what was read of two instants may have a circle in it.
        unseen.extend(children.remove(&pid).into_iter().flatten().filter(|pid| found.insert(*pid)));
    }
    all.into_iter().filter(|process| found.contains(&process.pid)).collect()
}

fn read(pid: Pid, name: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(format!("/proc/{pid}/{name}")).ok()?;
    file.take(MAXIMUM_FILE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A name that is safe to show.
pub fn printable(name: &str) -> String {
    name.chars().map(|one| if one.is_ascii_graphic() { one } else { '?' }).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32) -> Process {
        let status = format!("Name:\tp\nPid:\t{pid}\nPPid:\t{parent}\nNSpid:\t{pid}\n");
        Process::parse(Pid::from_raw(pid), &status).unwrap()
    }

    #[test]
    fn a_process_is_read_from_its_status() {
        let status = "Name:\tx\\ny\u{1b}z\nUmask:\t0022\nPPid:\t7\nNSpid:\t12\t5\t1\n";
        let read = Process::parse(Pid::from_raw(12), status).unwrap();
        assert_eq!((read.name.as_str(), read.parent.as_raw()), ("x\\ny?z", 7));
        assert_eq!(read.pids, [12, 5, 1]);
        assert_eq!(Process::parse(Pid::from_raw(12), "Name:\tx\n"), None);
        assert!(of_distro(Pid::this()).iter().any(|one| one.pid == Pid::this()));
    }

    #[test]
    fn a_distro_is_what_comes_from_its_first_process() {
        let all = [(1, 0), (5, 1), (6, 5), (7, 6), (8, 1), (9, 8), (20, 21), (21, 20)];
        let all = all.map(|(pid, parent)| process(pid, parent)).to_vec();
        let found: Vec<i32> =
            below(Pid::from_raw(5), all).iter().map(|one| one.pid.as_raw()).collect();
        assert_eq!(found, [5, 6, 7]);
    }
}
