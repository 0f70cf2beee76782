//! How fast an image is written, against what the work takes at least and against
//! `mke2fs`. Prints one table.
//!
//! `cargo bench --bench ext4_writer [-- <archive.tar>]`. Without an archive, one of about
//! 900 MB and 60,000 files is made of Debian packages with `mmdebstrap`. Everything is done
//! in the same place and synced to the disk. Our own rows are the median of three runs,
//! as processes of their own so that their peak memory can be told; the slow tools run
//! once.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use wslr::ext4::{Options, Writer};
use wslr::image;

type Outcome<T> = Result<T, Box<dyn Error>>;

const PACKAGES: &str =
    "build-essential,git,python3-full,golang-1.24-src,linux-headers-amd64,perl-doc,manpages-dev";

const RUNS: usize = 3;

fn main() -> Outcome<()> {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["write", archive, image] => write_image(Path::new(archive), Path::new(image)),
        ["decompress", archive] => decompress(Path::new(archive)),
        ["copy", archive, to] => copy(Path::new(archive), Path::new(to)),
        [archive] => compare(&std::path::absolute(archive)?),
        _ => compare(&corpus()?),
    }
}

/// One measured way of doing it.
struct Row {
    what: String,
    time: Duration,
    /// Peak memory in KiB.
    memory: Option<u64>,
}

fn compare(archive: &Path) -> Outcome<()> {
    let place = tempfile::Builder::new().prefix("ext4-writer-").tempdir_in(place()?)?;
    let (image, tree) = (place.path().join("image"), place.path().join("tree"));
    let own = std::env::current_exe()?;
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let measure_own = |what: String, arguments: &[&str]| -> Outcome<Row> {
        let mut memory = 0;
        let time = median(|| {
            // To free what an earlier run has written is not this run's work.
            let _ = fs::remove_file(&image);
            let start = Instant::now();
            let output = Command::new(&own).args(arguments).output()?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into());
            }
            memory = memory.max(String::from_utf8(output.stdout)?.trim().parse()?);
            Ok(start.elapsed())
        })?;
        Ok(Row { what, time, memory: Some(memory) })
    };
    let (archive_text, image_text) = (path(archive), path(&image));
    let mut rows = Table::new(archive)?;
    let plain = "read and write the tar's bytes".to_owned();
    rows.push(&measure_own(plain, &["copy", &archive_text, &image_text])?);
    let own_row = "wslr: tar to ext4".to_owned();
    rows.push(&measure_own(own_row, &["write", &archive_text, &image_text])?);
    check(&image)?;
    fs::remove_file(&image)?;
    if nix::unistd::geteuid().is_root() {
        fs::create_dir(&tree)?;
        let unpacking = once(|| {
            run("tar", &["-xpf", &archive_text, "-C", &path(&tree), "--numeric-owner"])?;
            run("sync", &["-f", &path(&tree)])
        })?;
        rows.push(&Row { what: "tar x".into(), time: unpacking, memory: None });
        let time = once(|| make_with_mke2fs(&image, &tree))?;
        rows.push(&Row { what: "mke2fs -d directory".into(), time, memory: None });
        rows.push(&Row {
            what: "tar x and mke2fs -d directory".into(),
            time: time + unpacking,
            memory: None,
        });
        fs::remove_dir_all(&tree)?;
    }
    // With libarchive, mke2fs 1.47.1 and newer take an archive.
    if let Ok(time) = once(|| make_with_mke2fs(&image, archive)) {
        rows.push(&Row { what: "mke2fs -d archive".into(), time, memory: None });
    }
    let _ = fs::remove_file(&image);
    for (suffix, tool) in
        [("gz", "gzip -c"), ("xz", "xz -c -T0 -2"), ("xz", "xz -c -T1 -2"), ("zst", "zstd -qc -9")]
    {
        let compressed = place.path().join("archive").with_extension(suffix);
        let script = format!("{tool} {archive_text} > {}", path(&compressed));
        run("sh", &["-c", &script])?;
        let compressed_text = path(&compressed);
        rows.push(&measure_own(format!("decompress {tool}"), &["decompress", &compressed_text])?);
        rows.push(&measure_own(
            format!("wslr: {tool} to ext4"),
            &["write", &compressed_text, &image_text],
        )?);
        fs::remove_file(&compressed)?;
        let _ = fs::remove_file(&image);
    }
    Ok(())
}

