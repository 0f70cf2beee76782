//! Words that are not of the grammar, and help.

use crate::support::Home;

const HELP: Option<&str> = Some("'wslr --help' lists the arguments");

#[test]
fn b026_help_goes_to_standard_output_and_succeeds() {
    let home = Home::new();
    let usage = wslr::command::usage();
    home.wslr(["--help"]).stdout(&usage).run();
    home.wslr(["-d", "x", "--help", "y"]).stdout(&usage).run();
    assert!(home.tree("").iter().all(|name| name == "run"), "help leaves nothing behind");
}

#[test]
fn b017_unknown_options_and_missing_values() {
    let home = Home::new();
    for word in ["--unknown-flag", "-x"] {
        let message = format!("Invalid command line argument: {word}");
        home.wslr([word]).fails(&message, HELP, None).run();
    }
    for word in ["-d", "-u", "--terminate", "--unregister", "--set-default", "--shell-type"] {
        let message = format!("Argument {word} is missing a required parameter.");
        home.wslr([word]).fails(&message, HELP, None).run();
    }
}

#[test]
fn b032_errors_behind_a_verb() {
    let home = Home::new();
    let code = Some("Wsl/E_INVALIDARG");
    home.wslr(["--install", "--fixed-vhd"])
        .fails("Invalid command line argument: --fixed-vhd", HELP, code)
        .run();
    home.wslr(["--install", "--name"])
        .fails("Command line argument --name requires a value.", HELP, code)
        .run();
    home.wslr(["--install", "--vhd-size", "0foo"])
        .fails(
            "Invalid size: 0foo",
            Some("a size is a number and B, KB, MB, GB or TB, e.g. 64GB"),
            code,
        )
        .run();
    home.wslr(["--install", "--version", "3"])
        .fails(
            "Invalid version: 3",
            Some("a version is 1 or 2"),
            Some("Wsl/ERROR_VERSION_PARSE_ERROR"),
        )
        .run();
}

#[test]
fn b030_uninstall_is_refused_and_the_right_word_named() {
    let home = Home::new();
    for words in [["--uninstall"].as_slice(), &["--uninstall", "Debian"]] {
        home.wslr(words)
            .fails(
                "Invalid command line argument: --uninstall",
                Some("'wslr --unregister NAME' removes a distribution"),
                None,
            )
            .run();
    }
}

#[test]
fn b031_a_default_version_is_1_or_2() {
    let home = Home::new();
    for version in ["3", "0", "two", ""] {
        home.wslr(["--set-default-version", version])
            .fails(
                &format!("Invalid version: {version}"),
                Some("a version is 1 or 2"),
                Some("Wsl/ERROR_VERSION_PARSE_ERROR"),
            )
            .run();
    }
    home.wslr(["--set-default-version"])
        .fails("Argument --set-default-version is missing a required parameter.", HELP, None)
        .run();
    assert!(home.tree("").iter().all(|name| name == "run"), "nothing is set");
}

#[test]
fn b075_install_refuses_what_excludes_each_other() {
    let home = Home::new();
    home.wslr(["--install", "Debian", "--no-distribution"])
        .fails(
            "Arguments --no-distribution and Debian can't be specified at same time.",
            HELP,
            Some("Wsl/E_INVALIDARG"),
        )
        .run();
    home.wslr(["--install", "Debian", "--from-file", "f"])
        .fails(
            "Arguments --from-file and Debian can't be specified at same time.",
            HELP,
            Some("Wsl/E_INVALIDARG"),
        )
        .run();
}

#[test]
fn b037_listings_that_exclude_each_other() {
    Home::new()
        .wslr(["-l", "-qv"])
        .fails("Arguments --quiet and --verbose can't be specified at same time.", HELP, None)
        .run();
}

#[test]
fn output_to_a_reader_that_is_gone_is_quiet() {
    let home = Home::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut test = home.wslr(["--help"]);
    let output = test.command().stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn output_to_a_full_device_is_a_failure() {
    let home = Home::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut test = home.wslr(["--help"]);
    let output = test.command().stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "wslr: cannot write to standard output: No space left on device (os error 28)\n\
         Error code: Wsl/ERROR_DISK_FULL\n"
    );
}

#[test]
fn b091_b092_manage_needs_a_distro_and_one_action() {
    let home = Home::new();
    home.wslr(["--manage"])
        .fails("Argument --manage is missing a required parameter.", HELP, None)
        .run();
    home.wslr(["--manage", "D"])
        .fails(
            "--manage changes one thing of a distribution, and none is named.",
            Some("'wslr --manage --help' lists the actions"),
            None,
        )
        .run();
    home.wslr(["--manage", "nope", "--set-default-user", "root"])
        .fails(
            "There is no distribution with the supplied name.",
            Some("'wslr --list' shows the installed distributions"),
            Some("Wsl/Service/WSL_E_DISTRO_NOT_FOUND"),
        )
        .run();
}

#[test]
fn b182_there_is_no_system_distribution() {
    let home = Home::new();
    for words in [["--system"].as_slice(), &["-d", "D", "--system", "true"]] {
        home.wslr(words)
            .fails(
                "There is no system distribution: what it is for in WSL, wslr does by itself.",
                Some("'wslr' without --system runs a distribution"),
                Some("Wsl/WSL_E_GUI_APPLICATIONS_DISABLED"),
            )
            .run();
    }
}
