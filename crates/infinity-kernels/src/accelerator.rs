//! What a program wants to know of a GPU beside its results: where compiled kernels are kept, how many
//! are being compiled, what the device can do. In a build without GPUs there is nothing to tell.

#![cfg_attr(
    not(feature = "cube"),
    allow(unused_variables, reason = "without GPUs")
)]

use burn::tensor::Device;
use std::path::PathBuf;

/// Kernels compiled and products tuned by this process so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Kernels that no cache had.
    pub compiled: usize,
    /// Choices between kernels that no cache had, each a race of candidates.
    pub tuned: usize,
}

/// What a device can do.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Its name, as the driver says it.
    pub name: String,
    /// Bytes that may be used, where the runtime knows.
    pub memory: Option<u64>,
    /// Whether products of `f32` round their factors to TF32, which has 10 bits of fraction.
    pub tf32: bool,
    /// Number formats that matrix units multiply, smallest first; empty where there are none.
    pub matrix_units: Vec<String>,
}

/// Has CubeCL keep what it compiles and tunes in `folder`, one file for `name`, and count it for
/// [`prepared`]; `None` keeps nothing beyond the process. Call it before any device is used: says whether it
/// came in time. What `cubecl.toml`, `burn.toml` and CubeCL's variables decide stays, a directory among them.
pub fn keep_caches(folder: Option<PathBuf>, name: &str) -> bool {
    #[cfg(feature = "cube")]
    return cube::keep_caches(folder, name);
    #[cfg(not(feature = "cube"))]
    true
}

/// Where CubeCL keeps its caches, as [`keep_caches`] or the user decided; `None` if nowhere.
pub fn cache_file() -> Option<PathBuf> {
    #[cfg(feature = "cube")]
    return cube::cache_file();
    #[cfg(not(feature = "cube"))]
    None
}

/// What was compiled and tuned since [`keep_caches`].
pub fn prepared() -> Prepared {
    #[cfg(feature = "cube")]
    return cube::prepared();
    #[cfg(not(feature = "cube"))]
    Prepared::default()
}

/// What `device` can do; `None` for the processor.
pub fn facts(device: &Device) -> Option<Facts> {
    #[cfg(feature = "cube")]
    return cube::facts(device);
    #[cfg(not(feature = "cube"))]
    None
}

/// Bytes that CubeCL holds of the memory of `device`, which it rarely gives back: the most that was needed, and the room
/// around it. `None` for the processor.
pub fn memory_held(device: &Device) -> Option<u64> {
    #[cfg(feature = "cube")]
    return cube::memory_held(device);
    #[cfg(not(feature = "cube"))]
    None
}

/// Whether `device` rounds the factors of `f32` products to TF32, as [`Facts::tf32`].
pub fn multiplies_in_tf32(device: &Device) -> bool {
    #[cfg(feature = "cube")]
    return cube::multiplies_in_tf32(device);
    #[cfg(not(feature = "cube"))]
    false
}

#[cfg(feature = "cube")]
mod cube {
    use super::{Facts, Prepared};
    use crate::gpu::client;
    use burn::serde::{Deserialize, Serialize};
    use burn::tensor::Device;
    use burn_cubecl::cubecl::MemoryScope;
    use burn_cubecl::cubecl::config::cache::CacheConfig;
    use burn_cubecl::cubecl::config::compilation::CompilationLogLevel;
    use burn_cubecl::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
    use burn_cubecl::cubecl::environment;
    use burn_cubecl::cubecl::ir::{ElemType, FloatKind};
    use cubecl_environment::sync::Mutex;
    use std::collections::BTreeSet;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    static COMPILED: AtomicUsize = AtomicUsize::new(0);
    static TUNED: AtomicUsize = AtomicUsize::new(0);

    pub(super) fn keep_caches(folder: Option<PathBuf>, name: &str) -> bool {
        let config = CubeClRuntimeConfig::from_current_dir().override_from_env();
        let cache = Said::from_current_dir().compilation.cache;
        if log::set_logger(&Counter).is_ok() {
            log::set_max_level(log::LevelFilter::Info);
        }
        CubeClRuntimeConfig::try_set(kept(config, cache, folder, name))
    }

    /// What the user's own file says of the cache of kernels; CubeCL's type has `false` where it says nothing.
    #[derive(Clone, Default, Serialize, Deserialize)]
    #[serde(crate = "burn::serde", default)]
    pub(super) struct Said {
        pub(super) compilation: OfCompilation,
    }

    #[derive(Clone, Default, Serialize, Deserialize)]
    #[serde(crate = "burn::serde", default)]
    pub(super) struct OfCompilation {
        pub(super) cache: Option<bool>,
    }

    impl RuntimeConfig for Said {
        fn storage() -> &'static Mutex<Option<Arc<Self>>> {
            static UNUSED: Mutex<Option<Arc<Said>>> = Mutex::new(None);
            &UNUSED
        }

