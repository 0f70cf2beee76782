//! The grammar's tables, by behaviour number.

use proptest::prelude::*;

use super::*;
use crate::image::compressor::Compression;

fn read(words: &[&str]) -> Result<Invocation, GrammarError> {
    parse(words.iter().map(OsString::from).collect(), Some(OsStr::new("/home/me")))
}

fn run(words: &[&str]) -> Run {
    match read(words) {
        Ok(Invocation::Run(run)) => run,
        other => panic!("{words:?} gave {other:?}"),
    }
}

fn arguments(words: &[&str]) -> Program {
    Program::Arguments(words.iter().map(|word| word.as_bytes().to_vec()).collect())
}

fn line(line: &str, login: bool) -> Program {
    Program::Line { line: line.as_bytes().to_vec(), login }
}

#[test]
fn no_words_open_the_default_shell() {
    let expected =
        Run { distro: Selection::Default, user: None, directory: None, program: Program::Shell };
    assert_eq!(run(&[]), expected);
    assert_eq!(run(&["--"]), expected);
}

#[test]
fn one_word_is_a_line_and_several_are_an_argument_vector() {
    assert_eq!(run(&["echo $HOME; ls"]).program, line("echo $HOME; ls", false));
    assert_eq!(run(&["sh", "-c", "exit 42"]).program, arguments(&["sh", "-c", "exit 42"]));
    assert_eq!(run(&["-d", "D", "--", "ls", "-l"]).program, arguments(&["ls", "-l"]));
    assert_eq!(run(&["echo", "--help"]).program, arguments(&["echo", "--help"]));
    assert_eq!(run(&["echo", "", "--"]).program, arguments(&["echo", "", "--"]));
}

#[test]
fn b181_a_debug_shell_is_roots_and_what_follows_does_not_count() {
    let shell = run(&["-d", "D", "-u", "alice", "--debug-shell", "--no-such", "word"]);
    assert_eq!(shell.program, Program::DebugShell);
    assert_eq!(shell.user.as_deref(), Some("root"));
    assert_eq!(shell.distro, Selection::Name("D".into()));
    assert!(read(&["--debug-shell=x"]).is_err());
}

#[test]
fn b003_a_tilde_counts_only_as_the_first_word() {
    assert_eq!(run(&["~", "pwd"]).directory, Some(Directory::Home));
    assert_eq!(run(&["-d", "D", "~"]).program, line("~", false));
    assert_eq!(run(&["--cd", "~", "pwd"]).directory, Some(Directory::Home));
    // What the host's shell makes of an unquoted tilde.
    assert_eq!(run(&["/home/me", "pwd"]).directory, Some(Directory::Home));
    assert_eq!(run(&["--cd", "/home/me", "pwd"]).directory, Some(Directory::Home));
}

#[test]
fn b004_a_directory_is_absolute_or_starts_with_a_tilde() {
    let path = |path: &str| Some(Directory::Path(path.as_bytes().to_vec()));
    assert_eq!(run(&["--cd", "/", "pwd"]).directory, path("/"));
    assert_eq!(run(&["--cd=/no/such"]).directory, path("/no/such"));
    assert_eq!(run(&["--cd", "~/src"]).directory, path("~/src"));
    for relative in ["src", "", ".."] {
        let error = read(&["--cd", relative, "pwd"]).unwrap_err();
        assert_eq!(error.failure().code.as_deref(), Some("Wsl/E_INVALIDARG"));
    }
}

#[test]
fn b009_an_id_is_read_in_any_case_with_or_without_braces() {
    let text = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    let id = Selection::Id(Uuid::try_parse(text).unwrap());
    let upper = text.to_uppercase();
    for spelling in [text, &upper, &format!("{{{text}}}"), &format!("{{{upper}}}")] {
        assert_eq!(run(&["--distribution-id", spelling, "true"]).distro, id);
        assert_eq!(run(&[spelling, "true"]).distro, id);
    }
    for wrong in ["InvalidGuid", "", "{", &text.replace('-', "")] {
        let error = read(&["--distribution-id", wrong]).unwrap_err();
        assert_eq!(error.failure().code.as_deref(), Some("Wsl/E_INVALIDARG"));
    }
    let other = "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    let both = run(&["--distribution-id", other, "--distribution-id", text]);
    assert_eq!(both.distro, id, "a later id overrides an earlier one");
}

#[test]
fn b010_a_second_distribution_is_refused() {
    let id = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
    for words in [["-d", "D", "-d", "D2"], ["--distribution-id", id, "--distribution", "D"]] {
        assert_eq!(read(&words).unwrap_err(), GrammarError::AlreadySet);
    }
}

