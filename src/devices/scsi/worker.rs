//! The threads that serve the adapter's queues.
//!
//! Each request queue has a thread that answers at once what needs no waiting, reads from
//! the host's page cache included; the rest goes to the [`Pool`]. One more thread serves
//! the control and event queues.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;
use zerocopy::{FromBytes as _, FromZeros as _, IntoBytes as _};

use super::bus::{Busy, ScsiBus};
use super::command::{self, Command};
use super::inquiry;
use super::pool::Pool;
use super::sense::{self, Sense};
use super::unit::{self, Refusal};
use super::wire::{
    self, Address, Notification, NotificationResponse, RequestHead, ResponseHead, TaskManagement,
};
use crate::devices::ActivationError;
use crate::devices::buffers::Buffers;
use crate::devices::ring::{Chain, Ring};
use crate::devices::worker::Worker;

/// How long task management waits for a command that hangs in the host.
const TASK_PATIENCE: Duration = Duration::from_secs(60);

/// What all threads of one activation share.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) bus: ScsiBus,
    pub(super) pool: Pool,
    pub(super) cdb_size: usize,
    pub(super) sense_size: usize,
}

/// A queue that several threads give chains back to.
pub(super) type SharedRing = Arc<Mutex<Ring>>;

fn lock(ring: &SharedRing) -> MutexGuard<'_, Ring> {
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the thread of one request queue.
pub(super) fn start_requests(
    context: Context,
    name: &'static str,
    ring: Ring,
    notified: EventFd,
) -> Result<Worker, ActivationError> {
    let ring = Arc::new(Mutex::new(ring));
    Worker::start(name, vec![notified], move |_| serve_requests(&context, &ring))
}

fn serve_requests(context: &Context, ring: &SharedRing) {
    lock(ring).disable_notification();
    while let Some(chain) = next_chain(ring) {
        serve_request(context, ring, chain);
    }
}

/// The next chain; asks to be notified where there is none.
fn next_chain(ring: &SharedRing) -> Option<Chain> {
    let mut ring = lock(ring);
    loop {
        if let Some(chain) = ring.pop() {
            return Some(chain);
        }
        if !ring.enable_notification() {
            // Chains that `pop` refused were given back.
            ring.signal();
            return None;
        }
    }
}

/// One request as it was read from the queue.
#[derive(Debug)]
struct Request {
    chain: Chain,
    head: RequestHead,
    cdb: [u8; command::LENGTH],
}

impl Request {
    /// The data buffers of the request: from the driver, to the driver.
    fn data<'m>(
        &self,
        context: &Context,
        memory: &'m crate::devices::GuestMemory,
    ) -> Option<(Buffers<'m>, Buffers<'m>)> {
        let mut output = self.chain.reader(memory).ok()?;
        let mut input = self.chain.writer(memory).ok()?;
        output.take(size_of::<RequestHead>() + context.cdb_size);
        input.take(size_of::<ResponseHead>() + context.sense_size);
        Some((output, input))
    }
}

fn serve_request(context: &Context, ring: &SharedRing, chain: Chain) {
    let memory = Arc::clone(lock(ring).memory());
    let Some(request) = read_request(context, &memory, chain.clone()) else {
        // There is no place for an answer.
        let mut ring = lock(ring);
        ring.add_used(chain.head, 0);
        ring.signal();
        return;
    };
    let lun = match Address::parse(request.head.lun) {
        Address::Nobody => return complete(context, ring, &request, Err(Answer::BadTarget)),
        Address::Unit(lun) => Some(lun),
        Address::ReportLuns => None,
    };
    let command = match Command::parse(&request.cdb) {
        Ok(command) => command,
        Err(sense) => {
            return complete(context, ring, &request, Err(Answer::Refused(sense.into())));
        }
    };
    let Some((mut output, mut input)) = request.data(context, &memory) else { return };
    let busy = lun.and_then(|lun| context.bus.enter(lun, request.head.id.get()));
    let result = match (&busy, command) {
        (_, Command::ReportLuns { select, allocation }) => {
            report_units(context, select, allocation, &mut input)
        }
        (None, command) => absent(&command, &mut input),
        (Some(busy), command) => match busy.unit() {
            Some(unit) => unit.execute(&command, &mut output, &mut input, false),
            None => absent(&command, &mut input),
        },
    };
    let left = output.length().saturating_add(input.length());
    match (result, busy) {
        (Err(Refusal::WouldBlock), Some(busy)) => {
            let (context, ring) = (context.clone(), Arc::clone(ring));
            let pool = context.pool.clone();
            pool.run(move || finish_later(&context, &ring, &request, busy, &command));
        }
        (result, busy) => {
            complete(context, ring, &request, result.map(|()| left).map_err(Answer::Refused));
            drop(busy);
        }
    }
}

