//! A registry that cannot be read or written.

use std::fs;

use super::listing::home_with_two;
use crate::support::Home;

#[test]
fn a_damaged_registry_is_named_with_its_line_and_kept() {
    let home = Home::new();
    let damaged = "{\n  \"version\": 1,\n  \"distros\": [\n    {\"id\": 7}\n  ]\n}\n";
    home.write(".local/share/wslr/registry.json", damaged);
    let message =
        "the registry '[HOME]/.local/share/wslr/registry.json' is damaged in line 4: [..]";
    let hint = "mend or move away '[HOME]/.local/share/wslr/registry.json'; \
        the disks it names are untouched";
    for words in [["--list"].as_slice(), &["-s", "x"], &["--status"]] {
        home.wslr(words).fails(message, Some(hint), Some("Wsl/Service/ERROR_FILE_CORRUPT")).run();
    }
    let kept = fs::read_to_string(home.data("registry.json")).unwrap();
    assert_eq!(kept, damaged);
}

#[test]
fn a_registry_that_cannot_grow_keeps_its_old_content() {
    let home = home_with_two();
    let before = fs::read(home.data("registry.json")).unwrap();
    // A limit that not even the new registry fits in stands for a full disk.
    let script =
        format!("ulimit -f 0; trap '' XFSZ; exec {} -s Debian", env!("CARGO_BIN_EXE_wslr"));
    let mut test = home.wslr([""; 0]);
    let mut shell = std::process::Command::new("bash");
    shell.arg("-c").arg(script).env_clear();
    for (name, value) in test.command().get_envs() {
        shell.env(name, value.unwrap());
    }
    let output = shell.output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.ends_with("Error code: Wsl/Service/ERROR_FILE_TOO_LARGE\n"), "{stderr}");
    assert_eq!(fs::read(home.data("registry.json")).unwrap(), before);
    assert_eq!(home.tree(".local/share/wslr"), ["registry.json", "registry.lock"]);
}
