//! Where a command starts.

use crate::fixture::{home, shell};

crate::as_root_and_as_user! {
    b003_a_tilde_is_the_users_home
    b004_a_directory_of_the_distro
    b005_the_hosts_directory_where_the_distro_has_it
}

fn b003_a_tilde_is_the_users_home() {
    home().wslr(["--cd", "~", "pwd"]).stdout("/root\n").run();
    home().wslr(["~", "pwd"]).stdout("/root\n").run();
    shell("exec 9>/run/b003; flock 9; id alice 2>/dev/null || useradd -m -s /bin/bash alice");
    home().wslr(["-u", "alice", "--cd", "~", "pwd"]).stdout("/home/alice\n").run();
    home()
        .wslr(["-u", "alice", "echo $HOME $USER $LOGNAME; pwd"])
        .stdout("/home/alice alice alice\n/home/alice\n")
        .run();
    home().wslr(["--cd", "~/../..", "pwd"]).stdout("/\n").run();
}

fn b004_a_directory_of_the_distro() {
    home().wslr(["--cd", "/", "pwd"]).stdout("/\n").run();
    home().wslr(["--cd", "/usr/lib", "pwd"]).stdout("/usr/lib\n").run();
    home().wslr(["--cd", "/no/such", "pwd"]).stdout("/root\n").run();
    home()
        .wslr(["--cd", "relative", "pwd"])
        .fails(
            "The parameter is incorrect: --cd relative",
            Some("a directory starts with '/' or '~'"),
            Some("Wsl/E_INVALIDARG"),
        )
        .run();
}

fn b005_the_hosts_directory_where_the_distro_has_it() {
    let mut here = home().wslr(["pwd"]).stdout("/usr/share\n");
    here.command().current_dir("/usr/share");
    here.run();
    // The home of the test is not in the distro.
    home().wslr(["pwd"]).stdout("/root\n").run();
}
