//! The threads that do the work: one pool for the process, made at first use, and made again after a fork.

use std::sync::{Arc, Mutex};
use std::thread;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// The pool, the number of its threads, and the process they run in: threads do not survive a fork.
struct Pool {
    process: u32,
    threads: usize,
    pool: Arc<ThreadPool>,
}

static POOL: Mutex<Option<Pool>> = Mutex::new(None);

/// The number of threads used where the caller does not say: one for every core this process may run on.
pub fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// Runs `work(0)` to `work(threads - 1)` at the same time, the first on the calling thread, and waits for all.
pub fn run(threads: usize, work: impl Fn(usize) + Sync) {
    if threads <= 1 {
        return work(0);
    }
    match shared(threads - 1) {
        Some(pool) => pool.in_place_scope(|scope| {
            for worker in 1..threads {
                let work = &work;
                scope.spawn(move |_| work(worker));
            }
            work(0);
        }),
        None => thread::scope(|scope| {
            for worker in 1..threads {
                let work = &work;
                scope.spawn(move || work(worker));
            }
            work(0);
        }),
    }
}

/// Gives every job to one of the threads, each of which makes its own state first.
pub(crate) fn each_job<J: Send, S>(
    threads: usize,
    jobs: impl Iterator<Item = J> + Send,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, J) + Sync,
) {
    let jobs = Mutex::new(jobs);
    run(threads, |_| {
        let mut state = state();
        loop {
            let job = jobs.lock().expect("taking a job does not panic").next();
            match job {
                Some(job) => work(&mut state, job),
                None => break,
            }
        }
    });
}

/// The pool, with at least `threads` threads. None where the lock is taken: in a forked child its holder may not
/// exist any more, so nobody waits for it.
fn shared(threads: usize) -> Option<Arc<ThreadPool>> {
    let mut slot = POOL.try_lock().ok()?;
    let process = std::process::id();
    if let Some(pool) = slot.as_ref().filter(|pool| pool.process == process && pool.threads >= threads) {
        return Some(pool.pool.clone());
    }
    let threads = threads.max(default_threads() - 1).max(1);
    let name = |i| format!("nearfield-{i}");
    let pool = Arc::new(ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build().ok()?);
    if let Some(old) = slot.replace(Pool { process, threads, pool: pool.clone() })
        && old.process != process
    {
        std::mem::forget(old.pool); // its threads are the parent's: stopping them here would wait for ever
    }
    Some(pool)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_worker_runs_once_even_when_calls_nest() {
        let count = AtomicUsize::new(0);
        let add = |worker| {
            count.fetch_add(worker + 1, Ordering::Relaxed);
        };
        super::run(5, |_| super::run(3, add));
        assert_eq!(count.into_inner(), 5 * 6);
    }
}
