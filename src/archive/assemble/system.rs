//! What makes unpacked packages a distro: the layout before them, configuration after.

use std::fmt::Write as _;

use super::super::keyring::Family;
use super::super::repository::ARCHITECTURE;
use super::super::source::Source;
use super::database::Database;
use super::placer::Placer;
use super::{AssembleError, CONFIGURE, PACKAGE_COUNT};
use crate::tree::Sink;

/// Keeps services from being started while packages are configured.
const POLICY: &str = "#!/bin/sh\nexit 101\n";

/// The merged-`/usr` layout.
pub(super) fn before<S: Sink>(placer: &mut Placer<'_, S>) -> Result<(), AssembleError<S::Error>> {
    let directories: &[&str] = if ARCHITECTURE == "amd64" {
        &["bin", "lib", "lib64", "sbin"]
    } else {
        &["bin", "lib", "sbin"]
    };
    for directory in directories {
        placer.directory(&format!("usr/{directory}"))?;
        placer.symbolic_link(directory, &format!("usr/{directory}"))?;
    }
    Ok(())
}

/// Configuration, and the script that the first start runs.
pub(super) fn after<S: Sink>(
    placer: &mut Placer<'_, S>,
    source: &Source,
    name: &str,
    database: &Database,
) -> Result<(), AssembleError<S::Error>> {
    let (list, keyring) = match source.keyring {
        Family::Debian => ("debian", "debian-archive-keyring.gpg"),
        Family::Ubuntu => ("ubuntu", "ubuntu-archive-keyring.gpg"),
    };
    let mut sources = String::new();
    let security = source.security_mirror.iter().map(|mirror| (mirror, &source.security_suites));
    for (mirror, suites) in std::iter::once((&source.mirror, &source.suites)).chain(security) {
        let separator = if sources.is_empty() { "" } else { "\n" };
        let _ = write!(
            sources,
            "{separator}Types: deb\nURIs: {mirror}\nSuites: {}\nComponents: {}\n\
             Signed-By: /usr/share/keyrings/{keyring}\n",
            suites.join(" "),
            source.components.join(" "),
        );
    }
    placer.file(&format!("etc/apt/sources.list.d/{list}.sources"), 0o644, sources.as_bytes())?;
    // Where systemd has it, and the older name that PAM reads.
    placer.file("etc/locale.conf", 0o644, b"LANG=C.UTF-8\n")?;
    placer.symbolic_link("etc/default/locale", "../locale.conf")?;
    placer.file("etc/fstab", 0o644, b"# Mounted when the distro starts.\n")?;
    let hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    placer.file("etc/hosts", 0o644, hosts.as_bytes())?;
    let distribution = format!("[oobe]\ndefaultName = {name}\n");
    placer.file("etc/wsl-distribution.conf", 0o644, distribution.as_bytes())?;
    placer.file("etc/wsl.conf", 0o644, b"[boot]\nsystemd = true\n")?;
    if !placer.exists("usr/bin/sh") {
        placer.symbolic_link("usr/bin/sh", "dash")?;
    }
    placer.file("usr/sbin/policy-rc.d", 0o755, POLICY.as_bytes())?;
    let mut scripts = String::new();
    for script in database.scripts() {
        let _ = writeln!(scripts, "{} {} {}", script.package, script.architecture, script.file);
    }
    placer.file("usr/lib/wslr/preinst", 0o644, scripts.as_bytes())?;
    placer.file(PACKAGE_COUNT, 0o644, format!("{}\n", database.len()).as_bytes())?;
    placer.file(CONFIGURE, 0o755, include_bytes!("configure.sh"))
}
