//! `distributed.devices`: the devices of a run, which first, and what to call them together.

use infinity_train::Devices;
use infinity_train::config::{DeviceList, DistributedStrategy, RunConfig};

use crate::device::{self, Backend, Chosen, Wanted};
use crate::failure;

const KEY: &str = "distributed.devices";

/// The devices of a run by rank; the first is the main device.
#[derive(Clone, Debug)]
pub(crate) struct Ranks(Vec<Chosen>);

impl Ranks {
    /// Opens what `config` asks for and writes into it what that came to.
    ///
    /// # Errors
    /// As [`device::open`]; more devices than there are; devices of different kinds; a list that
    /// does not begin with the main device.
    pub(crate) fn open(config: &mut RunConfig) -> anyhow::Result<Self> {
        let d = &mut config.distributed;
        let chosen = match (d.strategy, &d.devices) {
            (DistributedStrategy::Single, _) => vec![device::open(&config.run.device)?],
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

    /// The device of rank 0.
    pub(crate) fn main(&self) -> &Chosen {
        &self.0[0]
    }

    /// For training.
    pub(crate) fn devices(&self) -> Devices {
        let others = self.0[1..].iter().map(|one| one.device.clone());
        Devices::new(self.main().device.clone(), others.collect())
    }

    /// For the log: what computes.
    pub(crate) fn describe(&self) -> String {
        let (ranks, main) = (self.0.len(), self.main());
        let names: Vec<&str> = self.0.iter().map(|one| &*one.name).collect();
        match ranks {
            1 => format!("device    {}", main.describe()),
            _ if names.iter().all(|name| *name == main.name) => {
                format!("devices   {ranks} × {}", main.describe())
            }
            _ => format!("devices   {ranks} × {} ({})", kind(main), names.join(", ")),
        }
    }
}

/// The name of a device's backend.
fn kind(chosen: &Chosen) -> &str {
    chosen.name.split(':').next().unwrap_or(&chosen.name)
}

/// The device that `main` names and others of its backend, `count` together or all there are.
fn of_one_kind(main: &str, count: Option<usize>) -> anyhow::Result<Vec<Chosen>> {
    let first = device::open(main)?;
    let name = kind(&first);
    let backend = match device::parse(name)? {
        Wanted::Backend(backend, _) => backend,
        Wanted::Auto | Wanted::Cpu => unreachable!("an open device is called by its backend"),
    };
    let there = if backend.is_cpu() { 1 } else { number(backend) };
    let count = count.unwrap_or(there);
    if count > there {
        let hint = match backend.is_cpu() {
            true => format!(
                "; the processor is one device, which a list may name several times, as in \
                 [\"{name}\", \"{name}\"]"
            ),
            false => String::new(),
        };
        return Err(failure::usage(format!(
            "`{KEY}` is {count}, but `{name}` has {there} here{hint}"
        )));
    }
    if count == 1 {
        return Ok(vec![first]);
    }
    let own: usize = match first.name.split_once(':') {
        Some((_, number)) => number.parse().unwrap_or(0),
        None => 0,
    };
    let numbers = std::iter::once(own).chain((0..there).filter(|number| *number != own));
    numbers
        .take(count)
        .map(|number| device::open(&format!("{name}:{number}")))
        .collect()
}

/// How many devices a backend has that works.
fn number(backend: Backend) -> usize {
    backend.devices().map_or(1, |devices| devices.len())
}

/// The devices that `words` name, if they suit each other and `main`.
fn listed(words: &[String], main: &str) -> anyhow::Result<Vec<Chosen>> {
    let open = |word: &String| {
        device::open(word).map_err(|error| failure::usage(format!("`{KEY}`: {error}")))
    };
    let chosen = words.iter().map(open).collect::<anyhow::Result<Vec<_>>>()?;
    let first = &chosen[0];
    if let Some(other) = chosen.iter().find(|one| kind(one) != kind(first)) {
        return Err(failure::usage(format!(
            "`{KEY}` is {words:?}, but `{}` and `{}` are of different kinds: one run is on one",
            first.name, other.name
        )));
    }
    if device::parse(main)? != Wanted::Auto && device::open(main)?.device != first.device {
        return Err(failure::usage(format!(
            "`{KEY}` is {words:?}, but its first is the main device, and run.device is `{main}`"
        )));
    }
    Ok(chosen)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use infinity_train::config::DistributedConfig;

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

    fn words(words: &[&str]) -> DeviceList {
        DeviceList::Words(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
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
    fn what_is_not_there_is_named() {
        let refused = |device, list| opened(device, list).unwrap_err();
        let message = refused("flex", DeviceList::Count(2));
        assert!(message.contains("is 2, but `flex` has 1 here") && message.contains("[\"flex\""));
        let message = refused("auto", words(&["flex", "gpu"]));
        assert!(
            message.contains("distributed.devices") && message.contains("`gpu`"),
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
