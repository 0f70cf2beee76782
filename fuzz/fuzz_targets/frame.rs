//! Any bytes as the frames both ends of a socket read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wslr::protocol::frame;
use wslr::protocol::guest::{Envelope, Event, StreamHeader};
use wslr::protocol::session::{Input, Output, Session};

fuzz_target!(|data: &[u8]| {
    let _ = frame::read::<Envelope>(&mut &*data);
    let _ = frame::read::<Event>(&mut &*data);
    let _ = frame::read::<Input>(&mut &*data);
    let _ = frame::read::<Output>(&mut &*data);
    let _ = frame::read::<Session>(&mut &*data);
    let _ = frame::read::<StreamHeader>(&mut &*data);
});
