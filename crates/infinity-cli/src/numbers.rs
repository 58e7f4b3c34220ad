//! Whole numbers of flags: read here, so that a wrong one, a negative one too, is answered with its
//! limits. Flags that set a key of the configuration leave that to the key.

use std::ops::RangeInclusive;

/// A reader of whole numbers within `limits`, for Clap.
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
}
