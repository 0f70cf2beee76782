//! VHD and VHDX disks, with `qemu-img` as the judge.
//!
//! What wslr writes is checked and compared by `qemu-img`, what `qemu-img` writes is read
//! back, and a process that writes is killed at any moment. A few cases of each always run,
//! 200 of each as tests that are ignored otherwise.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "these are tests")]

use std::env;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wslr::disk::{self, Disk, Format, vhd, vhdx};

const MEGABYTE: u64 = 1 << 20;

/// What a killed process writes in: one of these has one value at any time.
const GRAIN: u64 = 4096;

fn qemu_img(arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").args(arguments).output().expect("qemu-img");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qemu-img {arguments:?}: {text}");
    text
}

/// A kind of disk, as `qemu-img` names it.
#[derive(Clone, Copy, Debug)]
struct Kind {
    format: &'static str,
    fixed: bool,
}

const KINDS: [Kind; 4] = [
    Kind { format: "vhdx", fixed: false },
    Kind { format: "vhdx", fixed: true },
    Kind { format: "vpc", fixed: false },
    Kind { format: "vpc", fixed: true },
];

impl Kind {
    fn of(case: u64) -> Self {
        KINDS[case as usize % KINDS.len()]
    }

    fn is(self) -> Format {
        if self.format == "vpc" { Format::Vhd } else { Format::Vhdx }
    }

    fn options(self) -> &'static str {
        match (self.format, self.fixed) {
            ("vhdx", false) => "subformat=dynamic",
            ("vhdx", true) => "subformat=fixed",
            // Else the size is rounded to a geometry.
            (_, false) => "subformat=dynamic,force_size=on",
            (_, true) => "subformat=fixed,force_size=on",
        }
    }

    fn create(self, path: &Path, size: u64, random: &mut StdRng) {
        let file = File::create_new(path).unwrap();
        if self.format == "vpc" {
            vhd::create(&file, &vhd::Options { size, fixed: self.fixed }).unwrap();
        } else {
            let block = random.gen_bool(0.7).then(|| MEGABYTE << random.gen_range(0..4));
            let fixed = self.fixed;
            vhdx::create(&file, &vhdx::Options { block, fixed, ..vhdx::Options::new(size) })
                .unwrap();
        }
    }

    /// Asks `qemu-img` whether the file is whole and has the content of `model`.
    fn judge(self, path: &Path, model: &Path) {
        let path = path.to_str().unwrap();
        if self.format == "vhdx" {
            qemu_img(&["check", "-f", "vhdx", path]);
        }
        qemu_img(&["compare", "-f", "raw", "-F", self.format, model.to_str().unwrap(), path]);
    }
}

fn open(path: &Path) -> Box<dyn Disk> {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut start = [0; 8];
    file.read_exact_at(&mut start, 0).unwrap();
    let format = if &start == b"vhdxfile" { Format::Vhdx } else { Format::Vhd };
    disk::open(file, format, true).unwrap()
}

fn random_size(random: &mut StdRng) -> u64 {
    match random.gen_range(0..4) {
        0 => random.gen_range(1..8) * 512,
        1 => random.gen_range(1..5) * 2 * MEGABYTE,
        _ => random.gen_range(1..(24 * MEGABYTE / 512)) * 512,
    }
}

/// A run of whole sectors in a disk.
fn random_range(random: &mut StdRng, size: u64) -> (u64, u64) {
    let sectors = size / 512;
    let start = random.gen_range(0..sectors);
    let most = (sectors - start).min(*[8, 64, 6000].get(random.gen_range(0..3)).unwrap());
    (start * 512, random.gen_range(1..=most) * 512)
}

fn bytes(random: &mut StdRng, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    if random.gen_bool(0.9) {
        random.fill(bytes.as_mut_slice());
    }
    bytes
}

/// Everything in the disk.
fn content(disk: &dyn Disk) -> Vec<u8> {
    let mut content = vec![1; disk.length().unwrap() as usize];
    disk.read_at(&mut content, 0).unwrap();
    content
}

fn assert_same(ours: &[u8], theirs: &[u8], what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let difference = ours.iter().zip(theirs).position(|(a, b)| a != b);
    assert_eq!(difference, None, "{what}: first difference");
}

/// A sparse file of random content.
fn random_model(path: &Path, random: &mut StdRng, size: u64) -> Vec<u8> {
    let mut model = vec![0; size as usize];
    for _ in 0..random.gen_range(0..12) {
        let (offset, length) = random_range(random, size);
        let data = bytes(random, length);
        model[offset as usize..][..length as usize].copy_from_slice(&data);
    }
    std::fs::write(path, &model).unwrap();
    model
}

