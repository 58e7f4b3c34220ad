//! Work among the threads that share it.
//!
//! A kernel on the CPU shares its work with rayon's threads. Called from outside of them, every one of
//! the hundreds of kernels of a step wakes a thread and goes to sleep until that is done, and the
//! caller's core idles meanwhile. Called from one of them, while the others are awake, it begins at once.

use crate::form::has_kernel;
use burn::tensor::Device;

/// Runs `work` on one of the threads that the kernels of `device` share, where there are such:
/// something for a whole step, not for one operator. A panic goes through to the caller.
///
/// `work` must not wait for another thread that computes: where both share the pool and it has one
/// thread, that one would wait for it.
pub fn in_pool<R: Send>(device: &Device, work: impl FnOnce() -> R + Send) -> R {
    #[cfg(feature = "flex")]
    if has_pool(device) {
        return crate::awake::run(work);
    }
    let _ = device;
    work()
}

/// Whether the kernels of `device` share threads.
pub fn has_pool(device: &Device) -> bool {
    has_kernel(device)
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

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

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
}
