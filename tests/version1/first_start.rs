//! The first shell of a distro.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::fixture::OwnHome;
use crate::support::{Home, debian};
use crate::terminal::Terminal;

crate::as_root_and_as_user! {
    b083_b087_the_first_shell_runs_the_set_up_command_of_the_distro
    an_assembled_distro_asks_for_an_account
}

/// Changes the record of the only distro.
fn edit_record(home: &Home, change: impl FnOnce(&mut Value)) {
    let path = home.data("registry.json");
    let mut registry: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut registry["distros"][0]);
    fs::write(&path, registry.to_string()).unwrap();
}

fn needs_set_up(home: &Home) -> bool {
    let registry: Value =
        serde_json::from_slice(&fs::read(home.data("registry.json")).unwrap()).unwrap();
    registry["distros"][0]["runOOBE"].as_bool().unwrap()
}

fn set_command(home: &Home, oobe: &str) {
    let script = format!("printf '[oobe]\\n{oobe}\\n' >/etc/wsl-distribution.conf");
    home.wslr(["--", "sh", "-c", &script]).run();
}

fn b083_b087_the_first_shell_runs_the_set_up_command_of_the_distro() {
    let home = OwnHome::with_distro("D", "");
    set_command(&home, "command = \"echo first; exit 3\"\ndefaultUid = 1010");
    home.wslr(["echo", "x"]).stdout("x\n").run();
    assert!(needs_set_up(&home));
    for _ in 0..2 {
        home.wslr([""; 0])
            .stdout("first\n")
            .stderr("OOBE command \"echo first; exit 3\" failed, exiting\n")
            .status(1)
            .run();
        assert!(needs_set_up(&home));
    }
    // Who is named is not set up, which is the way to look what is wrong.
    home.wslr(["-u", "root"]).stdin("id -u\n").stdout("0\n").run();
    home.wslr(["id -u"]).stdout("0\n").run();

    // Without a user of its own it changes nothing but that it is done.
    set_command(&home, "command = echo second");
    home.wslr([""; 0]).stdout("second\n").run();
    assert!(!needs_set_up(&home));
    home.wslr([""; 0]).stdin("id -u\n").stdout("0\n").run();

    edit_record(&home, |record| record["runOOBE"] = json!(true));
    set_command(&home, "command = \"useradd -m -u 1010 first && echo made\"\nDefaultUID = 1010");
    home.wslr([""; 0]).stdout("made\n").run();
    home.wslr([""; 0]).stdin("id -u; pwd\n").stdout("1010\n/home/first\n").run();
    home.wslr(["id", "-un"]).stdout("first\n").run();

    // A distro that was imported, or has no such command, is as it is.
    edit_record(&home, |record| record["runOOBE"] = json!(true));
    home.wslr(["-u", "root", "rm", "/etc/wsl-distribution.conf"]).run();
    home.wslr([""; 0]).stdin("id -u\n").stdout("1010\n").run();
    assert!(!needs_set_up(&home));
}

fn an_assembled_distro_asks_for_an_account() {
    let home = OwnHome::with_distro("D", "");
    edit_record(&home, |record| record["packages"] = json!(100));
    // Never where nobody can answer.
    home.wslr([""; 0]).stdin("id -u\n").stdout("0\n").run();
    home.wslr(["id", "-u"]).stdout("0\n").run();
    assert!(needs_set_up(&home));

    // Nor is anything lost where nobody does.
    let mut terminal = Terminal::of(home.wslr([""; 0]).env("SUDO_USER", "guest").command());
    terminal.expect("User name");
    terminal.type_in("\x04");
    assert_eq!(terminal.status(), Some(1));
    assert!(needs_set_up(&home));

    let offered = if home.owner().is_some() { "wslr-test" } else { "guest" };
    let mut terminal = Terminal::of(home.wslr([""; 0]).env("SUDO_USER", "guest").command());
    terminal.expect(&format!("User name [{offered}]: "));
    terminal.type_in("No Name\n");
    terminal.expect("A user name begins with");
    terminal.expect(&format!("User name [{offered}]: "));
    terminal.type_in("\n");
    terminal.expect("password: ");
    terminal.type_in("secret\n");
    terminal.expect("password: ");
    terminal.type_in("another\n");
    terminal.expect("No password is set. Try again? [Y/n] ");
    terminal.type_in("\n");
    for _ in 0..2 {
        terminal.expect("password: ");
        terminal.type_in("secret\n");
    }
    // What is typed before belongs to who asks for passwords.
    terminal.expect("$ ");
    terminal.type_in("id -un; id -Gn; echo secret | sudo -S -p '' id -un; echo do''ne\n");
    terminal.expect(&format!("\n{offered}\r\n"));
    // sudo has a terminal of its own.
    terminal.expect("plugdev\r\nroot\r");
    terminal.expect("done");
    terminal.type_in("exit 4\n");
    assert_eq!(terminal.status(), Some(4));
    assert!(!needs_set_up(&home));
    home.wslr(["id", "-un"]).stdout(format!("{offered}\n")).run();
    home.wslr([""; 0]).stdin("id -un\n").stdout(format!("{offered}\n")).run();
}

/// From a list of distributions to the user that its image makes (B068 is the download).
#[test]
fn b088_an_image_is_installed_opened_and_has_its_user() {
    let home = OwnHome::empty();
    let image = home.path("image.wsl");
    let mut from = debian::archive();
    let mut to = fs::File::create(&image).unwrap();
    std::io::copy(&mut from, &mut to).unwrap();
    let conf = "[oobe]\ncommand = \"useradd -m -u 1010 first && echo made\"\ndefaultUid = 1010\n\
                defaultName = Another\n";
    home.write("more/etc/wsl-distribution.conf", conf);
    let more = home.path("more");
    let words = ["--owner=0", "--group=0", "-C", more.to_str().unwrap()];
    let mut tar = Command::new("tar");
    tar.arg("-rf").arg(&image).args(words).arg("etc/wsl-distribution.conf");
    assert!(tar.status().unwrap().success());
    let hash = Sha256::digest(fs::read(&image).unwrap());
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let entry = json!({ "Url": format!("file://{}", image.display()), "Sha256": hash });
    let list = json!({ "ModernDistributions": { "Mine": [{
        "Name": "Mine-1", "FriendlyName": "My Linux", "Default": true,
        "Amd64Url": entry, "Arm64Url": entry,
    }] } });
    let list = home.write("list.json", list.to_string());
    let list = format!("file://{}", list.display());
    home.wslr(["--install", "mine", "--version", "1"])
        .env("WSLR_DISTRIBUTION_LIST_URL", list)
        .stdout(
            "Installing: My Linux\nDistribution successfully installed. It can be launched via \
             'wslr -d Mine-1'\nLaunching Mine-1...\nmade\n",
        )
        .run();
    home.wslr(["id -un; pwd"]).stdout("first\n[..]\n").run();
    home.wslr([""; 0]).stdin("id -u\n").stdout("1010\n").run();
}
