//! A distro of everything that is hard to keep.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::tree::{NASTY, shell};
use super::{Home, debian};

/// A tree in a home, and what tar makes of an archive of it: the truth.
pub struct Tree {
    directory: tempfile::TempDir,
}

impl Tree {
    /// With so many files beyond the nasty ones.
    pub fn new(files: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("tree")).unwrap();
        Self::finish(directory, files)
    }

    /// The same in a Debian.
    pub fn in_debian(files: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("tree")).unwrap();
        let mut tar = Command::new("tar");
        let unpacked =
            tar.args(["-xp", "--numeric-owner", "-C"]).arg(directory.path().join("tree"));
        assert!(unpacked.stdin(debian::archive()).status().unwrap().success());
        Self::finish(directory, files)
    }

    fn finish(directory: tempfile::TempDir, files: u32) -> Self {
        shell(&directory.path().join("tree"), NASTY);
        let script = format!(
            "cd tree; chmod 755 .; mkdir -p etc home/user; rm -f etc/os-release; echo ID=nasty > etc/os-release; \
             chown 1000:1000 home/user; echo x > home/user/file; chown 1000:1000 home/user/file; \
             ln -s file home/user/link; mkfifo home/user/pipe; \
             chown -h 1000:1000 home/user/link home/user/pipe; chown 99:0 pipe; \
             cp -p /bin/true setuid; chown 33:44 setuid; chmod 6755 setuid; \
             for d in $(seq 0 $(({files} / 500))); do \
               mkdir -p more/$d; (cd more/$d; seq $((d * 500)) $((d * 500 + 499)) | split -l 1 -a 4); \
             done; \
             tar -C . -cf ../archive.tar -S --sort=name --numeric-owner --format=posix --xattrs \
               --acls . ; \
             mkdir ../truth; tar -C ../truth -xpf ../archive.tar --numeric-owner --xattrs \
               --xattrs-include='*' --acls; cd ..; rm -r tree; chmod 755 . ; chmod 644 archive.tar",
        );
        shell(directory.path(), &script);
        Self { directory }
    }

    /// What it must be wherever it went.
    pub fn truth(&self) -> PathBuf {
        self.directory.path().join("truth")
    }

    /// The archive.
    pub fn archive(&self) -> PathBuf {
        self.directory.path().join("archive.tar")
    }

    /// Installs it as `D`, in version 1.
    pub fn install(&self, home: &Home) {
        home.write(".wslconfig", "[wsl2]\ndefaultVhdSize=16GB\n");
        let archive = self.archive();
        let mut install = home.wslr(["--install", "-n", "--version", "1", "--name", "D", "-f"]);
        let output = install.command().arg(archive).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}
