//! One executable, three lives: the command, the service, and the guest's init.

use std::env;
use std::process::ExitCode;

use wslr::{command, guest, namespaces, service, tree};

fn main() -> ExitCode {
    namespaces::run_if_called();
    tree::process::run_if_called();
    // The kernel of the virtual machine starts this same executable as its first process.
    guest::run_if_called();

    let words: Vec<_> = env::args_os().skip(1).collect();
    if words.first().is_some_and(|word| word == service::ARGUMENT) {
        return ExitCode::from(service::run());
    }
    command::main(words)
}
