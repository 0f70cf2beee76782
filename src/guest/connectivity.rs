//! Whether a distro reaches the world, and if not, at which of the two steps (B220).

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::network::lookup::{self, LookupError, Target};
use crate::network::resolver::Resolver;

/// Who is asked where nobody is named: whom Debian's distros need anyway.
const TARGET: (&str, u16) = ("deb.debian.org", 80);
/// How long one address may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the world is not reached.
#[derive(Debug, thiserror::Error)]
pub enum Unconnected {
    /// That is not a place.
    #[error("'{0}' is not a name with or without a port")]
    NoTarget(String),
    /// The name is not found.
    #[error("the name '{name}' cannot be resolved: {source}")]
    Name {
        /// The name.
        name: String,
        /// Why.
        source: LookupError,
    },
    /// It is found, but cannot be connected to.
    #[error("'{target}' ({address}) cannot be connected to: {source}")]
    Place {
        /// The name and the port.
        target: Target,
        /// The last of its addresses that was tried.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl Unconnected {
    /// The status that tells one from the other.
    #[must_use]
    pub fn status(&self) -> i32 {
        match self {
            Self::NoTarget(_) => 1,
            Self::Name { .. } => 2,
            Self::Place { .. } => 3,
        }
    }
}

/// Connects to a place by its name, whose resolver stands in the file `settings`; tells where
/// it is.
///
/// # Errors
/// The step that does not work.
pub fn check(target: Option<&str>, settings: &Path) -> Result<(Target, SocketAddr), Unconnected> {
    let (text, usual) = (target.unwrap_or(TARGET.0), TARGET.1);
    let target =
        Target::parse(text, usual).ok_or_else(|| Unconnected::NoTarget(text.to_owned()))?;
    let addresses = match target.name.parse() {
        Ok(address) => vec![address],
        Err(_) => {
            let mut resolver = Resolver::new(settings.to_owned());
            lookup::addresses(&target.name, resolver.servers())
                .map_err(|source| Unconnected::Name { name: target.name.clone(), source })?
        }
    };
    let mut last = None;
    for address in addresses {
        let address = SocketAddr::new(address, target.port);
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(_) => return Ok((target, address)),
            Err(source) => last = Some((address, source)),
        }
    }
    Err(match last {
        Some((address, source)) => Unconnected::Place { target, address, source },
        None => Unconnected::Name { name: target.name, source: LookupError::NoAddress },
    })
}
