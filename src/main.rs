//! One executable, three lives: the command, the service, and the guest's init.

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    wslr::guest::run_if_called();
    if env::args_os().nth(1).is_some_and(|word| word == wslr::service::ARGUMENT) {
        return ExitCode::from(wslr::service::run());
    }
    wslr::command::main(env::args_os().skip(1).collect())
}
