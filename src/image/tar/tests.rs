use std::io;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::*;

/// What a sink was given.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    path: Vec<u8>,
    metadata: Metadata,
    kind: String,
    segments: Vec<Segment>,
    content: Vec<u8>,
}

#[derive(Default)]
struct Collector(Vec<Seen>);

impl Sink for Collector {
    type Error = io::Error;

    fn add(&mut self, entry: Entry<'_>) -> io::Result<()> {
        let mut content = Vec::new();
        let mut all = Vec::new();
        let kind = match entry.kind {
            Kind::BlockDevice { major, minor } => format!("block {major}:{minor}"),
            Kind::CharacterDevice { major, minor } => format!("character {major}:{minor}"),
            Kind::Directory => "directory".to_owned(),
            Kind::Fifo => "fifo".to_owned(),
            Kind::File { size, segments, content: reader } => {
                reader.read_to_end(&mut content)?;
                all = segments.to_vec();
                format!("file {size}")
            }
            Kind::HardLink { target } => format!("link {target}"),
            Kind::Socket => "socket".to_owned(),
            Kind::SymbolicLink { target } => {
                format!("symlink {}", String::from_utf8_lossy(target))
            }
        };
        self.0.push(Seen {
            path: entry.path.as_bytes().to_vec(),
            metadata: entry.metadata.clone(),
            kind,
            segments: all,
            content,
        });
        Ok(())
    }
}

fn read(archive: &[u8]) -> Result<Vec<Seen>, UnpackError<io::Error>> {
    let mut sink = Collector::default();
    read_entries(archive, &mut sink, |path| path)?;
    Ok(sink.0)
}

fn tar_error(archive: &[u8]) -> TarError {
    match read(archive) {
        Err(UnpackError::Archive(error)) => error,
        other => panic!("not an archive error: {other:?}"),
    }
}

/// GNU tar as the writer of what is read here.
fn gnu_tar(directory: &Path, arguments: &[&str]) -> Vec<u8> {
    let output =
        Command::new("tar").current_dir(directory).args(["-c", "-f", "-"]).args(arguments).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn member(name: &str, kind: u8, size: u64, link: &str) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.as_old_mut().linkflag = [kind];
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header
}

