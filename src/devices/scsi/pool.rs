//! Threads for what may wait for the host's storage.
//!
//! A flush must not hold up a read, so each slow command gets a thread of its own, up to
//! a limit; threads that have nothing to do for a while end.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most threads.
const MAXIMUM_THREADS: usize = 16;

/// How long a thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Work {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    running: usize,
}

#[derive(Default)]
struct Shared {
    work: Mutex<Work>,
    more: Condvar,
    less: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pool of threads.
#[derive(Clone, Default)]
pub struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// Starts the first thread, so that there always is one.
    ///
    /// # Errors
    /// Where the system has no thread left.
    pub fn start(&self) -> io::Result<()> {
        let mut work = self.shared.lock();
        if work.threads == 0 {
            self.spawn(&mut work)?;
        }
        Ok(())
    }

    /// Runs `job` on one of the threads. Where none can be started it runs later, or
    /// here where there is none at all.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut work = self.shared.lock();
        work.jobs.push_back(Box::new(job));
        if work.jobs.len() > work.idle && work.threads < MAXIMUM_THREADS {
            let started = self.spawn(&mut work);
            if started.is_err() && work.threads == 0 {
                let job = work.jobs.pop_back();
                drop(work);
                if let Some(job) = job {
                    job();
                }
                return;
            }
        }
        drop(work);
        self.shared.more.notify_one();
    }

    /// Returns when every job given so far has ended.
    pub fn drain(&self) {
        let mut work = self.shared.lock();
        while !work.jobs.is_empty() || work.running > 0 {
            work = self.shared.less.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn spawn(&self, work: &mut Work) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        std::thread::Builder::new().name("scsi-io".into()).spawn(move || serve(&shared))?;
        work.threads += 1;
        Ok(())
    }
}

fn serve(shared: &Shared) {
    let mut work = shared.lock();
    loop {
        if let Some(job) = work.jobs.pop_front() {
            work.running += 1;
            drop(work);
            job();
            work = shared.lock();
            work.running -= 1;
            shared.less.notify_all();
            continue;
        }
        work.idle += 1;
        let (next, timeout) =
            shared.more.wait_timeout(work, IDLE).unwrap_or_else(PoisonError::into_inner);
        work = next;
        work.idle -= 1;
        if timeout.timed_out() && work.jobs.is_empty() {
            work.threads -= 1;
            return;
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let work = self.shared.lock();
        formatter
            .debug_struct("Pool")
            .field("jobs", &work.jobs.len())
            .field("threads", &work.threads)
            .field("running", &work.running)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn jobs_run_side_by_side_and_draining_waits_for_all() {
        let pool = Pool::default();
        pool.start().unwrap();
        let done = Arc::new(AtomicUsize::new(0));
        let meeting = Arc::new(Barrier::new(MAXIMUM_THREADS));
        for _ in 0..MAXIMUM_THREADS {
            let (done, meeting) = (Arc::clone(&done), Arc::clone(&meeting));
            pool.run(move || {
                meeting.wait();
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        pool.drain();
        assert_eq!(done.load(Ordering::SeqCst), MAXIMUM_THREADS);
    }
}
