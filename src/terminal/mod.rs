//! The user's terminal: raw mode, sizes, progress bars.

pub mod progress;
pub mod raw;
pub mod relay;
