//! The program's allocator, which keeps what is freed.
//!
//! mimalloc gives memory back to the system some time after it is freed, and a training step asks
//! for the same buffers again: the system then clears their pages anew. Keeping them saves one part
//! in eight of the CPU time of training (LOG.md).

#![allow(unsafe_code)]

use libmimalloc_sys::{mi_option_set_default, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 2 and 3: milliseconds after which freed memory is given
/// back; negative means never. The crate names only some of the options.
const PURGE_DELAY: mi_option_t = 15;

/// Lets the allocator keep freed memory, unless `MIMALLOC_PURGE_DELAY` says otherwise. To be called
/// first, while there is one thread.
pub(crate) fn keep_freed_memory() {
    // SAFETY: the function writes one number of a static table, and is not thread safe: no other
    // thread exists yet. It checks the option's index and leaves what the environment has set.
    unsafe { mi_option_set_default(PURGE_DELAY, -1) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use libmimalloc_sys::mi_option_get;

    #[test]
    fn freed_memory_is_kept_unless_the_environment_says_otherwise() {
        keep_freed_memory();
        let set = std::env::var("MIMALLOC_PURGE_DELAY")
            .ok()
            .and_then(|value| value.parse().ok());
        // SAFETY: it reads one number of a static table that nothing writes any more.
        assert_eq!(unsafe { mi_option_get(PURGE_DELAY) }, set.unwrap_or(-1));
    }
}
