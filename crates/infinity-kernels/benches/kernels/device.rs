//! The devices that this build can measure.

use burn::tensor::Device;

/// The device of that name.
///
/// # Errors
///
/// If it is not compiled in.
pub(crate) fn named(name: &str) -> Result<Device, String> {
    match name {
        "flex" => Ok(Device::flex()),
        #[cfg(feature = "ndarray")]
        #[allow(deprecated)] // NdArray stays supported for those who have it.
        "ndarray" => Ok(Device::ndarray()),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0)),
        _ => Err(format!(
            "--device {name} is not in this build: flex, or ndarray, wgpu, cuda with the feature of that name"
        )),
    }
}
