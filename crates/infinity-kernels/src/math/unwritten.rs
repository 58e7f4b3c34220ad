//! Vectors that are written once: filling them with zeros first would be a pass over memory, by one
//! thread.

use std::mem::MaybeUninit;

/// A vector of `len` values that nobody has written yet.
///
/// # Safety
///
/// The caller must write every value before anyone reads it.
pub(crate) unsafe fn unwritten(len: usize) -> Vec<f32> {
    let mut values = Vec::<MaybeUninit<f32>>::with_capacity(len);
    // SAFETY: there is room for `len`, and what may be uninitialised needs no initialising.
    unsafe { values.set_len(len) };
    let mut values = std::mem::ManuallyDrop::new(values);
    let (data, len, capacity) = (values.as_mut_ptr(), values.len(), values.capacity());
    // SAFETY: the parts are those of a vector that is not used again; `MaybeUninit<f32>` has the
    // layout of `f32`, of which every bit pattern is one, and by the caller's promise none is read
    // before it is written.
    unsafe { Vec::from_raw_parts(data.cast(), len, capacity) }
}