#[test]
fn what_qemu_writes_is_read_and_goes_on_being_written() {
    read_and_continue(0..8);
}

#[test]
#[ignore = "takes minutes"]
fn what_qemu_writes_is_read_and_goes_on_being_written_200_times() {
    read_and_continue(0..200);
}

fn read_and_continue(cases: Range<u64>) {
    for case in cases {
        let mut random = StdRng::seed_from_u64(case);
        let directory = tempfile::tempdir().unwrap();
        let (raw, path) = (directory.path().join("raw"), directory.path().join("disk"));
        let kind = Kind::of(case);
        let what = format!("case {case}: {kind:?}");
        let size = random_size(&mut random);
        let mut model = random_model(&raw, &mut random, size);
        let (from, to) = (raw.to_str().unwrap(), path.to_str().unwrap());
        qemu_img(&["convert", "-f", "raw", "-O", kind.format, "-o", kind.options(), from, to]);
        let disk = open(&path);
        assert_same(&content(disk.as_ref()), &model, &what);
        for _ in 0..random.gen_range(0..8) {
            let (offset, length) = random_range(&mut random, size);
            let data = bytes(&mut random, length);
            disk.write_at(&data, offset).unwrap();
            model[offset as usize..][..length as usize].copy_from_slice(&data);
        }
        drop(disk);
        std::fs::write(&raw, &model).unwrap();
        kind.judge(&path, &raw);
        assert_same(&content(open(&path).as_ref()), &model, &what);
    }
}

#[test]
fn what_is_written_live_is_whole_to_qemu() {
    write_live(0..12);
}

#[test]
#[ignore = "takes minutes"]
fn what_is_written_live_is_whole_to_qemu_200_times() {
    write_live(0..200);
}

fn write_live(cases: Range<u64>) {
    for case in cases {
        let mut random = StdRng::seed_from_u64(1000 + case);
        let directory = tempfile::tempdir().unwrap();
        let (raw, path) = (directory.path().join("raw"), directory.path().join("disk"));
        let kind = Kind::of(case);
        let what = format!("case {case}: {kind:?}");
        let size = random_size(&mut random);
        kind.create(&path, size, &mut random);
        let mut model = vec![0; size as usize];
        let mut disk = open(&path);
        assert_eq!(disk.length().unwrap(), size, "{what}");
        for _ in 0..random.gen_range(1..60) {
            let (offset, length) = random_range(&mut random, size);
            let place = &mut model[offset as usize..][..length as usize];
            match random.gen_range(0..10) {
                0..5 => {
                    let data = bytes(&mut random, length);
                    disk.write_at(&data, offset).unwrap();
                    place.copy_from_slice(&data);
                }
                5 => {
                    disk.discard(offset, length).unwrap();
                    place.fill(0);
                }
                6 => disk.flush().unwrap(),
                7 => {
                    drop(disk);
                    disk = open(&path);
                }
                _ => {
                    let mut read = vec![1; length as usize];
                    disk.read_at(&mut read, offset).unwrap();
                    assert_same(&read, place, &what);
                }
            }
        }
        drop(disk);
        std::fs::write(&raw, &model).unwrap();
        kind.judge(&path, &raw);
        assert_same(&content(open(&path).as_ref()), &model, &what);
    }
}

#[test]
fn a_copy_is_equal_and_keeps_holes() {
    copy_all(0..4);
}

#[test]
#[ignore = "takes minutes"]
fn a_copy_is_equal_and_keeps_holes_200_times() {
    copy_all(0..200);
}

fn copy_all(cases: Range<u64>) {
    for case in cases {
        let mut random = StdRng::seed_from_u64(2000 + case);
        let directory = tempfile::tempdir().unwrap();
        let (raw, path) = (directory.path().join("raw"), directory.path().join("disk"));
        let kind = Kind::of(case);
        let size = random_size(&mut random);
        let model = random_model(&raw, &mut random, size);
        kind.create(&path, size, &mut random);
        let from = disk::raw::Raw::new(File::open(&raw).unwrap());
        let to = open(&path);
        let mut moved = 0;
        disk::copy(&from, to.as_ref(), |count| moved += count).unwrap();
        assert_eq!(moved, size);
        drop(to);
        kind.judge(&path, &raw);
        assert_same(&content(open(&path).as_ref()), &model, &format!("case {case}"));
    }
}

