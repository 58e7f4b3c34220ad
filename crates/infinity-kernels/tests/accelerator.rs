//! A second process finds what the first one tuned.

#[cfg(all(
    feature = "wgpu",
    feature = "autotune",
    not(any(feature = "vulkan", feature = "metal"))
))]
mod wgpu {
    use burn::tensor::{Device, DeviceKind, Distribution, Tensor};
    use infinity_kernels::accelerator::{cache_file, facts, keep_caches, prepared};
    use infinity_kernels::testing::values;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::time::Instant;

    const FOLDER: &str = "INFINITY_TEST_GPU_CACHE";

    /// What a process that multiplies two matrices tuned and compiled, and how many seconds it took.
    fn started(folder: &Path) -> [f64; 3] {
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args([
                "--exact",
                "accelerator::wgpu::another_process",
                "--nocapture",
            ])
            .env(FOLDER, folder)
            .output()
            .expect("a process");
        let said = String::from_utf8_lossy(&child.stdout).into_owned();
        let line = said
            .lines()
            .find_map(|line| line.split_once("tuned, compiled, seconds: "));
        let (_, numbers) = line.unwrap_or_else(|| panic!("{child:?}"));
        let numbers: Vec<f64> = numbers
            .split(' ')
            .map(|n| n.parse().expect("a number"))
            .collect();
        numbers.try_into().expect("three numbers")
    }

    #[test]
    fn a_second_process_finds_what_the_first_tuned() {
        let folder =
            std::env::temp_dir().join(format!("infinity-gpu-cache-{}", std::process::id()));
        let [cold, warm] = [(); 2].map(|()| started(&folder));
        let elsewhere = folder.join("elsewhere");
        let other = started(&elsewhere);
        std::fs::remove_dir_all(&folder).expect("what the first kept");
        println!("cold {cold:?}, warm {warm:?}, another folder {other:?}");
        assert!(
            cold[0] >= 1.0 && other[0] == cold[0],
            "it is tuned once a folder: {cold:?} {other:?}"
        );
        assert_eq!(warm[0], 0.0, "nothing is tuned twice");
        assert!(
            warm[1] < cold[1],
            "candidates that lost are not compiled: {warm:?} {cold:?}"
        );
    }

    /// The other process; nothing in this one.
    #[test]
    fn another_process() {
        let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
            return;
        };
        let start = Instant::now();
        assert!(
            keep_caches(Some(folder.clone()), "gpu"),
            "before any device"
        );
        assert!(cache_file().is_some_and(|file| file.starts_with(&folder)));
        let device = Device::wgpu(DeviceKind::DefaultDevice);
        assert!(facts(&device).is_some_and(|facts| !facts.name.is_empty()));
        assert!(facts(&Device::flex()).is_none());
        let random = || Tensor::<2>::random([96, 96], Distribution::Default, &device);
        assert_eq!(values(random().matmul(random())).len(), 96 * 96);
        let (now, seconds) = (prepared(), start.elapsed().as_secs_f64());
        println!(
            "tuned, compiled, seconds: {} {} {seconds:.2}",
            now.tuned, now.compiled
        );
    }
}
