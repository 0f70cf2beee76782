//! The device as a guest meets it: real queues on one side, real sockets on the other.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use vm_memory::Bytes as _;
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::packet::*;
use super::*;
use crate::devices::VirtioDevice as _;
use crate::devices::testing::{Buffer, Driver, PATIENCE};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const EVENT: usize = 2;

/// The guest's kernel, as far as these tests need one.
struct Guest {
    driver: Driver,
    device: VsockDevice,
    vsock: Vsock,
    receive_buffers: HashMap<u16, Vec<Buffer>>,
    transmit_buffers: HashMap<u16, u64>,
    free_transmit: Vec<u64>,
}

const PACKET: usize = 64 << 10;

impl Guest {
    fn new() -> Self {
        let mut guest = Self::without_room();
        // As old kernels do it, and as new ones do.
        for number in 0..96 {
            let pieces = if number % 3 == 0 { &[44, 1000, 3000][..] } else { &[3700] };
            let chain = pieces.iter().map(|length| guest.driver.writable(*length)).collect();
            guest.offer(chain);
        }
        guest
    }

    fn without_room() -> Self {
        let vsock = Vsock::new().unwrap();
        let mut device = VsockDevice::new(vsock.clone());
        let mut driver = Driver::new(&mut device);
        let free_transmit = (0..32).map(|_| driver.allocate(PACKET + HEADER)).collect();
        Self {
            driver,
            device,
            vsock,
            receive_buffers: HashMap::new(),
            transmit_buffers: HashMap::new(),
            free_transmit,
        }
    }

    fn offer(&mut self, chain: Vec<Buffer>) {
        let head = self.driver.queues[RECEIVE].add(&chain);
        self.driver.queues[RECEIVE].notify();
        self.receive_buffers.insert(head, chain);
    }

    /// The next packet, if there is one; its buffer goes back to the device.
    fn try_packet(&mut self) -> Option<(Header, Vec<u8>)> {
        let (head, length) = self.driver.queues[RECEIVE].used()?;
        let chain = self.receive_buffers.remove(&head).unwrap();
        let mut bytes = Vec::new();
        for buffer in &chain {
            bytes.extend(self.driver.read(buffer.address, buffer.length as usize));
        }
        bytes.truncate(length as usize);
        self.offer(chain);
        let (header, data) = Header::read_from_prefix(&bytes).unwrap();
        assert_eq!(header.length.get() as usize, data.len());
        assert_eq!((header.source_cid.get(), header.destination_cid.get()), (2, 3));
        Some((header, data.to_vec()))
    }

    fn packet(&mut self) -> (Header, Vec<u8>) {
        let interrupts = Arc::clone(&self.driver.interrupts);
        interrupts.wait(|| self.try_packet())
    }

    fn expect(&mut self, operation: Operation) -> (Header, Vec<u8>) {
        let (header, data) = self.packet();
        assert_eq!(Operation::parse(header.operation.get()), Some(operation), "{header:?}");
        (header, data)
    }

    fn reclaim(&mut self) {
        while let Some((head, _)) = self.driver.queues[TRANSMIT].used() {
            self.free_transmit.extend(self.transmit_buffers.remove(&head));
        }
    }

    fn can_send(&mut self) -> bool {
        self.reclaim();
        !self.free_transmit.is_empty() && self.driver.queues[TRANSMIT].free() >= 4
    }

    fn send(&mut self, header: &Header, data: &[u8]) {
        let end = Instant::now() + PATIENCE;
        while !self.can_send() {
            assert!(Instant::now() < end);
            std::thread::yield_now();
        }
        let address = self.free_transmit.pop().unwrap();
        let header = Header { length: (data.len() as u32).into(), ..*header };
        self.driver.write(address, header.as_bytes());
        self.driver.write(address + HEADER as u64, data);
        // The data in up to three pieces, the first with the header.
        let whole = (HEADER + data.len()) as u32;
        let cuts = [whole.min(44 + 7), whole.min(44 + 7 + 1500), whole];
        let mut chain = Vec::new();
        let mut at = 0;
        for cut in cuts {
            if cut > at {
                let address = address + u64::from(at);
                chain.push(Buffer { address, length: cut - at, writable: false });
                at = cut;
            }
        }
        let head = self.driver.queues[TRANSMIT].add(&chain);
        self.driver.queues[TRANSMIT].notify();
        self.transmit_buffers.insert(head, address);
    }

