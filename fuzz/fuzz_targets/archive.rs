//! Any bytes as an archive, written again: what is read from the second is what was read
//! from the first.

#![no_main]

use std::io;

use libfuzzer_sys::fuzz_target;
use wslr::image::tar::{self, Writer};
use wslr::tree::{Entry, Kind, Metadata, Segment, Sink};

/// The most content of one file that is looked at.
const LIMIT: u64 = 1 << 20;

/// All that was told of the entries.
#[derive(Debug, Default, PartialEq)]
struct Told(Vec<(Vec<u8>, Metadata, String, Vec<u8>)>);

/// Too large to look at.
fn too_large() -> io::Error {
    io::ErrorKind::FileTooLarge.into()
}

impl Sink for Told {
    type Error = io::Error;

    fn add(&mut self, entry: Entry<'_>) -> io::Result<()> {
        let mut bytes = Vec::new();
        let kind = match entry.kind {
            Kind::BlockDevice { major, minor } => format!("block {major} {minor}"),
            Kind::CharacterDevice { major, minor } => format!("character {major} {minor}"),
            Kind::Directory => "directory".to_owned(),
            // An archive has no other form for it.
            _ if entry.path.is_root() => return Err(io::ErrorKind::InvalidData.into()),
            Kind::Fifo => "fifo".to_owned(),
            Kind::File { size, segments, content } => {
                content.read_to_end(&mut bytes)?;
                let holes = size.saturating_sub(bytes.len() as u64);
                if holes >= 4096 {
                    format!("file {size} {segments:?}")
                } else {
                    bytes = filled(&bytes, size, segments)?;
                    format!("file {size}")
                }
            }
            Kind::HardLink { target } => format!("link {:?}", target.as_bytes()),
            Kind::Socket => "socket".to_owned(),
            Kind::SymbolicLink { target } => format!("symbolic link {target:?}"),
        };
        let mut metadata = entry.metadata.clone();
        metadata.attributes.sort();
        self.0.push((entry.path.as_bytes().to_vec(), metadata, kind, bytes));
        Ok(())
    }
}

/// Small holes are written as zeroes.
fn filled(mut bytes: &[u8], size: u64, segments: &[Segment]) -> io::Result<Vec<u8>> {
    if size > LIMIT {
        return Err(too_large());
    }
    let mut whole = vec![0; size as usize];
    for segment in segments {
        let (now, later) = bytes.split_at(segment.length as usize);
        whole[segment.offset as usize..][..now.len()].copy_from_slice(now);
        bytes = later;
    }
    Ok(whole)
}

fuzz_target!(|data: &[u8]| {
    let mut first = Told::default();
    if tar::read_entries(data, &mut first, |path| path).is_err() {
        return;
    }
    let mut writer = Writer::new(Vec::new());
    if tar::read_entries(data, &mut writer, |path| path).is_err() {
        // Only more attributes than any reader takes are refused.
        return;
    }
    let archive = writer.finish().expect("memory takes all");
    let mut second = Told::default();
    tar::read_entries(archive.as_slice(), &mut second, |path| path).expect("it is an archive");
    assert_eq!(first, second);
});
