//! The kernel's command line.
//!
//! What the machine needs comes first, the user's `kernelCommandLine` last: the kernel
//! takes the last of two values. The choice of words is measured; each says why it is
//! there.

/// The longest command line an x86 kernel takes, its final NUL included
/// (`COMMAND_LINE_SIZE`).
pub const MAXIMUM_LENGTH: usize = 2048;

/// Words that every kernel gets.
const COMMON: [&str; 13] = [
    // The kernel log goes to the virtio console.
    "console=hvc0",
    // A panic resets the machine at once, which ends it.
    "panic=-1",
    // No i8042, no firmware vectors: the reset register of ACPI.
    "reboot=a",
    // What the kernel says before the virtio drivers are loaded, and its last words where
    // it dies before that.
    "earlycon=uart8250,io,0x3f8",
    // The host's time stamp counter is what kvm-clock already trusts.
    "tsc=reliable",
    "no_timer_check",
    // Self-tests of the crypto library: a third of the boot's instructions.
    "cryptomgr.notests",
    // Compiled-in X.509 certificates and the jitter entropy's self-test.
    "initcall_blacklist=load_system_certificate_list,jent_mod_init",
    "8250.nr_uarts=0",
    "random.trust_cpu=on",
    // One bus of PCI, with few devices and neither firmware nor errors to be reported.
    "pci=conf1,lastbus=0,noaer",
    "swiotlb=noforce",
    "rcupdate.rcu_expedited=1",
];

/// How much goes to the console: warnings; everything.
const QUIET: &str = "quiet loglevel=4";
const VERBOSE: &str = "loglevel=7";

/// Why a command line cannot be used.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum CommandLineError {
    /// A line break, NUL or other control character.
    #[error("it holds the control character {character:?}")]
    ControlCharacter {
        /// The character.
        character: char,
    },
    /// Longer than the kernel takes.
    #[error("it is {length} bytes long, the kernel takes {}", MAXIMUM_LENGTH - 1)]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
}

/// The command line for a machine of that many processors.
///
/// `verbose` shows all of the kernel's messages and not only its warnings; `user` is
/// appended as it is.
///
/// # Errors
/// Any [`CommandLineError`].
pub fn build(processors: u32, verbose: bool, user: &str) -> Result<String, CommandLineError> {
    let mut line = COMMON.join(" ");
    // Kernels built for thousands of processors size tables by this.
    line.push_str(&format!(" nr_cpus={processors} "));
    line.push_str(if verbose { VERBOSE } else { QUIET });
    let user = user.trim();
    if !user.is_empty() {
        line.push(' ');
        line.push_str(user);
    }
    check(&line)?;
    Ok(line)
}

/// Checks that a kernel can take the line.
///
/// # Errors
/// Any [`CommandLineError`].
pub fn check(line: &str) -> Result<(), CommandLineError> {
    if let Some(character) = line.chars().find(|character| character.is_control()) {
        return Err(CommandLineError::ControlCharacter { character });
    }
    if line.len() >= MAXIMUM_LENGTH {
        return Err(CommandLineError::TooLong { length: line.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b131_the_users_words_come_last() {
        let line = build(3, false, "  audit=0 loglevel=6 ").unwrap();
        assert!(line.contains(" nr_cpus=3 quiet loglevel=4 "));
        assert!(line.ends_with(" audit=0 loglevel=6"));
        assert!(!build(1, true, "").unwrap().contains("quiet"));
    }

    #[test]
    fn what_a_kernel_cannot_take_is_refused() {
        assert_eq!(
            build(1, false, "a\0b"),
            Err(CommandLineError::ControlCharacter { character: '\0' })
        );
        assert!(matches!(
            build(1, false, &"x".repeat(MAXIMUM_LENGTH)),
            Err(CommandLineError::TooLong { .. })
        ));
    }
}