    fn listen(&self, port: u32) -> Receiver<UnixStream> {
        let (sender, receiver) = channel();
        let sender = Mutex::new(sender);
        self.vsock
            .listen(port, move |stream| {
                let _ = sender.lock().unwrap().send(stream);
            })
            .unwrap();
        receiver
    }

    /// Opens a connection to a listener.
    fn open(&mut self, ports: Ports, room: u32) -> Peer {
        let mut peer = Peer::new(ports, room);
        self.send(&peer.header(Operation::Request), &[]);
        let (header, _) = self.expect(Operation::Response);
        peer.take_credit(&header);
        peer
    }

    /// Bridges a socket and answers the request.
    fn bridge(&mut self, prefix: &[u8]) -> (Peer, UnixStream, Receiver<Ended>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (sender, receiver) = channel();
        self.vsock
            .connect(50001, theirs.into(), prefix.to_vec(), move |ended| {
                let _ = sender.send(ended);
            })
            .unwrap();
        let (header, _) = self.expect(Operation::Request);
        assert_eq!(header.destination_port.get(), 50001);
        let ports = Ports { host: header.source_port.get(), guest: 50001 };
        let mut peer = Peer::new(ports, 1 << 18);
        peer.take_credit(&header);
        self.send(&peer.header(Operation::Response), &[]);
        (peer, ours, receiver)
    }

    /// Reads data until a packet of another kind comes.
    fn read_to_other(&mut self, peer: &mut Peer) -> (Header, Vec<u8>) {
        let mut all = Vec::new();
        loop {
            let (header, data) = self.packet();
            if header.operation.get() != Operation::Data as u16 {
                return (header, all);
            }
            peer.forwarded = peer.forwarded.wrapping_add(data.len() as u32);
            all.extend(data);
            self.send(&peer.header(Operation::CreditUpdate), &[]);
        }
    }
}

/// The guest's view of one connection.
#[derive(Clone, Debug)]
struct Peer {
    ports: Ports,
    room: u32,
    forwarded: u32,
    sent: u32,
    host_room: u32,
    host_forwarded: u32,
}

impl Peer {
    fn new(ports: Ports, room: u32) -> Self {
        Self { ports, room, forwarded: 0, sent: 0, host_room: 0, host_forwarded: 0 }
    }

    fn header(&self, operation: Operation) -> Header {
        Header {
            source_cid: GUEST_CID.into(),
            destination_cid: HOST_CID.into(),
            source_port: self.ports.guest.into(),
            destination_port: self.ports.host.into(),
            buffer: self.room.into(),
            forwarded: self.forwarded.into(),
            ..Header::new(self.ports, operation)
        }
    }

    fn shutdown(&self, flags: u32) -> Header {
        Header { flags: flags.into(), ..self.header(Operation::Shutdown) }
    }

    fn take_credit(&mut self, header: &Header) {
        self.host_room = header.buffer.get();
        self.host_forwarded = header.forwarded.get();
    }

    fn credit(&self) -> usize {
        (self.host_room - self.sent.wrapping_sub(self.host_forwarded)) as usize
    }
}

const PORTS: Ports = Ports { host: 50000, guest: 1025 };

fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend((seed >> 11).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn the_guest_reaches_a_listener_and_both_can_talk() {
    let mut guest = Guest::new();
    let accepted = guest.listen(PORTS.host);
    assert!(matches!(guest.vsock.listen(PORTS.host, drop), Err(VsockError::PortTaken { .. })));
    let peer = guest.open(PORTS, 1 << 18);
    let mut stream = accepted.recv_timeout(PATIENCE).unwrap();
    guest.send(&peer.header(Operation::Data), b"hello host");
    let mut bytes = [0; 10];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello host");
    stream.write_all(b"hello guest").unwrap();
    assert_eq!(guest.expect(Operation::Data).1, b"hello guest");
    guest.send(&peer.header(Operation::CreditRequest), &[]);
    let (header, _) = guest.expect(Operation::CreditUpdate);
    assert_eq!(header.forwarded.get(), 10);
}

#[test]
fn a_port_nobody_listens_on_is_refused() {
    let mut guest = Guest::new();
    let peer = Peer::new(PORTS, 1 << 18);
    guest.send(&peer.header(Operation::Request), &[]);
    let (header, _) = guest.expect(Operation::Reset);
    assert_eq!((header.source_port.get(), header.destination_port.get()), (50000, 1025));
    guest.send(&peer.header(Operation::Data), b"x");
    guest.expect(Operation::Reset);
    guest.send(&peer.header(Operation::Reset), &[]);
    guest.send(&peer.header(Operation::Request), &[]);
    guest.expect(Operation::Reset);
}

#[test]
fn a_bridged_socket_sends_its_prefix_first() {
    let mut guest = Guest::new();
    let (_, mut stream, _) = guest.bridge(b"prefix ");
    stream.write_all(b"data").unwrap();
    let mut all = Vec::new();
    while all.len() < 11 {
        all.extend(guest.expect(Operation::Data).1);
    }
    assert_eq!(all, b"prefix data");
}

#[test]
fn a_guest_that_refuses_ends_the_socket() {
    let mut guest = Guest::new();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let (sender, ended) = channel();
    let on_end = move |how| sender.send(how).unwrap();
    guest.vsock.connect(7, theirs.into(), b"lost".to_vec(), on_end).unwrap();
    let (header, _) = guest.expect(Operation::Request);
    let peer = Peer::new(Ports { host: header.source_port.get(), guest: 7 }, 0);
    ours.write_all(b"unread").unwrap();
    guest.send(&peer.header(Operation::Reset), &[]);
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), Ended::Refused);
    assert_eq!(ours.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn what_is_no_stream_is_not_bridged() {
    let guest = Guest::new();
    let file = tempfile::tempfile().unwrap();
    let result = guest.vsock.connect(1, file.into(), Vec::new(), drop);
    assert!(matches!(result, Err(VsockError::NotAStream(_))));
}

#[test]
fn sixty_four_megabytes_arrive_whole_from_the_guest() {
    let mut guest = Guest::new();
    let accepted = guest.listen(PORTS.host);
    let mut peer = guest.open(PORTS, 1 << 18);
    let mut stream = accepted.recv_timeout(PATIENCE).unwrap();
    let reader = std::thread::spawn(move || {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 100_000];
        let mut total = 0;
        loop {
            match stream.read(&mut buffer).unwrap() {
                0 => return (total, hash.finalize()),
                count => {
                    hash.update(&buffer[..count]);
                    total += count;
                }
            }
        }
    });
    let mut hash = Sha256::new();
    let total = 64 << 20;
    let mut left: usize = total;
    let data = noise(1 << 20, 7);
    while left > 0 {
        while let Some((header, _)) = guest.try_packet() {
            peer.take_credit(&header);
        }
        let offset = left % 999_331;
        let length = left.min(peer.credit()).min(PACKET).min(data.len() - offset);
        if length == 0 {
            let (header, _) = guest.expect(Operation::CreditUpdate);
            peer.take_credit(&header);
            continue;
        }
        let piece = &data[offset..offset + length];
        hash.update(piece);
        guest.send(&peer.header(Operation::Data), piece);
        peer.sent = peer.sent.wrapping_add(length as u32);
        left -= length;
    }
    guest.send(&peer.shutdown(SHUTDOWN_BOTH), &[]);
    let (count, found) = reader.join().unwrap();
    assert_eq!(count, total);
    assert_eq!(found, hash.finalize());
    loop {
        let (header, _) = guest.packet();
        if header.operation.get() == Operation::Reset as u16 {
            break;
        }
    }
}