        fn file_names() -> &'static [&'static str] {
            CubeClRuntimeConfig::file_names()
        }

        fn section_file_names() -> &'static [(&'static str, &'static str)] {
            CubeClRuntimeConfig::section_file_names()
        }
    }

    /// `config` with the caches in `folder`, where it does not say otherwise; `cache` is what it says of compiled
    /// kernels.
    pub(super) fn kept(
        mut config: CubeClRuntimeConfig,
        cache: Option<bool>,
        folder: Option<PathBuf>,
        name: &str,
    ) -> CubeClRuntimeConfig {
        // One line a kernel for `Counter`.
        let logger = &mut config.compilation.logger;
        if let CompilationLogLevel::Disabled = logger.level {
            logger.level = CompilationLogLevel::Basic;
        }
        logger.log.get_or_insert_default();
        match folder {
            Some(folder) => {
                config.compilation.cache = cache.unwrap_or(true);
                let own = &mut config.environment;
                if own.name == environment::DEFAULT {
                    name.clone_into(&mut own.name);
                }
                // The default is the `target` of whatever workspace the program is started in.
                if let CacheConfig::Target = own.path {
                    own.path = CacheConfig::Directory(folder);
                }
            }
            None => {
                config.compilation.cache = false;
                config.autotune.disable_cache = true;
                config.throughput.disable_cache = true;
            }
        }
        config
    }

    pub(super) fn cache_file() -> Option<PathBuf> {
        let config = CubeClRuntimeConfig::get();
        let kept = config.compilation.cache || !config.autotune.disable_cache;
        kept.then(environment::path)
    }

    pub(super) fn prepared() -> Prepared {
        Prepared {
            compiled: COMPILED.load(Relaxed),
            tuned: TUNED.load(Relaxed),
        }
    }

    /// Counts what CubeCL logs; a program with a logger of its own counts nothing.
    struct Counter;

    impl Counter {
        fn of(target: &str) -> Option<&'static AtomicUsize> {
            match target {
                "cubecl::compilation" => Some(&COMPILED),
                "cubecl_runtime::tune::tuner" => Some(&TUNED),
                _ => None,
            }
        }
    }

    impl log::Log for Counter {
        fn enabled(&self, metadata: &log::Metadata) -> bool {
            Counter::of(metadata.target()).is_some()
        }

        fn log(&self, record: &log::Record) {
            if let (Some(count), log::Level::Info) = (Counter::of(record.target()), record.level())
            {
                count.fetch_add(1, Relaxed);
            }
        }

        fn flush(&self) {}
    }

    pub(super) fn memory_held(device: &Device) -> Option<u64> {
        let report = client(device)?.memory_report(MemoryScope::Device);
        Some(report.usage().bytes_reserved)
    }

    /// As Burn's product decides.
    pub(super) fn multiplies_in_tf32(device: &Device) -> bool {
        let tf32 = ElemType::Float(FloatKind::TF32);
        client(device).is_some_and(|client| client.properties().supports_type(tf32))
    }

    pub(super) fn facts(device: &Device) -> Option<Facts> {
        let client = client(device)?;
        let properties = client.properties();
        let matmul = &properties.features.matmul;
        let factors = matmul
            .cmma
            .iter()
            .chain(&matmul.mma)
            .map(|unit| unit.a_type);
        let units: BTreeSet<String> = factors.map(|factor| factor.to_string()).collect();
        Some(Facts {
            name: properties.identity.name.clone(),
            memory: properties.memory.max_memory(),
            tf32: multiplies_in_tf32(device),
            matrix_units: units.into_iter().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![cfg(feature = "cube")]

    use super::cube::{Said, kept};
    use burn_cubecl::cubecl::config::cache::CacheConfig;
    use burn_cubecl::cubecl::config::compilation::CompilationLogLevel;
    use burn_cubecl::cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};
    use std::path::PathBuf;

    #[test]
    fn what_the_user_set_stays() {
        let folder = || Some(PathBuf::from("/ours"));
        let fresh = kept(CubeClRuntimeConfig::default(), None, folder(), "gpu");
        assert!(fresh.compilation.cache);
        assert_eq!(fresh.environment.name, "gpu");
        assert_eq!(fresh.environment.path.root(), PathBuf::from("/ours"));
        let mut own = CubeClRuntimeConfig::default();
        own.environment.path = CacheConfig::Directory("/theirs".into());
        own.environment.name = "h100".to_owned();
        own.compilation.logger.level = CompilationLogLevel::Full;
        let own = kept(own, None, folder(), "gpu");
        assert_eq!(own.environment.path.root(), PathBuf::from("/theirs"));
        assert_eq!(own.environment.name, "h100");
        assert!(matches!(
            own.compilation.logger.level,
            CompilationLogLevel::Full
        ));
        let none = kept(CubeClRuntimeConfig::default(), None, None, "gpu");
        assert!(!none.compilation.cache && none.autotune.disable_cache);
    }

    /// In either kind of file, and not where it stands for something else.
    #[test]
    fn a_user_who_wants_no_cache_of_kernels_has_none() {
        let folder = std::env::temp_dir().join(format!("infinity-said-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let said = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("a file");
            let said = match name {
                "burn.toml" => Said::from_section_file_path(path, "cubecl"),
                _ => Said::from_file_path(path),
            };
            said.expect("a file that is right").compilation.cache
        };
        let own = "[compilation]\ncache = false\n[autotune]\nlevel = \"full\"\n";
        let of_burn = "[cubecl.compilation]\ncache = false\n";
        for (file, text, expected) in [
            ("cubecl.toml", own, Some(false)),
            ("cubecl.toml", "[compilation]\ncache = true\n", Some(true)),
            ("cubecl.toml", "[autotune]\nlevel = \"full\"\n", None),
            ("burn.toml", of_burn, Some(false)),
        ] {
            let cache = said(file, text);
            assert_eq!(cache, expected, "{file}: {text}");
            let ours = Some(folder.clone());
            let kept = kept(CubeClRuntimeConfig::default(), cache, ours, "gpu");
            assert_eq!(kept.compilation.cache, expected.unwrap_or(true), "{text}");
            assert!(
                !kept.autotune.disable_cache,
                "what is tuned is kept all the same"
            );
        }
        std::fs::remove_dir_all(folder).expect("that folder");
    }
}
