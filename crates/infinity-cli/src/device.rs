//! `--device` and `distributed.devices`: words to devices that are compiled in, present, and work.
//!
//! Backends are chosen when the program is built (Cargo features) and a device when it runs.
//! Asking for one that this build lacks, or this machine, is an error that says what there is;
//! only `auto` chooses by itself, and every verb prints what it chose.

use std::path::PathBuf;

use burn::tensor::{Device, DeviceType, Tensor};
use infinity_kernels::accelerator;
use infinity_train::Devices;
use infinity_train::config::{DeviceList, DistributedStrategy, RunConfig};

use crate::args::{Global, variable};
use crate::terminal::{errors, preparing, refuse};

/// The backends in the order in which `auto` tries them: the word for each, on the command line and as
/// a Cargo feature, and its device when no number is given.
macro_rules! backends {
    ($($name:ident $word:literal $default:expr;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Backend {
            $($name,)*
        }

        impl Backend {
            pub(crate) const ALL: [Self; 7] = [$(Self::$name),*];

            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            /// How Burn calls it, and its device when no number is given; `None` if it is not compiled in.
            #[allow(deprecated)] // NdArray is, and stays for comparisons.
            fn in_burn(self) -> Option<(DeviceType, fn() -> Device)> {
                match self {
                    $(#[cfg(feature = $word)]
                    Self::$name => Some((DeviceType::$name, || $default)),)*
                    #[allow(unreachable_patterns)]
                    _ => None,
                }
            }
        }
    };
}

backends! {
    Cuda "cuda" Device::cuda(0);
    Rocm "rocm" Device::rocm(0);
    Metal "metal" Device::metal(Default::default());
    Vulkan "vulkan" Device::vulkan(Default::default());
    // Whatever graphics interface there is.
    Wgpu "wgpu" Device::wgpu(Default::default());
    Flex "flex" Device::flex();
    // The older CPU backend.
    NdArray "ndarray" Device::ndarray();
}

impl Backend {
    /// Whether it computes on the processor that runs this program.
    pub(crate) fn is_cpu(self) -> bool {
        matches!(self, Self::Flex | Self::NdArray)
    }

    pub(crate) fn is_compiled(self) -> bool {
        self.in_burn().is_some()
    }

    /// The devices of this backend on this machine with what to call them, or why there are none.
    pub(crate) fn devices(self) -> Result<Vec<(String, Device)>, String> {
        let (of_type, _) = self.in_burn().ok_or("not compiled in")?;
        let devices = errors::caught(|| Device::enumerate(of_type).into_vec())?;
        if devices.is_empty() {
            return Err("no device was found; is the driver installed?".to_owned());
        }
        let label = |number| match self.is_cpu() {
            true => self.name().to_owned(),
            false => format!("{}:{number}", self.name()),
        };
        let devices = devices.into_iter().enumerate();
        Ok(devices.map(|(i, device)| (label(i), device)).collect())
    }

    /// Those of this build, in that order.
    pub(crate) fn compiled() -> impl Iterator<Item = Self> {
        let all = Self::ALL.into_iter();
        all.filter(|backend| backend.is_compiled())
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    backend: Backend,
    number: Option<usize>,
    pub(crate) device: Device,
    /// How to ask for it again: `flex`, `cuda:1`.
    pub(crate) name: String,
}

/// What `--device` says, or the environment, for verbs that read no configuration.
pub(crate) fn wanted(global: &Global) -> String {
    let given = global.device.clone().map(Into::into);
    let named = given.or_else(|| variable("INFINITY_DEVICE").or_else(|| variable("BURN_DEVICE")));
    named.map_or("auto".to_owned(), |name| {
        name.to_string_lossy().into_owned()
    })
}

impl Chosen {
    /// For the log: what computes, and with how many threads where that is ours to say.
    pub(crate) fn describe(&self) -> String {
        let name = &self.name;
        match self.backend.is_cpu() {
            true => format!("{name} (CPU, {} threads)", rayon::current_num_threads()),
            false => name.clone(),
        }
    }
}

/// Opens the device that `text` names and checks that it computes.
pub(crate) fn open(text: &str) -> anyhow::Result<Chosen> {
    match parse(text)? {
        None => automatic(),
        Some((backend, number)) => open_backend(backend, number),
    }
}

/// Checks that `text` names a device that this build could have, without looking for it.
pub(crate) fn named(text: &str) -> anyhow::Result<()> {
    match parse(text)? {
        Some((backend, _)) if !backend.is_compiled() => Err(not_compiled(backend)),
        _ => Ok(()),
    }
}

/// Reads `auto`, which is none in particular, `cpu`, or `backend[:number]`.
fn parse(text: &str) -> anyhow::Result<Option<(Backend, Option<usize>)>> {
    let lower = text.trim().to_lowercase();
    let (name, number) = match lower.split_once(':') {
        None => (&*lower, None),
        Some((name, number)) => match number.parse::<usize>() {
            Ok(number) => (name, Some(number)),
            Err(_) => refuse!(
                "device `{text}`: `{number}` is not the number of a device, as in `{name}:0`"
            ),
        },
    };
    let named = Backend::ALL.into_iter().find(|one| one.name() == name);
    match (name, number, named) {
        ("auto", None, _) => Ok(None),
        ("cpu", None, _) => {
            let cpu = Backend::compiled().find(|backend| backend.is_cpu());
            Ok(Some((cpu.unwrap_or(Backend::Flex), None)))
        }
        (_, Some(1..), Some(backend)) if backend.is_cpu() => {
            refuse!("device `{text}`: `{name}` is the processor, of which there is one")
        }
        (_, _, Some(backend)) => Ok(Some((backend, number))),
        (_, _, None) => refuse!(
            "unknown device `{text}`; there are: auto, cpu, {}, the GPU ones with an optional \
             number, as in cuda:0",
            Backend::ALL.map(Backend::name).join(", ")
        ),
    }
}

pub(crate) fn compiled() -> String {
    let names: Vec<_> = Backend::compiled().map(Backend::name).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}

/// The first backend with a device that works, GPUs before the CPU.
fn automatic() -> anyhow::Result<Chosen> {
    for backend in Backend::compiled() {
        let devices = backend.devices().unwrap_or_default();
        // A graphics interface emulated on the processor is beaten by far by the CPU backends.
        let emulates = matches!(backend, Backend::Wgpu | Backend::Vulkan | Backend::Metal);
        let is_gpu = |device: &Device| format!("{device:?}").contains("Gpu");
        if devices.iter().any(|(_, one)| !emulates || is_gpu(one))
            && let Ok(chosen) = open_backend(backend, None)
        {
            return Ok(chosen);
        }
    }
    refuse!(
        "no device of this build works here; compiled in: {}. Build with the CPU backend: \
         cargo build --release --features flex",
        compiled()
    )
}

/// Where GPUs' kernels are kept between starts: a folder, or `off`.
const CACHE: &str = "INFINITY_GPU_CACHE";

/// Keeps what GPUs compile and tune for the next start, before any is opened: in the user's cache folder, in
/// the one that `INFINITY_GPU_CACHE` names, or not.
pub(crate) fn keep_caches() {
    let version = concat!("infinity-", env!("CARGO_PKG_VERSION"));
    let in_time = accelerator::keep_caches(cache_folder(variable), version);
    debug_assert!(in_time, "no device was opened yet");
}

fn cache_folder(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<PathBuf> {
    if let Some(own) = variable(CACHE) {
        return (own != "off").then(|| own.into());
    }
    let home = |below: &str| variable("HOME").map(|home| PathBuf::from(home).join(below));
    let user = match std::env::consts::OS {
        "windows" => variable("LOCALAPPDATA").map(PathBuf::from),
        "macos" => home("Library/Caches"),
        _ => variable("XDG_CACHE_HOME").map_or_else(|| home(".cache"), |own| Some(own.into())),
    };
    user.map(|folder| folder.join("infinityformer"))
}

fn open_backend(backend: Backend, number: Option<usize>) -> anyhow::Result<Chosen> {
    let Some((_, default)) = backend.in_burn() else {
        return Err(not_compiled(backend));
    };
    let name = backend.name();
    let devices = backend.devices().map_err(|why| not_working(name, &why))?;
    let (name, device) = match number {
        None => {
            let device = errors::caught(default).map_err(|why| not_working(name, &why))?;
            (name.to_owned(), device)
        }
        Some(number) if number >= devices.len() => refuse!(
            "device `{name}:{number}` is not there: the highest number is {name}:{}",
            devices.len() - 1
        ),
        Some(number) => devices[number].clone(),
    };
    if !backend.is_cpu() {
        // Plain wgpu leaves compiling to the driver, whose caches are its own.
        preparing::watch(backend != Backend::Wgpu && accelerator::cache_file().is_some());
    }
    works(&device).map_err(|why| not_working(&name, &why))?;
    Ok(Chosen {
        backend,
        number,
        device,
        name,
    })
}

fn not_compiled(backend: Backend) -> anyhow::Error {
    let name = backend.name();
    errors::usage(format!(
        "device `{name}` is not compiled into this program, which has: {}. \
         To add it: cargo build --release -p infinity-cli --features {name}",
        compiled()
    ))
}

fn not_working(name: &str, why: &str) -> anyhow::Error {
    errors::usage(format!(
        "device `{name}` is compiled in but cannot be used here: {why}. \
         `infinity devices` lists what can"
    ))
}

/// Computes something small and reads it back, which is when drivers complain.
pub(crate) fn works(device: &Device) -> Result<(), String> {
    // Not a sum, which a GPU would try in many ways first.
    let both = errors::caught(|| {
        let [a, b] = [[1.0, 2.0], [4.0, 3.0]].map(|x| Tensor::<1>::from_floats(x, device));
        (a + b).into_data().iter::<f32>().collect::<Vec<_>>()
    })?;
    match both[..] == [5.0, 5.0] {
        true => Ok(()),
        false => Err(format!("1 + 4 and 2 + 3 gave {both:?}")),
    }
}

const KEY: &str = "distributed.devices";

/// The devices of a run by rank; the first is the main device.
#[derive(Clone, Debug)]
pub(crate) struct Ranks(Vec<Chosen>);

impl Ranks {
    /// Opens what `config` asks for and writes into it what that came to.
    pub(crate) fn open(config: &mut RunConfig) -> anyhow::Result<Self> {
        let d = &mut config.distributed;
        let chosen = match (d.strategy, &d.devices) {
            (DistributedStrategy::Single, _) => vec![open(&config.run.device)?],
            (_, DeviceList::Auto) => of_one_kind(&config.run.device, None)?,
            (_, DeviceList::Count(count)) => of_one_kind(&config.run.device, Some(*count))?,
            (_, DeviceList::Words(words)) => listed(words, &config.run.device)?,
        };
        config.run.device.clone_from(&chosen[0].name);
        if d.strategy != DistributedStrategy::Single {
            let names = chosen.iter().map(|one| one.name.clone());
            d.devices = DeviceList::Words(names.collect());
        }
        Ok(Ranks(chosen))
    }

    pub(crate) fn main(&self) -> &Chosen {
        &self.0[0]
    }

    pub(crate) fn devices(&self) -> Devices {
        let others = self.0[1..].iter().map(|one| one.device.clone());
        Devices::new(self.main().device.clone(), others.collect())
    }

    pub(crate) fn describe(&self) -> String {
        let (ranks, main) = (self.0.len(), self.main());
        let names: Vec<&str> = self.0.iter().map(|one| &*one.name).collect();
        match ranks {
            1 => format!("device    {}", main.describe()),
            _ if names.iter().all(|name| *name == main.name) => {
                format!("devices   {ranks} × {}", main.describe())
            }
            _ => {
                let kind = main.backend.name();
                format!("devices   {ranks} × {kind} ({})", names.join(", "))
            }
        }
    }
}

/// The device that `main` names and others of its backend, `count` together or all there are.
fn of_one_kind(main: &str, count: Option<usize>) -> anyhow::Result<Vec<Chosen>> {
    let first = open(main)?;
    let name = first.backend.name();
    let there = first.backend.devices().map_or(1, |devices| devices.len());
    let count = count.unwrap_or(there);
    if count > there {
        let hint = match first.backend.is_cpu() {
            true => format!(
                "; the processor is one device, which a list may name several times, as in \
                 [\"{name}\", \"{name}\"]"
            ),
            false => String::new(),
        };
        refuse!("`{KEY}` is {count}, but `{name}` has {there} here{hint}");
    }
    if count == 1 {
        return Ok(vec![first]);
    }
    let own = first.number.unwrap_or(0);
    let numbers = std::iter::once(own).chain((0..there).filter(|number| *number != own));
    let numbered = numbers.take(count);
    (numbered.map(|number| open_backend(first.backend, Some(number)))).collect()
}

/// The devices that `words` name, if they suit each other and `main`.
fn listed(words: &[String], main: &str) -> anyhow::Result<Vec<Chosen>> {
    let named = |error| errors::usage(format!("`{KEY}` is {words:?}: {error}"));
    let chosen = words.iter().map(|word| open(word).map_err(named));
    let chosen: Vec<Chosen> = chosen.collect::<anyhow::Result<_>>()?;
    let first = &chosen[0];
    if let Some(other) = chosen.iter().find(|one| one.backend != first.backend) {
        let (one, other) = (&first.name, &other.name);
        refuse!(
            "`{KEY}` is {words:?}, but `{one}` and `{other}` are of different kinds: one run is on one"
        );
    }
    if parse(main)?.is_some() && open(main)?.device != first.device {
        refuse!(
            "`{KEY}` is {words:?}, but its first is the main device, and run.device is `{main}`"
        );
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use infinity_train::config::DistributedConfig;

    #[test]
    fn words_for_devices() {
        assert_eq!(parse("auto").unwrap(), None);
        assert!(parse("CPU").unwrap().is_some_and(|(cpu, _)| cpu.is_cpu()));
        assert_eq!(parse("cuda:1").unwrap(), Some((Backend::Cuda, Some(1))));
        assert_eq!(parse("flex").unwrap(), Some((Backend::Flex, None)));
        for wrong in ["gpu", "cuda:x", "cuda:-1", "auto:1", "flex:1", ""] {
            let error = parse(wrong).unwrap_err();
            assert_eq!(errors::exit_code(&error), errors::USAGE, "{wrong}: {error}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn caches_are_the_users_unless_told_otherwise() {
        let folder = |given: &[(&str, &str)]| {
            let given = given.to_vec();
            let of = move |name: &str| {
                given
                    .iter()
                    .find(|(n, _)| *n == name)
                    .map(|(_, v)| (*v).into())
            };
            cache_folder(of).map(|folder: PathBuf| folder.display().to_string())
        };
        let (home, xdg) = (("HOME", "/me"), ("XDG_CACHE_HOME", "/fast"));
        assert_eq!(folder(&[home]).unwrap(), "/me/.cache/infinityformer");
        assert_eq!(folder(&[home, xdg]).unwrap(), "/fast/infinityformer");
        assert_eq!(folder(&[home, (CACHE, "/own")]).unwrap(), "/own");
        assert_eq!(folder(&[home, (CACHE, "off")]), None);
        assert_eq!(folder(&[]), None);
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

    #[cfg(feature = "flex")]
    fn opened(device: &str, devices: DeviceList) -> Result<(Ranks, RunConfig), String> {
        let mut config = RunConfig {
            distributed: DistributedConfig {
                strategy: DistributedStrategy::Multi,
                devices,
            },
            ..RunConfig::default()
        };
        config.run.device = device.to_owned();
        let ranks = Ranks::open(&mut config).map_err(|error| error.to_string())?;
        Ok((ranks, config))
    }

    #[cfg(feature = "flex")]
    fn words(words: &[&str]) -> DeviceList {
        DeviceList::Words(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    #[cfg(feature = "flex")]
    fn the_processor_may_be_named_twice() {
        let (ranks, config) = opened("auto", words(&["flex", "cpu"])).unwrap();
        assert_eq!(ranks.devices().ranks(), 2);
        assert!(ranks.describe().starts_with("devices   2 × flex (CPU"));
        assert_eq!(config.distributed.devices, words(&["flex", "flex"]));
        assert_eq!(config.run.device, "flex");
        let (ranks, config) = opened("flex", DeviceList::Auto).unwrap();
        assert!(ranks.describe().starts_with("device    flex"));
        assert_eq!(config.distributed.ranks(), 1);
    }

    #[test]
    #[cfg(feature = "flex")]
    fn what_is_not_there_is_named() {
        let refused = |device, list| opened(device, list).unwrap_err();
        let message = refused("flex", DeviceList::Count(2));
        assert!(message.contains("is 2, but `flex` has 1 here") && message.contains("[\"flex\""));
        let message = refused("auto", words(&["flex", "gpu"]));
        assert!(
            message.contains("`distributed.devices` is [\"flex\", \"gpu\"]: ")
                && message.contains("`gpu`"),
            "{message}"
        );
        let absent = Backend::ALL
            .into_iter()
            .find(|b| !b.is_compiled() && !b.is_cpu());
        if let Some(absent) = absent {
            let message = refused("auto", words(&["flex", absent.name()]));
            assert!(
                message.contains(&format!("--features {}", absent.name())),
                "{message}"
            );
        }
    }
}