/// What a killed process did up to the last one that is known to be on disk.
struct Operations {
    random: StdRng,
    size: u64,
}

/// One step of a process that will be killed.
enum Operation {
    /// Fills grains from there on.
    Write {
        offset: u64,
        length: u64,
        value: u8,
    },
    /// Makes them zeroes.
    Discard {
        offset: u64,
        length: u64,
    },
    Flush,
}

impl Operations {
    fn new(seed: u64, size: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), size }
    }
}

impl Iterator for Operations {
    type Item = Operation;

    fn next(&mut self) -> Option<Operation> {
        let grains = self.size / GRAIN;
        let start = self.random.gen_range(0..grains);
        let count = self.random.gen_range(1..=(grains - start).min(40));
        let (offset, length) = (start * GRAIN, count * GRAIN);
        let value = self.random.gen_range(1..=255);
        Some(match self.random.gen_range(0..8) {
            0 => Operation::Discard { offset, length },
            1 | 2 => Operation::Flush,
            _ => Operation::Write { offset, length, value },
        })
    }
}

const CHILD: &str = "WSLR_DISK_CHILD";

/// Not a test of its own: the process that is killed.
#[test]
fn the_process_that_is_killed() {
    let Ok(task) = env::var(CHILD) else { return };
    let (seed, path) = task.split_once(' ').unwrap();
    let disk = open(Path::new(path));
    let operations = Operations::new(seed.parse().unwrap(), disk.length().unwrap());
    let mut log = File::options().append(true).open(Path::new(path).with_extension("log")).unwrap();
    for (number, operation) in operations.enumerate() {
        match operation {
            Operation::Write { offset, length, value } => {
                disk.write_at(&vec![value; length as usize], offset).unwrap();
            }
            Operation::Discard { offset, length } => disk.discard(offset, length).unwrap(),
            Operation::Flush => {
                disk.flush().unwrap();
                writeln!(log, "{number}").unwrap();
            }
        }
    }
}

/// Which values each grain may have when the operations up to `flushed` are on disk and
/// any of those up to `last` may be.
fn allowed(operations: Operations, flushed: Option<usize>, last: usize) -> Vec<Vec<u8>> {
    let mut allowed = vec![vec![0]; (operations.size / GRAIN) as usize];
    for (number, operation) in operations.take(last + 1).enumerate() {
        let (offset, length, value) = match operation {
            Operation::Write { offset, length, value } => (offset, length, value),
            Operation::Discard { offset, length } => (offset, length, 0),
            Operation::Flush => continue,
        };
        for grain in &mut allowed[(offset / GRAIN) as usize..][..(length / GRAIN) as usize] {
            if flushed.is_some_and(|flushed| number <= flushed) {
                grain.clear();
            }
            grain.push(value);
        }
    }
    allowed
}

fn assert_allowed(content: &[u8], allowed: &[Vec<u8>], what: &str) {
    for (index, grain) in content.chunks(GRAIN as usize).enumerate() {
        // A write may be cut anywhere.
        let bad = grain.iter().find(|byte| !allowed[index].contains(byte));
        assert_eq!(bad, None, "{what}: grain {index} may be {:?}", allowed[index]);
    }
}

#[test]
fn a_kill_at_any_moment_leaves_all_that_was_flushed() {
    kill_at_any_moment(0..6);
}

#[test]
#[ignore = "takes minutes"]
fn a_kill_at_any_moment_leaves_all_that_was_flushed_200_times() {
    kill_at_any_moment(0..200);
}

