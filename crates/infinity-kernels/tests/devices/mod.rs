//! The devices a test body runs on: Flex always, and what this build has beside it.

/// Writes a `#[test]` for every device and body: `flex::NAME`, and what
/// [`on_every_gpu`] writes. A body takes `&Device`.
macro_rules! on_every_device {
    ($($body:ident),+ $(,)?) => {
        mod flex {
            $(#[test] fn $body() { super::$body(&burn::tensor::Device::flex()) })+
        }
        $crate::devices::on_every_gpu!($($body),+);
    };
}

/// Writes a `#[test]` for every body and device that this build has beside the CPU: `wgpu::NAME`
/// with the feature of that name, `cuda::NAME`, `rocm::NAME`, `metal::NAME`.
macro_rules! on_every_gpu {
    ($($body:ident),+ $(,)?) => {
        #[cfg(all(feature = "wgpu", not(any(feature = "vulkan", feature = "metal"))))]
        mod wgpu {
            $(#[test] fn $body() {
                super::$body(&burn::tensor::Device::wgpu(burn::tensor::DeviceKind::DefaultDevice))
            })+
        }
        #[cfg(feature = "vulkan")]
        mod vulkan {
            $(#[test] fn $body() {
                super::$body(&burn::tensor::Device::vulkan(burn::tensor::DeviceKind::DefaultDevice))
            })+
        }
        #[cfg(feature = "metal")]
        mod metal {
            $(#[test] fn $body() {
                super::$body(&burn::tensor::Device::metal(burn::tensor::DeviceKind::DefaultDevice))
            })+
        }
        #[cfg(feature = "cuda")]
        mod cuda {
            $(#[test] fn $body() { super::$body(&burn::tensor::Device::cuda(0)) })+
        }
        #[cfg(feature = "rocm")]
        mod rocm {
            $(#[test] fn $body() { super::$body(&burn::tensor::Device::rocm(0)) })+
        }
    };
}
pub(crate) use {on_every_device, on_every_gpu};

/// `all`, but `few` of them spread over it on wgpu, the last among them: software Vulkan stands in for a GPU there and takes
/// seconds to compile each kernel of each size.
pub(crate) fn cases<T>(
    device: &burn::tensor::Device,
    all: impl IntoIterator<Item = T>,
    few: usize,
) -> Vec<T> {
    let all: Vec<T> = all.into_iter().collect();
    #[cfg(feature = "wgpu")]
    if *device == burn::tensor::Device::wgpu(burn::tensor::DeviceKind::DefaultDevice) {
        let len = all.len();
        let chosen = |at: &usize| (1..=few).any(|i| i * len / few == at + 1);
        return all
            .into_iter()
            .enumerate()
            .filter_map(|(at, case)| chosen(&at).then_some(case))
            .collect();
    }
    let _ = (device, few);
    all
}
