//! Asking a caller now and then whether to go on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// How often a caller is asked.
const PATIENCE: Duration = Duration::from_millis(50);

/// Whether work is to stop: its caller is asked, on the thread that this was made on.
pub(crate) struct Patience<'a> {
    interrupt: &'a (dyn Fn() -> bool + Sync),
    caller: ThreadId,
    asked: Mutex<Option<Instant>>,
    is_over: AtomicBool,
}

impl<'a> Patience<'a> {
    pub fn new(interrupt: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self { interrupt, caller: thread::current().id(), asked: Mutex::default(), is_over: AtomicBool::new(false) }
    }

    /// Every thread that does a part of the work asks this again and again.
    pub fn is_over(&self) -> bool {
        if !self.was_over() && thread::current().id() == self.caller {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if asked.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
                *asked = Some(Instant::now());
                self.is_over.fetch_or((self.interrupt)(), Ordering::Relaxed);
            }
        }
        self.was_over()
    }

    /// Whether it was over when somebody asked.
    pub fn was_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// There is no reason to go on.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}
