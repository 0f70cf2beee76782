//! `--import` and `--import-in-place` (B049 to B056).

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use wslr::disk::{self, Format, vhd, vhdx};
use wslr::ext4::reader::Image;

use crate::install::{home, installed};
use crate::support::Home;
use crate::support::tar::Tar;

const DONE: &str = "The operation completed successfully.\n";

const REGISTER: &str = "Wsl/Service/RegisterDistro";

/// The directory of the one distro of that name.
fn distro(home: &Home, name: &str) -> Value {
    let output = home.wslr(["--list", "--json"]).command().output().unwrap();
    let distros: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    distros.into_iter().find(|distro| distro["name"] == name).unwrap()
}

/// Makes a raw image of a distro, and the disk of each format of it.
fn disks(home: &Home) {
    home.write("d.tar", Tar::distro().bytes());
    let words = ["--install", "-n", "-f", "d.tar", "--name", "Raw", "--vhd-size", "64MB"];
    home.wslr(words).stdout(installed("d.tar", "Raw")).run();
    let base = distro(home, "Raw")["basePath"].as_str().unwrap().to_owned();
    let raw = home.path("raw.img");
    fs::copy(Path::new(&base).join("ext4.img"), &raw).unwrap();
    home.wslr(["--unregister", "Raw"]).stdout(DONE).run();
    let from = disk::raw::Raw::new(File::open(&raw).unwrap());
    for name in ["d.vhdx", "d.vhd"] {
        let path = home.path(name);
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let format = Format::of(&path);
        if format == Format::Vhd {
            vhd::create(&file, &vhd::Options { size: 64 << 20, fixed: false }).unwrap();
        } else {
            vhdx::create(&file, &vhdx::Options::new(64 << 20)).unwrap();
        }
        let to = disk::open(file, format, true).unwrap();
        disk::copy(&from, to.as_ref(), |_| {}).unwrap();
    }
}

#[track_caller]
fn assert_is_the_distro(path: &Path) {
    let disk = disk::open(File::open(path).unwrap(), Format::of(path), false).unwrap();
    let image = Image::on(disk).unwrap();
    let release = wslr::tree::path::TreePath::new(b"etc/os-release").unwrap();
    assert!(image.find(&release).unwrap().is_some());
}

#[test]
fn b049_a_disk_is_imported_with_the_word_for_it() {
    let home = home();
    disks(&home);
    for (name, file, disk) in [("A", "d.vhdx", "ext4.vhdx"), ("B", "d.vhd", "ext4.vhd")] {
        home.wslr(["--import", name, name, file, "--vhd"]).stdout(DONE).run();
        assert_eq!(home.tree(name), [disk]);
        let path = home.path(name).join(disk);
        assert_eq!(fs::read(&path).unwrap(), fs::read(home.path(file)).unwrap());
        assert_is_the_distro(&path);
        let record = distro(&home, name);
        assert_eq!((&record["flavor"], &record["osVersion"]), (&"test".into(), &"1.0".into()));
        assert_eq!(record["version"], 2);
    }
    home.write("file.txt", "text");
    home.wslr(["--import", "C", "C", "file.txt", "--vhd"])
        .fails(
            "The specified file must have the .vhd or .vhdx file extension.",
            None,
            Some(&format!("{REGISTER}/WSL_E_IMPORT_FAILED")),
        )
        .run();
    home.wslr(["--import", "C", "C", "d.vhdx"])
        .fails(
            "This looks like a VHD file. Use --vhd to import a VHD instead of a tar.",
            None,
            None,
        )
        .run();
    assert!(!home.path("C").exists());
}

#[test]
fn b051_a_disk_is_used_where_it_lies_and_deleted_with_its_distro() {
    let home = home();
    disks(&home);
    for file in ["d.vhdx", "d.vhd", "raw.img"] {
        let directory = format!("place-{file}");
        fs::create_dir(home.path(&directory)).unwrap();
        let path = home.path(&directory).join(file);
        fs::copy(home.path(file), &path).unwrap();
        home.wslr(["--import-in-place", file, path.to_str().unwrap()]).stdout(DONE).run();
        assert_eq!(distro(&home, file)["basePath"], home.path(&directory).to_str().unwrap());
        assert_eq!(fs::read(&path).unwrap(), fs::read(home.path(file)).unwrap());
        home.wslr(["--unregister", file]).stdout(DONE).run();
        assert!(!home.path(&directory).exists());
    }
}

#[test]
fn b050_a_file_that_is_missing_leaves_nothing() {
    let home = home();
    let code = Some("Wsl/ERROR_FILE_NOT_FOUND");
    for file in ["no.tar", "no.vhdx"] {
        let message = format!("cannot read '{file}': No such file or directory (os error 2)");
        let words = ["--import", "D", "D", file, "--vhd"];
        let words = if file == "no.tar" { &words[..4] } else { &words[..] };
        home.wslr(words).fails(&message, None, code).run();
        assert!(!home.path("D").exists());
    }
    home.wslr(["--import-in-place", "D", "no.vhdx"])
        .fails("cannot read 'no.vhdx': No such file or directory (os error 2)", None, code)
        .run();
}

#[test]
fn b052_a_disk_without_a_file_system_is_refused() {
    let home = home();
    let file = File::create_new(home.path("empty.vhdx")).unwrap();
    vhdx::create(&file, &vhdx::Options::new(64 << 20)).unwrap();
    home.write("broken.vhdx", vec![7; 1 << 20]);
    let code = format!("{REGISTER}/WSL_E_DISK_CORRUPTED");
    for (name, message) in [
        ("empty.vhdx", "the disk has no ext4 file system"),
        ("broken.vhdx", "the VHDX disk is damaged: it does not begin as one"),
    ] {
        home.wslr(["--import-in-place", "D", name]).fails(message, None, Some(&code)).run();
        home.wslr(["--import", "D", "D", name, "--vhd"]).fails(message, None, Some(&code)).run();
        assert!(!home.path("D").exists() && home.path(name).exists());
    }
}