#[test]
fn sixty_four_megabytes_arrive_whole_in_the_guest() {
    let mut guest = Guest::new();
    let (mut peer, mut stream, ended) = guest.bridge(b"");
    let total: usize = 64 << 20;
    let writer = std::thread::spawn(move || {
        let data = noise(1 << 20, 3);
        let mut hash = Sha256::new();
        for _ in 0..total >> 20 {
            stream.write_all(&data).unwrap();
            hash.update(&data);
        }
        hash.finalize()
    });
    let mut hash = Sha256::new();
    let mut count = 0;
    let mut unread = 0;
    let flags = loop {
        let (header, data) = guest.packet();
        match Operation::parse(header.operation.get()).unwrap() {
            Operation::Data => {
                hash.update(&data);
                count += data.len();
                unread += data.len();
                assert!(unread <= peer.room as usize, "credit was overrun");
                if unread > 200_000 {
                    peer.forwarded = peer.forwarded.wrapping_add(unread as u32);
                    unread = 0;
                    guest.send(&peer.header(Operation::CreditUpdate), &[]);
                }
            }
            Operation::Shutdown => break header.flags.get(),
            Operation::CreditRequest => {
                peer.forwarded = peer.forwarded.wrapping_add(unread as u32);
                unread = 0;
                guest.send(&peer.header(Operation::CreditUpdate), &[]);
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((count, flags), (total, SHUTDOWN_BOTH));
    assert_eq!(hash.finalize(), writer.join().unwrap());
    guest.send(&peer.header(Operation::Reset), &[]);
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), Ended::Closed);
}

#[test]
fn each_direction_ends_by_itself() {
    let mut guest = Guest::new();
    let (mut peer, mut stream, ended) = guest.bridge(b"");
    stream.write_all(b"question").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let (header, data) = guest.read_to_other(&mut peer);
    assert_eq!(data, b"question");
    assert_eq!(header.operation.get(), Operation::Shutdown as u16);
    assert_eq!(header.flags.get(), SHUTDOWN_SEND);
    guest.send(&peer.header(Operation::Data), b"answer");
    guest.send(&peer.shutdown(SHUTDOWN_SEND), &[]);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
    // Both directions are at their end, which the socket shows as its peer being gone.
    let (header, _) = guest.expect(Operation::Shutdown);
    assert_eq!(header.flags.get(), SHUTDOWN_BOTH);
    guest.send(&peer.shutdown(SHUTDOWN_BOTH), &[]);
    guest.expect(Operation::Reset);
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), Ended::Closed);
}

#[test]
fn a_guest_that_stops_receiving_stops_the_writer() {
    let mut guest = Guest::new();
    let (mut peer, mut stream, _) = guest.bridge(b"");
    guest.send(&peer.shutdown(SHUTDOWN_RECEIVE), &[]);
    let (header, _) = guest.read_to_other(&mut peer);
    assert_eq!(header.flags.get() & SHUTDOWN_SEND, SHUTDOWN_SEND);
    assert_eq!(stream.write(b"x").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    guest.send(&peer.header(Operation::Data), b"still");
    let mut bytes = [0; 5];
    stream.read_exact(&mut bytes).unwrap();
}

#[test]
fn what_was_written_before_the_host_closed_arrives_even_if_the_guest_answers_late() {
    let mut guest = Guest::new();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    guest.vsock.connect(9, theirs.into(), b"a".to_vec(), drop).unwrap();
    ours.write_all(b"bc").unwrap();
    drop(ours);
    let (header, _) = guest.expect(Operation::Request);
    std::thread::sleep(Duration::from_millis(30));
    let mut peer = Peer::new(Ports { host: header.source_port.get(), guest: 9 }, 1 << 16);
    guest.send(&peer.header(Operation::Response), &[]);
    let (header, data) = guest.read_to_other(&mut peer);
    assert_eq!(data, b"abc");
    assert_eq!(header.flags.get(), SHUTDOWN_BOTH);
}

#[test]
fn what_the_guest_sent_before_it_closed_arrives_however_slow_the_reader() {
    let mut guest = Guest::new();
    let accepted = guest.listen(PORTS.host);
    let mut peer = guest.open(PORTS, 1 << 18);
    let mut stream = accepted.recv_timeout(PATIENCE).unwrap();
    let data = noise(1 << 20, 5);
    let mut sent = 0;
    // Fill the socket and all credit.
    loop {
        while let Some((header, _)) = guest.try_packet() {
            peer.take_credit(&header);
        }
        let length = peer.credit().min(30_000);
        if length == 0 {
            std::thread::sleep(Duration::from_millis(50));
            let Some((header, _)) = guest.try_packet() else { break };
            peer.take_credit(&header);
            continue;
        }
        guest.send(&peer.header(Operation::Data), &data[sent..sent + length]);
        peer.sent += length as u32;
        sent += length;
    }
    stream.write_all(b"never read by the guest").unwrap();
    guest.send(&peer.shutdown(SHUTDOWN_BOTH), &[]);
    loop {
        if guest.packet().0.operation.get() == Operation::Reset as u16 {
            break;
        }
    }
    // The same ports can be used at once, while the old data is still on its way.
    let again = guest.open(PORTS, 1 << 18);
    let mut second = accepted.recv_timeout(PATIENCE).unwrap();
    guest.send(&again.header(Operation::Data), b"new");
    let mut new = [0; 3];
    second.read_exact(&mut new).unwrap();
    let mut found = Vec::new();
    stream.read_to_end(&mut found).unwrap();
    assert!(found == data[..sent], "{} of {sent}", found.len());
}

#[test]
fn a_reader_that_leaves_tells_the_guest_and_unread_input_is_no_error() {
    let mut guest = Guest::new();
    let (peer, stream, _) = guest.bridge(b"");
    stream.shutdown(Shutdown::Read).unwrap();
    guest.send(&peer.header(Operation::Data), b"into the void");
    let (header, _) = guest.expect(Operation::Shutdown);
    assert_eq!(header.flags.get(), SHUTDOWN_RECEIVE);
    let (peer, mut stream, _) = guest.bridge(b"");
    guest.send(&peer.header(Operation::Data), b"bye");
    stream.write_all(b"too late").unwrap();
    guest.send(&peer.header(Operation::Reset), &[]);
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"bye");
}

