//! One executable, three lives: the command, the service, and the guest's init.

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    wslr::command::main(env::args_os().skip(1).collect())
}
