//! The devices of a run: the main one and those beside it.

use crate::config::{DeviceList, DistributedConfig, DistributedStrategy, GradientCheckpointing};
use crate::error::TrainError;
use burn::tensor::Device;
use infinity_model::{Formats, Precision, PrecisionError};

/// The main device, whose model and optimizer are the run's, and those that compute beside it.
#[derive(Clone, Debug)]
pub struct Devices(Vec<Device>);

impl From<Device> for Devices {
    fn from(main: Device) -> Self {
        Devices::new(main, Vec::new())
    }
}

impl Devices {
    /// `main` is rank 0, `others` are the ranks after it. A device that occurs twice is two ranks.
    pub fn new(main: Device, others: Vec<Device>) -> Self {
        Devices([vec![main], others].concat())
    }

    /// The device of rank 0.
    pub fn main(&self) -> &Device {
        &self.0[0]
    }

    /// How many ranks there are.
    pub fn ranks(&self) -> usize {
        self.0.len()
    }

    /// The devices, rank by rank.
    pub fn iter(&self) -> impl Iterator<Item = &Device> {
        self.0.iter()
    }

    /// Checks that every device can hold parameters of `precision`.
    pub(crate) fn check(&self, precision: Precision) -> Result<(), PrecisionError> {
        let mut all = self.iter();
        all.try_for_each(|device| Formats::new(precision, device).check(device))
    }

    /// The devices with autodiff, and with what they recompute by themselves.
    pub(crate) fn with_autodiff(&self, recomputed: GradientCheckpointing) -> Vec<Device> {
        let devices = self.iter().map(|device| device.clone().autodiff());
        match recomputed {
            GradientCheckpointing::Ops => devices.map(Device::gradient_checkpointing).collect(),
            _ => devices.collect(),
        }
    }

    /// Writes into `config` how many there are where it leaves that to be found out; refuses another number.
    pub(crate) fn settle(&self, config: &mut DistributedConfig) -> Result<(), TrainError> {
        let several = config.strategy != DistributedStrategy::Single;
        if several && config.devices == DeviceList::Auto {
            config.devices = DeviceList::Count(self.ranks());
        }
        let (asked, given) = (config.ranks(), self.ranks());
        if asked == given {
            return Ok(());
        }
        Err(TrainError::Failed(format!(
            "`distributed.devices` asks for {asked} devices, and the run was given {given}"
        )))
    }
}