#[test]
fn a_guest_that_ignores_its_credit_loses_the_connection() {
    let mut guest = Guest::new();
    let accepted = guest.listen(PORTS.host);
    let peer = guest.open(PORTS, 1 << 18);
    let mut stream = accepted.recv_timeout(PATIENCE).unwrap();
    let data = vec![1; PACKET];
    let mut sent = 0;
    let reset = loop {
        guest.send(&peer.header(Operation::Data), &data);
        sent += 1;
        assert!(sent < 100);
        std::thread::sleep(Duration::from_millis(5));
        let mut reset = false;
        while let Some((header, _)) = guest.try_packet() {
            reset |= header.operation.get() == Operation::Reset as u16;
        }
        if reset {
            break true;
        }
    };
    assert!(reset);
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert!(all.len() < 1 << 20);
}

#[test]
fn a_guest_without_credit_gets_nothing_until_it_has_some() {
    let mut guest = Guest::new();
    let accepted = guest.listen(PORTS.host);
    let mut peer = guest.open(PORTS, 10);
    let mut stream = accepted.recv_timeout(PATIENCE).unwrap();
    stream.write_all(&noise(25, 1)).unwrap();
    let mut all = guest.expect(Operation::Data).1;
    assert_eq!(all.len(), 10);
    guest.expect(Operation::CreditRequest);
    std::thread::sleep(Duration::from_millis(30));
    assert!(guest.try_packet().is_none());
    peer.forwarded = 9;
    guest.send(&peer.header(Operation::CreditUpdate), &[]);
    all.extend(guest.expect(Operation::Data).1);
    peer.forwarded = 19;
    peer.room = 1000;
    guest.send(&peer.header(Operation::CreditUpdate), &[]);
    while all.len() < 25 {
        let (header, data) = guest.packet();
        if header.operation.get() == Operation::Data as u16 {
            all.extend(data);
        }
    }
    assert_eq!(all, noise(25, 1));
}

