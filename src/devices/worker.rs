//! A thread that serves one device's queues.
//!
//! It sleeps until a queue is notified or the device is reset; a reset returns only when
//! the thread has ended, so that nothing touches guest memory afterwards.

use std::io;
use std::os::fd::AsRawFd;
use std::thread::{Builder, JoinHandle};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::ActivationError;

/// What epoll reports for the event that ends the thread.
const STOP: u64 = u64::MAX;

/// A running thread.
#[derive(Debug)]
pub struct Worker {
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread `name`. It calls `serve` with the position of each event that
    /// was signalled.
    ///
    /// # Errors
    /// [`ActivationError::Resources`].
    pub fn start(
        name: &'static str,
        events: Vec<EventFd>,
        serve: impl FnMut(usize) + Send + 'static,
    ) -> Result<Self, ActivationError> {
        Self::spawn(name, events, serve)
            .map_err(|source| ActivationError::Resources { device: name, source })
    }

    fn spawn(
        name: &str,
        events: Vec<EventFd>,
        mut serve: impl FnMut(usize) + Send + 'static,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let add = |event: &EventFd, data| {
            let interest = EpollEvent::new(EventSet::IN, data);
            epoll.ctl(ControlOperation::Add, event.as_raw_fd(), interest)
        };
        add(&stop, STOP)?;
        for (position, event) in (0..).zip(&events) {
            add(event, position)?;
        }
        let thread = Builder::new().name(name.to_owned()).spawn(move || {
            let mut ready = [EpollEvent::default(); 8];
            loop {
                let count = match epoll.wait(-1, &mut ready) {
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => return,
                };
                for report in ready.iter().take(count) {
                    if report.data() == STOP {
                        return;
                    }
                    let position = report.data() as usize;
                    if let Some(event) = events.get(position) {
                        // Empties the counter; fails only where it is empty.
                        let _ = event.read();
                        serve(position);
                    }
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Fails only where the counter is full, and then the thread wakes as well.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
