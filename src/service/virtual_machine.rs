//! The KVM machine as the service's [`Machine`]: kernel, disks, vsock, console.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::machine::{Boot, Machine, MachineError};
use crate::config::paths::Paths;
use crate::config::wslconfig::WslConfig;
use crate::error::Failure;

/// Builds machines from the prepared kernel.
#[derive(Debug)]
pub struct Builder {
    paths: Paths,
}

impl Builder {
    /// A builder for that user's machines.
    #[must_use]
    pub fn new(paths: Paths) -> Self {
        Self { paths }
    }
}

impl Boot for Builder {
    fn boot(&self, _settings: &WslConfig) -> Result<Arc<dyn Machine>, Failure> {
        Err(Failure::plain("not built yet"))
    }
}
