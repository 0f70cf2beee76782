//! A distro of a few made-up packages, entry by entry.

use std::collections::BTreeMap;
use std::io;

use wslr::archive::assemble::{AssembleError, CONFIGURE, PACKAGE_COUNT, assemble};
use wslr::archive::{ArchiveError, minimal};
use wslr::tree::{Entry, Kind, Sink};

use crate::fixture::{Fixture, Package};

/// What came, by path.
#[derive(Default)]
struct Tree(BTreeMap<String, String>);

impl Sink for Tree {
    type Error = io::Error;

    fn add(&mut self, entry: Entry<'_>) -> io::Result<()> {
        let text = match entry.kind {
            Kind::Directory => "directory".to_owned(),
            Kind::File { content, .. } => {
                let mut text = format!("{:o} ", entry.metadata.mode);
                content.read_to_string(&mut text)?;
                text
            }
            Kind::HardLink { target } => format!("= {target}"),
            Kind::SymbolicLink { target } => format!("-> {}", String::from_utf8_lossy(target)),
            _ => "device".to_owned(),
        };
        self.0.insert(entry.path.to_string(), text);
        Ok(())
    }
}

/// All packages that a minimal distro asks for, with these in the place of some.
fn fixture(special: Vec<Package>) -> Fixture {
    let mut packages = special;
    for name in minimal::PACKAGES {
        if !packages.iter().any(|package| package.name == *name) {
            packages.push(Package::new(name, ""));
        }
    }
    Fixture::new(packages).publish()
}

fn tree(fixture: &Fixture) -> Result<BTreeMap<String, String>, AssembleError<io::Error>> {
    let mut tree = Tree::default();
    let mut failure = None;
    fixture
        .open(|repository| {
            failure = assemble(repository, "Test", &mut tree).err();
            Ok(())
        })
        .unwrap();
    failure.map_or(Ok(tree.0), Err)
}

#[test]
fn packages_are_unpacked_as_dpkg_does() {
    let fixture = fixture(vec![
        Package::new("apt", "Depends: liba\n")
            .data(&[
                ("./bin/", ""),
                ("./bin/tool", "T"),
                ("./etc/", ""),
                ("./etc/tool.conf", "C"),
                ("./lib/link", "-> ../usr/x"),
            ])
            .control("conffiles", 0o644, "/etc/tool.conf\nremove-on-upgrade /etc/gone\n")
            .control("postinst", 0o755, "#!/bin/sh\n")
            .control("preinst", 0o755, "#!/bin/sh\n")
            .control(
                "triggers",
                0o644,
                "# no\ninterest-noawait /usr/x\ninterest named\nactivate y\n",
            ),
        Package::new("liba", "Multi-Arch: same\n").data(&[("./lib64/a.so", "S")]).compressed("zst"),
        Package::new("base-files", "Essential: yes\n").data(&[("./bin", "-> usr/bin")]),
    ]);
    let tree = tree(&fixture).unwrap();
    let get = |path: &str| tree.get(path).map(String::as_str);
    for directory in ["bin", "lib", "lib64", "sbin"] {
        assert_eq!(get(&format!("/{directory}")), Some(format!("-> usr/{directory}").as_str()));
        assert_eq!(get(&format!("/usr/{directory}")), Some("directory"));
    }
    assert_eq!(get("/usr/bin/tool"), Some("644 T"));
    assert_eq!(get("/usr/lib64/a.so"), Some("644 S"));
    assert_eq!(get("/usr/lib/link"), Some("-> ../usr/x"));
    assert_eq!(get("/etc/tool.conf"), None);
    assert_eq!(get("/etc/tool.conf.dpkg-new"), Some("644 C"));
    assert_eq!(
        get("/var/lib/dpkg/info/apt.list"),
        Some("644 /.\n/bin\n/bin/tool\n/etc\n/etc/tool.conf\n/lib/link\n")
    );
    assert_eq!(get("/var/lib/dpkg/info/apt.postinst"), Some("755 #!/bin/sh\n"));
    assert_eq!(get("/var/lib/dpkg/info/liba:amd64.list"), Some("644 /.\n/lib64/a.so\n"));
    assert_eq!(get("/var/lib/dpkg/info/apt.control"), None);
    assert_eq!(get("/var/lib/dpkg/triggers/File"), Some("644 /usr/x apt/noawait\n"));
    assert_eq!(get("/var/lib/dpkg/triggers/named"), Some("644 apt\n"));
    let status = get("/var/lib/dpkg/status").unwrap();
    assert!(status.starts_with(
        "644 Package: apt\nStatus: install ok unpacked\nVersion: 1.0\nArchitecture: amd64\n\
         Maintainer: Nobody\nDepends: liba\nDescription: a package\n of the test\nConffiles:\n \
         /etc/tool.conf newconffile\n /etc/gone newconffile remove-on-upgrade\n\n"
    ));
    let count = status.matches("Status: install ok unpacked\n").count();
    assert_eq!(get(&format!("/{PACKAGE_COUNT}")), Some(format!("644 {count}\n").as_str()));
    assert!(get(&format!("/{CONFIGURE}")).unwrap().starts_with("755 #!/bin/sh\n"));
    assert_eq!(get("/usr/lib/wslr/preinst"), Some("644 apt amd64 apt\n"));
    assert_eq!(
        get("/var/lib/apt/extended_states"),
        Some("644 Package: liba\nArchitecture: amd64\nAuto-Installed: 1\n\n")
    );
    let sources = get("/etc/apt/sources.list.d/debian.sources").unwrap();
    assert!(sources.contains(&format!("URIs: {}\nSuites: test\n", fixture.source().mirror)));
    assert_eq!(get("/usr/bin/sh"), Some("-> dash"));
}

