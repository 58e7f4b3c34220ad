//! Launches of kernels, counted by who asked for them.

use burn_cubecl::cubecl::logging::{LaunchObservation, LaunchObserver};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Launches by operator: a name of this crate's, or the kernel's own.
pub type Launches = BTreeMap<String, usize>;

/// What `work` returns, and all launches of the process in the meantime, on any device. Work that a device
/// still has to do counts once it is asked to do it: `work` ends with a read or `Device::sync`.
pub fn launches<R>(work: impl FnOnce() -> R) -> (R, Launches) {
    let seen = Arc::new(Seen::default());
    let watching = LaunchObservation::new(seen.clone());
    let result = work();
    drop(watching);
    let mut counts = Launches::new();
    for (kernel, n) in &*seen.0.lock().unwrap_or_else(PoisonError::into_inner) {
        *counts.entry(operator(kernel)).or_default() += n;
    }
    (result, counts)
}

#[derive(Default)]
struct Seen(Mutex<BTreeMap<&'static str, usize>>);

impl LaunchObserver for Seen {
    fn launched(&self, kernel: &'static str) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *seen.entry(kernel).or_default() += 1;
    }
}

/// Whose kernel that is, of the path of its type: the operator of ours, else the type.
fn operator(kernel: &str) -> String {
    let path = kernel.split('<').next().unwrap_or(kernel);
    let mut parts = path.split("::");
    match (parts.next(), parts.next()) {
        (Some("infinity_kernels"), Some(ours)) => ours.to_owned(),
        _ => path.rsplit("::").next().unwrap_or(path).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_of_ours_counts_for_its_operator() {
        let ours = "infinity_kernels::swiglu::gpu::multiply::Multiply<cubecl::Wgpu>";
        assert_eq!(operator(ours), "swiglu");
        assert_eq!(
            operator("burn_cubecl::kernel::cast::Cast<f32, f16>"),
            "Cast"
        );
    }
}
