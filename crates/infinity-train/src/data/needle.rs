//! Sentences with a number, hidden in a text and asked for again.
//!
//! What `infinity eval --task needle` measures can be learned so: a text says "The secret number of the
//! green mill is 47." somewhere, and says it again further on, where the number can only be remembered.
//! Windows that follow each other share numbers for 1 to 32 windows, at whose start the memory is empty; a window
//! alone has its own. Which sentences and places is a pure function of seed, row and the window's number in its row.
//! The sentence that an evaluation asks for is not among them.

use super::error::{DataError, bad};
use super::random::{Chance, below, mix};
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
/// How many numbers a window alone may hold, each as likely as another.
const FACTS: [usize; 7] = [1, 1, 1, 2, 2, 3, 4];
/// How often each is asked for, as far as half of the window has room: seldom is what is to be learned, often is
/// what it is learned by.
const ASKED: [usize; 5] = [2, 4, 8, 16, 32];
/// The places of a number are drawn from the whole of the text, or from a stretch that is half of it, a quarter or an
/// eighth, so many kinds, each as likely as another: what is asked for soon is learned first.
const STRETCHES: usize = 4;
/// Windows that share numbers: a power of two, each up to this one as likely as another.
const SHARING: usize = 5;
/// Parts of a window that distances are counted in.
const TICKS: usize = 1024;
/// The least distance between two mentions of a number, in ticks. From there each doubling up to all the windows
/// that share it is as likely as another.
const NEAR: usize = 16;
/// Sentences a window, about, each as likely as another.
const OFTEN: [usize; 4] = [4, 8, 16, 24];
/// Numbers that windows may share at most.
const MOST: usize = 64;
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