#[test]
fn a_thousand_connections_live_side_by_side() {
    let mut guest = Guest::new();
    let accepted = guest.listen(PORTS.host);
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let most = u32::try_from(limit.unwrap().0 / 2).unwrap_or(u32::MAX).saturating_sub(150);
    let count = most.min(1000);
    let mut peers = Vec::new();
    let mut streams = Vec::new();
    for number in 0..count {
        peers.push(guest.open(Ports { host: PORTS.host, guest: 2000 + number }, 1 << 18));
        streams.push(accepted.recv_timeout(PATIENCE).unwrap());
    }
    for (number, peer) in peers.iter().enumerate() {
        guest.send(&peer.header(Operation::Data), &number.to_le_bytes());
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, number.to_le_bytes());
        stream.write_all(&bytes).unwrap();
    }
    let mut seen = std::collections::HashSet::new();
    while seen.len() < count as usize {
        let (header, data) = guest.packet();
        if header.operation.get() == Operation::Data as u16 {
            let number = usize::from_le_bytes(data.try_into().unwrap());
            assert_eq!(header.destination_port.get() as usize, 2000 + number);
            seen.insert(number);
        }
    }
    // A reset of the device ends them all.
    guest.device.reset();
    for mut stream in streams {
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
}

#[test]
fn a_reset_ends_everything_and_listeners_stay() {
    let mut guest = Guest::new();
    let accepted = guest.listen(PORTS.host);
    let (_, mut stream, ended) = guest.bridge(b"");
    guest.device.reset();
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), Ended::Failed);
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(Arc::strong_count(&guest.driver.memory), 1 + guest.driver.queues.len());
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let refused = guest.vsock.connect(1, ours.into(), Vec::new(), drop);
    assert!(matches!(refused, Err(VsockError::NotRunning)));
    guest.driver = Driver::new(&mut guest.device);
    guest.receive_buffers.clear();
    let room = guest.driver.writable(4096);
    guest.offer(vec![room]);
    guest.free_transmit = vec![guest.driver.allocate(PACKET + HEADER)];
    guest.open(PORTS, 1 << 18);
    accepted.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn a_transport_reset_ends_connections_and_is_told() {
    let mut guest = Guest::new();
    let (_, _stream, ended) = guest.bridge(b"");
    guest.vsock.reset_transport().unwrap();
    assert_eq!(ended.recv_timeout(PATIENCE).unwrap(), Ended::Failed);
    let room = guest.driver.writable(4);
    guest.driver.write(room.address, &[0xff; 4]);
    guest.driver.queues[EVENT].add(&[room]);
    guest.driver.queues[EVENT].notify();
    assert_eq!(guest.driver.queues[EVENT].wait_used().1, 4);
    assert_eq!(guest.driver.read(room.address, 4), [0; 4]);
    assert!(!guest.vsock.state().reset_pending);
}

#[test]
fn a_guest_that_takes_no_replies_has_to_wait() {
    let mut guest = Guest::without_room();
    let peer = Peer::new(PORTS, 1 << 18);
    let mut sent = 0;
    let mut waited = 0;
    while waited < 10 && sent < 2000 {
        if guest.can_send() {
            guest.send(&peer.header(Operation::CreditRequest), &[]);
            sent += 1;
            waited = 0;
        } else {
            std::thread::sleep(Duration::from_millis(10));
            waited += 1;
        }
    }
    assert!((256..=256 + 32).contains(&sent), "{sent}");
    for _ in 0..8 {
        let room = guest.driver.writable(64);
        guest.offer(vec![room]);
    }
    for _ in 0..sent {
        guest.expect(Operation::Reset);
    }
}

#[test]
fn useless_buffers_and_broken_chains_are_given_back() {
    let mut guest = Guest::without_room();
    let accepted = guest.listen(PORTS.host);
    let tiny = guest.driver.writable(44);
    guest.driver.queues[RECEIVE].add(&[tiny]);
    let outside = Buffer { address: 1 << 40, length: 4096, writable: true };
    guest.driver.queues[RECEIVE].add(&[outside]);
    guest.driver.queues[RECEIVE].notify();
    let short = guest.driver.readable(&[1; 20]);
    guest.driver.queues[TRANSMIT].add(&[short]);
    guest.driver.queues[TRANSMIT].notify();
    assert_eq!(guest.driver.queues[TRANSMIT].wait_used().1, 0);
    let peer = Peer::new(PORTS, 1 << 18);
    guest.send(&peer.header(Operation::Request), &[]);
    accepted.recv_timeout(PATIENCE).unwrap();
    assert_eq!(guest.driver.queues[RECEIVE].wait_used().1, 0);
    assert_eq!(guest.driver.queues[RECEIVE].wait_used().1, 0);
    let room = guest.driver.writable(64);
    guest.offer(vec![room]);
    guest.expect(Operation::Response);
}

