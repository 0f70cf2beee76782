//! What the words of a command line become in a distro.

use crate::fixture::home;

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b018_one_word_is_a_line_and_several_arrive_as_typed() {
    let home = home();
    home.wslr(["echo a; echo b | wc -l"]).stdout("a\n1\n").run();
    home.wslr(["echo", "-n", "$USER", "", "a  b"]).stdout("$USER  a  b").run();
    home.wslr(["--exec", "echo", "-x"]).stdout("-x\n").run();
    home.wslr(["--shell-type", "login", "echo", "a  b", "$USER"]).stdout("a  b $USER\n").run();
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b003_a_command_starts_where_it_is_told() {
    let home = home();
    home.wslr(["--cd", "/", "pwd"]).stdout("/\n").run();
    home.wslr(["--cd", "/no/such", "pwd"]).stdout("/root\n").run();
    home.wslr(["~", "pwd"]).stdout("/root\n").run();
    let mut here = home.wslr(["pwd"]).stdout("/usr\n");
    here.command().current_dir("/usr");
    here.run();
    home.wslr(["pwd"]).stdout("/root\n").run();
}

#[test]
#[ignore = "needs a KVM that boots stock kernels"]
fn b011_a_command_runs_as_the_user_asked_for() {
    let home = home();
    home.wslr(["-u", "root", "whoami"]).stdout("root\n").run();
    home.wslr(["-u", "nosuchuser", "id"])
        .stderr("wslr: User not found.\nError code: [..]/WSL_E_USER_NOT_FOUND\n")
        .status(255)
        .run();
}