fn kill_at_any_moment(cases: Range<u64>) {
    for case in cases {
        let kind = [KINDS[0], KINDS[0], KINDS[0], KINDS[2]][case as usize % 4];
        let mut random = StdRng::seed_from_u64(3000 + case);
        let directory = tempfile::tempdir().unwrap();
        let path: PathBuf = directory.path().join("disk.img");
        let size = random.gen_range(1..48 * MEGABYTE / GRAIN) * GRAIN;
        kind.create(&path, size, &mut random);
        let log = path.with_extension("log");
        File::create_new(&log).unwrap();
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "the_process_that_is_killed", "--nocapture"])
            .env(CHILD, format!("{case} {}", path.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(random.gen_range(5_000..300_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let lines = BufReader::new(File::open(&log).unwrap()).lines();
        let flushed = lines.filter_map(|line| line.ok()?.parse::<usize>().ok()).last();
        // It cannot have come this far since.
        let last = flushed.map_or(5_000, |flushed| flushed + 5_000);
        let what = format!("case {case}: {kind:?} of {size} bytes, flushed {flushed:?}");
        // What it was killed in may be half done: the copy is judged without a repair.
        let allowed = allowed(Operations::new(case, size), flushed, last);
        let disk = open(&path);
        let found = content(disk.as_ref());
        assert_allowed(&found, &allowed, &what);
        disk.write_at(&[9; 512], 0).unwrap();
        drop(disk);
        let mut found = found;
        found[..512].fill(9);
        let raw = directory.path().join("raw");
        std::fs::write(&raw, &found).unwrap();
        kind.judge(&path, &raw);
    }
}

#[test]
fn a_file_that_is_not_of_its_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (format, length) in [Format::Vhd, Format::Vhdx]
        .into_iter()
        .flat_map(|format| [0, 7, 511, 512, 70_000, 4 << 20].map(|length| (format, length)))
    {
        let path = directory.path().join("raw");
        std::fs::write(&path, vec![0; length]).unwrap();
        let error = disk::open(File::open(&path).unwrap(), format, true).unwrap_err();
        assert!(matches!(error, disk::DiskError::Damaged { .. }), "{error}");
    }
}

#[test]
fn nothing_is_written_to_a_disk_that_is_only_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(0);
    for (index, kind) in KINDS.into_iter().enumerate() {
        let path = directory.path().join(index.to_string());
        kind.create(&path, 4 * MEGABYTE, &mut random);
        let before = std::fs::read(&path).unwrap();
        let disk = disk::open(File::open(&path).unwrap(), kind.is(), false).unwrap();
        assert!(disk.write_at(&[1; 512], 0).is_err());
        assert!(content(disk.as_ref()).iter().all(|byte| *byte == 0));
        disk.flush().ok();
        drop(disk);
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}

/// Some length of a file at which a byte may be bent.
fn bend(path: &Path, at: u64, mask: u8) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ mask], at).unwrap();
}

#[test]
fn one_damaged_copy_of_what_there_is_twice_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    for (name, kind, places) in
        [("vhdx", KINDS[0], vec![64 << 10, 192 << 10]), ("vhd", KINDS[2], vec![100])]
    {
        for at in places {
            let path = directory.path().join(format!("{name}-{at}"));
            let mut random = StdRng::seed_from_u64(at);
            kind.create(&path, 8 * MEGABYTE, &mut random);
            open(&path).write_at(&[5; 4096], 8192).unwrap();
            bend(&path, at, 1);
            let mut read = [0; 4096];
            open(&path).read_at(&mut read, 8192).unwrap();
            assert_eq!(read, [5; 4096]);
        }
    }
}

#[test]
fn differencing_disks_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("child.vhdx");
    let mut random = StdRng::seed_from_u64(0);
    KINDS[0].create(&path, 8 * MEGABYTE, &mut random);
    // The parameters are the first item behind the metadata's table; the bit says that
    // there is a parent.
    bend(&path, 2 * MEGABYTE + (64 << 10) + 4, 2);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let error = disk::open(file, Format::Vhdx, true).unwrap_err().to_string();
    assert!(error.starts_with("it is a differencing VHDX disk"), "{error}");
}

/// Where the table of blocks of a small VHDX is: that of ours, and that of qemu's.
const OUR_TABLE: u64 = 3 * MEGABYTE;
const QEMU_TABLE: u64 = 2 * MEGABYTE;

fn sector(path: &Path, at: u64) -> Vec<u8> {
    let mut sector = vec![0; 4096];
    File::open(path).unwrap().read_exact_at(&mut sector, at).unwrap();
    sector
}

fn set_sector(path: &Path, at: u64, sector: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(sector, at).unwrap();
}

