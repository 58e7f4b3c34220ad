//! Work among the threads that the CPU's kernels share, which stay awake while a step runs.
//!
//! A kernel shares its work with rayon's threads. Called from outside of them, every one of the hundreds
//! of kernels of a step wakes a thread and goes to sleep until that is done. Called from one of them,
//! while the others are awake, it begins at once.
//!
//! A thread of rayon's that finds nothing to do goes to sleep within microseconds, and waking it takes
//! the system longer than many of those kernels take to run. Here the others keep looking for work until
//! the step is over. After some looks in vain they let other programs run between two looks.
//!
//! Looking for work is itself a job, and a thread that waits in the middle of another job may take it up:
//! a piece of the step that began to look for work would wait for the end of the step, and the step for
//! the piece. So these threads are a pool of their own, which one step at a time has to itself and
//! which does nothing else, and no thread begins to look once the work has begun: one that is not there
//! in time goes to sleep when it finds nothing, as rayon's do.

#[cfg(feature = "flex")]
use burn::backend::DispatchDevice;
use burn::tensor::Device;

/// Runs `work` on one of the threads that the kernels of `device` share, where it has such threads:
/// something for a whole step, not for one operator. A panic goes through to the caller.
///
/// `work` must not wait for another thread that computes: where both share the pool and it has one
/// thread, that one would wait for it.
pub fn in_pool<R: Send>(device: &Device, work: impl FnOnce() -> R + Send) -> R {
    #[cfg(feature = "flex")]
    if has_pool(device) {
        return awake::run(work);
    }
    let _ = device;
    work()
}

/// Whether the kernels of `device` share threads: those of the CPU do.
pub fn has_pool(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    if let DispatchDevice::Flex(_) = device.clone().without_autodiff().as_dispatch() {
        return true;
    }
    let _ = device;
    false
}

/// `work` of every item. Threads that the kernels of `device` share, where there are such, take the
/// items among them: for work on something small, which the threads would not share well.
pub fn each_in_pool<T: Send, R: Send>(
    device: &Device,
    items: Vec<T>,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    #[cfg(feature = "flex")]
    if has_pool(device) {
        use rayon::prelude::*;
        return items.into_par_iter().with_max_len(1).map(&work).collect();
    }
    let _ = device;
    items.into_iter().map(work).collect()
}

#[cfg(feature = "flex")]
mod awake {
    use rayon::{ThreadPool, ThreadPoolBuilder};
    use std::hint::spin_loop;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::{Arc, LazyLock, Mutex, TryLockError};
    use std::thread;
    use std::time::{Duration, Instant};

    /// How often a thread looks in vain before it lets other programs run.
    const LOOKS: usize = 1000;

    /// How long a step waits for threads to wake up before it begins without them.
    const WAIT: Duration = Duration::from_micros(100);

    /// The pool, with as many threads as rayon's own; none where the system gave no more threads.
    static POOL: LazyLock<Mutex<Option<ThreadPool>>> = LazyLock::new(|| {
        let threads = rayon::current_num_threads();
        Mutex::new(ThreadPoolBuilder::new().num_threads(threads).build().ok())
    });

    /// Runs `work` in the pool with every thread awake; where it is taken, among rayon's own threads.
    pub(super) fn run<R: Send>(work: impl FnOnce() -> R + Send) -> R {
        if rayon::current_thread_index().is_some() {
            return work();
        }
        let pool = match POOL.try_lock() {
            Ok(pool) => pool,
            // A step that panicked left it as good as any other.
            Err(TryLockError::Poisoned(pool)) => pool.into_inner(),
            Err(TryLockError::WouldBlock) => return rayon::scope(|_| work()),
        };
        match pool.as_ref() {
            Some(pool) => pool.install(|| during(work)),
            None => rayon::scope(|_| work()),
        }
    }

    /// What the threads of a step know of each other.
    #[derive(Default)]
    struct Step {
        /// Threads that look for work, and [`BEGUN`].
        looking: AtomicUsize,
        over: AtomicBool,
    }