/// Question and value.
type Sentence<'a> = [&'a [i32]; 2];

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

    /// Which of the windows that share numbers window `place` of a stream is, and how many they are.
    pub(super) fn sharing(seed: u64, place: u64, row: u64) -> (usize, usize) {
        let key = mix(&[HIDE, seed, place >> SHARING, row]);
        let windows = 1 << below(key, SHARING as u64 + 1);
        ((place % windows) as usize, windows as usize)
    }

    /// Hides sentences in the window that `key` names, if it is one of those: of numbers that it has alone, or that it
    /// shares with the windows of the same key, as which of how many. What is pushed out at its end is lost.
    pub(super) fn hide(
        &self,
        window: &mut Vec<i32>,
        key: [u64; 3],
        shared: Option<(usize, usize)>,
    ) {
        let chance = &mut Chance::new(mix(&[HIDE, key[0], key[1], key[2]]));
        if chance.below(1 << 30) as f64 >= self.fraction * f64::from(1 << 30) {
            return;
        }
        let mut said = match shared {
            None => self.alone(window.len(), chance),
            Some(shared) => self.shared(window.len(), shared, chance),
        };
        said.sort_by_key(|(at, _)| *at);
        let mut text = Vec::with_capacity(window.len());
        let mut from = 0;
        for (at, sentence) in said {
            text.extend_from_slice(&window[from..at]);
            text.extend(sentence.concat());
            from = at;
        }
        let rest = window.len() - text.len();
        text.extend_from_slice(&window[from..from + rest]);
        *window = text;
    }

    /// Sentences for different places, each with a number that is drawn for it.
    fn sentences<'a>(
        &'a self,
        chance: &mut Chance,
    ) -> impl Fn(usize, &mut Chance) -> Sentence<'a> + use<'a> {
        // As many places as a prime number: steps of any width give different ones.
        let count = self.questions.len();
        let (first, width) = (chance.below(count), 1 + chance.below(count - 1));
        move |fact: usize, chance: &mut Chance| {
            let question = &self.questions[(first + fact * width) % count];
            [question, &self.values[chance.below(self.values.len())]]
        }
    }

    /// Sentences of a window alone, and their places in what is left of the text; none where two have no room.
    fn alone(&self, len: usize, chance: &mut Chance) -> Vec<(usize, Sentence<'_>)> {
        let facts = chance.of(&FACTS);
        let sentence = self.sentences(chance);
        let (mut said, mut room) = (Vec::new(), len / 2);
        for fact in 0..facts {
            let sentence = sentence(fact, chance);
            let len = sentence.concat().len();
            let times = (1 + chance.of(&ASKED)).min(room / len / (facts - fact));
            if times < 2 {
                break;
            }
            room -= times * len;
            said.extend((0..times).map(|_| (fact, sentence)));
        }
        let hay = len - (len / 2 - room);
        let stretches: Vec<(usize, usize)> = (0..facts)
            .map(|_| {
                let width = hay >> chance.below(STRETCHES);
                (chance.below(hay - width + 1), width)
            })
            .collect();
        let places = said.into_iter().map(|(fact, sentence)| {
            let (start, width) = stretches[fact];
            (start + chance.below(width + 1), sentence)
        });
        places.collect()
    }

    /// Sentences of window `index` of `windows` that share their numbers, and their places in what is left of the text;
    /// not those that would fill more than half of it.
    fn shared(
        &self,
        len: usize,
        (index, windows): (usize, usize),
        chance: &mut Chance,
    ) -> Vec<(usize, Sentence<'_>)> {
        let doublings = (windows * TICKS / NEAR).ilog2() as usize;
        // As many numbers as it takes to be asked so often: distances are one and a half times a power of two.
        let distance = NEAR * 3 / 2 * ((1 << doublings) - 1) / doublings;
        let facts = (chance.of(&OFTEN) * distance / TICKS).clamp(1, MOST);
        let sentence = self.sentences(chance);
        let (mut said, mut room) = (Vec::new(), len / 2);
        for fact in 0..facts {
            let sentence = sentence(fact, chance);
            let len = sentence.concat().len();
            let mut at = chance.below(windows * TICKS);
            while at < windows * TICKS {
                if at / TICKS == index && len <= room {
                    room -= len;
                    said.push((at % TICKS, sentence));
                }
                let least = NEAR << chance.below(doublings);
                at += least + chance.below(least);
            }
        }
        let hay = len - (len / 2 - room);
        said.iter_mut().for_each(|(at, _)| *at = *at * hay / TICKS);
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn hidden(fraction: f64, len: usize, step: u64, shared: Option<(usize, usize)>) -> String {
        let tokenizer = Tokenizer::bytes();
        let needles = Needles::new(&tokenizer, fraction).unwrap().unwrap();
        let mut window = vec![i32::from(b'x'); len];
        needles.hide(&mut window, [1, step, 0], shared);
        assert_eq!(window.len(), len);
        let ids: Vec<u32> = window.iter().map(|id| *id as u32).collect();
        tokenizer.decode(&ids).unwrap()
    }

    /// Where each place is said and what its number is there.
    fn numbers(text: &str) -> BTreeMap<&str, Vec<(usize, &str)>> {
        let mut numbers: BTreeMap<&str, Vec<(usize, &str)>> = BTreeMap::new();
        for (at, sentence) in text.match_indices("\nThe secret number of the ") {
            let said = &text[at + sentence.len()..];
            let (place, value) = said.split_once(" is ").unwrap();
            assert_eq!(&value[2..4], ".\n");
            assert_ne!(place, "old house");
            numbers.entry(place).or_default().push((at, &value[..2]));
        }
        numbers
    }

    fn each_has_one(numbers: &BTreeMap<&str, Vec<(usize, &str)>>) -> bool {
        let same = |said: &Vec<(usize, &str)>| said.iter().all(|(_, value)| *value == said[0].1);
        numbers.values().all(same)
    }

    #[test]
    fn windows_say_their_numbers_again_near_and_far_and_each_has_one() {
        const LEN: usize = 3000;
        for windows in [1, 4, 32] {
            let (mut near, mut far, mut sentences, mut all) = (0, 0, 0, String::new());
            for step in 0..20 {
                let text = |step| -> String {
                    let all =
                        (0..windows).map(|index| hidden(1.0, LEN, step, Some((index, windows))));
                    all.collect()
                };
                let one = text(step);
                assert_eq!(one, text(step));
                assert!(each_has_one(&numbers(&one)));
                all += &one;
                for said in numbers(&one).values() {
                    sentences += said.len();
                    for pair in said.windows(2) {
                        let distance = pair[1].0 - pair[0].0;
                        near += usize::from(distance < LEN / 4);
                        far += usize::from(distance > windows * LEN / 4);
                    }
                }
            }
            assert!(
                windows == 1 || !each_has_one(&numbers(&all)),
                "others differ"
            );
            let (again, often) = (near + far, sentences as f64 / (20 * windows) as f64);
            assert!(near > 10 && far > 10 && again > 40, "{near} {far} {again}");
            assert!((4.0..24.0).contains(&often), "{often}");
        }
    }

    #[test]
    fn streams_share_in_every_width_and_windows_stand_in_order() {
        let mut widths = BTreeMap::new();
        let mut before = (0, 1);
        for place in 0..3200 {
            let (index, windows) = Needles::sharing(1, place, 2);
            let goes_on = before.0 + 1 < before.1;
            let next = if goes_on { before.0 + 1 } else { 0 };
            assert!(place == 0 || index == next, "{place}");
            *widths.entry(windows).or_insert(0) += 1;
            before = (index, windows);
        }
        assert_eq!(
            widths.keys().copied().collect::<Vec<_>>(),
            [1, 2, 4, 8, 16, 32]
        );
        assert!(widths.values().all(|count| *count >= 160), "{widths:?}");
    }

    #[test]
    fn a_part_of_the_windows_has_some_and_short_ones_have_none() {
        let with = |fraction| {
            (0..400)
                .filter(|n| hidden(fraction, 900, *n, None).contains("secret"))
                .count()
        };
        assert!((150..250).contains(&with(0.5)), "{}", with(0.5));
        assert_eq!(hidden(1.0, 60, 3, None), "x".repeat(60));
        assert!(Needles::new(&Tokenizer::bytes(), 0.0).unwrap().is_none());
    }

    #[test]
    fn a_tokenizer_that_cannot_write_them_is_refused() {
        let letters = Tokenizer::chars("abc".chars());
        let error = Needles::new(&letters, 0.5).unwrap_err().to_string();
        assert!(error.contains("data.needle_fraction"), "{error}");
    }
}
