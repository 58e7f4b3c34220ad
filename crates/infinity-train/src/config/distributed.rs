//! `[distributed]`: one device or several, and which.
//!
//! ```toml
//! [distributed]
//! strategy = "multi"                # or "ddp"
//! devices = "auto"                  # every device of the kind that run.device names
//! devices = 2                       # the first two of them
//! devices = ["cuda:0", "cuda:2"]    # these; the first is the main device
//! ```
//!
//! Every device takes `training.per_device_train_batch_size` rows of every micro-batch.

use super::validate::refuse;
use super::{ConfigError, RunConfig};
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;

/// `[distributed]`: more than one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DistributedConfig {
    /// How work is shared.
    pub strategy: DistributedStrategy,
    /// Devices that take part, in the order of their ranks; the first is the main device.
    pub devices: DeviceList,
}

/// How devices share the work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DistributedStrategy {
    /// One device.
    #[default]
    Single,
    /// Data parallel on any devices: gradients are averaged on the main device, which alone has an
    /// optimizer and hands out the weights.
    Multi,
    /// Data parallel with an optimizer on every device: gradients are averaged once a step, between
    /// the devices where each is a CUDA device of its own, else on the main device, and weights are
    /// never sent again.
    Ddp,
}

/// Which devices take part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DeviceList {
    /// `run.device` alone, or with another strategy than `single` every device of its kind.
    #[default]
    Auto,
    /// So many of the kind of `run.device`, from number 0 on.
    Count(usize),
    /// These, in words as `run.device` has them. A device may be named several times.
    Words(Vec<String>),
}

impl DistributedConfig {
    /// How many devices take part; 1 under `auto`, until they have been found.
    pub fn ranks(&self) -> usize {
        match (self.strategy, &self.devices) {
            (DistributedStrategy::Single, _) | (_, DeviceList::Auto) => 1,
            (_, DeviceList::Count(count)) => *count,
            (_, DeviceList::Words(words)) => words.len(),
        }
    }
}

impl RunConfig {
    pub(super) fn validate_distributed(&self) -> Result<(), ConfigError> {
        const KEY: &str = "distributed.devices";
        let d = &self.distributed;
        match (d.strategy, &d.devices) {
            (_, DeviceList::Auto) => Ok(()),
            (DistributedStrategy::Single, list) => refuse(
                KEY,
                list,
                "distributed.strategy = \"single\" runs on run.device alone; write \"multi\" or \
                 \"ddp\" for more than one",
            ),
            (_, list) if d.ranks() == 0 => refuse(KEY, list, "must be at least one device"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for DeviceList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceList::Auto => f.write_str("\"auto\""),
            DeviceList::Count(count) => write!(f, "{count}"),
            DeviceList::Words(words) => write!(f, "{words:?}"),
        }
    }
}

impl Serialize for DeviceList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            DeviceList::Auto => serializer.serialize_str("auto"),
            DeviceList::Count(count) => serializer.serialize_u64(*count as u64),
            DeviceList::Words(words) => words.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for DeviceList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DeviceListVisitor)
    }
}

struct DeviceListVisitor;

impl<'de> Visitor<'de> for DeviceListVisitor {
    type Value = DeviceList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "\"auto\", a number of devices, or a list of devices as in [\"cuda:0\", \"cuda:1\"]",
        )
    }

    /// `auto`, or words with commas between them, which is a list on a command line.
    fn visit_str<E: de::Error>(self, text: &str) -> Result<DeviceList, E> {
        if text == "auto" {
            return Ok(DeviceList::Auto);
        }
        let words = text.split(',').map(|word| word.trim().to_owned());
        Ok(DeviceList::Words(words.collect()))
    }

    fn visit_u64<E: de::Error>(self, count: u64) -> Result<DeviceList, E> {
        Ok(DeviceList::Count(count as usize))
    }

    fn visit_i64<E: de::Error>(self, count: i64) -> Result<DeviceList, E> {
        let positive = usize::try_from(count);
        let count = positive.map_err(|_| E::invalid_value(de::Unexpected::Signed(count), &self))?;
        Ok(DeviceList::Count(count))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<DeviceList, A::Error> {
        let mut words = Vec::new();
        while let Some(word) = list.next_element()? {
            words.push(word);
        }
        Ok(DeviceList::Words(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigLayers;

    fn read(assignments: &[&str]) -> Result<RunConfig, String> {
        let mut layers = ConfigLayers::new();
        for assignment in assignments {
            layers = layers.set(assignment).map_err(|error| error.to_string())?;
        }
        let loaded = layers.resolve().map_err(|error| error.to_string())?;
        Ok(loaded.config)
    }

    #[test]
    fn a_list_is_read_from_everything_that_can_mean_one() {
        let multi = "distributed.strategy=multi";
        for (given, list, ranks) in [
            ("auto", DeviceList::Auto, 1),
            ("3", DeviceList::Count(3), 3),
            ("cuda:1", DeviceList::Words(vec!["cuda:1".to_owned()]), 1),
            (
                "flex, flex",
                DeviceList::Words(vec!["flex".to_owned(); 2]),
                2,
            ),
            (
                "[\"flex\",\"flex\"]",
                DeviceList::Words(vec!["flex".to_owned(); 2]),
                2,
            ),
        ] {
            let config = read(&[multi, &format!("distributed.devices={given}")]).unwrap();
            assert_eq!(config.distributed.devices, list, "{given}");
            assert_eq!(config.distributed.ranks(), ranks, "{given}");
            assert_eq!(RunConfig::from_toml(&config.to_toml()).unwrap(), config);
        }
        let config = read(&[multi, "distributed.devices=3"]).unwrap();
        assert_eq!(
            (config.rows(), config.tokens_per_step()),
            (24, 3 * 8 * 1024)
        );
    }

    #[test]
    fn what_cannot_be_names_key_value_and_limit() {
        let multi = "distributed.strategy=multi";
        for (assignments, words) in [
            (
                &["distributed.devices=2"][..],
                "`distributed.devices` is 2, but",
            ),
            (&["distributed.devices=[\"flex\"]"], "is [\"flex\"], but"),
            (
                &[multi, "distributed.devices=0"],
                "is 0, but must be at least one",
            ),
            (
                &[multi, "distributed.devices=[]"],
                "is [], but must be at least one",
            ),
            (
                &["distributed.strategy=ddp", "distributed.devices=0"],
                "is 0, but must be at least one",
            ),
            (&["distributed.strategy=both"], "distributed.strategy"),
        ] {
            let message = read(assignments).unwrap_err();
            assert!(message.contains(words), "{assignments:?}: {message}");
        }
        for wrong in ["-1", "true", "[2]"] {
            let text = format!("[distributed]\nstrategy = \"multi\"\ndevices = {wrong}\n");
            let message = RunConfig::from_toml(&text).unwrap_err().to_string();
            assert!(
                message.contains("text:3: `distributed.devices`"),
                "{message}"
            );
        }
    }
}