/// Any packet, with fields that make sense more often than chance would have it.
fn any_packet() -> impl Strategy<Value = (Header, usize)> {
    let port = prop_oneof![Just(1025), Just(50000), Just(1 << 30), any::<u32>()];
    let number = prop_oneof![Just(0), Just(1 << 18), Just(u32::MAX), 0..70_000_u32, any::<u32>()];
    let cid = prop_oneof![9 => Just(GUEST_CID), 1 => any::<u64>()];
    let operation = prop_oneof![9 => 0..9_u16, 1 => any::<u16>()];
    let kind = prop_oneof![9 => Just(1_u16), 1 => any::<u16>()];
    let numbers = [number.clone(), number.clone(), number.clone()];
    (cid, port.clone(), port, operation, kind, 0..4_u32, numbers, 0..3000_usize).prop_map(
        |(cid, source, destination, operation, kind, flags, [buffer, forwarded, length], data)| {
            let header = Header {
                source_cid: cid.into(),
                destination_cid: HOST_CID.into(),
                source_port: source.into(),
                destination_port: destination.into(),
                length: length.into(),
                kind: kind.into(),
                operation: operation.into(),
                flags: flags.into(),
                buffer: buffer.into(),
                forwarded: forwarded.into(),
            };
            (header, data)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a guest sends, an honest connection made afterwards works.
    #[test]
    fn no_packet_stalls_the_device(
        packets in prop::collection::vec((any_packet(), any::<bool>()), 1..40),
    ) {
        let mut guest = Guest::new();
        let accepted = guest.listen(50000);
        let mut bridged = Vec::new();
        for ((header, length), bridge) in packets {
            if bridge {
                let (ours, theirs) = UnixStream::pair().unwrap();
                (&ours).write_all(b"something").unwrap();
                guest.vsock.connect(1025, theirs.into(), vec![1, 2, 3], drop).unwrap();
                bridged.push(ours);
            }
            let address = loop {
                guest.reclaim();
                if let Some(address) = guest.free_transmit.pop() {
                    break address;
                }
                while guest.try_packet().is_some() {}
            };
            guest.driver.write(address, header.as_bytes());
            let length = (HEADER + length) as u32;
            let head = guest.driver.queues[TRANSMIT].add(&[Buffer { address, length, writable: false }]);
            guest.driver.queues[TRANSMIT].notify();
            guest.transmit_buffers.insert(head, address);
            while guest.try_packet().is_some() {}
        }
        while accepted.try_recv().is_ok() {}
        let peer = Peer::new(Ports { host: 50000, guest: 77 }, 1 << 18);
        guest.send(&peer.header(Operation::Request), &[]);
        loop {
            let (header, _) = guest.packet();
            if header.destination_port.get() == 77 {
                prop_assert_eq!(header.operation.get(), Operation::Response as u16);
                break;
            }
        }
        guest.send(&peer.header(Operation::Data), b"ping");
        let mut bytes = [0; 4];
        // The listener was called before the answer went out, so the last one is it.
        let mut stream = accepted.try_iter().last().unwrap();
        stream.read_exact(&mut bytes).unwrap();
        prop_assert_eq!(&bytes, b"ping");
        stream.write_all(b"pong").unwrap();
        loop {
            let (header, data) = guest.packet();
            if header.destination_port.get() == 77 && !data.is_empty() {
                prop_assert_eq!(data, b"pong");
                break;
            }
        }
    }

    /// Whatever lies in the rings and descriptors, the device ends when it is told to.
    #[test]
    fn no_ring_content_hangs_the_device(bytes in prop::collection::vec(any::<u8>(), 6000)) {
        let mut guest = Guest::new();
        let _accepted = guest.listen(50000);
        for queue in 1..=3 {
            guest.driver.memory.write_slice(&bytes, vm_memory::GuestAddress(queue << 16)).unwrap();
        }
        for queue in &guest.driver.queues {
            queue.notify();
        }
        guest.device.reset();
    }
}
