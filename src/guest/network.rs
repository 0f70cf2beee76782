//! Setting up the machine's network interface, which all distros share.
//!
//! The addresses are the service's word: there is nobody to ask and nothing to wait for.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::modules::load_order;
use super::{boot, interface};
use crate::protocol::guest::Network;

/// The interface.
pub const NAME: &str = "eth0";
/// Its driver's module.
const MODULE: &str = "virtio_net";

/// What the kernel would do about addresses on its own, and its wait for an address of IPv6
/// that nobody else can have.
const SETTINGS: [(&str, &str); 3] = [("accept_ra", "0"), ("accept_dad", "0"), ("autoconf", "0")];

/// The same of both versions of IP where `wsl` mirrors the host's network (B215): for each
/// interface that there is, and for those to come.
const MIRRORED6: [(&str, &str); 5] = [
    ("accept_ra", "0"),
    ("dad_transmits", "0"),
    ("autoconf", "0"),
    ("use_tempaddr", "0"),
    ("addr_gen_mode", "1"),
];
const MIRRORED4: [(&str, &str); 2] = [("arp_filter", "1"), ("rp_filter", "0")];

/// Loads the driver from the disk of modules, where it is one, and sets the interface up.
/// What fails is a warning: a distro without network is better than none.
#[must_use]
pub fn set_up(network: &Network, modules: Option<&Path>) -> Vec<String> {
    if let Some(modules) = modules {
        boot::load_modules(&load_order(modules, MODULE));
    }
    let mut warnings = Vec::new();
    if let Err(error) = configure(NAME, network) {
        warnings.push(format!("cannot set up the network interface '{NAME}': {error}"));
    }
    if let Err(error) = write_resolver(network) {
        warnings.push(format!("cannot write '{}/resolv.conf': {error}", boot::SHARED));
    }
    warnings
}

/// Writes `/mnt/wsl/resolv.conf`, beside it first: somebody may be reading it, and distros
/// write to this directory too.
///
/// # Errors
/// The system's.
pub fn write_resolver(network: &Network) -> io::Result<()> {
    let directory = Path::new(boot::SHARED);
    let beside = directory.join(".resolv.conf.wslr");
    let _ = fs::remove_file(&beside);
    let mut file = File::options().write(true).create_new(true).mode(0o644).open(&beside)?;
    file.write_all(resolver_file(network).as_bytes())?;
    fs::rename(&beside, directory.join("resolv.conf"))
}

/// Gives an interface its addresses and routes.
///
/// # Errors
/// The system's, where IPv4 cannot be had.
pub fn configure(name: &str, network: &Network) -> io::Result<()> {
    // Where there is no IPv6 there is nothing to set.
    set("ipv6", name, &SETTINGS);
    if network.mirrored.is_some() {
        for whose in ["all", "default", name] {
            set("ipv6", whose, &MIRRORED6);
            set("ipv4", whose, &MIRRORED4);
        }
    }
    if network.caller.is_some() {
        // So that servers of UDP on 127.0.0.1 can answer the host, and be asked by it: nobody
        // else sends packets to that address by this interface.
        set("ipv4", name, &[("route_localnet", "1")]);
    }
    interface::bring_up(name)?;
    interface::set_address(name, IpAddr::V4(network.guest4), network.prefix4)?;
    interface::set_gateway(name, IpAddr::V4(network.gateway4))?;
    let guest = IpAddr::V6(network.guest6);
    // A kernel without IPv6 is as good as a host without.
    let addressed = interface::set_address(name, guest, network.prefix6);
    if addressed.is_ok() && network.routes6 {
        wait_until_usable(guest);
        let _ = interface::set_gateway(name, IpAddr::V6(network.gateway6));
    }
    Ok(())
}

/// Sets what there is of these settings of an interface, or of `all` of them.
fn set(version: &str, interface: &str, settings: &[(&str, &str)]) {
    let directory = Path::new("/proc/sys/net").join(version).join("conf").join(interface);
    for (setting, value) in settings {
        let _ = fs::write(directory.join(setting), value);
    }
}

/// Waits, for a second at most, until the kernel has put an address of IPv6 to use: it does so
/// in its own time, and until then sends from another, which nobody answers.
fn wait_until_usable(address: IpAddr) {
    for _ in 0..100 {
        if UdpSocket::bind((address, 0)).is_ok() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// `/mnt/wsl/resolv.conf` (B196, B199).
fn resolver_file(network: &Network) -> String {
    let search =
        network.search.as_ref().map(|names| format!("search {names}\n")).unwrap_or_default();
    format!(
        "# This file is written by wslr for all distributions. To keep your own, put this\n\
         # into /etc/wsl.conf:\n\
         # [network]\n\
         # generateResolvConf = false\n\
         nameserver {}\n\
         {search}",
        network.resolver
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::addresses::Addresses;

    #[test]
    fn b199_resolv_conf_names_the_resolver_and_the_suffixes() {
        let mut network = Addresses::on([20, 224]).network("nat");
        let text = resolver_file(&network);
        assert_eq!(text.lines().nth(4), Some("nameserver 10.255.255.254"));
        network.search = Some("a.example b.example".to_owned());
        assert!(resolver_file(&network).ends_with("254\nsearch a.example b.example\n"));
    }
}
