//! The user's `.wslconfig`, and where everything lives.

pub mod paths;
pub mod size;
