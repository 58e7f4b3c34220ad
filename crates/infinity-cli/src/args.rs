//! What the verbs' flags share: the global ones, whole numbers, and the original project's spellings.
//!
//! Flags are written with hyphens. Every flag also takes its spelling with underscores, so that a
//! command line of the original project works as it is; [`with_underscores`] adds those in one place.

use std::ops::RangeInclusive;

use clap::{Args, ColorChoice, Command};

/// Flags of every verb.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// Device: auto, flex, cpu, ndarray, wgpu[:i], vulkan[:i], metal[:i], cuda[:i], rocm[:i]
    /// [env: INFINITY_DEVICE, then BURN_DEVICE]
    #[arg(long, global = true, value_name = "DEVICE", help_heading = GLOBAL)]
    pub(crate) device: Option<String>,
    /// Threads on the CPU (default: all cores)
    #[arg(long, global = true, value_name = "N", help_heading = GLOBAL)]
    #[arg(value_parser = whole::<u16>(1..=u64::from(u16::MAX)))]
    pub(crate) threads: Option<u16>,
    /// Seed of everything random
    #[arg(long, global = true, value_name = "N", help_heading = GLOBAL)]
    #[arg(value_parser = whole::<u64>(0..=i64::MAX as u64))]
    pub(crate) seed: Option<u64>,
    /// How progress is shown: auto, plain, tui, json, none
    #[arg(long, global = true, value_name = "HOW", help_heading = GLOBAL)]
    pub(crate) progress: Option<String>,
    /// Say more: twice for the panic messages of libraries too
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = GLOBAL)]
    pub(crate) verbose: u8,
    /// Say less: results and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = GLOBAL)]
    pub(crate) quiet: bool,
    /// Colours in messages
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", help_heading = GLOBAL)]
    pub(crate) color: ColorChoice,
}

/// Title of the global flags in the help.
const GLOBAL: &str = "Global options";

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
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1 << 10),
        None => text
            .strip_suffix('M')
            .map_or((text, 1), |digits| (digits, 1 << 20)),
    };
    let tokens = digits
        .parse::<usize>()
        .ok()
        .and_then(|n| n.checked_mul(unit));
    let tokens = tokens.filter(|tokens| *tokens > 0);
    tokens.ok_or_else(|| "it must be a number of tokens above 0, like 4096, 4k or 1M".to_owned())
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