/// Prints rows as they come, each against the first and the one before it.
struct Table {
    first: Option<f64>,
    previous: f64,
}

impl Table {
    fn new(archive: &Path) -> Outcome<Self> {
        let size = fs::metadata(archive)?.len() / 1_000_000;
        let list = Command::new("tar").arg("-tf").arg(archive).output()?.stdout;
        println!("{size} MB, {} entries", BufReader::new(list.as_slice()).split(b'\n').count());
        Ok(Self { first: None, previous: 1.0 })
    }

    fn push(&mut self, row: &Row) {
        let time = row.time.as_secs_f64();
        let first = *self.first.get_or_insert(time);
        let memory = row.memory.map_or(String::new(), |memory| format!("{} MiB", memory / 1024));
        println!(
            "{:<36} {time:>8.2} s {memory:>9}   {:>6.2} x the first, {:>6.2} x the row above",
            row.what,
            time / first,
            time / self.previous,
        );
        self.previous = time;
    }
}

/// Where the work is done: the target directory is on a disk, `/tmp` may be memory.
fn place() -> Outcome<PathBuf> {
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(&place)?;
    Ok(place)
}

fn corpus() -> Outcome<PathBuf> {
    let corpus = place()?.join("corpus.tar");
    if !corpus.exists() {
        let made = corpus.with_extension("new.tar");
        let include = format!("--include={PACKAGES}");
        let made_text = made.to_string_lossy().into_owned();
        let mirror = "http://deb.debian.org/debian";
        run("mmdebstrap", &["-q", "--variant=extract", &include, "trixie", &made_text, mirror])?;
        fs::rename(made, &corpus)?;
    }
    Ok(corpus)
}

fn once(work: impl FnOnce() -> Outcome<()>) -> Outcome<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

/// The median of what `work` says it took.
fn median(mut work: impl FnMut() -> Outcome<Duration>) -> Outcome<Duration> {
    let mut times = (0..RUNS).map(|_| work()).collect::<Outcome<Vec<_>>>()?;
    times.sort();
    times.get(RUNS / 2).copied().ok_or_else(|| "no run".into())
}

fn run(program: &str, arguments: &[&str]) -> Outcome<()> {
    let output = Command::new(program).args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

fn make_with_mke2fs(image: &Path, from: &Path) -> Outcome<()> {
    let _ = fs::remove_file(image);
    let (image, from) = (image.to_string_lossy(), from.to_string_lossy());
    run("mke2fs", &["-q", "-t", "ext4", "-G", "4096", "-d", &from, &image, "1T"])?;
    run("sync", &[&image])
}

fn check(image: &Path) -> Outcome<()> {
    run("e2fsck", &["-fn", &image.to_string_lossy()])
}

fn write_image(archive: &Path, image: &Path) -> Outcome<()> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(image)?;
    let mut writer = Writer::new(file, Options::default())?;
    image::unpack(File::open(archive)?, &mut writer)?;
    writer.finish()?;
    print_peak_memory()
}

fn decompress(archive: &Path) -> Outcome<()> {
    let mut reader = image::compression::decompressed(File::open(archive)?)?;
    let mut buffer = vec![0; 1 << 20];
    while reader.read(&mut buffer)? > 0 {}
    print_peak_memory()
}

fn copy(archive: &Path, to: &Path) -> Outcome<()> {
    let (mut from, mut to) = (File::open(archive)?, File::create(to)?);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        to.write_all(buffer.get(..count).unwrap_or_default())?;
    }
    to.sync_all()?;
    print_peak_memory()
}

fn print_peak_memory() -> Outcome<()> {
    let status = BufReader::new(File::open("/proc/self/status")?);
    for line in status.lines() {
        let line = line?;
        if let Some(peak) = line.strip_prefix("VmHWM:") {
            println!("{}", peak.trim().trim_end_matches(" kB"));
            return Ok(());
        }
    }
    Err(io::Error::from(io::ErrorKind::NotFound).into())
}
