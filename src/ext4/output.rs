//! The image file: blocks are collected into long runs, a thread writes them.
//!
//! While one thread parses and copies, the other waits for the kernel. Everything that
//! has no fixed place goes through [`Output`] in order, so that a block that is freed and
//! taken again ends up with its last content.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use super::error::Error;
use super::format::{BLOCK_SIZE, Block};
use crate::disk::writeback;

/// Bytes of one run.
const RUN: usize = 2 << 20;

/// Runs in memory.
const RUNS: usize = 4;

enum Message {
    /// Answer when everything before is written.
    Barrier(SyncSender<()>),
    /// Write the first `length` bytes.
    Run { block: u64, bytes: Vec<u8>, length: usize },
}

/// The blocks on their way to the image.
///
/// The buffer holds the run that is collected, maybe a gap, then pending bytes whose
/// blocks have no place yet, then space to read into.
pub(super) struct Output {
    buffer: Vec<u8>,
    /// The block that the run begins with.
    block: u64,
    /// The run's length.
    length: usize,
    /// Where the pending bytes are.
    pending: Range<usize>,
    runs: Option<SyncSender<Message>>,
    empty: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    written: u64,
}

impl Output {
    pub(super) fn new(file: Arc<File>) -> Result<Self, Error> {
        let (runs, incoming) = sync_channel(RUNS);
        let (returned, empty) = channel();
        for _ in 1..RUNS {
            // The receiver is alive: it is returned below.
            let _ = returned.send(vec![0; RUN]);
        }
        let thread = std::thread::Builder::new()
            .name("ext4-output".to_owned())
            .spawn(move || write_runs(&file, &incoming, &returned))
            .map_err(Error::Write)?;
        Ok(Self {
            buffer: vec![0; RUN],
            block: 0,
            length: 0,
            pending: 0..0,
            runs: Some(runs),
            empty,
            thread: Some(thread),
            written: 0,
        })
    }

    /// Writes one block; pending bytes stay pending.
    pub(super) fn write(&mut self, block: u64, content: &Block) -> Result<(), Error> {
        if self.pending.is_empty() {
            self.push(content)?;
            return self.commit(block);
        }
        self.flush()?;
        self.send_run(block, content.to_vec(), BLOCK_SIZE)
    }

    /// The space to read into, at least a block.
    pub(super) fn space(&mut self) -> Result<&mut [u8], Error> {
        if self.buffer.len() - self.pending.end < BLOCK_SIZE {
            self.flush()?;
        }
        Ok(self.buffer.get_mut(self.pending.end..).unwrap_or_default())
    }

    /// The first `count` bytes of the space are pending now.
    pub(super) fn filled(&mut self, count: usize) {
        self.pending.end = self.buffer.len().min(self.pending.end + count);
    }

    /// The pending bytes.
    pub(super) fn pending(&self) -> &[u8] {
        self.buffer.get(self.pending.clone()).unwrap_or_default()
    }

    /// Makes up to a block of bytes pending.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Some(place) = self.space()?.get_mut(..bytes.len()) {
            place.copy_from_slice(bytes);
        }
        self.filled(bytes.len());
        Ok(())
    }

    /// Forgets the first pending block: it is a hole.
    pub(super) fn skip(&mut self) {
        self.advance();
    }

    /// The first pending block is `block`.
    pub(super) fn commit(&mut self, block: u64) -> Result<(), Error> {
        if self.length > 0 && block != self.block + (self.length / BLOCK_SIZE) as u64 {
            self.flush()?;
        }
        if self.length == 0 {
            self.block = block;
        }
        let start = self.pending.start;
        if start != self.length {
            self.buffer.copy_within(start..start + BLOCK_SIZE, self.length);
        }
        self.length += BLOCK_SIZE;
        self.advance();
        Ok(())
    }

    /// Waits until everything so far is written, so that it can be read back.
    pub(super) fn wait(&mut self) -> Result<(), Error> {
        self.flush()?;
        let (done, answer) = sync_channel(1);
        self.send(Message::Barrier(done))?;
        answer.recv().or_else(|_| self.stopped())
    }

    /// Waits until everything is written; nothing more can be.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        self.flush()?;
        self.join()
    }

    /// Bytes handed to the image file.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    fn advance(&mut self) {
        self.pending.start += BLOCK_SIZE;
        if self.pending.start >= self.pending.end {
            self.pending = self.length..self.length;
        }
    }

    /// Hands over the run; the pending bytes move to the front of the next buffer.
    fn flush(&mut self) -> Result<(), Error> {
        let kept = self.pending.len();
        if self.length == 0 {
            self.buffer.copy_within(self.pending.clone(), 0);
            self.pending = 0..kept;
            return Ok(());
        }
        let Ok(mut buffer) = self.empty.recv() else { return self.stopped() };
        if let Some(place) = buffer.get_mut(..kept) {
            place.copy_from_slice(self.pending());
        }
        self.pending = 0..kept;
        let bytes = std::mem::replace(&mut self.buffer, buffer);
        let length = std::mem::replace(&mut self.length, 0);
        self.send_run(self.block, bytes, length)
    }

    fn send_run(&mut self, block: u64, bytes: Vec<u8>, length: usize) -> Result<(), Error> {
        self.written += length as u64;
        self.send(Message::Run { block, bytes, length })
    }

    fn send(&mut self, message: Message) -> Result<(), Error> {
        match self.runs.as_ref().map(|runs| runs.send(message)) {
            Some(Ok(())) => Ok(()),
            _ => self.stopped(),
        }
    }

    /// The thread is gone: it has failed.
    fn stopped(&mut self) -> Result<(), Error> {
        self.join()?;
        Err(Error::Write(io::ErrorKind::BrokenPipe.into()))
    }

    fn join(&mut self) -> Result<(), Error> {
        self.runs = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result.map_err(Error::Write),
            Some(Err(_)) => Err(Error::Write(io::Error::other("the writing thread panicked"))),
            None => Ok(()),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let _ = self.join();
    }
}

fn write_runs(
    file: &File,
    messages: &Receiver<Message>,
    returned: &Sender<Vec<u8>>,
) -> io::Result<()> {
    while let Ok(message) = messages.recv() {
        // Where the other side is gone already, there is nobody to tell.
        match message {
            Message::Barrier(done) => {
                let _ = done.send(());
            }
            Message::Run { block, bytes, length } => {
                let offset = block * BLOCK_SIZE as u64;
                file.write_all_at(bytes.get(..length).unwrap_or_default(), offset)?;
                if bytes.len() == RUN {
                    writeback::start(file, offset, length as u64);
                    let _ = returned.send(bytes);
                }
            }
        }
    }
    Ok(())
}
