//! The user's `.wslconfig`, a distro's `wsl.conf`, and where everything lives.

pub mod distribution;
pub mod hostname;
pub mod keys;
pub mod meminfo;
pub mod networking;
pub mod paths;
pub mod size;
pub mod syntax;
pub mod time_zone;
pub mod value;
pub mod wslconf;
pub mod wslconfig;
