//! Package files, sound ones and others.

use std::io::Read;

use proptest::prelude::*;
use wslr::archive::deb::{self, DebError};

use crate::fixture::{Package, ar, compress, tar};

fn open(bytes: &[u8]) -> Result<deb::Deb, DebError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    deb::open(file.path())
}

fn read_all(bytes: &[u8]) -> Result<(deb::Control, Vec<u8>), DebError> {
    let deb = open(bytes)?;
    let control = deb.control()?;
    let mut data = Vec::new();
    deb.data()?.take(1 << 20).read_to_end(&mut data).map_err(DebError::Read)?;
    Ok((control, data))
}

fn package() -> Package {
    Package::new("a", "").control("postinst", 0o755, "#!/bin/sh\n").data(&[("./f", "content")])
}

#[test]
fn every_compression_is_read() {
    for compression in ["", "gz", "xz", "zst"] {
        let (control, data) = read_all(&package().compressed(compression).deb()).unwrap();
        assert_eq!(control.fields.get("Package"), Some("a"));
        assert_eq!(control.file("postinst"), Some(b"#!/bin/sh\n".as_slice()));
        assert_eq!(control.files[1].mode, 0o755);
        assert_eq!(data, tar(&[("./", 0o644, ""), ("./f", 0o644, "content")]), "{compression}");
    }
}

#[test]
fn members_that_are_not_known_are_passed_over() {
    let control = compress(&tar(&[("./control", 0o644, "Package: a\n")]), "gz");
    let data = compress(&tar(&[]), "gz");
    let bytes = ar(&[
        ("debian-binary", b"2.1\nmore\n"),
        ("_extra", b"x"),
        ("control.tar.gz/", &control),
        ("_more", b""),
        ("data.tar.gz/", &data),
        ("_last", b"xyz"),
    ]);
    read_all(&bytes).unwrap();
}

#[test]
fn what_is_no_package_is_refused() {
    for bytes in [b"".as_slice(), b"!<arch>", b"PK\x03\x04 something else entirely", &ar(&[])] {
        assert!(open(bytes).is_err());
    }
    assert!(matches!(open(b"no package"), Err(DebError::NotAPackage)));
    assert!(matches!(open(&ar(&[("x", b"2.0\n")])), Err(DebError::NotAPackage)));
    assert!(matches!(
        open(&ar(&[("debian-binary", b"3.0\n")])),
        Err(DebError::Version { version }) if version == "3.0"
    ));
    assert!(matches!(
        open(&ar(&[("debian-binary", b"2.0\n")])),
        Err(DebError::Missing { name: "control.tar" })
    ));
    let control = tar(&[("control", 0o644, "Package: a\n")]);
    assert!(matches!(
        open(&ar(&[("debian-binary", b"2.0\n"), ("control.tar", &control)])),
        Err(DebError::Missing { name: "data.tar" })
    ));
}

#[test]
fn a_member_cannot_be_longer_than_the_file() {
    let mut bytes = package().deb();
    let header = bytes.windows(7).position(|window| window == b"control").unwrap();
    bytes[header + 48..header + 58].copy_from_slice(b"9999999999");
    assert!(matches!(open(&bytes), Err(DebError::Malformed { .. })));
    bytes[header + 48..header + 58].copy_from_slice(b"-1        ");
    assert!(matches!(open(&bytes), Err(DebError::Malformed { .. })));
}

#[test]
fn hostile_control_files_are_refused() {
    let with = |entries: &[(&str, u32, &str)]| {
        let control = tar(entries);
        let bytes =
            ar(&[("debian-binary", b"2.0\n"), ("control.tar", &control), ("data.tar", b"")]);
        open(&bytes).unwrap().control()
    };
    assert!(matches!(with(&[]), Err(DebError::Missing { name: "control" })));
    for name in ["./a/b", ".hidden", "a b", "x\u{e9}"] {
        let entries = [("./control", 0o644, "Package: a\n"), (name, 0o644, "")];
        assert!(matches!(with(&entries), Err(DebError::Control { .. })), "{name}");
    }
    assert!(matches!(with(&[("control", 0o644, "nonsense")]), Err(DebError::Fields(_))));
    let names: Vec<_> = (0..2000).map(|number| format!("f{number}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), 0o644, "")).collect();
    assert!(matches!(with(&many), Err(DebError::Control { .. })));
}

#[test]
fn an_unpacked_bomb_is_not_held_in_memory() {
    let zeros = vec![0; 80 << 20];
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(zeros.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, "control", zeros.as_slice()).unwrap();
    let control = compress(&builder.into_inner().unwrap(), "zst");
    let bytes =
        ar(&[("debian-binary", b"2.0\n"), ("control.tar.zst", &control), ("data.tar", b"")]);
    assert!(open(&bytes).unwrap().control().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_cut_off_package_is_an_error(part in 0.0..1.0_f64) {
        let bytes = package().deb();
        let length = (bytes.len() as f64 * part) as usize;
        prop_assert!(read_all(&bytes[..length]).is_err());
    }

    #[test]
    fn any_change_is_read_or_refused(position: prop::sample::Index, value: u8) {
        let mut bytes = package().compressed("gz").deb();
        let position = position.index(bytes.len());
        bytes[position] = value;
        let _ = read_all(&bytes);
    }
}
