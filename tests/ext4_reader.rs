//! The ext4 reader against images of three makers (the writer, `mke2fs`, the kernel), with
//! the kernel as the judge of what is in them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod support;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::tree::{Mount, NASTY, assert_same_tree, check, is_root, run, shell};
use wslr::error::Diagnose;
use wslr::ext4::reader::{Image, ReadError};
use wslr::ext4::{Options, Writer};
use wslr::tree::path::TreePath;
use wslr::tree::{Entry, Kind, Sink, directory};

fn open(image: &Path) -> Result<Image, ReadError> {
    Image::open(File::open(image).unwrap())
}

/// Unpacks an image into a directory of that name.
fn unpack(image: &Path, directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    fs::create_dir(&path).unwrap();
    let mut sink = directory::Writer::new(File::open(&path).unwrap().into());
    open(image).unwrap().read_tree(&mut sink).unwrap();
    sink.finish().unwrap();
    path
}

/// Counts what comes, and reads all of it.
#[derive(Default)]
struct Counter {
    entries: u64,
    bytes: u64,
    limit: u64,
}

impl Sink for Counter {
    type Error = io::Error;

    fn add(&mut self, entry: Entry<'_>) -> io::Result<()> {
        self.entries += 1;
        if let Kind::File { size, segments, content } = entry.kind {
            let total: u64 = segments.iter().map(|segment| segment.length).sum();
            assert!(segments.iter().all(|segment| segment.offset + segment.length <= size));
            let left = self.limit - self.bytes;
            self.bytes += io::copy(&mut content.take(left.min(total)), &mut io::sink())?;
            if self.bytes == self.limit {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        Ok(())
    }
}

#[test]
fn an_image_of_every_maker_is_read_as_the_kernel_reads_it() {
    if !is_root() {
        eprintln!("needs root: device nodes, owners and a loop mount");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let tree = home.path().join("tree");
    fs::create_dir(&tree).unwrap();
    shell(&tree, NASTY);
    // By way of the writer.
    let image = home.path().join("written");
    let file = File::options().read(true).write(true).create_new(true).open(&image).unwrap();
    let mut writer = Writer::new(file, Options::default()).unwrap();
    directory::read(&File::open(&tree).unwrap().into(), &mut writer).unwrap();
    writer.finish().unwrap();
    check(&image);
    let unpacked = unpack(&image, home.path(), "from-writer");
    assert_same_tree(&unpacked, &tree);
    fs::remove_dir_all(&unpacked).unwrap();
    // What mke2fs makes of the same tree, in every sort that is read.
    for (number, options) in [
        "-t ext4",
        "-t ext4 -G 4096 -O ^resize_inode",
        "-t ext4 -b 1024",
        "-t ext4 -O inline_data",
        "-t ext4 -O ^64bit,^metadata_csum",
        "-t ext4 -O metadata_csum_seed,meta_bg,^resize_inode",
        "-t ext4 -I 1024 -O inline_data",
        "-t ext4 -O ^extent,^64bit",
        "-t ext3 -b 2048",
        "-t ext4 -O bigalloc",
    ]
    .into_iter()
    .enumerate()
    {
        eprintln!("{number}: mkfs.ext4 {options}");
        let image = home.path().join("made");
        let script = format!("rm -f made; truncate -s 6G made; mkfs.ext4 -q -F {options} made");
        shell(home.path(), &script);
        let mount = Mount::new(&image, "loop");
        // Small blocks have no room for what is large elsewhere.
        let filter = match options.contains("-b ") {
            true => "--exclude hole --exclude s4000 --exclude later --exclude zeros",
            false => "",
        };
        let script = format!(
            "cd tree; tar -cf - -S {filter} --xattrs --acls . | \
             tar -C {} -xpf - --xattrs --xattrs-include='*' --acls --numeric-owner",
            mount.path().display()
        );
        shell(home.path(), &script);
        drop(mount);
        let unpacked = unpack(&image, home.path(), "unpacked");
        {
            let mount = Mount::new(&image, "ro,loop");
            assert_same_tree(&unpacked, mount.path());
        }
        fs::remove_dir_all(&unpacked).unwrap();
    }
}

#[test]
fn a_journal_that_was_left_behind_is_replayed() {
    if !is_root() {
        eprintln!("needs root: a loop mount");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    for options in
        ["-O ^metadata_csum", "-O metadata_csum", "-O metadata_csum,^64bit", "-b 1024 -J size=4"]
    {
        let image = home.path().join("image");
        let script =
            format!("rm -f image left; truncate -s 1G image; mkfs.ext4 -q {options} image");
        shell(home.path(), &script);
        // The mount must not end before the copy: the journal would be emptied.
        let mount = Mount::new(&image, "loop,commit=300,data=journal");
        let script = r#"
            for i in $(seq 300); do mkdir -p d$((i % 7)); head -c $((i * 37)) /dev/urandom > d$((i % 7))/f$i; done
            printf '\xc0\x3b\x39\x98 looks like a block of the journal' > magic
            sync -f .
            for i in $(seq 1 3 300); do rm d$((i % 7))/f$i; done
            rm -r d3; mkdir d3; echo new > d3/new; mv d5 d5-moved
            head -c 3000000 /dev/urandom > later
            setfattr -n user.x -v "$(printf 'z%.0s' {1..900})" later
            sync -f .
        "#;
        shell(mount.path(), script);
        shell(home.path(), "cp --sparse=always image left");
        drop(mount);
        let left = home.path().join("left");
        let text = run("dumpe2fs", &["-h".as_ref(), left.as_os_str()]);
        assert!(text.contains("needs_recovery"), "{text}");
        let unpacked = unpack(&left, home.path(), "unpacked");
        // The kernel replays the copy for good.
        let mount = Mount::new(&left, "loop");
        assert_same_tree(&unpacked, mount.path());
        assert!(unpacked.join("d3/new").exists() && !unpacked.join("d5").exists());
        drop(mount);
        fs::remove_dir_all(&unpacked).unwrap();
        eprintln!("mkfs.ext4 {options}: replayed");
    }
}

/// A small image with something of everything.
fn small_image(home: &Path, options: &str) -> PathBuf {
    let script = format!(
        r#"
        mkdir tree; cd tree; echo hello > file; ln file link; ln -s file symbolic; mkdir d many
        seq -f 'many/a-file-with-number-%06g' 1 300 | xargs touch
        head -c 200000 /dev/urandom > d/data; truncate -s 1M d/sparse; echo x >> d/sparse
        mkdir etc; printf 'ID=test\n' > etc/real; ln -s ../etc/./real etc/os-release
        setfattr -n user.a -v "$(printf 'z%.0s' {{1..900}})" file
        cd ..; truncate -s 16M image; mkfs.ext4 -q {options} -d tree image
        "#,
    );
    shell(home, &script);
    home.join("image")
}

#[test]
fn a_single_file_is_found_and_read_without_the_rest() {
    let home = tempfile::tempdir().unwrap();
    let image = open(&small_image(home.path(), "-O inline_data")).unwrap();
    let find = |path: &str| image.find(&TreePath::new(path.as_bytes()).unwrap()).unwrap();
    let file = find("etc/os-release").unwrap();
    let mut bytes = vec![0; 100];
    let count = image.read_at(&file, 0, &mut bytes).unwrap();
    assert_eq!((&bytes[..count], file.size()), (b"ID=test\n".as_slice(), 8));
    let data = find("d/data").unwrap();
    let truth = fs::read(home.path().join("tree/d/data")).unwrap();
    let count = image.read_at(&data, 199_950, &mut bytes).unwrap();
    assert_eq!(bytes[..count], truth[199_950..]);
    assert!(find("d").is_none() && find("nothing/here").is_none() && find("file/x").is_none());
}

#[test]
fn what_is_not_known_is_refused_by_its_name() {
    let home = tempfile::tempdir().unwrap();
    let path = small_image(home.path(), "-O ^metadata_csum,^has_journal");
    let file = File::options().write(true).open(&path).unwrap();
    let mut incompatible = [0; 4];
    File::open(&path).unwrap().read_exact_at(&mut incompatible, 1024 + 0x60).unwrap();
    let incompatible = u32::from_le_bytes(incompatible);
    for (bits, names) in
        [(0x1_0000, "encrypt"), (0x400 | 0x8, "journal_dev, ea_inode"), (1 << 30, "0x40000000")]
    {
        file.write_all_at(&(incompatible | bits).to_le_bytes(), 1024 + 0x60).unwrap();
        let error = open(&path).unwrap_err();
        assert!(error.to_string().ends_with(names), "{error}");
        assert_eq!(error.code(), "ERROR_NOT_SUPPORTED");
    }
    fs::write(&path, b"no file system").unwrap();
    assert_eq!(open(&path).unwrap_err().code(), "WSL_E_DISK_CORRUPTED");
    file.set_len(1 << 20).unwrap();
    assert!(matches!(open(&path), Err(ReadError::NotExt4)));
}

#[test]
fn damage_anywhere_ends_in_an_error_or_a_tree_and_never_in_a_panic() {
    let home = tempfile::tempdir().unwrap();
    // Without checksums, so that damage gets deep.
    let path = small_image(home.path(), "-O ^metadata_csum,inline_data");
    let good = fs::read(&path).unwrap();
    let used: Vec<usize> = (0..good.len() / 1024)
        .filter(|block| good[block * 1024..][..1024].iter().any(|byte| *byte != 0))
        .collect();
    let mut random = StdRng::seed_from_u64(7);
    let (mut trees, mut errors) = (0, 0);
    for _ in 0..1500 {
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut changed = Vec::new();
        for _ in 0..random.gen_range(1..20) {
            // Mostly where the metadata is, at the start.
            let index = random.gen_range(0..used.len());
            let index = if random.r#gen() { index } else { index.min(40) };
            let at = (used[index] * 1024 + random.gen_range(0..1024_usize)) & !3;
            let word = match random.gen_range(0..4) {
                0 => random.r#gen(),
                1 => 0,
                2 => u32::MAX,
                _ => random.gen_range(0..20_000),
            };
            file.write_all_at(&word.to_le_bytes(), at as u64).unwrap();
            changed.push(at);
        }
        let mut counter = Counter { limit: 64 << 20, ..Counter::default() };
        match open(&path).map(|image| image.read_tree(&mut counter)) {
            Ok(Ok(())) => trees += 1,
            _ => errors += 1,
        }
        for at in changed {
            file.write_all_at(&good[at..at + 4], at as u64).unwrap();
        }
    }
    eprintln!("{trees} trees, {errors} errors");
    assert!(trees > 0 && errors > 0);
    let mut counter = Counter { limit: 64 << 20, ..Counter::default() };
    open(&path).unwrap().read_tree(&mut counter).unwrap();
    assert!(counter.entries > 300);
}
