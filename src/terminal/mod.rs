//! The user's terminal: raw mode, sizes, progress bars, and what its signals interrupt.

pub mod interrupt;
pub mod progress;
pub mod raw;
pub mod relay;