#[test]
fn b052_a_disk_that_another_process_has_is_refused() {
    let home = home();
    disks(&home);
    let lock = File::open(home.path("d.vhdx")).unwrap();
    lock.lock().unwrap();
    for words in [
        ["--import-in-place", "D", "d.vhdx"].as_slice(),
        &["--import", "D", "D", "d.vhdx", "--vhd"],
    ] {
        let test = home.wslr(words);
        let message = if words.len() == 3 {
            format!("the disk '{}' is in use by another process", home.path("d.vhdx").display())
        } else {
            "the disk 'd.vhdx' is in use by another process".to_owned()
        };
        let code = format!("{REGISTER}/MountDisk/ERROR_SHARING_VIOLATION");
        test.fails(&message, None, Some(&code)).run();
    }
}

#[test]
fn b055_b056_places_and_names_that_are_taken() {
    let home = home();
    disks(&home);
    home.wslr(["--import", "A", "A", "d.vhdx", "--vhd"]).stdout(DONE).run();
    let hint = Some("choose another directory with --location");
    home.write("full/ext4.vhdx", "mine");
    let disk = home.path("full/ext4.vhdx");
    for words in [
        ["--import", "B", "full", "d.vhdx", "--vhd"].as_slice(),
        &["--import", "B", "full", "d.tar"],
    ] {
        home.wslr(words)
            .fails(
                &format!("Failed to create disk '{}': it exists already", disk.display()),
                hint,
                Some(&format!("{REGISTER}/ERROR_FILE_EXISTS")),
            )
            .run();
    }
    assert_eq!(fs::read(&disk).unwrap(), b"mine");
    fs::copy(home.path("d.vhdx"), home.path("A/other.vhdx")).unwrap();
    for words in
        [["--import", "B", "A", "d.tar"].as_slice(), &["--import-in-place", "B", "A/other.vhdx"]]
    {
        home.wslr(words)
            .fails(
                "The supplied install location is already in use.",
                hint,
                Some(&format!("{REGISTER}/ERROR_FILE_EXISTS")),
            )
            .run();
    }
    home.wslr(["--import-in-place", "a", "d.vhdx"])
        .fails(
            "A distribution with the name 'a' already exists.",
            Some("choose another name with --name"),
            Some(&format!("{REGISTER}/ERROR_ALREADY_EXISTS")),
        )
        .run();
    home.wslr(["--import-in-place", "bad!", "d.vhdx"])
        .fails(
            "Invalid distribution name: \"bad!\".",
            Some("a name has up to 256 letters, digits, '.', '_' and '-'"),
            Some(&format!("{REGISTER}/E_INVALIDARG")),
        )
        .run();
}

#[test]
fn b042_b057_an_archive_is_imported_from_a_file_or_a_pipe() {
    let home = home();
    home.write("d.tar", Tar::distro().bytes());
    home.wslr(["--import", "A", "A", "d.tar", "--version", "2"]).stdout(DONE).run();
    home.wslr(["--import", "B", "B", "-"]).stdin(Tar::distro().bytes()).stdout(DONE).run();
    for name in ["A", "B"] {
        assert_eq!(home.tree(name), ["ext4.img"]);
        assert_is_the_distro(&home.path(name).join("ext4.img"));
        assert_eq!(distro(&home, name)["basePath"], home.path(name).to_str().unwrap());
    }
    // B087: whoever imports a distro has set it up before.
    let registry = std::fs::read_to_string(home.data("registry.json")).unwrap();
    let registry: serde_json::Value = serde_json::from_str(&registry).unwrap();
    assert_eq!(registry["distros"].as_array().unwrap().len(), 2);
    assert!(registry["distros"].as_array().unwrap().iter().all(|one| one["runOOBE"] == false));
    home.wslr(["--import", "C", "no/such/place", "d.tar"])
        .fails(
            &format!(
                "cannot open '{}': No such file or directory (os error 2)",
                home.path("no/such").display()
            ),
            None,
            Some(&format!("{REGISTER}/ERROR_FILE_NOT_FOUND")),
        )
        .run();
    home.wslr(["--import", "C", "C"])
        .fails(
            "Command line argument --import requires a value.",
            Some("'wslr --help' lists the arguments"),
            Some("Wsl/E_INVALIDARG"),
        )
        .run();
}

#[test]
fn an_imported_disk_can_be_converted() {
    let home = home();
    disks(&home);
    home.wslr(["--import", "A", "A", "d.vhdx", "--vhd"]).stdout(DONE).run();
    let output = home.wslr(["--set-version", "A", "1"]).into_command().output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(home.path("A/rootfs/etc/os-release").exists());
    assert!(!home.path("A/ext4.vhdx").exists());
}

#[test]
fn what_qemu_makes_of_a_disk_is_imported() {
    let home = home();
    disks(&home);
    for (format, name) in [("vhdx", "q.vhdx"), ("vpc", "q.vhd")] {
        let paths = [home.path("raw.img"), home.path(name)];
        let arguments = ["convert", "-f", "raw", "-O", format];
        let output = Command::new("qemu-img").args(arguments).args(&paths).output().unwrap();
        assert!(output.status.success());
        let place = format!("place-{format}");
        home.wslr(["--import", format, &place, name, "--vhd"]).stdout(DONE).run();
        let extension = Path::new(name).extension().unwrap().to_str().unwrap();
        assert_is_the_distro(&home.path(place).join(format!("ext4.{extension}")));
    }
}
