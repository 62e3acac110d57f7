//! Threads that run parts of one lane's work beside it.
//!
//! A lane that has parts to run in parallel hands all but one to the pool and does that one itself; then it does what the
//! pool has not begun, and waits for the rest. So parts never wait for a pool that is busy with others', and a pool without
//! threads is only slower.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::LazyLock;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Condvar, Mutex};

/// Pieces that wait to be taken.
const PIECES_MAX: usize = 4;

type Job = Box<dyn FnOnce() + Send>;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Pool {
    jobs: Sender<Job>,
}

static POOL: LazyLock<Pool> = LazyLock::new(|| {
    Pool::new(std::thread::available_parallelism().map_or(1, |cores| cores.get()).saturating_sub(1).max(1))
});

/// The pool of the process: a thread per core but one, since a lane works itself.
pub(crate) fn pool() -> &'static Pool {
    &POOL
}

/// Something that one thread does once, whoever comes first.
struct Task<T, R> {
    what: Mutex<Stage<T, R>>,
    done: Condvar,
}

enum Stage<T, R> {
    Waits(T),
    Runs,
    Done(std::thread::Result<R>),
    Taken,
}

impl<T, R> Task<T, R> {
    fn new(input: T) -> Task<T, R> {
        Task { what: Mutex::new(Stage::Waits(input)), done: Condvar::new() }
    }

    fn run_if_it_waits(&self, work: impl FnOnce(T) -> R) {
        let mut stage = self.what.lock();
        let input = match std::mem::replace(&mut *stage, Stage::Runs) {
            Stage::Waits(input) => input,
            other => {
                *stage = other;
                return;
            }
        };
        drop(stage);
        let result = catch_unwind(AssertUnwindSafe(|| work(input)));
        *self.what.lock() = Stage::Done(result);
        self.done.notify_all();
    }

    fn result(&self) -> R {
        let mut stage = self.what.lock();
        self.done.wait_while(&mut stage, |stage| matches!(stage, Stage::Runs | Stage::Waits(_)));
        match std::mem::replace(&mut *stage, Stage::Taken) {
            Stage::Done(Ok(result)) => result,
            Stage::Done(Err(panic)) => resume_unwind(panic),
            Stage::Waits(_) | Stage::Runs | Stage::Taken => unreachable!("waited for, and taken once"),
        }
    }
}

impl Pool {
    fn new(threads: usize) -> Pool {
        let (jobs, receiver) = crossbeam_channel::unbounded::<Job>();
        for number in 0..threads {
            let receiver: Receiver<Job> = receiver.clone();
            let run = move || receiver.iter().for_each(|job| drop(catch_unwind(AssertUnwindSafe(job))));
            let thread = std::thread::Builder::new().name(format!("engine-worker-{number}")).spawn(run);
            if let Err(error) = thread {
                tracing::warn!(%error, "no thread for the engine's pool");
            }
        }
        Pool { jobs }
    }

    /// Does this some time, on a thread of the pool.
    pub(crate) fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        // There is always a receiver: threads of the pool never end. Without threads the job is left.
        let _ = self.jobs.send(Box::new(job));
    }

    /// Does the work for all inputs, in parallel as far as there are threads free, and gives the results in order.
    pub(crate) fn map<T, R>(&self, inputs: Vec<T>, work: impl Fn(T) -> R + Send + Sync + 'static) -> Vec<R>
    where
        T: Send + 'static,
        R: Send + 'static,
    {
        let work: Arc<dyn Fn(T) -> R + Send + Sync> = Arc::new(work);
        let tasks: Vec<Arc<Task<T, R>>> = inputs.into_iter().map(|input| Arc::new(Task::new(input))).collect();
        for task in tasks.iter().skip(1) {
            let (task, work) = (task.clone(), work.clone());
            self.spawn(move || task.run_if_it_waits(&*work));
        }
        tasks.iter().for_each(|task| task.run_if_it_waits(&*work));
        tasks.iter().map(|task| task.result()).collect()
    }

    /// The same for work that gives pieces, which are handed to `give` on this thread as they come, in no order between the
    /// inputs. Whoever gives faster than this thread takes waits.
    pub(crate) fn flow<T, P, R>(
        &self,
        inputs: Vec<T>,
        work: impl Fn(T, &mut dyn FnMut(P)) -> R + Send + Sync + 'static,
        give: &mut dyn FnMut(P),
    ) -> Vec<R>
    where
        T: Send + 'static,
        P: Send + 'static,
        R: Send + 'static,
    {
        let (sender, pieces) = crossbeam_channel::bounded(PIECES_MAX);
        let work = Arc::new(work);
        // Whoever runs a task has its sender: when all have run, nobody has.
        let task = |input| Arc::new(Task::new((input, sender.clone())));
        let tasks: Vec<Arc<Task<(T, Sender<P>), R>>> = inputs.into_iter().map(task).collect();
        drop(sender);
        for task in tasks.iter().skip(1) {
            let (task, work) = (task.clone(), work.clone());
            let run = move || {
                task.run_if_it_waits(|(input, sender)| {
                    work(input, &mut |piece| {
                        // The caller takes until all is done, unless it panics.
                        let _ = sender.send(piece);
                    })
                });
            };
            self.spawn(run);
        }
        for task in &tasks {
            task.run_if_it_waits(|(input, sender)| {
                drop(sender);
                work(input, &mut |piece| {
                    give(piece);
                    pieces.try_iter().for_each(&mut *give);
                })
            });
        }
        pieces.iter().for_each(give);
        tasks.iter().map(|task| task.result()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_whoever_did_the_work() {
        let squares = pool().map((0..100_u64).collect(), |number| number * number);
        assert_eq!(squares, (0..100).map(|number| number * number).collect::<Vec<_>>());
        let (jobs, _nobody_works) = crossbeam_channel::unbounded();
        assert_eq!(Pool { jobs }.map(vec![1, 2, 3], |number| number + 1), [2, 3, 4]);
    }

    #[test]
    fn all_pieces_come_and_none_is_held_for_long() {
        let mut pieces = Vec::new();
        let work = |start: u32, give: &mut dyn FnMut(u32)| {
            (start..start + 1000).for_each(give);
            start
        };
        assert_eq!(pool().flow(vec![0, 1000, 2000], work, &mut |piece| pieces.push(piece)), [0, 1000, 2000]);
        pieces.sort_unstable();
        assert_eq!(pieces, (0..3000).collect::<Vec<_>>());
    }

    #[test]
    #[should_panic(expected = "three")]
    fn a_panic_is_the_callers() {
        pool().map(vec![1, 2, 3], |number| assert_ne!(number, 3, "three"));
    }
}