    /// Added to [`Step::looking`] when the work begins.
    const BEGUN: usize = 1 << 20;

    /// Ends a step when it is dropped, in a panic as well.
    struct Ends<'a>(&'a Step);

    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.over.store(true, Ordering::Release);
        }
    }

    fn during<R>(work: impl FnOnce() -> R) -> R {
        let step = Arc::new(Step::default());
        let _ends = Ends(&step);
        let this = rayon::current_thread_index();
        rayon::spawn_broadcast({
            let step = step.clone();
            move |context| {
                if Some(context.index()) != this && step.is_in_time() {
                    step.look_for_work();
                }
            }
        });
        step.wait_for(rayon::current_num_threads() - 1);
        work()
    }

    impl Step {
        /// Until `others` look for work, or for [`WAIT`].
        fn wait_for(&self, others: usize) {
            let start = Instant::now();
            while self.looking.load(Ordering::Acquire) < others && start.elapsed() < WAIT {
                spin_loop();
            }
            self.looking.fetch_or(BEGUN, Ordering::AcqRel);
        }

        /// Counts a thread, unless the work has begun.
        fn is_in_time(&self) -> bool {
            let before_it_begins = |looking| (looking < BEGUN).then_some(looking + 1);
            let (set, get) = (Ordering::AcqRel, Ordering::Acquire);
            self.looking
                .fetch_update(set, get, before_it_begins)
                .is_ok()
        }

        fn look_for_work(&self) {
            let mut in_vain = 0;
            while !self.over.load(Ordering::Acquire) {
                match rayon::yield_now() {
                    Some(rayon::Yield::Executed) => in_vain = 0,
                    _ => pause(&mut in_vain),
                }
            }
        }
    }

    fn pause(in_vain: &mut usize) {
        if *in_vain < LOOKS {
            *in_vain += 1;
            spin_loop();
        } else {
            thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::awake::run;
    use super::*;
    use rayon::prelude::*;
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn work_runs_among_the_threads_and_its_panic_comes_out() {
        let device = Device::flex();
        assert!(in_pool(&device, rayon::current_thread_index).is_some());
        let squares = each_in_pool(&device, (0..99).collect(), |i| i * i);
        assert_eq!(squares, (0..99).map(|i| i * i).collect::<Vec<i32>>());
        let nested = in_pool(&device, || in_pool(&device, || 2) + 1);
        assert_eq!(nested, 3);
        let caught = std::panic::catch_unwind(|| in_pool(&Device::flex(), || panic!("out")));
        assert!(caught.is_err());
    }

    /// Joins within joins: what they wait for is never behind a thread that looks for work.
    fn sum(from: u64, to: u64) -> u64 {
        match to - from {
            0 => 0,
            1 => from,
            n => {
                let (a, b) = rayon::join(|| sum(from, from + n / 2), || sum(from + n / 2, to));
                a + b
            }
        }
    }

    #[test]
    fn steps_of_many_threads_at_a_time_all_end() {
        let steps = |thread: u64| {
            for step in 0..200 {
                let n = 64 + (thread + step) % 7;
                assert_eq!(run(|| sum(0, n)), n * (n - 1) / 2);
                let doubled: u64 = run(|| (0..n).into_par_iter().map(|i| 2 * run(|| i)).sum());
                assert_eq!(doubled, n * (n - 1));
            }
        };
        let (done, ended) = channel();
        for i in 0..6 {
            let done = done.clone();
            thread::spawn(move || {
                steps(i);
                done.send(()).expect("the test waits");
            });
        }
        for _ in 0..6 {
            let waited = ended.recv_timeout(Duration::from_secs(60));
            waited.expect("every thread's steps end");
        }
    }

    #[test]
    fn a_panic_ends_the_step_and_the_next_one_runs() {
        for _ in 0..20 {
            let panics = || run(|| (0..99).into_par_iter().for_each(|i| assert!(i < 50)));
            assert!(std::panic::catch_unwind(panics).is_err());
            assert_eq!(run(|| sum(0, 10)), 45);
        }
    }
}
