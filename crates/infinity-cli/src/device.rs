//! `--device`: words to a device that is compiled in, present, and works.
//!
//! Backends are chosen when the program is built (Cargo features) and a device when it runs.
//! Asking for one that this build lacks, or this machine, is an error that says what there is;
//! only `auto` chooses by itself, and every verb prints what it chose.

use burn::tensor::{Device, Tensor};

use crate::args::Global;
use crate::{failure, panics};

/// A way to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Burn's CPU backend in Rust; the default.
    Flex,
    /// The older CPU backend.
    NdArray,
    /// GPUs through CUDA.
    Cuda,
    /// GPUs through ROCm.
    Rocm,
    /// GPUs through Apple's Metal.
    Metal,
    /// GPUs through Vulkan.
    Vulkan,
    /// GPUs through whatever graphics interface there is.
    Wgpu,
}

impl Backend {
    /// Every backend, in the order in which `auto` tries them.
    pub(crate) const ALL: [Self; 7] = [
        Self::Cuda,
        Self::Rocm,
        Self::Metal,
        Self::Vulkan,
        Self::Wgpu,
        Self::Flex,
        Self::NdArray,
    ];

    /// The word for it, on the command line and as a Cargo feature.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::NdArray => "ndarray",
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
            Self::Metal => "metal",
            Self::Vulkan => "vulkan",
            Self::Wgpu => "wgpu",
        }
    }

    /// Whether this build has it.
    pub(crate) fn is_compiled(self) -> bool {
        match self {
            Self::Flex => cfg!(feature = "flex"),
            Self::NdArray => cfg!(feature = "ndarray"),
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Rocm => cfg!(feature = "rocm"),
            Self::Metal => cfg!(feature = "metal"),
            Self::Vulkan => cfg!(feature = "vulkan"),
            Self::Wgpu => cfg!(feature = "wgpu"),
        }
    }

    /// Whether it computes on the processor that runs this program.
    pub(crate) fn is_cpu(self) -> bool {
        matches!(self, Self::Flex | Self::NdArray)
    }

    /// The devices of this backend on this machine, or why none can be listed.
    pub(crate) fn devices(self) -> Result<Vec<Device>, String> {
        if !self.is_compiled() {
            return Err("not compiled in".to_owned());
        }
        panics::caught(|| enumerate(self))
    }
}

/// What `--device` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The best that works here.
    Auto,
    /// The CPU backend of this build.
    Cpu,
    /// A backend, and which of its devices.
    Backend(Backend, Option<usize>),
}

/// A device that works, and what to call it.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    /// The device.
    pub(crate) device: Device,
    /// How to ask for it again: `flex`, `cuda:1`.
    pub(crate) name: String,
}

/// What `--device` says, or the environment, for verbs that read no configuration.
pub(crate) fn wanted(global: &Global) -> String {
    let variable = |name| {
        std::env::var(name)
            .ok()
            .filter(|value: &String| !value.is_empty())
    };
    global
        .device
        .clone()
        .or_else(|| variable("INFINITY_DEVICE"))
        .or_else(|| variable("BURN_DEVICE"))
        .unwrap_or_else(|| "auto".to_owned())
}

impl Chosen {
    /// For the log: what computes, and with how many threads where that is ours to say.
    pub(crate) fn describe(&self) -> String {
        match Backend::ALL
            .into_iter()
            .find(|backend| backend.name() == self.name)
        {
            Some(backend) if backend.is_cpu() => {
                format!(
                    "{} (CPU, {} threads)",
                    self.name,
                    rayon::current_num_threads()
                )
            }
            _ => self.name.clone(),
        }
    }
}

/// Opens the device that `text` names and checks that it computes.
///
/// # Errors
/// A word that is no device; a backend that is not compiled in, with the feature that adds it; a
/// device that is not there or does not work.
pub(crate) fn open(text: &str) -> anyhow::Result<Chosen> {
    match parse(text)? {
        Wanted::Auto => automatic(),
        Wanted::Cpu => {
            let cpu = Backend::ALL
                .into_iter()
                .find(|b| b.is_cpu() && b.is_compiled());
            let cpu = cpu.ok_or_else(|| not_compiled(Backend::Flex))?;
            open_backend(cpu, None)
        }
        Wanted::Backend(backend, index) => open_backend(backend, index),
    }
}

