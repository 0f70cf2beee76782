//! What cannot be run.

use crate::fixture::{ALPHA, home, shell};

crate::as_root_and_as_user! {
    b008_a_distro_that_is_not_there
    b009_an_id_in_any_case
    b010_a_name_in_any_case
    b011_a_user_that_is_not_there
    a_command_that_is_not_there
    b181_a_debug_shell_needs_a_machine
}

const UNKNOWN: &str = "There is no distribution with the supplied name.";
const UNKNOWN_HINT: Option<&str> = Some("'wslr --list' shows the installed distributions");

fn b008_a_distro_that_is_not_there() {
    home()
        .wslr(["-d", "NoSuch", "echo", "foo"])
        .fails(UNKNOWN, UNKNOWN_HINT, Some("Wsl/Service/WSL_E_DISTRO_NOT_FOUND"))
        .run();
}

fn b009_an_id_in_any_case() {
    let listing = home().wslr(["--list", "--json"]).command().output().unwrap();
    let listing: serde_json::Value = serde_json::from_slice(&listing.stdout).unwrap();
    let id = listing[0]["id"].as_str().unwrap();
    let upper = id.to_uppercase();
    for spelling in [id, &upper, &format!("{{{id}}}"), &format!("{{{upper}}}")] {
        home().wslr(["--distribution-id", spelling, "echo", "foo"]).stdout("foo\n").run();
    }
    home()
        .wslr(["--distribution-id", "InvalidGuid", "true"])
        .fails(
            "The parameter is incorrect: --distribution-id InvalidGuid",
            Some("'wslr --list --json' shows the ids"),
            Some("Wsl/E_INVALIDARG"),
        )
        .run();
    let code = "Wsl/Service/CreateInstance/ReadDistroConfig/WSL_E_DISTRO_NOT_FOUND";
    home()
        .wslr(["--distribution-id", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "true"])
        .fails(UNKNOWN, UNKNOWN_HINT, Some(code))
        .run();
}

fn b010_a_name_in_any_case() {
    for name in [ALPHA.to_owned(), ALPHA.to_lowercase(), ALPHA.to_uppercase()] {
        home().wslr(["-d", &name, "echo", "foo"]).stdout("foo\n").run();
    }
    home()
        .wslr(["-d", ALPHA, "-d", ALPHA, "true"])
        .fails(
            "The distribution name has already been set.",
            Some("'wslr --help' lists the arguments"),
            Some("Wsl/E_INVALIDARG"),
        )
        .run();
}

fn b011_a_user_that_is_not_there() {
    let started = shell("stat -c %Y /proc/1");
    home()
        .wslr(["-u", "nosuchuser", "id"])
        .stderr("wslr: User not found.\nError code: [..]/WSL_E_USER_NOT_FOUND\n")
        .status(255)
        .run();
    assert_eq!(shell("stat -c %Y /proc/1"), started, "the distro was started anew");
}

fn a_command_that_is_not_there() {
    home().wslr(["no-such-command", "x"]).stderr("[..]no-such-command[..]\n").status(127).run();
    home().wslr(["no-such-command"]).stderr("[..]no-such-command[..]\n").status(127).run();
}

fn b181_a_debug_shell_needs_a_machine() {
    let message = format!("the distribution '{ALPHA}' has no virtual machine");
    home()
        .wslr(["-d", ALPHA, "--debug-shell"])
        .fails(&message, None, Some("Wsl/Service/WSL_E_WSL2_NEEDED"))
        .run();
}
