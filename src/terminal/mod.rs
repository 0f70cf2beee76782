//! The user's terminal: raw mode, sizes, progress bars.

pub mod progress;
