//! Many commands, and random ones: nothing is left behind, nothing hangs.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::fixture::{OwnHome, install, status};
use crate::soak::Soak;
use crate::support::Home;
use crate::support::wait_for;

/// What a process holds: descriptors, threads, and kilobytes of memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Held {
    descriptors: usize,
    threads: usize,
    memory: usize,
}

/// What the service and all processes below it hold, by their names and numbers.
fn held(home: &Home) -> BTreeMap<(String, i32), Held> {
    let service = i32::try_from(status(home)["service"]["process"].as_i64().unwrap()).unwrap();
    let mut found = BTreeMap::new();
    let mut unseen = vec![service];
    while let Some(process) = unseen.pop() {
        let path = |name: &str| format!("/proc/{process}/{name}");
        let count = |name: &str| fs::read_dir(path(name)).map(Iterator::count).unwrap_or(0);
        let Ok(text) = fs::read_to_string(path("status")) else { continue };
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or(": 0");
            line.split_ascii_whitespace()
                .nth(usize::from(line.starts_with(':')))
                .unwrap()
                .to_owned()
        };
        let memory = field("VmRSS").parse().unwrap();
        let held = Held { descriptors: count("fd"), threads: count("task"), memory };
        found.insert((field("Name"), process), held);
        for task in fs::read_dir(path("task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            unseen.extend(children.split_whitespace().map(|child| child.parse::<i32>().unwrap()));
        }
    }
    found
}

/// `WSLR_MANY` commands one after the other, and 100 at once.
#[test]
fn many_commands_leave_nothing_behind() {
    let count = env::var("WSLR_MANY").map_or(200, |text| text.parse().unwrap());
    let home = OwnHome::with_distro("D", "[general]\ninstanceIdleTimeout=600000\n");
    let run = || {
        let mut test = home.wslr(["true"]);
        let command = test.command().stdin(Stdio::null());
        assert!(command.status().unwrap().success());
    };
    let at_once = || {
        let children: Vec<_> = (0..100)
            .map(|number: u8| {
                let line = format!("exit {number}");
                let mut test = home.wslr(["sh", "-c", &line]);
                test.command().stdin(Stdio::null()).spawn().unwrap()
            })
            .collect();
        for (number, mut child) in children.into_iter().enumerate() {
            assert_eq!(child.wait().unwrap().code(), Some(i32::try_from(number).unwrap()));
        }
    };
    // What is held for the first of all is kept: buffers, stacks of threads.
    at_once();
    (0..20).for_each(|_| run());
    let quiet = || status(&home)["uses"][0]["sessions"] == 0;
    wait_for("the sessions to end", quiet);
    let before = held(&home);
    let started = Instant::now();
    (0..count).for_each(|_| run());
    let taken = started.elapsed();
    println!("{count} commands in {taken:?}, {:?} each", taken / count);
    at_once();
    wait_for("the sessions to end", quiet);
    // A thread is gone a moment after what it has done.
    let same = |now: &BTreeMap<(String, i32), Held>| {
        before.keys().eq(now.keys())
            && before.values().zip(now.values()).all(|(before, now)| {
                now.descriptors == before.descriptors && now.threads <= before.threads
            })
    };
    let end = Instant::now() + Duration::from_secs(20);
    let after = loop {
        let after = held(&home);
        if same(&after) || Instant::now() > end {
            break after;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    println!("before {before:#?}\nafter {after:#?}");
    assert!(same(&after), "something is left behind: {before:#?} {after:#?}");
    for (process, before) in &before {
        let more = after[process].memory.saturating_sub(before.memory);
        assert!(more < 4096, "{process:?} holds {more} kB more");
    }
}

#[test]
fn random_operations_neither_hang_nor_lie() {
    let home = OwnHome::with_distro("D", "");
    install(&home, "E");
    let limit = Duration::from_secs(60);
    Soak { home: &home, distros: ["D", "E"], has_machine: false, limit }
        .run(Duration::from_secs(20));
    assert!(status(&home)["service"].is_null());
}
