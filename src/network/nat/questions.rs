//! The guest's questions for names, by datagram and by stream: what is known here is answered
//! here, the rest is asked of the host's resolver.

use std::net::SocketAddr;
use std::time::Instant;

use super::{Flow, MAXIMUM_CONNECTIONS, Nat};
use crate::network::dns::{self, Question};
use crate::network::names::{Names, Progress};
use crate::network::parse::{Packet, Segment};
use crate::network::socket::Datagrams;

/// The most questions for names, and the most streams of them.
const MAXIMUM_QUESTIONS: usize = 512;
const MAXIMUM_STREAMS: usize = 128;

impl Nat {
    pub(super) fn question(
        &mut self,
        guest: SocketAddr,
        asked: SocketAddr,
        message: &[u8],
        now: Instant,
    ) {
        if let Some(answer) = self.known_name(message) {
            let frame = self.encoder.udp(asked, guest, &answer);
            return self.answer(frame);
        }
        let servers = self.resolver.servers();
        let Some(mut question) = Question::new(guest, asked, message, servers, now) else { return };
        let free = self.questions < MAXIMUM_QUESTIONS;
        if free && question.ask(now) {
            self.watch(question);
        } else {
            let failure = question.failure(&self.encoder);
            self.answer(failure);
        }
    }

    /// The answer to a question for the host's own name, or one of its `/etc/hosts`.
    fn known_name(&mut self, message: &[u8]) -> Option<Vec<u8>> {
        let (name, kind) = dns::asked(message)?;
        let addresses = &self.addresses;
        let known = if name == dns::HOST_NAME && self.host_loopback {
            vec![addresses.host4.into(), addresses.host6.into()]
        } else if dns::is_for_addresses(kind) {
            self.hosts.find(&name, addresses, self.host_loopback)?
        } else {
            return None;
        };
        dns::addresses_answer(message, kind, &known)
    }

    fn watch(&mut self, question: Question) {
        let Some(number) = question.socket.as_ref().map(Datagrams::number) else {
            return;
        };
        if self.insert(Flow::Question(question), number).is_some() {
            self.questions += 1;
        }
    }

    /// The guest asks for names on a stream.
    pub(super) fn ask_for_names(
        &mut self,
        packet: &Packet<'_>,
        segment: &Segment<'_>,
        now: Instant,
    ) {
        let full = self.connections.len() >= MAXIMUM_CONNECTIONS || self.streams >= MAXIMUM_STREAMS;
        if full || self.resolver.servers().is_empty() {
            return self.refuse(segment);
        }
        let Ok((names, socket)) = Names::new(now) else { return self.refuse(segment) };
        let number = names.number();
        if self.insert(Flow::Names(Box::new(names)), number).is_none() {
            return self.refuse(segment);
        }
        self.streams += 1;
        self.add_connection(packet, segment, socket, now);
    }

    /// Moves what can be moved on a stream of questions.
    pub(super) fn carry_names(&mut self, id: u64, now: Instant) {
        // It is taken out for the time in which its questions are looked at.
        let Some(Flow::Names(mut names)) = self.flows.remove(&id) else { return };
        let servers = self.resolver.servers().to_vec();
        let progress = names.progress(&servers, &mut |message| self.known_name(message), now);
        self.flows.insert(id, Flow::Names(names));
        let goes_on = match progress {
            Progress::Continues => true,
            Progress::Watch(number) => self.report(number, id).is_some(),
            Progress::Over => false,
        };
        if goes_on {
            self.settle(id);
        } else {
            self.remove(id);
        }
    }

    /// Takes a question's answer, or asks elsewhere.
    pub(super) fn answered(&mut self, id: u64, overdue: bool, now: Instant) {
        let Some(Flow::Question(question)) = self.flows.get(&id) else { return };
        match question.receive(&self.encoder, &mut self.scratch) {
            Ok(None) if !overdue => {}
            Ok(Some(answer)) => {
                self.remove(id);
                self.answer([answer]);
            }
            Ok(None) | Err(_) => {
                let Some(Flow::Question(mut question)) = self.flows.remove(&id) else { return };
                self.questions -= 1;
                self.timers.remove(id);
                if question.ask(now) {
                    self.watch(question);
                } else {
                    let failure = question.failure(&self.encoder);
                    self.answer(failure);
                }
            }
        }
    }
}
