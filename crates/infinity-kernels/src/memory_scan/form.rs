//! Which form of `memory_scan` runs, and in what pieces: decided here and nowhere else.

use super::inputs::Plan;
use super::reference::Dims;
use crate::operator::on_cpu;
use burn::tensor::Device;
use std::fmt;
use std::str::FromStr;

/// The forms that `memory_scan` has. All compute the same function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Token by token on Burn tensors: decoding.
    Recurrent,
    /// Chunk by chunk on Burn tensors: training and prompts, on any device.
    Chunkwise,
    /// A native kernel of the device: on Flex and on every CubeCL runtime. Computes in `f32`,
    /// whatever the tensors hold.
    Fused,
}

/// A form that does not exist where it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormError {
    /// No native kernel on this device.
    NotFused {
        /// The device, as Burn prints it.
        device: String,
    },
}

impl fmt::Display for FormError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FormError::NotFused { device } = self;
        write!(
            f,
            "form `fused` does not exist on {device}: recurrent or chunkwise"
        )
    }
}

impl std::error::Error for FormError {}

/// Below this many tokens the recurrent form costs less than cutting chunks.
const RECURRENT_UP_TO: usize = 2;

impl Form {
    /// The fastest form for `t` tokens on `device`.
    pub fn choose(t: usize, device: &Device) -> Form {
        match t {
            _ if plan(device).is_some() => Form::Fused,
            0..=RECURRENT_UP_TO => Form::Recurrent,
            _ => Form::Chunkwise,
        }
    }

    /// Whether this form exists on `device`.
    ///
    /// # Errors
    ///
    /// [`FormError::NotFused`] if this is [`Form::Fused`] and the device has no kernel.
    pub fn check(self, device: &Device) -> Result<(), FormError> {
        match self {
            Form::Fused if plan(device).is_none() => Err(FormError::NotFused {
                device: format!("{device:?}"),
            }),
            _ => Ok(()),
        }
    }
}

/// How the kernel of `device` runs; `None` where it has none.
pub(super) fn plan(device: &Device) -> Option<Plan> {
    let of_64 = |matrix| Plan {
        side: 64,
        matrix,
        delta: true,
    };
    #[cfg(all(test, feature = "cuda"))]
    if crate::gpu::tests::is_here() {
        return Some(of_64(true));
    }
    #[cfg(feature = "cube")]
    if let burn::backend::DispatchDevice::Cube(device) =
        device.clone().without_autodiff().as_dispatch()
    {
        return super::gpu::plan(device);
    }
    on_cpu(device).then(|| of_64(false))
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Form::Recurrent => "recurrent",
            Form::Chunkwise => "chunkwise",
            Form::Fused => "fused",
        })
    }
}

impl FromStr for Form {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Form::Recurrent, Form::Chunkwise, Form::Fused]
            .into_iter()
            .find(|form| form.to_string() == name)
            .ok_or_else(|| format!("unknown form `{name}`: recurrent, chunkwise or fused"))
    }
}

/// Positions in a chunk for a call of these sizes.
///
/// Work inside a chunk grows with `C` and with `S` (the masks), the loop over chunks shrinks with
/// it. Measured on a 2-core CPU, see `LOG.md`.
pub(super) fn chunk_size(dims: &Dims) -> usize {
    if dims.s > 1 { 32 } else { 64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_printed() {
        for form in [Form::Recurrent, Form::Chunkwise, Form::Fused] {
            assert_eq!(form.to_string().parse(), Ok(form));
        }
        assert!("quick".parse::<Form>().is_err());
    }

    #[test]
    fn the_kernel_is_chosen_where_it_exists() {
        for device in [Device::flex(), Device::flex().autodiff()] {
            assert_eq!(Form::choose(1, &device), Form::Fused);
            assert_eq!(Form::choose(1000, &device), Form::Fused);
            assert_eq!(Form::Fused.check(&device), Ok(()));
        }
    }

    #[cfg(feature = "ndarray")]
    #[test]
    fn a_missing_kernel_is_an_error_that_says_so() {
        let device = Device::ndarray();
        assert_eq!(Form::choose(1000, &device), Form::Chunkwise);
        let error = Form::Fused.check(&device).unwrap_err();
        assert!(
            error.to_string().contains("`fused` does not exist on"),
            "{error}"
        );
    }

    #[test]
    fn the_error_names_form_device_and_way_out() {
        let error = FormError::NotFused {
            device: "Device<Wgpu>".into(),
        }
        .to_string();
        assert_eq!(
            error,
            "form `fused` does not exist on Device<Wgpu>: recurrent or chunkwise"
        );
    }
}
