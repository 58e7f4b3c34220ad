//! What the verbs' flags share: the global ones, whole numbers, and the original project's spellings.
//!
//! Flags are written with hyphens. Every flag also takes its spelling with underscores, so that a
//! command line of the original project works as it is; [`with_underscores`] adds those in one place.

use std::ffi::OsString;
use std::ops::RangeInclusive;

use clap::{Args, ColorChoice, Command};
use infinity_model::InfinityModel;
use infinity_model::compression::{Compression, Width};

use crate::terminal::{errors, refuse};

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Device: auto, flex, cpu, ndarray, wgpu[:i], vulkan[:i], metal[:i], cuda[:i], rocm[:i]
    /// [env: INFINITY_DEVICE, then BURN_DEVICE]
    #[arg(long, global = true, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// Threads on the CPU (default: all cores)
    #[arg(long, global = true, value_name = "N", value_parser = whole::<u16>(1..=u64::from(u16::MAX)))]
    pub(crate) threads: Option<u16>,
    /// Seed of everything random
    #[arg(long, global = true, value_name = "N", value_parser = whole::<u64>(0..=i64::MAX as u64))]
    pub(crate) seed: Option<u64>,
    /// How progress is shown: auto, plain, tui, json, none
    #[arg(long, global = true, value_name = "HOW")]
    pub(crate) progress: Option<String>,
    /// Say more: twice for the panic messages of libraries too
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Say less: results and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Colours in messages
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorChoice,
}

#[derive(Debug, Args)]
pub(crate) struct JsonArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Whether the memory is compressed while a text is read, for verbs that read one.
#[derive(Debug, Default, Args)]
pub(crate) struct MemoryFlags {
    /// Compress the memory while reading: 8 or 4 bits a number, bf16, or off (default: as config.json
    /// says)
    #[arg(long, value_name = "BITS", value_parser = width)]
    memory_compression: Option<Wanted>,
    /// Tokens between two compressions of a row, a multiple of 64 (default: as config.json says, or
    /// 128)
    #[arg(long, value_name = "N", value_parser = count)]
    memory_compression_frequency: Option<usize>,
}

/// A width, or off. By another name, for an option in an option is to Clap a flag without a value.
type Wanted = Option<Width>;

fn width(text: &str) -> Result<Wanted, String> {
    let width = (text != "off").then(|| text.parse()).transpose();
    width.map_err(|_| "it must be 8, 4 or bf16, or off".to_owned())
}

impl MemoryFlags {
    /// `model` with its memory compressed as the flags say.
    pub(crate) fn on(&self, model: InfinityModel) -> anyhow::Result<InfinityModel> {
        let config = model.config();
        let own = config.compression().map(|own| own.width);
        let width = self.memory_compression.unwrap_or(own);
        let asked = self.memory_compression_frequency;
        let every = asked.unwrap_or(config.memory_compression_frequency);
        if width.is_none() && asked.is_some() {
            refuse!(
                "--memory-compression-frequency: the memory is not compressed; give \
                 --memory-compression 8"
            );
        }
        let compression = width.map(|width| Compression { width, every });
        (model.with_compression(compression)).map_err(|error| errors::usage(error.to_string()))
    }
}

/// An environment variable that has a value.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The environment variables that are text; others cannot be ours.
pub(crate) fn variables() -> impl Iterator<Item = (String, String)> {
    let all = std::env::vars_os();
    all.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// The parser with the underscore spelling of every flag as a hidden alias, and with negative numbers
/// as values.
pub(crate) fn with_underscores(command: Command) -> Command {
    command
        .mut_args(|arg| {
            let spellings: Vec<&'static str> = arg
                .get_long()
                .into_iter()
                .chain(arg.get_all_aliases().unwrap_or_default())
                .filter(|name| name.contains('-'))
                // Leaked once per process: Clap wants names that live as long as the program.
                .map(|name| &*name.replace('-', "_").leak())
                .collect();
            // A negative number must reach the message that knows the limits.
            let takes_value = arg.get_action().takes_values();
            arg.aliases(spellings).allow_negative_numbers(takes_value)
        })
        .mut_subcommands(with_underscores)
}

/// A reader of whole numbers within `limits`, for Clap: a wrong one, a negative one too, is answered
/// with its limits. Flags that set a key of the configuration leave that to the key.
pub(crate) fn whole<T: TryFrom<u64> + 'static>(
    limits: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| {
        let number = text.parse().ok().filter(|number| limits.contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| match (limits.start(), limits.end()) {
            (least, &u64::MAX) => format!("it must be a whole number of at least {least}"),
            (least, most) => format!("it must be a whole number from {least} to {most}"),
        })
    }
}

/// Any number of things.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    whole(0..=u64::MAX)(text)
}

/// `4096`, `4k` or `1M`.
pub(crate) fn length(text: &str) -> Result<usize, String> {
    const UNITS: [(&str, u64); 4] = [("k", 1 << 10), ("K", 1 << 10), ("M", 1 << 20), ("", 1)];
    let tokens = in_units(text, &UNITS).and_then(|tokens| tokens.try_into().ok());
    tokens.ok_or_else(|| "it must be a number of tokens above 0, like 4096, 4k or 1M".to_owned())
}

/// A whole number above 0 with one of `units`, of which the first that fits is taken.
pub(crate) fn in_units(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let mut units = units.iter();
    let (number, unit) = units.find_map(|(unit, n)| Some((text.strip_suffix(unit)?, n)))?;
    let number = number.trim_end().parse::<u64>().ok()?.checked_mul(*unit)?;
    (number > 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_said() {
        assert_eq!(count("0"), Ok(0));
        for wrong in ["-1", "1.5", "many", "99999999999999999999"] {
            assert!(count(wrong).unwrap_err().contains("at least 0"), "{wrong}");
        }
        let threads = whole::<u16>(1..=u64::from(u16::MAX));
        assert_eq!(threads("65535"), Ok(65535));
        for wrong in ["0", "-1", "65536"] {
            assert!(threads(wrong).unwrap_err().contains("from 1 to 65535"));
        }
    }

    #[test]
    fn lengths_have_units() {
        assert_eq!(
            ["4096", "4k", "4K", "1M"].map(|text| length(text).unwrap()),
            [4096, 4096, 4096, 1 << 20]
        );
        for wrong in ["", "k", "0", "-1", "1.5k", "1m", "99999999999999M"] {
            assert!(length(wrong).unwrap_err().contains("4k"), "{wrong}");
        }
    }
}
