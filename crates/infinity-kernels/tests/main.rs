//! Every operator against its reference, on every device of this build, in one executable.
//!
//! One, because Burn with a GPU's compiler in it is a hundred megabytes: it is linked once, and what
//! is carried to a machine without Cargo is one file (`cargo xtask gpu`). An operator's tests are
//! `cargo test -p infinity-kernels --test kernels memory_scan::`. With the system's allocator, so that valgrind
//! sees what a kernel leaves unwritten (`cargo xtask valgrind`).

mod devices;

mod accelerator;
mod adamw;
mod against_flex;
mod cross_entropy;
mod embedding;
mod launches;
mod linear;
mod memory_gates;
mod memory_routing;
mod memory_scan;
mod muon;
mod newton_schulz;
mod rms_norm;
mod rotary;
mod rounding;
mod short_conv;
mod softmax_attention;
mod square_sum;
mod swiglu;
