//! The user's `.wslconfig`, and where everything lives.

pub mod paths;
pub mod size;
pub mod syntax;
pub mod value;
pub mod wslconfig;
