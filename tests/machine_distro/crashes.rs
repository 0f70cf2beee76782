//! Processes that crash leave a dump on the host (B161).

use std::fs;
use std::path::PathBuf;

use crate::fixture::{ALPHA, home, in_distro, restart_with};
use crate::support::wait_for;

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn o_b161_a_crash_leaves_a_dump_and_the_third_of_two_replaces_the_oldest() {
    let folder = home().path("crashes");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("notes.txt"), "kept").unwrap();
    restart_with(&format!("crashDumpFolder={}\nmaxCrashDumpCount=2\n", folder.display()));
    let dumps = || {
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let mut dumps: Vec<PathBuf> = entries.filter(|path| path.ends_with("notes.txt")).collect();
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let is_dump = |path: &PathBuf| path.extension().is_some_and(|end| end == "dmp");
        assert_eq!(dumps.len(), 1);
        dumps = entries.filter(is_dump).collect();
        dumps.sort();
        dumps
    };
    let mut all: Vec<PathBuf> = Vec::new();
    for number in 0..3 {
        let output = in_distro(ALPHA, &["sh", "-c", "echo $$; kill -SEGV $$"]);
        assert_eq!(output.status.code(), Some(128 + 11), "{output:?}");
        let process = String::from_utf8(output.stdout).unwrap();
        wait_for("the dump", || dumps().iter().any(|dump| !all.contains(dump)));
        let new = dumps().into_iter().find(|dump| !all.contains(dump)).unwrap();
        let name = new.file_name().unwrap().to_str().unwrap();
        assert!(name.ends_with(&format!("-{}-dash-11.dmp", process.trim())), "{name}");
        let image = fs::read(&new).unwrap();
        // An ELF file of the kind "core".
        assert_eq!((&image[..4], image[16]), (&b"\x7fELF"[..], 4));
        println!("dump {number}: {name}: {} bytes", image.len());
        all.push(new);
        // Dumps of one second are sorted by their processes.
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    assert_eq!(dumps(), &all[1..]);
    restart_with("maxCrashDumpCount=-1\n");
    let pattern = in_distro(ALPHA, &["cat", "/proc/sys/kernel/core_pattern"]);
    assert_eq!(pattern.stdout, b"core\n");
    restart_with("");
}