/// Does on a thread of the pool what may wait.
fn finish_later(
    context: &Context,
    ring: &SharedRing,
    request: &Request,
    busy: Busy,
    command: &Command,
) {
    let memory = Arc::clone(lock(ring).memory());
    let Some((mut output, mut input)) = request.data(context, &memory) else { return };
    let result = match busy.unit() {
        Some(unit) => unit.execute(command, &mut output, &mut input, true),
        None => absent(command, &mut input),
    };
    let left = output.length().saturating_add(input.length());
    complete(context, ring, request, result.map(|()| left).map_err(Answer::Refused));
    // Only now: who aborts a task waits for it here, and must find it answered.
    drop(busy);
}

fn read_request(
    context: &Context,
    memory: &crate::devices::GuestMemory,
    chain: Chain,
) -> Option<Request> {
    let mut reader = chain.reader(memory).ok()?;
    let writer = chain.writer(memory).ok()?;
    if writer.length() < size_of::<ResponseHead>() + context.sense_size
        || reader.length() < size_of::<RequestHead>() + context.cdb_size
    {
        return None;
    }
    let mut head = RequestHead::new_zeroed();
    reader.copy_to(head.as_mut_bytes());
    let mut cdb = [0; command::LENGTH];
    reader.take(context.cdb_size).copy_to(&mut cdb);
    Some(Request { chain, head, cdb })
}

/// Why a request was not carried out.
enum Answer {
    BadTarget,
    Refused(Refusal),
}

/// Answers a request: with the count of data bytes not transferred, or with why not.
fn complete(
    context: &Context,
    ring: &SharedRing,
    request: &Request,
    result: Result<usize, Answer>,
) {
    let mut head = ResponseHead::new_zeroed();
    let mut sense_data = [0; sense::LENGTH];
    let sense_length = sense::LENGTH.min(context.sense_size);
    match result {
        Ok(left) => head.residual = u32::try_from(left).unwrap_or(u32::MAX).into(),
        Err(Answer::BadTarget) => head.response = wire::S_BAD_TARGET,
        Err(Answer::Refused(Refusal::Overrun)) => head.response = wire::S_OVERRUN,
        Err(Answer::Refused(Refusal::WouldBlock)) => head.response = wire::S_FAILURE,
        Err(Answer::Refused(Refusal::Sense(sense))) => {
            head.status = sense::STATUS_CHECK_CONDITION;
            head.sense_length = (sense_length as u32).into();
            sense_data = sense.encode();
        }
    }
    let mut ring = lock(ring);
    let memory = Arc::clone(ring.memory());
    let mut written = 0;
    if let Ok(mut writer) = request.chain.writer(&memory) {
        let whole = writer.length();
        let left = usize::try_from(head.residual.get()).unwrap_or(0);
        writer.copy_from(head.as_bytes());
        writer.copy_from(sense_data.get(..sense_length).unwrap_or(&sense_data));
        written = whole.saturating_sub(left);
    }
    ring.add_used(request.chain.head, u32::try_from(written).unwrap_or(u32::MAX));
    ring.signal();
}

fn report_units(
    context: &Context,
    select: u8,
    allocation: usize,
    input: &mut Buffers<'_>,
) -> Result<(), Refusal> {
    let numbers = match select {
        // All, or all but the well-known ones; there are none of those.
        0 | 2 => context.bus.attached(),
        1 => Vec::new(),
        _ => return Err(Sense::INVALID_FIELD.into()),
    };
    unit::answer(input, &inquiry::units(&numbers), allocation)
}

/// Answers for a unit that does not exist.
fn absent(command: &Command, input: &mut Buffers<'_>) -> Result<(), Refusal> {
    match *command {
        Command::Inquiry { page: None, allocation } => {
            unit::answer(input, &inquiry::absent(), allocation)
        }
        Command::RequestSense { allocation } => {
            unit::answer(input, &Sense::UNIT_NOT_SUPPORTED.encode(), allocation)
        }
        // The last thing a driver says to a disk that was removed; detaching flushed it.
        Command::Synchronize(_) => Ok(()),
        _ => Err(Sense::UNIT_NOT_SUPPORTED.into()),
    }
}