#[test]
fn a_file_of_two_packages_belongs_to_the_one_that_replaces_the_other() {
    for (first, second, content) in [("", "Replaces: apt\n", "2"), ("Replaces: dbus\n", "", "1")] {
        let tree = tree(&fixture(vec![
            Package::new("apt", first).data(&[("./x", "1")]),
            Package::new("dbus", second).data(&[("./x", "2")]),
        ]))
        .unwrap();
        assert_eq!(tree["/x"], format!("644 {content}"));
    }
    let error = tree(&fixture(vec![
        Package::new("apt", "").data(&[("./x", "1")]),
        Package::new("dbus", "Replaces: apt (<< 1)\n").data(&[("./x", "2")]),
    ]))
    .unwrap_err();
    assert_eq!(error.to_string(), "the packages 'dbus' and 'apt' both have the file '/x'");
}

#[test]
fn a_package_cannot_leave_the_tree() {
    let tree = tree(&fixture(vec![
        Package::new("apt", "").data(&[("./out", "-> ../../.."), ("./abs", "-> /etc")]),
        Package::new("dbus", "").data(&[("./out/x", "1"), ("./abs/y", "2")]),
    ]))
    .unwrap();
    assert_eq!(tree["/x"], "644 1");
    assert_eq!(tree["/etc/y"], "644 2");
    assert!(!tree.contains_key("/out/x"));
}

#[test]
fn a_loop_of_links_ends() {
    let error = tree(&fixture(vec![
        Package::new("apt", "").data(&[("./a", "-> b"), ("./b", "-> a")]),
        Package::new("dbus", "").data(&[("./a/x", "1")]),
    ]));
    assert!(matches!(error, Err(AssembleError::LinkLoop { .. })), "{error:?}");
}

#[test]
fn a_package_with_broken_data_is_named() {
    let broken = Package::new("apt", "").compressed("broken");
    let error = tree(&fixture(vec![broken])).unwrap_err();
    assert!(matches!(error, AssembleError::Archive(ArchiveError::Deb { .. })), "{error}");
}
