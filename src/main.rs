//! One executable, three lives: the command, the service, and the guest's init.

fn main() {}
