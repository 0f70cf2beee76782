//! The service: owns the virtual machine and everything that runs in it.
