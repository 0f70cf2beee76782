//! An ordinary user without subordinate ids: one user inside, and one warning.

use crate::fixture::{Whose, home, run_as};
use crate::support::debian;

#[test]
fn a_single_user_is_warned_at_the_installation() {
    run_as(Whose::Single, || {
        let home = crate::fixture::OwnHome::empty();
        let mut install =
            home.wslr(["--install", "-n", "--version", "1", "--name", "D", "-f", "-"]);
        let output = install.command().stdin(debian::archive()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let start = "wslr: warning: /etc/subuid has no range for user ";
        assert!(said.starts_with(start) && said.lines().count() == 1, "{said}");
        home.wslr(["id", "-u"]).stdout("0\n").run();
    });
}

#[test]
fn a_single_user_has_a_root_and_real_files() {
    run_as(Whose::Single, || {
        home().wslr(["echo", "foo"]).stdout("foo\n").run();
        let line = "id -un; pwd; touch /root/x && ls /root/x";
        home().wslr([line]).stdout("root\n/root\n/root/x\n").run();
        home().wslr(["sh", "-c", "exit 42"]).status(42).run();
    });
}

#[test]
fn a_single_users_package_manager_works() {
    run_as(Whose::Single, || {
        // Files cannot be given to anybody, and nobody else can be become.
        home()
            .wslr(["touch /root/y && chown 1:1 /root/y && stat -c %u /root/y"])
            .stdout("0\n")
            .run();
        let line = "apt-config dump APT::Sandbox::User";
        home().wslr([line]).stdout("APT::Sandbox::User \"root\";\n").run();
    });
}