/// Checks that `text` names a device that this build could have, without looking for it.
///
/// # Errors
/// A word that is no device; a backend that is not compiled in.
pub(crate) fn named(text: &str) -> anyhow::Result<()> {
    match parse(text)? {
        Wanted::Backend(backend, _) if !backend.is_compiled() => Err(not_compiled(backend)),
        _ => Ok(()),
    }
}

/// Reads `auto`, `cpu`, or `backend[:index]`.
pub(crate) fn parse(text: &str) -> anyhow::Result<Wanted> {
    let lower = text.trim().to_lowercase();
    let (name, index) = match lower.split_once(':') {
        None => (&*lower, None),
        Some((name, index)) => {
            let index = index.parse().map_err(|_| {
                failure::usage(format!(
                    "device `{text}`: `{index}` is not the number of a device, as in `{name}:0`"
                ))
            })?;
            (name, Some(index))
        }
    };
    match (name, index) {
        ("auto", None) => return Ok(Wanted::Auto),
        ("cpu", None) => return Ok(Wanted::Cpu),
        _ => {}
    }
    match Backend::ALL
        .into_iter()
        .find(|backend| backend.name() == name)
    {
        Some(backend) if backend.is_cpu() && index.is_some_and(|i| i > 0) => Err(failure::usage(
            format!("device `{text}`: `{name}` is the processor, of which there is one"),
        )),
        Some(backend) => Ok(Wanted::Backend(backend, index)),
        None => Err(failure::usage(format!(
            "unknown device `{text}`; there are: auto, cpu, {}, the GPU ones with an optional \
             number, as in cuda:0",
            Backend::ALL.map(Backend::name).join(", ")
        ))),
    }
}

/// The names of the backends of this build.
pub(crate) fn compiled() -> String {
    let names: Vec<_> = Backend::ALL
        .into_iter()
        .filter(|b| b.is_compiled())
        .map(Backend::name)
        .collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}

/// The first backend with a device that works, GPUs before the CPU.
fn automatic() -> anyhow::Result<Chosen> {
    for backend in Backend::ALL.into_iter().filter(|b| b.is_compiled()) {
        let Ok(devices) = backend.devices() else {
            continue;
        };
        if devices.is_empty() || (is_wgpu(backend) && !has_gpu(&devices)) {
            continue;
        }
        if let Ok(chosen) = open_backend(backend, None) {
            return Ok(chosen);
        }
    }
    Err(failure::usage(format!(
        "no device of this build works here; compiled in: {}. Build with the CPU backend: \
         cargo build --release --features flex",
        compiled()
    )))
}

fn open_backend(backend: Backend, index: Option<usize>) -> anyhow::Result<Chosen> {
    if !backend.is_compiled() {
        return Err(not_compiled(backend));
    }
    let name = backend.name();
    let devices = backend.devices().map_err(|why| not_working(name, &why))?;
    if devices.is_empty() && !backend.is_cpu() {
        return Err(not_working(
            name,
            "no device was found; is the driver installed?",
        ));
    }
    let label = match index {
        Some(index) if !backend.is_cpu() => format!("{name}:{index}"),
        _ => name.to_owned(),
    };
    let device = match index {
        None => {
            panics::caught(|| default_device(backend)).map_err(|why| not_working(name, &why))?
        }
        Some(index) => devices.get(index).cloned().ok_or_else(|| {
            let highest = devices.len().saturating_sub(1);
            failure::usage(format!(
                "device `{label}` is not there: the highest number is {name}:{highest}"
            ))
        })?,
    };
    works(&device).map_err(|why| not_working(&label, &why))?;
    Ok(Chosen {
        device,
        name: label,
    })
}

fn not_compiled(backend: Backend) -> anyhow::Error {
    let name = backend.name();
    failure::usage(format!(
        "device `{name}` is not compiled into this program, which has: {}. \
         To add it: cargo build --release -p infinity-cli --features {name}",
        compiled()
    ))
}

fn not_working(name: &str, why: &str) -> anyhow::Error {
    failure::usage(format!(
        "device `{name}` is compiled in but cannot be used here: {why}. \
         `infinity devices` lists what can"
    ))
}