/// Starts the thread of the control and event queues.
pub(super) fn start_control(
    context: Context,
    ring: Ring,
    notified: EventFd,
    events_notified: EventFd,
) -> Result<Worker, ActivationError> {
    let ring = Arc::new(Mutex::new(ring));
    Worker::start("scsi-control", vec![notified, events_notified], move |position| {
        if position > 0 {
            return context.bus.deliver();
        }
        while let Some(chain) = next_chain(&ring) {
            serve_control(&context, &ring, chain);
        }
    })
}

fn serve_control(context: &Context, ring: &SharedRing, chain: Chain) {
    let memory = Arc::clone(lock(ring).memory());
    let mut bytes = [0; size_of::<TaskManagement>()];
    let length = chain.reader(&memory).map(|mut reader| reader.copy_to(&mut bytes)).unwrap_or(0);
    let bytes = bytes.get(..length).unwrap_or(&bytes);
    match bytes.first_chunk().map_or(u32::MAX, |kind| u32::from_le_bytes(*kind)) {
        wire::CONTROL_TASK_MANAGEMENT => {
            let Ok((request, _)) = TaskManagement::read_from_prefix(bytes) else {
                return respond(ring, &chain, &[wire::S_FAILURE]);
            };
            manage_task(context, ring, chain, request);
        }
        wire::CONTROL_QUERY | wire::CONTROL_SUBSCRIBE => {
            let Ok((request, _)) = Notification::read_from_prefix(bytes) else {
                return respond(ring, &chain, &[wire::S_FAILURE]);
            };
            // Disks have none of these events.
            let mut answer = NotificationResponse::new_zeroed();
            answer.response = match Address::parse(request.lun) {
                Address::Nobody => wire::S_BAD_TARGET,
                Address::Unit(_) | Address::ReportLuns => wire::S_OK,
            };
            respond(ring, &chain, answer.as_bytes());
        }
        _ => respond(ring, &chain, &[wire::S_FAILURE]),
    }
}

/// Carries out task management. A command cannot be called back from the host's kernel,
/// so aborting one means waiting for its end, on a thread of its own.
fn manage_task(context: &Context, ring: &SharedRing, chain: Chain, request: TaskManagement) {
    let lun = match Address::parse(request.lun) {
        Address::Unit(lun) => lun,
        Address::ReportLuns => return respond(ring, &chain, &[wire::S_INCORRECT_LUN]),
        Address::Nobody => return respond(ring, &chain, &[wire::S_BAD_TARGET]),
    };
    let task = Some(request.id.get());
    let (wait_for, whom) = match request.function.get() {
        // Abort task.
        0 => (task, None),
        // Abort or clear task set.
        1 | 3 => (None, None),
        // Reset of the nexus.
        4 => (None, Some(None)),
        // Reset of the unit.
        5 => (None, Some(Some(lun))),
        // Query task, or task set.
        function @ (6 | 7) => {
            let task = if function == 6 { task } else { None };
            let response = match context.bus.gate(lun) {
                None => wire::S_INCORRECT_LUN,
                Some(gate) if gate.has(task) => wire::S_FUNCTION_SUCCEEDED,
                Some(_) => wire::S_OK,
            };
            return respond(ring, &chain, &[response]);
        }
        _ => return respond(ring, &chain, &[wire::S_FUNCTION_REJECTED]),
    };
    let gates: Vec<_> = if whom == Some(None) {
        context.bus.attached().into_iter().filter_map(|lun| context.bus.gate(lun)).collect()
    } else {
        match context.bus.gate(lun) {
            Some(gate) => vec![gate],
            None => return respond(ring, &chain, &[wire::S_INCORRECT_LUN]),
        }
    };
    let (bus, ring) = (context.bus.clone(), Arc::clone(ring));
    context.pool.run(move || {
        let ended = gates.iter().all(|gate| gate.wait(wait_for, Some(TASK_PATIENCE)));
        if ended && let Some(whom) = whom {
            bus.mark_reset(whom);
        }
        respond(&ring, &chain, &[if ended { wire::S_OK } else { wire::S_FUNCTION_REJECTED }]);
    });
}

fn respond(ring: &SharedRing, chain: &Chain, bytes: &[u8]) {
    let mut ring = lock(ring);
    let memory = Arc::clone(ring.memory());
    let written = chain.writer(&memory).map(|mut writer| writer.copy_from(bytes)).unwrap_or(0);
    ring.add_used(chain.head, written as u32);
    ring.signal();
}
