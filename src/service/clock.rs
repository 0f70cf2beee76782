//! The guest's clock follows the host's: its jumps at once, and what they drift apart
//! within a minute (B231).
//!
//! The kernel tells of a jump, a host that was suspended included, by cancelling a timer
//! (timerfd_create(2), `TFD_TIMER_CANCEL_ON_SET`).

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::log;
use super::vm::Vm;
use crate::error::Failure;
use crate::protocol::guest::Request;

/// How often the guest is told the time where nothing happens.
const PERIOD: Duration = Duration::from_secs(60);

/// How long the guest may take to set its clock.
const LIMIT: Duration = Duration::from_secs(10);

/// The host's clock: seconds and nanoseconds since 1970.
#[must_use]
pub fn now() -> (i64, u32) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (i64::try_from(now.as_secs()).unwrap_or(0), now.subsec_nanos())
}

/// Keeps the machine's guest on time until the machine is gone.
///
/// # Errors
/// Where no thread can be started.
pub fn follow(vm: &Arc<Vm>) -> Result<(), Failure> {
    let vm = Arc::downgrade(vm);
    super::spawn("clock", move || {
        if let Err(error) = serve(&vm) {
            log(format_args!("the guest's clock is left alone: {error}"));
        }
    })
}

fn serve(vm: &Weak<Vm>) -> nix::Result<()> {
    let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC)?;
    let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    loop {
        let (seconds, nanoseconds) = now();
        let next = seconds.saturating_add(PERIOD.as_secs().cast_signed());
        let next = TimeSpec::new(next, i64::from(nanoseconds));
        match timer.set(Expiration::OneShot(next), flags).and_then(|()| timer.wait()) {
            Ok(()) | Err(Errno::ECANCELED | Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        let Some(vm) = vm.upgrade().filter(|vm| vm.end().is_none()) else { return Ok(()) };
        if let Err(error) = vm.control.request(Request::SetTime { time: now() }, LIMIT) {
            log(format_args!("the guest's clock is not set: {error}"));
        }
    }
}
