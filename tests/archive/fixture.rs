//! A small archive: packages, indexes and a signed `InRelease`, served on loopback.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use tempfile::TempDir;
use wslr::archive::keyring::{Family, Keyring};
use wslr::archive::{ArchiveError, Options, Repository, Source};
use wslr::download::{Fetcher, Sha256};
use wslr::terminal::progress::Progress;

use crate::keys::{Key, Signing, now};
use crate::server::{Answer, Server};

/// A package to be.
pub struct Package {
    pub name: &'static str,
    /// More control fields, each line ended.
    pub fields: &'static str,
    /// Control files besides `control`.
    pub control: Vec<(&'static str, u32, &'static str)>,
    /// Paths and contents; a path that ends in `/` is a directory, a content that starts with
    /// `-> ` a symbolic link.
    pub data: Vec<(&'static str, &'static str)>,
    /// `gz`, `xz`, `zst` or nothing.
    pub compression: &'static str,
}

impl Package {
    pub fn new(name: &'static str, fields: &'static str) -> Self {
        Self { name, fields, control: vec![], data: vec![("./", "")], compression: "xz" }
    }

    pub fn data(mut self, data: &[(&'static str, &'static str)]) -> Self {
        self.data.extend_from_slice(data);
        self
    }

    pub fn control(mut self, name: &'static str, mode: u32, content: &'static str) -> Self {
        self.control.push((name, mode, content));
        self
    }

    pub fn compressed(mut self, compression: &'static str) -> Self {
        self.compression = compression;
        self
    }

    pub fn control_text(&self) -> String {
        format!(
            "Package: {}\nVersion: 1.0\nArchitecture: amd64\nMaintainer: Nobody\n{}\
             Description: a package\n of the test\n",
            self.name, self.fields
        )
    }

    pub fn deb(&self) -> Vec<u8> {
        let mut control = vec![("./control", 0o644, self.control_text())];
        control
            .extend(self.control.iter().map(|(name, mode, text)| (*name, *mode, (*text).into())));
        let control: Vec<_> =
            control.iter().map(|(name, mode, text)| (*name, *mode, text.as_str())).collect();
        let data: Vec<_> =
            self.data.iter().map(|(name, content)| (*name, 0o644, *content)).collect();
        let suffix = if self.compression.is_empty() {
            String::new()
        } else {
            format!(".{}", self.compression)
        };
        ar(&[
            ("debian-binary", b"2.0\n"),
            (&format!("control.tar{suffix}"), &compress(&tar(&control), self.compression)),
            (&format!("data.tar{suffix}"), &compress(&tar(&data), self.compression)),
        ])
    }
}

/// The members of an ar file.
pub fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    for (name, content) in members {
        let size = content.len();
        writeln!(bytes, "{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`", 0, 0, 0, 100644).unwrap();
        bytes.extend_from_slice(content);
        if size % 2 == 1 {
            bytes.push(b'\n');
        }
    }
    bytes
}

pub fn tar(entries: &[(&str, u32, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, mode, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        if name.ends_with('/') {
            header.set_mode(0o755);
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            builder.append_data(&mut header, name, std::io::empty()).unwrap();
        } else if let Some(target) = content.strip_prefix("-> ") {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, name, target).unwrap();
        } else {
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

pub fn compress(bytes: &[u8], kind: &str) -> Vec<u8> {
    match kind {
        "gz" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "xz" => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "zst" => zstd::encode_all(bytes, 1).unwrap(),
        _ => bytes.to_vec(),
    }
}

pub fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256::of(&mut &*bytes).unwrap()
}

/// The archive; its parts can be changed before [`Fixture::publish`].
pub struct Fixture {
    pub server: Server,
    pub key: Key,
    pub directory: TempDir,
    pub packages: Vec<Package>,
    /// The fields of `Release` before the hashes.
    pub release: String,
    pub index_name: &'static str,
    pub signing: Signing,
    pub by_hash: bool,
}

const INDEX: &str = "main/binary-amd64";

impl Fixture {
    pub fn new(packages: Vec<Package>) -> Self {
        Self {
            server: Server::start(),
            key: Key::new(),
            directory: tempfile::tempdir().unwrap(),
            packages,
            release: "Origin: Test\nSuite: stable\nCodename: test\n\
                      Date: Wed, 31 Dec 2025 00:00:00 UTC\n\
                      Valid-Until: Fri, 02 Jan 2026 00:00:00 UTC\n"
                .to_owned(),
            index_name: "Packages.xz",
            signing: Signing::default(),
            by_hash: true,
        }
    }

    /// Puts everything on the server.
    pub fn publish(self) -> Self {
        let mut index = String::new();
        for package in &self.packages {
            let deb = package.deb();
            let path = format!("pool/{}.deb", package.name);
            let _ = write!(
                index,
                "{}Filename: {path}\nSize: {}\nSHA256: {}\n\n",
                package.control_text(),
                deb.len(),
                sha256(&deb)
            );
            self.server.set(&format!("/debian/{path}"), Answer::file(deb));
        }
        let suffix = self.index_name.rsplit_once('.').map_or("", |(_, suffix)| suffix);
        let index = compress(index.as_bytes(), suffix);
        let hash = sha256(&index);
        let text = format!(
            "{}Acquire-By-Hash: {}\nSHA256:\n {hash} {} {INDEX}/{}\n",
            self.release,
            if self.by_hash { "yes" } else { "no" },
            index.len(),
            self.index_name
        );
        let signed = self.key.sign_with(&text, &self.signing);
        self.server.set("/debian/dists/test/InRelease", Answer::file(signed));
        let directory = format!("/debian/dists/test/{INDEX}");
        self.server.set(&format!("{directory}/{}", self.index_name), Answer::file(index.clone()));
        if self.by_hash {
            self.server.set(&format!("{directory}/by-hash/SHA256/{hash}"), Answer::file(index));
        }
        self
    }

    pub fn source(&self) -> Source {
        Source {
            keyring: Family::Debian,
            mirror: self.server.url("/debian"),
            suites: vec!["test".to_owned()],
            security_mirror: None,
            security_suites: vec![],
            components: vec!["main".to_owned()],
        }
    }

    pub fn cache(&self) -> &Path {
        self.directory.path()
    }

    /// Opens the archive and hands it to `use_it`.
    pub fn open<T>(
        &self,
        use_it: impl FnOnce(&Repository<'_>) -> Result<T, ArchiveError>,
    ) -> Result<T, ArchiveError> {
        self.open_trusting(&self.key.keyring(), use_it)
    }

    pub fn open_trusting<T>(
        &self,
        keyring: &Keyring,
        use_it: impl FnOnce(&Repository<'_>) -> Result<T, ArchiveError>,
    ) -> Result<T, ArchiveError> {
        let (fetcher, progress) = (Fetcher::new().unwrap(), Progress::hidden());
        let options = Options {
            cache: self.cache(),
            fetcher: &fetcher,
            keyring: Some(keyring),
            now: now(),
            progress: &progress,
        };
        use_it(&Repository::open_with(&self.source(), options)?)
    }

    /// Why the archive cannot be opened.
    pub fn refusal(&self) -> ArchiveError {
        self.open(|_| Ok(())).unwrap_err()
    }

    /// The names of all files in the cache.
    pub fn cached(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.cache().join("archive"));
        let names = entries.into_iter().flatten().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).collect()
    }
}