#[test]
fn b013_exec_takes_the_rest_and_needs_one() {
    assert_eq!(run(&["--exec", "echo", ""]).program, arguments(&["echo", ""]));
    assert_eq!(run(&["-e", "-x"]).program, arguments(&["-x"]));
    assert_eq!(run(&["-e", "--", "x"]).program, arguments(&["--", "x"]));
    let failure = read(&["--exec"]).unwrap_err().failure();
    assert_eq!(failure.code.as_deref(), Some("Wsl/E_INVALIDARG"));
}

#[test]
fn b015_two_dashes_hand_over_words_that_start_with_a_dash() {
    assert_eq!(run(&["--", "-x"]).program, line("-x", false));
    assert_eq!(run(&["--", "--list"]).program, line("--list", false));
    assert_eq!(run(&["--", "--", "x"]).program, arguments(&["--", "x"]));
}

#[test]
fn b015_a_shell_type_decides_how_the_rest_runs() {
    assert_eq!(run(&["--shell-type", "login", "id"]).program, line("id", true));
    assert_eq!(run(&["--shell-type=standard", "id"]).program, line("id", false));
    assert_eq!(run(&["--shell-type", "none", "id"]).program, arguments(&["id"]));
    assert_eq!(
        run(&["--shell-type", "login", "echo", "a b", "it's"]).program,
        line(r"'echo' 'a b' 'it'\''s'", true)
    );
    assert!(read(&["--shell-type", "none"]).is_err());
    assert!(read(&["--shell-type", "bash", "id"]).is_err());
}

#[test]
fn b047_an_export_has_a_format() {
    let format = |words: &[&str]| match read(&[&["--export", "D", "-"], words].concat()) {
        Ok(Invocation::Export(export)) => {
            assert_eq!((export.name.as_str(), export.file), ("D", "-".into()));
            export.format
        }
        other => panic!("{other:?}"),
    };
    for (words, expected) in [
        (&[][..], ExportFormat::Archive(Compression::None)),
        (&["--format", "tar"], ExportFormat::Archive(Compression::None)),
        (&["--format", "tar.gz"], ExportFormat::Archive(Compression::Gzip)),
        (&["--format=tar.xz"], ExportFormat::Archive(Compression::Xz)),
        (&["--format=tar.zst"], ExportFormat::Archive(Compression::Zstd)),
        (&["--format", "vhd"], ExportFormat::Disk),
        (&["--vhd"], ExportFormat::Disk),
        (&["--vhd", "--format", "vhd"], ExportFormat::Disk),
    ] {
        assert_eq!(format(words), expected, "{words:?}");
    }
}

#[test]
fn b017_unknown_options_and_missing_values_carry_no_code() {
    for (words, message) in [
        (["--unknown-flag"].as_slice(), "Invalid command line argument: --unknown-flag"),
        (&["--exec=x"], "Invalid command line argument: --exec=x"),
        (&["-dD"], "Invalid command line argument: -dD"),
        (&["-"], "Invalid command line argument: -"),
        (&["-d"], "Argument -d is missing a required parameter."),
        (&["-u"], "Argument -u is missing a required parameter."),
        (&["--terminate"], "Argument --terminate is missing a required parameter."),
        (&["-s"], "Argument -s is missing a required parameter."),
        (&["--unregister"], "Argument --unregister is missing a required parameter."),
    ] {
        let failure = read(words).unwrap_err().failure();
        assert_eq!((failure.message.as_str(), failure.code), (message, None));
        assert!(failure.hint.is_some_and(|hint| hint.contains("--help")));
    }
}

#[test]
fn a_verb_may_follow_options() {
    assert_eq!(read(&["-d", "X", "--list"]), Ok(Invocation::List(List::default())));
    assert_eq!(
        read(&["-l", "-vq"]),
        Err(GrammarError::Usage { first: "--quiet", second: "--verbose" })
    );
    assert_eq!(read(&["-v"]), Ok(Invocation::Version { json: false }));
    assert_eq!(read(&["--setdefault", "D"]), Ok(Invocation::SetDefault { name: "D".into() }));
}

