//! One piece of work that several clients wait for: started once, its progress and its
//! result told to all of them.

use std::sync::{Condvar, Mutex};

use super::lock;
use crate::error::Failure;
use crate::protocol::client::Progress;

/// The work, as those who wait for it see it.
#[derive(Debug, Default)]
pub struct Attempt {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    progress: Option<Progress>,
    /// Counts the progress reports.
    version: u64,
    result: Option<Result<Vec<String>, Failure>>,
}

impl Attempt {
    /// Tells all waiting clients how far the work is.
    pub fn progress(&self, progress: Progress) {
        let mut state = lock(&self.state);
        state.progress = Some(progress);
        state.version += 1;
        drop(state);
        self.changed.notify_all();
    }

    /// Ends the work: warnings for the users, or why it failed. The first result stays.
    pub fn finish(&self, result: Result<Vec<String>, Failure>) {
        lock(&self.state).result.get_or_insert(result);
        self.changed.notify_all();
    }

    /// Waits for the result, reporting progress meanwhile. `None` where `report` said to
    /// stop waiting.
    pub fn wait(
        &self,
        mut report: impl FnMut(Progress) -> bool,
    ) -> Option<Result<Vec<String>, Failure>> {
        let mut seen = 0;
        let mut state = lock(&self.state);
        loop {
            if let Some(result) = &state.result {
                return Some(result.clone());
            }
            if state.version != seen {
                seen = state.version;
                if let Some(progress) = state.progress.clone() {
                    drop(state);
                    if !report(progress) {
                        return None;
                    }
                    state = lock(&self.state);
                    continue;
                }
            }
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }
}
