//! What the words of a command line become in a distro.

use crate::fixture::{home, in_distro, shell};

crate::as_root_and_as_user! {
    b001_a_command_prints
    b002_a_user_is_named
    b006_exit_statuses_pass_through
    b012_a_user_has_all_groups
    b013_exec_keeps_empty_words
    b014_exec_expands_nothing
    b015_shell_types
    b018_one_word_is_a_line
    b018_several_words_arrive_as_typed
    b019_the_shell_there_interprets
    a_command_has_a_private_world
    b217_the_hosts_proxy_is_a_commands
    b173_b220_a_distro_is_told_how_it_is_connected_and_whether_it_is
}

fn b001_a_command_prints() {
    home().wslr(["echo", "foo"]).stdout("foo\n").run();
    home().wslr(["-d", "Alpha", "--", "cat", "/etc/hostname"]).stdout("[..]\n").run();
}

fn b217_the_hosts_proxy_is_a_commands() {
    let words = ["echo $http_proxy $HTTP_PROXY $no_proxy."];
    let proxy = "http://localhost:3128";
    home()
        .wslr(words)
        .env("HTTP_PROXY", proxy)
        .env("no_proxy", "a,b")
        .stdout(format!("{proxy} {proxy} a,b.\n"))
        .run();
    // The next command has what is then.
    home().wslr(words).stdout(".\n").run();
}

fn b173_b220_a_distro_is_told_how_it_is_connected_and_whether_it_is() {
    home().wslr(["wslinfo", "--networking-mode"]).stdout("wsl1\n").run();
    home().wslr(["wslinfo", "--networking-mode", "-n"]).stdout("wsl1").run();
    home().wslr(["wslinfo", "--version"]).stdout(concat!(env!("CARGO_PKG_VERSION"), "\n")).run();
    // Its network is the host's.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap().to_string();
    let check = |place: &str| home().wslr(["wslinfo", "--check-connectivity", place]);
    check(&place).stdout(format!("'{place}' ({place}) is connected to\n")).run();
    drop(listener);
    check(&place)
        .stderr(format!(
            "wslinfo: '{place}' ({place}) cannot be connected to: Connection refused (os error 111)\n"
        ))
        .status(3)
        .run();
    check("a..b")
        .stderr("wslinfo: the name 'a..b' cannot be resolved: it is not a name\n")
        .status(2)
        .run();
    check("a:b").stderr("wslinfo: 'a:b' is not a name with or without a port\n").status(1).run();
}

fn b002_a_user_is_named() {
    home().wslr(["-u", "root", "whoami"]).stdout("root\n").run();
    home().wslr(["--user", "root", "whoami"]).stdout("root\n").run();
    home().wslr(["-u", "games", "id", "-un"]).stdout("games\n").run();
    home()
        .wslr(["-u", "games", "--", "sudo", "-n", "true"])
        .stderr("sudo: a password is required\n")
        .status(1)
        .run();
}

fn b006_exit_statuses_pass_through() {
    home().wslr(["true"]).run();
    home().wslr(["false"]).status(1).run();
    for status in [0, 1, 42, 67, 87, 255] {
        home().wslr(["sh", "-c", &format!("exit {status}")]).status(status).run();
    }
    // Beyond WSL, as shells have it.
    for signal in [9, 15, 6] {
        home().wslr(["sh", "-c", &format!("kill -{signal} $$")]).status(128 + signal).run();
    }
}

fn b012_a_user_has_all_groups() {
    shell(
        "exec 9>/run/b012; flock 9; id many 2>/dev/null || { \
         useradd many && for i in $(seq 40); do groupadd many$i && usermod -aG many$i many; done; }",
    );
    let expected = shell("awk -F: '/^many/ { print $3 }' /etc/group | sort -n | xargs");
    assert_eq!(expected.split_whitespace().count(), 41);
    home().wslr(["-u", "many", "id -G | tr ' ' '\\n' | sort -n | xargs"]).stdout(&expected).run();
}

