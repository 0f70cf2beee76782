//! `--manage` of a distro that runs without a virtual machine: what stops it, and what is
//! refused.

use std::fs;

use serde_json::Value;

use crate::fixture::{OwnHome, Whose, run_as, running};

/// Its owners are of the user's namespace, in which all copying is done.
#[test]
fn b095_a_users_distro_is_kept_moved_and_brought_back() {
    run_as(Whose::User, is_kept_moved_and_brought_back);
}

const DONE: &str = "The operation completed successfully.\n";

fn is_kept_moved_and_brought_back() {
    let home = OwnHome::with_distro("D", "");
    home.wslr(["useradd -m tester && echo kept >/home/tester/file && chown tester ~tester/file"])
        .run();
    let owner = "stat -c '%U %a' ~tester/file /etc/shadow /usr/bin/passwd; cat ~tester/file";
    let owners = "tester 644\nroot 640\nroot 4755\nkept\n";
    home.wslr([owner]).stdout(owners).run();
    assert_eq!(running(&home), "D\n");
    let refused = "The operation could not be completed because the distribution 'D' is running.";
    let hint = Some("'wslr --terminate D' stops it");
    let place = home.path("place");
    for (words, context) in [
        (["--move", place.to_str().unwrap()].as_slice(), "Wsl/Service/MoveDistro"),
        (&["--restore", "x"], "Wsl/Service"),
        (&["--resize", "2GB"], "Wsl/Service"),
    ] {
        let code = format!("{context}/WSL_E_DISTRO_NOT_STOPPED");
        let words = ["--manage", "D"].iter().chain(words);
        home.wslr(words).fails(refused, hint, Some(&code)).run();
    }
    // What only reads stops it, as an export does.
    home.wslr(["--manage", "D", "--snapshot", "good"]).stdout(DONE).run();
    assert_eq!(running(&home), "");
    home.wslr(["rm -r /home/tester"]).run();
    home.wslr(["--terminate", "D"]).stdout(DONE).run();
    home.wslr(["--manage", "D", "--restore", "good"]).stdout(DONE).run();
    home.wslr(["--manage", "D", "--move", "place"]).stdout(DONE).run();
    home.wslr([owner]).stdout(owners).run();
    let output = home.wslr(["--manage", "D", "--list-snapshots", "--json"]).command().output();
    let listed: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["version"]), (&"good".into(), &1.into()));
    // In use or not, a snapshot can be let go of.
    assert_eq!(running(&home), "D\n");
    home.wslr(["--manage", "D", "--delete-snapshot", "good"]).stdout(DONE).run();
    assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
    home.wslr(["--unregister", "D"]).stdout(DONE).run();
    assert!(!place.exists());
}