/// Computes something small and reads it back, which is when drivers complain.
pub(crate) fn works(device: &Device) -> Result<(), String> {
    let sum = panics::caught(|| {
        let numbers = Tensor::<1>::from_floats([1.0, 2.0, 4.0], device);
        numbers.sum().into_data().iter::<f32>().next()
    })?;
    match sum {
        Some(7.0) => Ok(()),
        other => Err(format!("1 + 2 + 4 gave {other:?}")),
    }
}

fn is_wgpu(backend: Backend) -> bool {
    matches!(backend, Backend::Wgpu | Backend::Vulkan | Backend::Metal)
}

/// Whether one of these is more than a graphics interface emulated on the processor, which the
/// CPU backends beat by far.
fn has_gpu(devices: &[Device]) -> bool {
    devices
        .iter()
        .any(|device| format!("{device:?}").contains("Gpu"))
}

#[cfg_attr(
    not(any(
        feature = "flex",
        feature = "ndarray",
        feature = "wgpu",
        feature = "vulkan",
        feature = "metal",
        feature = "cuda",
        feature = "rocm"
    )),
    allow(unreachable_code)
)]
fn enumerate(backend: Backend) -> Vec<Device> {
    use burn::tensor::DeviceType;
    let kind: DeviceType = match backend {
        #[cfg(feature = "flex")]
        Backend::Flex => DeviceType::Flex,
        #[cfg(feature = "ndarray")]
        Backend::NdArray => DeviceType::NdArray,
        #[cfg(feature = "cuda")]
        Backend::Cuda => DeviceType::Cuda,
        #[cfg(feature = "rocm")]
        Backend::Rocm => DeviceType::Rocm,
        #[cfg(feature = "metal")]
        Backend::Metal => DeviceType::Metal,
        #[cfg(feature = "vulkan")]
        Backend::Vulkan => DeviceType::Vulkan,
        #[cfg(feature = "wgpu")]
        Backend::Wgpu => DeviceType::Wgpu,
        #[allow(unreachable_patterns)]
        other => unreachable!("{} is not compiled in", other.name()),
    };
    Device::enumerate(kind).into_vec()
}

/// The device of a compiled backend when no number is given.
fn default_device(backend: Backend) -> Device {
    match backend {
        #[cfg(feature = "flex")]
        Backend::Flex => Device::flex(),
        #[cfg(feature = "ndarray")]
        #[allow(deprecated)]
        Backend::NdArray => Device::ndarray(),
        #[cfg(feature = "cuda")]
        Backend::Cuda => Device::cuda(0),
        #[cfg(feature = "rocm")]
        Backend::Rocm => Device::rocm(0),
        #[cfg(feature = "metal")]
        Backend::Metal => Device::metal(Default::default()),
        #[cfg(feature = "vulkan")]
        Backend::Vulkan => Device::vulkan(Default::default()),
        #[cfg(feature = "wgpu")]
        Backend::Wgpu => Device::wgpu(Default::default()),
        #[allow(unreachable_patterns)]
        other => unreachable!("{} is not compiled in", other.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_devices() {
        assert_eq!(parse("auto").unwrap(), Wanted::Auto);
        assert_eq!(parse("CPU").unwrap(), Wanted::Cpu);
        assert_eq!(
            parse("cuda:1").unwrap(),
            Wanted::Backend(Backend::Cuda, Some(1))
        );
        assert_eq!(parse("flex").unwrap(), Wanted::Backend(Backend::Flex, None));
        for wrong in ["gpu", "cuda:x", "cuda:-1", "auto:1", "flex:1", ""] {
            let error = parse(wrong).unwrap_err();
            assert_eq!(
                failure::exit_code(&error),
                failure::USAGE,
                "{wrong}: {error}"
            );
        }
    }

    #[test]
    #[cfg(feature = "flex")]
    fn the_cpu_works_and_auto_finds_something() {
        assert_eq!(open("flex").unwrap().name, "flex");
        assert!(open("cpu").is_ok() && open("auto").is_ok());
    }

    #[test]
    #[cfg(not(feature = "rocm"))]
    fn what_is_not_compiled_in_says_how_to_get_it() {
        let error = open("rocm:0").unwrap_err().to_string();
        assert!(error.contains("--features rocm"), "{error}");
        assert!(error.contains(&compiled()), "{error}");
    }
}