fn b013_exec_keeps_empty_words() {
    home().wslr(["--exec", "echo", ""]).stdout("\n").run();
    home().wslr(["--exec", "echo", "foo", "", "bar"]).stdout("foo  bar\n").run();
    home()
        .wslr(["--exec"])
        .fails(
            "The parameter is incorrect: --exec ",
            Some("a command has to follow --exec"),
            Some("Wsl/E_INVALIDARG"),
        )
        .run();
}

fn b014_exec_expands_nothing() {
    for (word, shown) in [
        ("a", "a"),
        ("$USER", "$USER"),
        ("\"a\"", "\"a\""),
        ("\"", "\""),
        ("*", "*"),
        ("a;b|c>d&&e", "a;b|c>d&&e"),
        ("a  b", "a  b"),
        ("\u{e9}\t", "\u{e9}\t"),
    ] {
        home().wslr(["--exec", "echo", "-n", word]).stdout(shown).run();
    }
    home().wslr(["-e", "printf", "%s,", "-x", "--", ""]).stdout("-x,--,,").run();
}

fn b015_shell_types() {
    home().wslr(["--", "-x"]).stderr("bash: line 1: -x: command not found\n").status(127).run();
    let login = "shopt -q login_shell && echo login || echo plain";
    home().wslr(["--shell-type", "login", login]).stdout("login\n").run();
    home().wslr(["--shell-type", "standard", login]).stdout("plain\n").run();
    home().wslr([login]).stdout("plain\n").run();
    home().wslr(["--shell-type", "none", "echo", "$USER"]).stdout("$USER\n").run();
    home().wslr(["--shell-type", "login", "echo", "a  b", "$USER"]).stdout("a  b $USER\n").run();
}

fn b018_one_word_is_a_line() {
    for (line, shown) in [
        ("echo -n \\\"", "\""),
        ("echo -n \\'", "'"),
        ("echo -n \" \"", " "),
        ("echo -n $USER", "root"),
        ("echo -n \"$USER\"", "root"),
        ("echo -n '\"$USER\"'", "\"$USER\""),
        ("echo -n '\\\"$USER\\\"'", "\\\"$USER\\\""),
        ("echo -n '$USER'", "$USER"),
        ("echo -n a \" \" b", "a   b"),
        ("echo -n a \"\" b", "a  b"),
        ("echo -n a b \"\"", "a b "),
        ("echo -n \"a\"\"b\"", "ab"),
    ] {
        home().wslr([line]).stdout(shown).run();
    }
}

fn b018_several_words_arrive_as_typed() {
    home().wslr(["echo", "-n", "$USER", "", "a  b"]).stdout("$USER  a  b").run();
    let output = in_distro(&["printf", "%s\\n", "\u{e9}", "'", "\"", "\\"]);
    assert_eq!(output.stdout, "\u{e9}\n'\n\"\n\\\n".as_bytes());
}

fn b019_the_shell_there_interprets() {
    home().wslr(["echo a; echo b | wc -l"]).stdout("a\n1\n").run();
    home().wslr(["cd /etc && echo deb*_version"]).stdout("debian_version\n").run();
    home().wslr(["echo x >/dev/null; false || echo $((1 + 2))"]).stdout("3\n").run();
}

fn a_command_has_a_private_world() {
    let processes = shell("ls /proc | grep -c '^[0-9]'");
    assert!(processes.trim().parse::<u32>().unwrap() < 60, "{processes} processes");
    assert_eq!(shell("id -u; id -g"), "0\n0\n");
    assert!(shell("cat /etc/os-release").contains("VERSION_CODENAME=trixie"));
    assert_eq!(shell("cat /proc/1/comm").lines().count(), 1);
    assert_eq!(
        shell("stat -c %U:%G /etc/shadow /etc/passwd /usr/bin/passwd"),
        "root:shadow\nroot:root\nroot:root\n"
    );
    // Users can reach what all programs need.
    let line =
        "cat /etc/resolv.conf /etc/hosts /etc/hostname >/dev/null && stat -c %a /mnt /mnt/wsl";
    home().wslr(["-u", "games", "--", "sh", "-c", line]).stdout("755\n755\n").run();
    // Root can give files away, and others then own them.
    let line = "touch /root/given && chown games:mail /root/given && stat -c %U:%G /root/given";
    assert_eq!(shell(line), "games:mail\n");
}