#[test]
fn a_table_that_was_not_yet_in_place_comes_from_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let (path, raw) = (directory.path().join("disk"), directory.path().join("raw"));
    let mut model = vec![0; 16 * MEGABYTE as usize];
    let file = File::create_new(&path).unwrap();
    let options = vhdx::Options { block: Some(MEGABYTE), ..vhdx::Options::new(16 * MEGABYTE) };
    vhdx::create(&file, &options).unwrap();
    let disk = open(&path);
    for round in 0..5_u8 {
        let before = sector(&path, OUR_TABLE);
        let at = u64::from(round) * 3 * MEGABYTE;
        disk.write_at(&[round + 1; 4096], at).unwrap();
        model[at as usize..][..4096].fill(round + 1);
        disk.flush().unwrap();
        assert_ne!(sector(&path, OUR_TABLE), before);
        // The power fails, the log's entry is on the disk, the table is the old one.
        for repaired_by_qemu in [false, true] {
            let crashed = directory.path().join(format!("{round}-{repaired_by_qemu}"));
            std::fs::copy(&path, &crashed).unwrap();
            set_sector(&crashed, OUR_TABLE, &before);
            if repaired_by_qemu {
                qemu_img(&["check", "-r", "all", "-f", "vhdx", crashed.to_str().unwrap()]);
            } else {
                let error =
                    disk::open(File::open(&crashed).unwrap(), Format::Vhdx, false).unwrap_err();
                assert!(matches!(error, disk::DiskError::Unclosed { .. }), "{error}");
            }
            assert_same(&content(open(&crashed).as_ref()), &model, "from the log");
            std::fs::write(&raw, &model).unwrap();
            KINDS[0].judge(&crashed, &raw);
        }
    }
}

#[test]
fn an_entry_that_is_cut_off_leaves_the_state_before() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let file = File::create_new(&path).unwrap();
    let options = vhdx::Options { block: Some(MEGABYTE), ..vhdx::Options::new(16 * MEGABYTE) };
    vhdx::create(&file, &options).unwrap();
    let disk = open(&path);
    let mut before = vec![0; 16 * MEGABYTE as usize];
    for round in 0..4_u8 {
        let table = sector(&path, OUR_TABLE);
        let log = |half: u64| MEGABYTE + half * MEGABYTE / 2;
        let old = [0, 1].map(|half| sector(&path, log(half)));
        let at = u64::from(round) * 3 * MEGABYTE;
        disk.write_at(&[round + 1; 4096], at).unwrap();
        disk.flush().unwrap();
        // The power fails in the middle of the entry; nothing after it was written.
        let crashed = directory.path().join(round.to_string());
        std::fs::copy(&path, &crashed).unwrap();
        set_sector(&crashed, OUR_TABLE, &table);
        let new = [0, 1].map(|half| sector(&path, log(half)));
        let half = (0..2).find(|half| old[*half] != new[*half]).unwrap();
        bend(&crashed, log(half as u64) + 4096 + 100, 1);
        assert_same(&content(open(&crashed).as_ref()), &before, &format!("round {round}"));
        before[at as usize..][..4096].fill(round + 1);
    }
}

#[test]
fn the_log_of_another_writer_is_replayed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let name = path.to_str().unwrap();
    let options = "subformat=dynamic,block_size=1M";
    qemu_img(&["create", "-f", "vhdx", "-o", options, name, "64M"]);
    let empty = sector(&path, QEMU_TABLE);
    let mut command = Command::new("qemu-io");
    command.args(["-f", "vhdx"]);
    for index in 0..6 {
        command.args(["-c", &format!("write -P {} {}M 64k", index + 1, index * 7)]);
    }
    // It ends at once and leaves its log.
    let status = command.args(["-c", "flush", "-c", "abort", name]).output().unwrap().status;
    assert!(!status.success());
    let full = sector(&path, QEMU_TABLE);
    assert_ne!(full, empty, "the table is not where it is looked for");
    let entry = |table: &[u8], at: usize| table[at * 8..][..8].to_vec();
    // The last entry of its log did not come to its place, and the header says so.
    let entries = (0..256).map(|index| sector(&path, MEGABYTE + index * 4096));
    let last = entries.rev().find(|sector| sector.starts_with(b"loge")).unwrap();
    let mut table = full.clone();
    table[35 * 8..][..8].copy_from_slice(&entry(&empty, 35));
    set_sector(&path, QEMU_TABLE, &table);
    let mut header = sector(&path, 64 << 10);
    header[8..16].copy_from_slice(&u64::MAX.wrapping_div(2).to_le_bytes());
    header[48..64].copy_from_slice(&last[32..48]);
    header[4..8].fill(0);
    let sum = crc32c::crc32c(&header);
    header[4..8].copy_from_slice(&sum.to_le_bytes());
    set_sector(&path, 64 << 10, &header);
    let content = content(open(&path).as_ref());
    for index in 0..6_usize {
        let block = &content[index * 7 * MEGABYTE as usize..][..64 << 10];
        assert!(block.iter().all(|byte| *byte == index as u8 + 1), "block {index}");
    }
    assert_eq!(sector(&path, QEMU_TABLE), full);
}
