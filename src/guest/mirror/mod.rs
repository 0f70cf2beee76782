//! One set of ports for the distros and the host (`networkingMode=mirrored`, B213).
//!
//! A port that somebody of the host has cannot be bound in a distro, and the loopback address
//! of a distro reaches the host at it. What the host has the service tells; the kernel runs
//! [`programs`] when a distro's processes bind, connect and send, which look there. The other
//! half, that the host cannot bind what a distro has, is the forwarding of ports
//! ([`super::listeners`]).

mod programs;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;

use super::listeners::bpf::{self, Hook, Map, MapKind, Program};
use crate::config::networking::Mode;
use crate::network::ports;
use crate::protocol::guest::{HostPorts, Network, Transport};
pub use programs::Host;
use programs::{Maps, Version};

/// How many sockets that were led to the host are remembered.
const MAXIMUM_LED: u32 = 8192;

/// The ports that the kernel does not give to whom does not care.
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// The network of a machine, what mirrors the host's ports where it is to have that, and a
/// warning. A kernel that cannot do it has the network that it can have. `new` is
/// [`Mirror::new`].
pub fn prepare(
    mut network: Network,
    new: impl FnOnce(Option<Host>) -> io::Result<Mirror>,
) -> (Network, Option<Mirror>, Option<String>) {
    let Some(mirrored) = network.mirrored else { return (network, None, None) };
    match new(mirrored.host) {
        Ok(mirror) => (network, Some(mirror), None),
        Err(error) => {
            let nat = Mode::Nat.name();
            let warning = format!(
                "networkingMode {} is not available with this kernel ({error}), falling back to \
                 networkingMode {nat}",
                network.mode
            );
            network.mode = nat.to_owned();
            network.mirrored = None;
            (network, None, Some(warning))
        }
    }
}

/// The programs, and what the host has.
#[derive(Debug)]
pub struct Mirror {
    maps: Maps,
    programs: Vec<Program>,
    /// What is in the map.
    taken: BTreeMap<u16, u32>,
    reserved: String,
}

impl Mirror {
    /// For sockets of this thread's network namespace; `host` stands for the host on the link,
    /// where distros may reach what listens on its loopback addresses.
    ///
    /// # Errors
    /// The system's: it may be forbidden, or the kernel too old.
    pub fn new(host: Option<Host>) -> io::Result<Self> {
        let maps = Maps {
            ports: Map::new(MapKind::Array, 4, 4, 1 << 16)?,
            led: Map::new(MapKind::Recent, 8, 8, MAXIMUM_LED)?,
            namespace: bpf::namespace()?,
        };
        let mut programs = Vec::new();
        for (hook, version) in [(Hook::Bind4, Version::Four), (Hook::Bind6, Version::Six)] {
            programs.push(Program::load(hook, &programs::refuse(&maps, version))?);
        }
        if let Some(host) = host {
            for (hooks, version) in [
                ([Hook::Connect4, Hook::Send4, Hook::Receive4, Hook::Peer4], Version::Four),
                ([Hook::Connect6, Hook::Send6, Hook::Receive6, Hook::Peer6], Version::Six),
            ] {
                let lead = programs::lead(&maps, host, version);
                let restore = programs::restore(&maps, host, version);
                for (hook, program) in hooks.into_iter().zip([&lead, &lead, &restore, &restore]) {
                    programs.push(Program::load(hook, program)?);
                }
            }
        }
        Ok(Self { maps, programs, taken: BTreeMap::new(), reserved: String::new() })
    }

    /// Has the programs run for the processes of this group.
    ///
    /// # Errors
    /// The system's.
    pub fn attach(&self, group: BorrowedFd<'_>) -> io::Result<()> {
        self.programs.iter().try_for_each(|program| program.attach(group))
    }

    /// Takes what has changed on the host.
    ///
    /// # Errors
    /// The system's.
    pub fn change(&mut self, changes: &HostPorts) -> io::Result<()> {
        let freed = changes.free.iter().map(|port| (port, false));
        for (&(transport, port), is_taken) in
            freed.chain(changes.taken.iter().map(|port| (port, true)))
        {
            let bit = match transport {
                Transport::Tcp => programs::TCP,
                Transport::Udp => programs::UDP,
            };
            let value = self.taken.entry(port).or_default();
            *value = if is_taken { *value | bit } else { *value & !bit };
            self.maps.ports.set(&u32::from(port).to_ne_bytes(), &value.to_ne_bytes())?;
        }
        self.taken.retain(|_, value| *value != 0);
        self.reserve();
        Ok(())
    }

    /// Keeps the kernel from choosing a port that the host has, of which a program that leaves
    /// the choice to it would be told that it is taken (B214).
    fn reserve(&mut self) {
        let (first, last) = ports::chosen();
        let ports: Vec<String> = match first <= last {
            true => self.taken.range(first..=last).map(|(port, _)| port.to_string()).collect(),
            false => Vec::new(),
        };
        let reserved = ports.join(",");
        if reserved != self.reserved {
            // Without it a choice of the kernel's may be one that the host has too.
            let _ = fs::write(RESERVED, format!("{reserved}\n"));
            self.reserved = reserved;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::addresses::Addresses;
    use crate::protocol::guest::Mirrored;

    #[test]
    fn b209_a_kernel_that_takes_no_programs_has_the_network_of_nat() {
        let network = Network {
            mirrored: Some(Mirrored { host: None }),
            ..Addresses::on([20, 224]).network("mirrored")
        };
        let refuse = |_| Err(io::ErrorKind::InvalidInput.into());
        let (network, mirror, warning) = prepare(network, refuse);
        assert_eq!((network.mode.as_str(), network.mirrored), ("nat", None));
        assert!(mirror.is_none());
        assert!(warning.unwrap().ends_with("falling back to networkingMode nat"));
        // Nothing is tried where nothing is asked for.
        let (_, mirror, warning) = prepare(network, |_| panic!());
        assert!(mirror.is_none() && warning.is_none());
    }
}
