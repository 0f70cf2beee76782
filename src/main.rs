//! One executable, three lives: the command, the service, and the guest's init.

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    wslr::guest::run_if_called();
    wslr::command::main(env::args_os().skip(1).collect())
}