/// An archive of one member with padded content, and its end.
fn archive(members: &[(tar::Header, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (header, content) in members {
        bytes.extend(header.as_bytes());
        bytes.extend(*content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (1..).map(|digits| rest + digits).find(|l| l.to_string().len() + rest == *l);
    let mut bytes = format!("{} {key}=", length.unwrap()).into_bytes();
    bytes.extend(value);
    bytes.push(b'\n');
    bytes
}

#[test]
fn every_format_of_gnu_tar_tells_the_same_tree() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let long = "d".repeat(120) + "/" + &"f".repeat(130);
    std::fs::create_dir(root.join("d".repeat(120))).unwrap();
    std::fs::write(root.join(&long), b"long").unwrap();
    std::fs::write(root.join("plain"), vec![7; 5000]).unwrap();
    std::fs::hard_link(root.join("plain"), root.join("second")).unwrap();
    std::os::unix::fs::symlink("../away".repeat(30), root.join("symlink")).unwrap();
    for format in ["gnu", "oldgnu", "posix"] {
        let seen = read(&gnu_tar(root, &["--format", format, "--sort=name", "."])).unwrap();
        let shape: Vec<_> = seen
            .iter()
            .map(|entry| (String::from_utf8_lossy(&entry.path).into_owned(), entry.kind.clone()))
            .collect();
        let expected = vec![
            (String::new(), "directory".to_owned()),
            ("d".repeat(120), "directory".to_owned()),
            (long.clone(), "file 4".to_owned()),
            ("plain".to_owned(), "file 5000".to_owned()),
            ("second".to_owned(), "link /plain".to_owned()),
            ("symlink".to_owned(), format!("symlink {}", "../away".repeat(30))),
        ];
        assert_eq!(shape, expected, "{format}");
        assert_eq!(seen[3].content, vec![7; 5000]);
    }
}

#[test]
fn every_sparse_format_gives_the_data_and_the_holes() {
    use std::os::unix::fs::FileExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sparse");
    let file = std::fs::File::create(&path).unwrap();
    // More segments than a header and its first continuation hold.
    let data: Vec<_> = (0..40_u64).map(|index| (index * (1 << 20) + (4 << 20), index)).collect();
    for (offset, index) in &data {
        file.write_all_at(&[*index as u8 + 1; 4096], *offset).unwrap();
    }
    file.set_len(5 << 30).unwrap();
    let formats: [&[&str]; 4] = [
        &["--format=gnu"],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ];
    for format in formats {
        let mut arguments = format.to_vec();
        arguments.extend(["-S", "sparse"]);
        let seen = read(&gnu_tar(directory.path(), &arguments)).unwrap();
        assert_eq!(seen.len(), 1, "{format:?}");
        assert_eq!(seen[0].path, b"sparse");
        assert_eq!(seen[0].kind, format!("file {}", 5_u64 << 30));
        assert_eq!(seen[0].segments.len(), data.len(), "{format:?}");
        for (index, (segment, (offset, byte))) in
            seen[0].segments.iter().zip(data.iter()).enumerate()
        {
            assert_eq!(*segment, Segment { offset: *offset, length: 4096 });
            let content = &seen[0].content[index * 4096..(index + 1) * 4096];
            assert!(content.iter().all(|found| *found == *byte as u8 + 1));
        }
    }
}

#[test]
fn extended_headers_give_times_owners_and_attributes() {
    let binary = b"\x01\x00\x00\x02\n\x004 x=y\n\0\0\0";
    let mut records = record("mtime", b"-1.5");
    records.extend(record("uid", b"4000000000"));
    records.extend(record("SCHILY.xattr.security.capability", binary));
    records.extend(record("LIBARCHIVE.xattr.user.%25a", b"AAEC/w"));
    records.extend(record("SCHILY.xattr.com.apple.provenance", b"x"));
    records.extend(record("SCHILY.acl.access", b"user::rw-,group::r--,other::r--"));
    records.extend(record("path", b"n\xffme\nnext"));
    let bytes = archive(&[
        (member("x", b'x', records.len() as u64, ""), &records),
        (member("short", b'0', 0, ""), b""),
    ]);
    let mut sink = Collector::default();
    let counts = read_entries(bytes.as_slice(), &mut sink, |path| path).unwrap();
    assert_eq!(counts, Counts { entries: 1, skipped_attributes: 1 });
    let seen = &sink.0[0];
    assert_eq!(seen.path, b"n\xffme\nnext");
    assert_eq!(seen.metadata.modified, Timestamp { seconds: -2, nanoseconds: 500_000_000 });
    assert_eq!(seen.metadata.uid, 4_000_000_000);
    assert_eq!(seen.metadata.attributes[0], (b"security.capability".to_vec(), binary.to_vec()));
    assert_eq!(seen.metadata.attributes[1], (b"user.%a".to_vec(), vec![0, 1, 2, 255]));
    assert_eq!(seen.metadata.attributes[2].0, b"system.posix_acl_access");
    assert_eq!(seen.metadata.attributes.len(), 3);
}

#[test]
fn paths_and_hard_link_targets_go_through_the_map() {
    let bytes = archive(&[
        (member("./bin/a", b'0', 0, ""), b""),
        (member("bin/b", b'1', 0, "./bin/a"), b""),
        (member("dev/null", b'3', 0, ""), b""),
    ]);
    let mut sink = Collector::default();
    read_entries(bytes.as_slice(), &mut sink, |path| {
        if path.as_bytes().starts_with(b"bin/") {
            TreePath::new(&[b"usr/", path.as_bytes()].concat()).unwrap()
        } else {
            path
        }
    })
    .unwrap();
    assert_eq!(sink.0[0].path, b"usr/bin/a");
    assert_eq!(sink.0[1].path, b"usr/bin/b");
    assert_eq!(sink.0[1].kind, "link /usr/bin/a");
    assert_eq!(sink.0[2].kind, "character 0:0");
}

#[test]
fn b053_text_is_not_an_archive() {
    assert!(matches!(tar_error(b"hello"), TarError::NotAnArchive));
    assert!(matches!(tar_error(&[b'x'; 4096]), TarError::NotAnArchive));
    assert_eq!(TarError::NotAnArchive.to_string(), "Unrecognized archive format");
}

#[test]
fn b054_an_empty_stream_has_no_entries() {
    assert_eq!(read(b"").unwrap(), []);
    assert_eq!(read(&[0; 10240]).unwrap(), []);
}

#[test]
fn an_archive_cut_anywhere_is_truncated() {
    let bytes =
        archive(&[(member("a", b'0', 700, ""), &[1; 700]), (member("b", b'0', 10, ""), &[2; 10])]);
    let end = bytes.len() - 1024;
    for length in (1..=end).step_by(7).chain([512, 1024, 1212, 1536, 2048, end]) {
        match tar_error(&bytes[..length]) {
            TarError::NotAnArchive => assert!(length < 512),
            TarError::Truncated { offset, .. } => assert_eq!(offset, length as u64),
            other => panic!("{length}: {other}"),
        }
    }
}

#[test]
fn hostile_headers_are_errors() {
    let escape = archive(&[(member("a/../../b", b'0', 0, ""), b"")]);
    assert!(matches!(tar_error(&escape), TarError::Path(PathError::Parent { .. })));
    let link = archive(&[(member("a", b'1', 0, "../b"), b"")]);
    assert!(matches!(tar_error(&link), TarError::Path(PathError::Parent { .. })));
    let mut huge = member("a", b'0', 0, "");
    huge.as_old_mut().size = [0xff; 12];
    huge.set_cksum();
    assert!(matches!(tar_error(&archive(&[(huge, b"")])), TarError::Field { field: "size", .. }));
    let mut huge = member("a", b'0', 0, "");
    huge.as_old_mut().size = [0x80, 0, 0, 0, 0x7f, 255, 255, 255, 255, 255, 255, 255];
    huge.set_cksum();
    assert!(matches!(
        tar_error(&archive(&[(huge, b"")])),
        TarError::Field { field: "size", .. } | TarError::Truncated { .. }
    ));
    let name = archive(&[(member("a", b'L', 1 << 40, ""), b"")]);
    assert!(matches!(tar_error(&name), TarError::TooLarge { .. }));
    let records = record("SCHILY.xattr.user.x", &[b'x'; 3 << 20]);
    let extended = || (member("x", b'x', records.len() as u64, ""), records.as_slice());
    let many = archive(&[extended(), extended(), (member("a", b'0', 0, ""), b"")]);
    assert!(matches!(tar_error(&many), TarError::TooLarge { .. }));
    assert_eq!(read(&archive(&[extended(), (member("a", b'0', 0, ""), b"")])).unwrap().len(), 1);
    let mut bad = archive(&[(member("a", b'0', 0, ""), b""), (member("b", b'0', 0, ""), b"")]);
    bad[512] ^= 1;
    assert!(matches!(tar_error(&bad), TarError::Checksum { offset: 512 }));
}

#[test]
fn overlapping_or_endless_sparse_maps_are_errors() {
    for map in ["0,4,2,4", "0,9", "18446744073709551615,1", "0,1", "4"] {
        let mut records = record("GNU.sparse.size", b"8");
        records.extend(record("GNU.sparse.numblocks", b"1"));
        records.extend(record("GNU.sparse.map", map.as_bytes()));
        let bytes = archive(&[
            (member("x", b'x', records.len() as u64, ""), &records),
            (member("file", b'0', 8, ""), &[1; 8]),
        ]);
        assert!(
            matches!(tar_error(&bytes), TarError::Sparse { .. } | TarError::Field { .. }),
            "{map}"
        );
    }
}

#[test]
fn numbers_are_octal_or_binary() {
    assert_eq!(header::number(b"0000644\0"), Some(0o644));
    assert_eq!(header::number(b"   644 \0"), Some(0o644));
    assert_eq!(header::number(&[0; 8]), Some(0));
    assert_eq!(header::number(b"00006x4\0"), None);
    assert_eq!(header::number(&[0x80, 0, 0, 0, 0, 0, 1, 2]), Some(258));
    assert_eq!(header::number(&[0xff; 12]), Some(-1));
    assert_eq!(header::number(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(
        kind in any::<u8>(),
        size in 0_u64..3000,
        name in "[a-z./]{0,20}",
        content in proptest::collection::vec(any::<u8>(), 0..3000),
        flips in proptest::collection::vec((0_usize..4000, any::<u8>()), 0..4),
    ) {
        let mut bytes = archive(&[
            (member(&name, kind, size, "target"), &content),
            (member("after", b'0', 0, ""), b""),
        ]);
        for (at, byte) in flips {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        let _ = read(&bytes);
    }

    #[test]
    fn no_records_make_the_reader_panic(records in proptest::collection::vec(any::<u8>(), 0..600)) {
        let bytes = archive(&[
            (member("x", b'x', records.len() as u64, ""), &records),
            (member("after", b'0', 0, ""), b""),
        ]);
        let _ = read(&bytes);
    }
}

/// Hands entries to a sink as a reader of them would.
fn add_all<S: Sink>(sink: &mut S, all: &[Seen]) -> Result<(), S::Error> {
    for seen in all {
        let path = TreePath::new(&seen.path).unwrap();
        let target;
        let mut content = seen.content.as_slice();
        let words: Vec<&str> = seen.kind.splitn(2, ' ').collect();
        let device = || words[1].split_once(':').map(|(a, b)| (a.parse(), b.parse())).unwrap();
        let kind = match words[0] {
            "block" | "character" => match (words[0], device()) {
                ("block", (Ok(major), Ok(minor))) => Kind::BlockDevice { major, minor },
                (_, (Ok(major), Ok(minor))) => Kind::CharacterDevice { major, minor },
                _ => panic!("{}", seen.kind),
            },
            "directory" => Kind::Directory,
            "fifo" => Kind::Fifo,
            "file" => {
                let size = words[1].parse().unwrap();
                Kind::File { size, segments: &seen.segments, content: &mut content }
            }
            "link" => {
                target = TreePath::new(words[1].as_bytes()).unwrap();
                Kind::HardLink { target: &target }
            }
            "socket" => Kind::Socket,
            _ => Kind::SymbolicLink { target: words[1].as_bytes() },
        };
        sink.add(Entry { path: &path, metadata: &seen.metadata, kind })?;
    }
    Ok(())
}

fn write(all: &[Seen]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    add_all(&mut writer, all).unwrap();
    let archive = writer.finish().unwrap();
    let mut measure = Measure::default();
    add_all(&mut measure, all).unwrap();
    assert_eq!(measure.length + 2 * BLOCK, archive.len() as u64);
    archive
}

fn seen(path: impl AsRef<[u8]>, kind: &str, content: &[u8]) -> Seen {
    let length = content.len() as u64;
    Seen {
        path: path.as_ref().to_vec(),
        metadata: Metadata { mode: 0o644, ..Metadata::default() },
        kind: kind.to_owned(),
        segments: Some(Segment { offset: 0, length }).filter(|_| length > 0).into_iter().collect(),
        content: content.to_vec(),
    }
}

#[test]
fn b045_what_is_written_is_read_back() {
    let mut all = vec![seen("", "directory", b""), seen("d", "directory", b"")];
    for length in [1, 97, 98, 99, 100, 101, 155, 255] {
        all.push(seen("x".repeat(length), "file 3", b"abc"));
        all.push(seen(format!("d/{}", "y".repeat(length)), "directory", b""));
        all.push(seen(format!("l{length}"), &format!("symlink {}", "z".repeat(length)), b""));
        let deep = format!("{}/{}/{length}", "a".repeat(length), "b".repeat(length));
        all.push(seen(&deep, "file 600", &[7; 600]));
        all.push(seen(format!("h{length}"), &format!("link /{deep}"), b""));
    }
    all.push(seen(b"not-text-\xff\xfe", "file 0", b""));
    all.push(seen(b"new\nline", "fifo", b""));
    all.push(seen("null", "character 1:3", b""));
    all.push(seen("big", "block 4095:1048575", b""));
    all.push(seen("huge", &format!("file {}", 1_u64 << 40), b"end"));
    all.last_mut().unwrap().segments = vec![Segment { offset: (1 << 40) - 3, length: 3 }];
    all.push(seen(b"holes-\xff", "file 100000", &[1; 30000]));
    all.last_mut().unwrap().segments =
        vec![Segment { offset: 4096, length: 10000 }, Segment { offset: 20480, length: 20000 }];
    all.push(seen("all-hole", "file 4096", b""));
    for (index, (seconds, nanoseconds)) in
        [(0, 1), (-1, 0), (-5, 999_999_999), (1 << 33, 0), (i64::MAX, 7), (1, 0)].iter().enumerate()
    {
        let mut entry = seen(format!("t{index}"), "file 1", b"t");
        entry.metadata.modified = Timestamp { seconds: *seconds, nanoseconds: *nanoseconds };
        entry.metadata.uid = (u32::MAX - 1) >> (index * 4);
        entry.metadata.gid = 0o7777777 + (index as u32 % 2);
        entry.metadata.mode = 0o7777;
        all.push(entry);
    }
    let mut entry = seen("attributes", "directory", b"");
    let list = acl::from_text(b"user::rwx,user:7:r-x,group::---,mask::rwx,other::r--").unwrap();
    entry.metadata.attributes = vec![
        (b"security.capability".to_vec(), vec![0, 10, 0, 255]),
        (b"system.posix_acl_access".to_vec(), list.clone()),
        (b"system.posix_acl_default".to_vec(), list),
        (b"user.a=b%c\xff".to_vec(), b"\0\n=".to_vec()),
        (b"user.empty".to_vec(), Vec::new()),
        (b"user.large".to_vec(), vec![b'\n'; 65536]),
    ];
    all.push(entry);
    let mut again = read(&write(&all)).unwrap();
    for entry in &mut again {
        entry.metadata.attributes.sort();
    }
    for entry in all.iter_mut().filter(|entry| entry.kind.starts_with("link")) {
        entry.metadata = Metadata { mode: 0o644, ..Metadata::default() };
    }
    assert_eq!(again.len(), all.len());
    for (again, entry) in again.iter().zip(&all) {
        assert_eq!(again, entry);
    }
}

#[test]
fn small_holes_are_filled_and_sockets_left_out() {
    let mut file = seen("f", "file 5000", b"ab");
    file.segments = vec![Segment { offset: 1500, length: 1 }, Segment { offset: 4997, length: 1 }];
    file.kind = "file 4097".to_owned();
    file.segments[1].offset = 4096;
    let again = read(&write(&[seen("s", "socket", b""), file])).unwrap();
    let mut expected = vec![0; 4097];
    (expected[1500], expected[4096]) = (b'a', b'b');
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].content, expected);
}

#[test]
fn attributes_that_nobody_reads_back_and_short_content_are_errors() {
    let mut entry = seen("f", "file 1", b"x");
    let attribute = |index: u32| (format!("user.{index}").into_bytes(), vec![0; 65536]);
    entry.metadata.attributes = (0..65).map(attribute).collect();
    let error = add_all(&mut Writer::new(Vec::new()), &[entry]).unwrap_err();
    assert!(matches!(error, WriteError::TooLarge { .. }), "{error}");
    let mut short = seen("f", "file 2", b"x");
    short.segments = vec![Segment { offset: 0, length: 2 }];
    let error = add_all(&mut Writer::new(Vec::new()), &[short]).unwrap_err();
    assert!(matches!(error, WriteError::Content(_)), "{error}");
}

/// What GNU tar makes of an archive, told by GNU tar again, is what was written.
#[test]
fn gnu_tar_unpacks_what_is_written() {
    let mut all = vec![seen("a", "directory", b""), seen("a/f", "file 3", b"abc")];
    all.push(seen("a/h", "link /a/f", b""));
    all.push(seen("a/".to_owned() + &"n".repeat(250), "file 1", b"n"));
    all.push(seen("a/l", &format!("symlink {}", "t".repeat(300)), b""));
    all.push(seen(b"a/\xff", "file 0", b""));
    all.push(seen("a/holes", "file 100000", &[1; 10000]));
    all.last_mut().unwrap().segments = vec![Segment { offset: 8192, length: 10000 }];
    for entry in &mut all {
        entry.metadata.modified = Timestamp { seconds: 1_000_000, nanoseconds: 123_456_789 };
        entry.metadata.mode = if entry.kind.starts_with("symlink") { 0o777 } else { 0o750 };
    }
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("archive");
    std::fs::write(&archive, write(&all)).unwrap();
    let unpacked = directory.path().join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    let output = Command::new("tar").arg("-xpf").arg(&archive).arg("-C").arg(&unpacked).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    // What tells libarchive that a name is no text, and GNU tar takes for granted.
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.lines().all(|line| line.ends_with("keyword 'hdrcharset'")), "{said}");
    let words = ["-S", "--format=posix", "--pax-option=delete=atime,delete=ctime", "--sort=name"];
    let mut again = read(&gnu_tar(&unpacked, &[&words[..], &["a"]].concat())).unwrap();
    all.sort_by(|a, b| a.path.cmp(&b.path));
    again.sort_by(|a, b| a.path.cmp(&b.path));
    assert_eq!(again.len(), all.len());
    for (again, entry) in again.iter().zip(&all) {
        assert_eq!((&again.path, &again.kind), (&entry.path, &entry.kind));
        if !entry.kind.starts_with("link") {
            assert_eq!(again.metadata.modified, entry.metadata.modified);
            assert_eq!(again.metadata.mode, entry.metadata.mode);
            // Where holes begin the file system says.
            assert!(whole(again) == whole(entry), "{}", again.kind);
        }
    }
}

/// A file's bytes with its holes filled.
fn whole(seen: &Seen) -> Vec<u8> {
    let size = seen.kind.strip_prefix("file ").map_or(0, |size| size.parse().unwrap());
    let (mut whole, mut rest) = (vec![0; size], seen.content.as_slice());
    for segment in &seen.segments {
        let (now, later) = rest.split_at(segment.length as usize);
        whole[segment.offset as usize..][..now.len()].copy_from_slice(now);
        rest = later;
    }
    whole
}
