//! Sentences with a number, hidden in the windows of a text and asked for again.
//!
//! What `infinity eval --task needle` measures can be learned so: a window says "The secret number of the
//! green mill is 47." somewhere, and says it again further on, where the number can only be remembered.
//! Numbers are drawn anew for every window, and which windows, sentences and places is a pure function of
//! seed, step and row. The sentence that an evaluation asks for is not among them.

use super::error::{DataError, bad};
use super::random::{below, mix};
use infinity_model::Tokenizer;
use std::sync::Arc;

const ADJECTIVES: [&str; 21] = [
    "old", "new", "red", "green", "white", "black", "small", "great", "quiet", "dark", "bright",
    "broken", "lonely", "ancient", "northern", "southern", "eastern", "empty", "hidden", "golden",
    "iron",
];
const NOUNS: [&str; 20] = [
    "house", "garden", "tower", "mill", "church", "bridge", "ship", "school", "castle", "farm",
    "inn", "library", "harbour", "stable", "cellar", "gate", "forest", "river", "clock", "market",
];
/// Values that a needle may have.
pub(crate) const CANDIDATES: usize = 100;
/// How many numbers a window may hold, each as likely as another.
const FACTS: [usize; 7] = [1, 1, 1, 2, 2, 3, 4];
/// How often each is asked for, as far as half of the window has room: seldom is what is to be learned, often is
/// what it is learned by.
const ASKED: [usize; 5] = [2, 4, 8, 16, 32];
/// The places of a number are drawn from the whole of the text, or from a stretch that is half of it, a quarter or an
/// eighth, so many kinds, each as likely as another: what is asked for soon is learned first.
const STRETCHES: usize = 4;
/// Keeps these draws apart from those of windows.
const HIDE: u64 = 0x4ee_d1e5;

/// The sentence before the value.
pub(crate) fn question(place: &str) -> String {
    format!("\nThe secret number of the {place} is")
}

/// The ids of `text`, if `tokenizer` can write it.
pub(crate) fn encoded(tokenizer: &Tokenizer, text: &str) -> Option<Vec<i32>> {
    let ids = tokenizer.encode(text).ok()?;
    let same = tokenizer.decode(&ids).is_ok_and(|back| back == text);
    (same && !ids.is_empty()).then(|| ids.into_iter().map(|id| id as i32).collect())
}

/// The [`CANDIDATES`]: two digits, or two letters where `tokenizer` has no digits.
pub(crate) fn values(tokenizer: &Tokenizer) -> Option<Vec<Vec<i32>>> {
    let of = |letters: &str| -> Option<Vec<Vec<i32>>> {
        let pairs = letters
            .chars()
            .flat_map(|a| letters.chars().map(move |b| (a, b)));
        pairs
            .map(|(a, b)| encoded(tokenizer, &format!(" {a}{b}.\n")))
            .collect()
    };
    of("0123456789").or_else(|| of("etaoinsrhd"))
}

/// What is hidden in windows, and in what part of them.
#[derive(Clone, Debug)]
pub struct Needles {
    fraction: f64,
    questions: Arc<[Vec<i32>]>,
    values: Arc<[Vec<i32>]>,
}

impl Needles {
    /// Needles for `fraction` of the windows; none for 0.
    ///
    /// # Errors
    /// The tokenizer cannot write the sentences.
    pub fn new(tokenizer: &Tokenizer, fraction: f64) -> Result<Option<Self>, DataError> {
        if fraction == 0.0 {
            return Ok(None);
        }
        let places = ADJECTIVES
            .iter()
            .flat_map(|a| NOUNS.iter().map(move |n| format!("{a} {n}")));
        // The first one is what is asked for in an evaluation.
        let questions = places
            .skip(1)
            .map(|place| encoded(tokenizer, &question(&place)));
        let (questions, values) = (questions.collect::<Option<Vec<_>>>(), values(tokenizer));
        let (Some(questions), Some(values)) = (questions, values) else {
            let reason =
                "the tokenizer cannot write the sentences that would be hidden; use another one";
            return bad("data.needle_fraction", fraction, reason);
        };
        Ok(Some(Needles {
            fraction,
            questions: questions.into(),
            values: values.into(),
        }))
    }

