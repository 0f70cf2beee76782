//! Progress bars on long work: shown on a terminal, silent in a pipe.

use std::borrow::Cow;
use std::io::{IsTerminal, Read};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

const BYTES: &str =
    "{msg:24!} [{bar:28}] {bytes:>10}/{total_bytes:10} {binary_bytes_per_sec:>12} {eta:>4}";
const BYTES_UNKNOWN: &str = "{msg:24!} {spinner} {bytes:>10} {binary_bytes_per_sec:>12}";
const STEPS: &str = "{msg:24!} [{bar:28}] {pos:>5}/{len:5} {eta:>4}";

/// A set of progress bars on standard error.
#[derive(Clone, Debug)]
pub struct Progress {
    bars: MultiProgress,
}

/// One bar; it disappears when dropped.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
}

impl Progress {
    /// Bars where standard error is a terminal, else nothing.
    #[must_use]
    pub fn on_terminal() -> Self {
        if std::io::stderr().is_terminal() {
            Self { bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()) }
        } else {
            Self::hidden()
        }
    }

    /// No bars.
    #[must_use]
    pub fn hidden() -> Self {
        Self { bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()) }
    }

    /// A bar that counts bytes towards `total`, where that is known.
    pub fn bytes(&self, label: impl Into<Cow<'static, str>>, total: Option<u64>) -> Bar {
        self.bar(label, total, if total.is_some() { BYTES } else { BYTES_UNKNOWN })
    }

    /// A bar that counts steps.
    pub fn steps(&self, label: impl Into<Cow<'static, str>>, total: u64) -> Bar {
        self.bar(label, Some(total), STEPS)
    }

    /// Runs `print` while no bar is on the screen.
    pub fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bars.suspend(print)
    }

    fn bar(&self, label: impl Into<Cow<'static, str>>, total: Option<u64>, style: &str) -> Bar {
        let bar = self.bars.add(total.map_or_else(ProgressBar::no_length, ProgressBar::new));
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(label);
        Bar { bar }
    }
}

impl Bar {
    /// Counts `amount` more.
    pub fn add(&self, amount: u64) {
        self.bar.inc(amount);
    }

    /// Counts `amount` less: it has to be done again.
    pub fn take_back(&self, amount: u64) {
        self.bar.dec(amount);
    }

    /// Sets the count.
    pub fn set(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// Sets what the bar counts towards.
    pub fn set_total(&self, total: u64) {
        self.bar.set_length(total);
    }

    /// Changes the text.
    pub fn label(&self, label: impl Into<Cow<'static, str>>) {
        self.bar.set_message(label);
    }

    /// A reader that counts what is read through it.
    pub fn reader<R: Read>(&self, reader: R) -> Counted<'_, R> {
        Counted { reader, bar: self }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A reader whose bytes a [`Bar`] counts.
#[derive(Debug)]
pub struct Counted<'a, R> {
    reader: R,
    bar: &'a Bar,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.bar.add(count as u64);
        Ok(count)
    }
}
