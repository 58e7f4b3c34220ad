//! Stop strings in a stream: text is given on only when it can no longer be part of one.

/// Looks for stop strings in text that comes in pieces.
#[derive(Clone, Debug)]
pub(super) struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

/// What a piece of text led to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Matched {
    /// Text that is safe to give on; possibly empty.
    pub(super) text: String,
    /// Whether a stop string follows it.
    pub(super) stopped: bool,
}

impl StopMatcher {
    pub(super) fn new(stops: &[String]) -> Self {
        Self {
            stops: stops.to_vec(),
            held: String::new(),
        }
    }

    /// Takes the next piece.
    pub(super) fn push(&mut self, piece: &str) -> Matched {
        self.held.push_str(piece);
        let first = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min();
        if let Some(at) = first {
            let mut text = std::mem::take(&mut self.held);
            text.truncate(at);
            return Matched {
                text,
                stopped: true,
            };
        }
        let keep = self.longest_beginning();
        let rest = self.held.split_off(self.held.len() - keep);
        Matched {
            text: std::mem::replace(&mut self.held, rest),
            stopped: false,
        }
    }

    /// Ends the text: what was held back belongs to it after all.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes of the longest end of the held text that begins a stop string.
    fn longest_beginning(&self) -> usize {
        let ends = self.held.char_indices().map(|(at, _)| &self.held[at..]);
        ends.filter(|end| self.stops.iter().any(|stop| stop.starts_with(end)))
            .map(str::len)
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|&stop| stop.into()).collect();
        let mut matcher = StopMatcher::new(&stops);
        let mut given = Vec::new();
        for piece in pieces {
            let Matched { text, stopped } = matcher.push(piece);
            given.push(text);
            if stopped {
                return (given, true);
            }
        }
        given.push(matcher.finish());
        (given, false)
    }

    #[test]
    fn a_stop_string_across_pieces_is_never_given_in_part() {
        let (given, stopped) = run(&["\nUser:"], &["Hi", "\n", "Us", "er", ": more"]);
        assert!(stopped);
        assert_eq!(given, ["Hi", "", "", "", ""]);
    }

    #[test]
    fn what_only_began_like_one_is_given_later() {
        let (given, stopped) = run(&["abcd"], &["xab", "c", "e", "ab"]);
        assert!(!stopped);
        assert_eq!(given, ["x", "", "abce", "", "ab"]);
        let (given, stopped) = run(&["aab"], &["a", "a", "a", "b"]);
        assert!(stopped);
        assert_eq!(
            given,
            ["", "", "a", ""],
            "the end of the held text begins it anew"
        );
    }

    #[test]
    fn the_earliest_of_several_stops() {
        let (given, stopped) = run(&["zzz", "lo", "llo w"], &["hello world"]);
        assert!(stopped);
        assert_eq!(given, ["he"]);
    }

    #[test]
    fn characters_of_many_bytes_are_not_cut() {
        let (given, stopped) = run(&["é中"], &["aé", "b", "é", "中x"]);
        assert!(stopped);
        assert_eq!(given, ["a", "éb", "", ""]);
    }

    proptest! {
        #[test]
        fn pieces_give_what_the_whole_text_gives(
            pieces in proptest::collection::vec("[ab]{0,3}", 0..12),
            stop in "[ab]{1,4}",
        ) {
            let whole = pieces.concat();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (given, stopped) = run(&[&stop], &pieces);
            let expected = whole.find(&stop).map_or(whole.as_str(), |at| &whole[..at]);
            prop_assert_eq!(given.concat(), expected);
            prop_assert_eq!(stopped, whole.contains(&stop));
        }
    }
}
