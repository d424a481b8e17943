//! The threads that do the work: some for the process, made at first use, and made again after a fork.
//!
//! Threads at rest take 10 µs of whoever wakes them and 30 until they run, and more on a busy machine. So they stay awake
//! for a moment when they have done something, and whoever shares his work waits for those alone who have begun.

use std::any::Any;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{hint, iter, mem, thread};

/// The board where the threads of this process look for work, and how many they are: threads do not survive a fork.
struct Pool {
    process: u32,
    threads: usize,
    board: Arc<Board>,
}

static POOL: Mutex<Option<Pool>> = Mutex::new(None);

/// How long threads stay awake for more work, and its owner for the end of theirs: about what waking takes, so that waiting
/// for nothing costs no more than is saved otherwise.
const AWAKE: Duration = Duration::from_micros(50);

/// Waits until that is so, but not for long; returns whether it is.
fn stay_awake(is_so: impl Fn() -> bool) -> bool {
    let end = Instant::now() + AWAKE;
    while !is_so() {
        if Instant::now() >= end {
            return false;
        }
        (0..16).for_each(|_| hint::spin_loop());
    }
    true
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Work<'a> = &'a (dyn Fn(usize) + Sync);

/// Parts of somebody's work that nobody has begun.
struct Task {
    /// Lent by its owner, who takes the task off the board before the work is gone, and waits for those who do parts of it.
    work: Work<'static>,
    parts: Range<usize>,
    helpers: Arc<Helpers>,
}

/// Threads that do parts of somebody's work.
#[derive(Default)]
struct Helpers {
    count: AtomicUsize,
    end: Mutex<End>,
    have_left: Condvar,
}

#[derive(Default)]
struct End {
    is_awaited: bool,
    panic: Option<Box<dyn Any + Send>>,
}

impl Helpers {
    fn have_left(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// One of them has done its part.
    fn leave(&self, outcome: thread::Result<()>) {
        let mut end = lock(&self.end);
        end.panic = end.panic.take().or(outcome.err());
        if self.count.fetch_sub(1, Ordering::Release) == 1 && end.is_awaited {
            self.have_left.notify_one();
        }
    }
}

#[derive(Default)]
struct Board {
    notes: Mutex<Notes>,
    /// Tasks there were: whoever stays awake waits for another.
    posted: AtomicUsize,
    has_work: Condvar,
}

#[derive(Default)]
struct Notes {
    tasks: Vec<Task>,
    /// Threads that stay awake, and threads that must be woken.
    awake: usize,
    asleep: usize,
}

impl Board {
    /// Puts up a task for as many helpers as it has parts.
    fn post(&self, task: Task) {
        let mut notes = lock(&self.notes);
        let wanted = task.parts.len().saturating_sub(notes.awake).min(notes.asleep);
        notes.tasks.push(task);
        drop(notes);
        self.posted.fetch_add(1, Ordering::Release);
        (0..wanted).for_each(|_| self.has_work.notify_one());
    }

    /// What a thread of the pool does all its life.
    fn serve(&self) {
        let mut notes = lock(&self.notes);
        let mut is_awake = false;
        loop {
            let posted = self.posted.load(Ordering::Relaxed);
            let begun = notes.tasks.iter_mut().find_map(|task| Some((task.work, task.parts.next()?, &task.helpers)));
            if let Some((work, part, helpers)) = begun.map(|(work, part, helpers)| (work, part, helpers.clone())) {
                helpers.count.fetch_add(1, Ordering::Relaxed);
                drop(notes);
                helpers.leave(panic::catch_unwind(AssertUnwindSafe(|| work(part))));
                is_awake = true;
                notes = lock(&self.notes);
            } else if mem::take(&mut is_awake) {
                notes.awake += 1;
                drop(notes);
                stay_awake(|| self.posted.load(Ordering::Acquire) != posted);
                notes = lock(&self.notes);
                notes.awake -= 1;
            } else {
                notes.asleep += 1;
                notes = self.has_work.wait(notes).unwrap_or_else(PoisonError::into_inner);
                notes.asleep -= 1;
            }
        }
    }
}

/// Whoever shares his work. When this is dropped, nobody does any of it any more.
struct Owner<'a> {
    board: &'a Board,
    helpers: Arc<Helpers>,
}

impl Owner<'_> {
    /// The next part that nobody has begun.
    fn part(&self) -> Option<usize> {
        let mut notes = lock(&self.board.notes);
        let own = notes.tasks.iter_mut().find(|task| Arc::ptr_eq(&task.helpers, &self.helpers));
        own.and_then(|task| task.parts.next())
    }
}

impl Drop for Owner<'_> {
    fn drop(&mut self) {
        let helpers = &self.helpers;
        lock(&self.board.notes).tasks.retain(|task| !Arc::ptr_eq(&task.helpers, helpers));
        if !stay_awake(|| helpers.have_left()) {
            let mut end = lock(&helpers.end);
            end.is_awaited = true;
            drop(helpers.have_left.wait_while(end, |_| !helpers.have_left()));
        }
    }
}

