//! `--export` of a distro that runs, and one whose files are gone.

use std::process::Command;

use crate::fixture::{ALPHA, OwnHome, running};

crate::as_root_and_as_user! {
    b044_b046_b060_a_running_distro_is_ended_and_its_mounts_are_left_out
}

const DONE: &str = "The operation completed successfully.\n";

/// What GNU tar tells of the archive in the home.
fn tar(home: &OwnHome, words: &[&str]) -> String {
    let mut tar = Command::new("tar");
    let output = tar.current_dir(home.path("")).args(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn b044_b046_b060_a_running_distro_is_ended_and_its_mounts_are_left_out() {
    let home = OwnHome::with_distro(ALPHA, "[general]\ninstanceIdleTimeout=600000\n");
    home.wslr(["echo late >/root/late"]).run();
    assert_eq!(running(&home), format!("{ALPHA}\n"));
    home.wslr(["--export", ALPHA, "a.tar"]).stdout(DONE).run();
    assert_eq!(running(&home), "");
    assert_eq!(tar(&home, &["-xOf", "a.tar", "./root/late"]), "late\n");
    // Whatever the host's users are, the archive has Debian's.
    assert!(tar(&home, &["--numeric-owner", "-tvf", "a.tar", "./etc/shadow"]).contains(" 0/42 "));
    let names = tar(&home, &["-tf", "a.tar"]);
    for directory in ["./proc/", "./sys/", "./mnt/wsl/"] {
        let inside: Vec<&str> = names.lines().filter(|name| name.starts_with(directory)).collect();
        assert_eq!(inside, [directory]);
    }
    // One whose files are gone is told so, and is removed quietly.
    let root = home.data("distros");
    let base = std::fs::read_dir(root).unwrap().next().unwrap().unwrap().path();
    let away = home.path("away");
    std::fs::rename(base.join("rootfs"), &away).unwrap();
    let message = format!(
        "cannot open the distribution's files '{}': No such file or directory (os error 2)",
        base.join("rootfs").display()
    );
    let code = Some("Wsl/Service/ERROR_FILE_NOT_FOUND");
    home.wslr(["-d", ALPHA, "true"]).fails(&message, None, code).run();
    home.wslr(["--list", "--quiet"]).stdout(format!("{ALPHA}\n")).run();
    std::fs::rename(&away, base.join("rootfs")).unwrap();
    home.wslr(["-d", ALPHA, "cat /root/late"]).stdout("late\n").run();
}
