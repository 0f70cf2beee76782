//! `--manage` of a distro without a virtual machine.

use crate::fixture::OwnHome;

crate::as_root_and_as_user! {
    b090_the_default_user_is_set_by_name
}

const DONE: &str = "The operation completed successfully.\n";

fn b090_the_default_user_is_set_by_name() {
    let home = OwnHome::with_distro("D", "");
    home.wslr(["id", "-u"]).stdout("0\n").run();
    home.wslr(["--", "useradd", "-m", "testuser"]).run();
    let uid = home.wslr(["id", "-u", "testuser"]).stdout("[..]\n").run().stdout;
    let uid = String::from_utf8(uid).unwrap();
    home.wslr(["--manage", "d", "--set-default-user", "testuser"]).stdout(DONE).run();
    home.wslr(["id", "-u"]).stdout(&uid).run();
    // What the distro says of it is what the user is told.
    for nobody in ["Nonexistent", "-x", ""] {
        let said = format!("id: [..]{nobody}[..]: no such user[..]\n");
        home.wslr(["--manage", "D", "--set-default-user", nobody]).stderr(said).status(1).run();
    }
    home.wslr(["id", "-u"]).stdout(&uid).run();
    home.wslr(["--manage", "D", "--set-default-user=root"]).stdout(DONE).run();
    home.wslr(["id", "-u"]).stdout("0\n").run();
}