/// The number of threads used where the caller does not say: one for every core this process may run on.
pub fn default_threads() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// Runs `work(0)` to `work(threads - 1)`, as many at the same time as there are threads at rest, the first on the calling
/// thread, and waits for all. What nobody else has begun when that is done, the calling thread does.
pub fn run(threads: usize, work: impl Fn(usize) + Sync) {
    if threads <= 1 {
        return work(0);
    }
    let Some(board) = board(threads - 1) else {
        return thread::scope(|scope| {
            for part in 1..threads {
                let work = &work;
                scope.spawn(move || work(part));
            }
            work(0);
        });
    };
    let owner = Owner { board: &board, helpers: Arc::default() };
    // SAFETY: the board alone has the longer-lived reference. A thread copies it as it begins a part, and calls it while it
    // counts among the helpers. `owner` is dropped before `work`, also where a panic ends this function; then the reference
    // is taken off the board, and the last of the helpers has been waited for.
    let lent = unsafe { mem::transmute::<Work<'_>, Work<'static>>(&work) };
    board.post(Task { work: lent, parts: 1..threads, helpers: owner.helpers.clone() });
    work(0);
    while let Some(part) = owner.part() {
        work(part);
    }
    let helpers = owner.helpers.clone();
    drop(owner);
    let panic = lock(&helpers.end).panic.take();
    if let Some(panic) = panic {
        panic::resume_unwind(panic);
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

/// Ranges that `count` tasks are given out in, none of more than `most` of them; ever smaller ones, so that all threads end
/// at about the same time.
pub(crate) fn shares(count: usize, threads: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let mut given = 0;
    iter::from_fn(move || {
        let share = given..count.min(given + ((count - given) / (4 * threads)).clamp(1, most));
        given = share.end;
        (!share.is_empty()).then_some(share)
    })
}

/// The board of a pool with so many threads, or as many as can be had. None where the lock is taken: in a forked child its
/// holder may not exist any more, so nobody waits for it.
fn board(threads: usize) -> Option<Arc<Board>> {
    let mut slot = POOL.try_lock().ok()?;
    let process = std::process::id();
    if slot.as_ref().is_none_or(|pool| pool.process != process) {
        *slot = Some(Pool { process, threads: 0, board: Arc::default() }); // what was there is held by threads of the parent
    }
    let pool = slot.as_mut()?;
    while pool.threads < threads {
        let board = pool.board.clone();
        let thread = thread::Builder::new().name(format!("nearfield-{}", pool.threads));
        if thread.spawn(move || board.serve()).is_err() {
            break; // fewer do it too
        }
        pool.threads += 1;
    }
    Some(pool.board.clone())
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    #[test]
    fn every_part_is_done_once_even_when_calls_nest() {
        let count = AtomicUsize::new(0);
        let add = |part| {
            count.fetch_add(part + 1, Ordering::Relaxed);
        };
        super::run(5, |_| super::run(3, add));
        assert_eq!(count.into_inner(), 5 * 6);
    }

    #[test]
    fn nobody_works_on_what_an_owner_has_taken_back() {
        // Each round lends memory of its own. Owners share the same helpers, and some leave by a panic.
        thread::scope(|scope| {
            for owner in 0..4 {
                scope.spawn(move || {
                    for round in 0..500 {
                        let lent: Vec<AtomicUsize> = (0..6).map(|_| AtomicUsize::new(0)).collect();
                        let panics = (round % 8 == owner).then_some(round % 6);
                        let outcome = catch_unwind(AssertUnwindSafe(|| {
                            super::run(6, |part| {
                                lent[part].fetch_add(1, Ordering::Relaxed);
                                assert_ne!(Some(part), panics, "as it should");
                                lent[part].fetch_add(1, Ordering::Relaxed);
                            })
                        }));
                        assert_eq!(outcome.is_err(), panics.is_some());
                        let done: Vec<usize> = lent.into_iter().map(AtomicUsize::into_inner).collect();
                        for (part, done) in done.into_iter().enumerate() {
                            match panics {
                                None => assert_eq!(done, 2),
                                Some(at) if at == part => assert_eq!(done, 1),
                                Some(_) => assert!(done == 0 || done == 2, "begun and not ended: {done}"),
                            }
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn shares_cover_all_tasks_and_never_grow() {
        for (count, threads, most) in (0..70).flat_map(|i| [(i, 1, 3), (i, 4, 8), (11 * i, 3, 1)]) {
            let shares: Vec<_> = super::shares(count, threads, most).collect();
            assert!(shares.iter().flat_map(Clone::clone).eq(0..count));
            assert!(shares.iter().all(|share| (1..=most).contains(&share.len())));
            assert!(shares.windows(2).all(|pair| pair[0].len() >= pair[1].len()));
        }
    }
}