    /// Hides sentences in the window that `key` names, if it is one of those. What is pushed out at its end is
    /// lost; a window that is too short for two sentences stays as it is.
    pub(super) fn hide(&self, window: &mut Vec<i32>, key: [u64; 3]) {
        let key = mix(&[HIDE, key[0], key[1], key[2]]);
        let mut drawn = 0;
        let mut draw = |n: usize| {
            drawn += 1;
            below(mix(&[key, drawn]), n as u64) as usize
        };
        if draw(1 << 30) as f64 >= self.fraction * f64::from(1 << 30) {
            return;
        }
        let facts = FACTS[draw(FACTS.len())];
        // As many places as a prime number: steps of any width give different ones.
        let (first, width) = (
            draw(self.questions.len()),
            1 + draw(self.questions.len() - 1),
        );
        let (mut said, mut room) = (Vec::new(), window.len() / 2);
        for fact in 0..facts {
            let question = &self.questions[(first + fact * width) % self.questions.len()];
            let value = &self.values[draw(self.values.len())];
            let len = question.len() + value.len();
            let times = (1 + ASKED[draw(ASKED.len())]).min(room / len / (facts - fact));
            if times < 2 {
                break;
            }
            room -= times * len;
            said.extend((0..times).map(|_| (question, value, len, fact)));
        }
        let hay = window.len() - said.iter().map(|(_, _, len, _)| len).sum::<usize>();
        let stretches: Vec<(usize, usize)> = (0..facts)
            .map(|_| {
                let width = hay >> draw(STRETCHES);
                (draw(hay - width + 1), width)
            })
            .collect();
        let mut place = |fact: usize| {
            let (start, width) = stretches[fact];
            start + draw(width + 1)
        };
        let places = said.iter().enumerate().map(|(i, said)| (place(said.3), i));
        let mut places: Vec<(usize, usize)> = places.collect();
        places.sort_unstable();
        let mut text = Vec::with_capacity(window.len());
        let mut from = 0;
        for (at, i) in places {
            let (question, value, ..) = said[i];
            text.extend_from_slice(&window[from..at]);
            text.extend(question.iter().chain(value));
            from = at;
        }
        text.extend_from_slice(&window[from..hay]);
        *window = text;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn hidden(fraction: f64, len: usize, step: u64) -> String {
        let tokenizer = Tokenizer::bytes();
        let needles = Needles::new(&tokenizer, fraction).unwrap().unwrap();
        let mut window = vec![i32::from(b'x'); len];
        needles.hide(&mut window, [1, step, 0]);
        assert_eq!(window.len(), len);
        let ids: Vec<u32> = window.iter().map(|id| *id as u32).collect();
        tokenizer.decode(&ids).unwrap()
    }

    #[test]
    fn a_window_says_its_numbers_again_and_each_has_one() {
        let (mut kinds, mut near, mut far) = ([0; 5], 0, 0);
        for step in 0..200 {
            let text = hidden(1.0, 1500, step);
            assert_eq!(text, hidden(1.0, 1500, step));
            let mut numbers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for said in text.split("\nThe secret number of the ").skip(1) {
                let (place, value) = said.split_once(" is ").unwrap();
                assert_eq!(&value[2..4], ".\n");
                numbers.entry(place).or_default().push(&value[..2]);
            }
            for (place, values) in &numbers {
                assert_ne!(*place, "old house");
                assert!((2..=33).contains(&values.len()), "{values:?}");
                assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
            }
            kinds[numbers.len()] += 1;
            if numbers.len() == 1 {
                let sentence = "\nThe secret number of the ";
                let between = text.rfind(sentence).unwrap() - text.find(sentence).unwrap();
                near += usize::from(between < 300);
                far += usize::from(between > 900);
            }
        }
        assert!(near > 10 && far > 10, "{near} {far}");
        assert!(
            kinds[0] == 0 && kinds[1..].iter().all(|n| *n > 5),
            "{kinds:?}"
        );
    }

    #[test]
    fn a_part_of_the_windows_has_some_and_short_ones_have_none() {
        let with = |fraction| {
            (0..400)
                .filter(|n| hidden(fraction, 900, *n).contains("secret"))
                .count()
        };
        assert!((150..250).contains(&with(0.5)), "{}", with(0.5));
        assert_eq!(hidden(1.0, 60, 3), "x".repeat(60));
        assert!(Needles::new(&Tokenizer::bytes(), 0.0).unwrap().is_none());
    }

    #[test]
    fn a_tokenizer_that_cannot_write_them_is_refused() {
        let letters = Tokenizer::chars("abc".chars());
        let error = Needles::new(&letters, 0.5).unwrap_err().to_string();
        assert!(error.contains("data.needle_fraction"), "{error}");
    }
}