#[test]
fn b032_errors_behind_a_verb_carry_a_code() {
    for (words, message) in [
        (["--list", "--foo"].as_slice(), "Invalid command line argument: --foo"),
        (&["--list", "x"], "Invalid command line argument: x"),
        (&["--terminate", "D", "x"], "Invalid command line argument: x"),
        (&["--install", "--name"], "Command line argument --name requires a value."),
        (&["--install", "D", "--fixed-vhd"], "Invalid command line argument: --fixed-vhd"),
        (&["--install", "--vhd-size", "foo"], "Invalid size: foo"),
    ] {
        let failure = read(words).unwrap_err().failure();
        assert_eq!(failure.message, message);
        assert_eq!(failure.code.as_deref(), Some("Wsl/E_INVALIDARG"));
    }
}

#[test]
fn b037_listings_that_exclude_each_other_are_refused() {
    for words in [
        ["--list", "-q", "-v"],
        ["--list", "--all", "--running"],
        ["-l", "-v", "--online"],
        ["-l", "--all", "-o"],
    ] {
        assert!(matches!(read(&words), Err(GrammarError::Usage { .. })));
    }
}

#[test]
fn b075_options_of_install_that_exclude_each_other_are_refused() {
    for words in [
        ["--install", "D", "--no-distribution"].as_slice(),
        &["--install", "X", "--from-file", "f"],
        &["--install", "X", "-d", "Y"],
        &["--install", "--no-distribution", "-f", "x"],
    ] {
        let failure = read(words).unwrap_err().failure();
        assert!(failure.message.ends_with("can't be specified at same time."));
        assert_eq!(failure.code.as_deref(), Some("Wsl/E_INVALIDARG"));
    }
}

#[test]
fn install_reads_all_its_options() {
    let words = [
        "--install",
        "-d",
        "Debian",
        "--name=N",
        "--location",
        "/x",
        "-n",
        "--vhd-size",
        "64GB",
        "--version",
        "2",
    ];
    let expected = Install {
        distro: Some("Debian".into()),
        from_file: None,
        location: Some("/x".into()),
        name: Some("N".into()),
        no_distribution: false,
        no_launch: true,
        size: Some(64 << 30),
        version: Some(2),
    };
    assert_eq!(read(&words), Ok(Invocation::Install(expected)));
}

#[test]
fn b031_a_version_is_1_or_2() {
    for version in [1, 2] {
        let word = version.to_string();
        let Ok(Invocation::Install(install)) = read(&["--install", "--version", &word]) else {
            panic!("refused");
        };
        assert_eq!(install.version, Some(version));
        assert_eq!(
            read(&["--set-default-version", &word]),
            Ok(Invocation::SetDefaultVersion { version })
        );
        assert_eq!(
            read(&["--set-version", "D", &word]),
            Ok(Invocation::SetVersion { name: "D".into(), version })
        );
    }
    for wrong in ["3", "0", "", "01", " 1", "1.0", "-", "x"] {
        for words in [
            ["--install", "--version", wrong].as_slice(),
            &["--set-default-version", wrong],
            &["--set-version", "D", wrong],
        ] {
            let failure = read(words).unwrap_err().failure();
            assert_eq!(failure.message, format!("Invalid version: {wrong}"));
            assert_eq!(failure.code.as_deref(), Some("Wsl/ERROR_VERSION_PARSE_ERROR"));
        }
    }
}

#[test]
fn b017_set_version_needs_both_its_words() {
    for words in [["--set-version"].as_slice(), &["--set-version", "D"]] {
        let failure = read(words).unwrap_err().failure();
        assert_eq!(failure.message, "Argument --set-version is missing a required parameter.");
        assert_eq!(failure.code, None);
    }
    let error = read(&["--set-version", "D", "1", "x"]).unwrap_err();
    assert_eq!(error, GrammarError::InvalidForVerb { argument: "x".into() });
}

#[test]
fn help_is_asked_for_before_or_after_a_verb() {
    assert_eq!(read(&["--help"]), Ok(Invocation::Help));
    assert_eq!(read(&["-u", "x", "--help", "y"]), Ok(Invocation::Help));
    assert!(matches!(read(&["--install", "--help"]), Ok(Invocation::HelpFor(_))));
}

proptest! {
    #[test]
    fn any_words_are_understood_or_refused(words in prop::collection::vec("[-=~a-z{}/ ]{0,12}", 0..6)) {
        let _ = parse(words.into_iter().map(OsString::from).collect(), None);
    }

    #[test]
    fn an_argument_vector_arrives_exactly_as_typed(words in prop::collection::vec(any::<Vec<u8>>(), 2..6)) {
        let mut typed = vec![OsString::from("--")];
        typed.extend(words.iter().cloned().map(OsString::from_vec));
        let Ok(Invocation::Run(run)) = parse(typed, None) else { panic!("refused") };
        prop_assert_eq!(run.program, Program::Arguments(words));
    }
}
