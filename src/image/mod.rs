//! Root file system images: a compressed or plain tar stream becomes tree entries.

pub mod observer;
pub mod tar;
