//! Small English stories from a grammar: text that every machine can make, to learn from without any file.
//!
//! A story has people with names, things that keep their colour and place, reasons, talk, and an end.
//! What stands in it is a pure function of (seed, number), so the text is the same everywhere, and a
//! hash of the whole story says whether it is learned from or held out: no story is both.

mod grammar;

use super::random::{Chance, below, mix};
use super::task::Part;
use crate::section::section;
use grammar::{PEOPLE, PLOTS, Person, RULES, TABLES, WORDS};
use infinity_files::Fingerprint;

/// One story in so many is held out.
const HELD_OUT: u64 = 16;
/// Stories beyond which the grammar says nothing new.
pub(super) const MOST_STORIES: u64 = 10_000_000;
/// People of a book.
const CAST: usize = 5;
/// Rules within rules; more would be a circle.
const DEEPEST: usize = 8;

section! {
    /// `[data.stories]`: how much is told, for `data.source` = "stories". A story has about 480 characters.
    #[derive(Copy)]
    StoriesConfig {
        /// Stories to learn from.
        count: u64 = 6000;
        /// Stories that are held out for validation.
        validation: u64 = 300;
        /// Which stories.
        seed: u64 = 1;
    }
}

/// So many stories, none of them in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stories {
    part: Part,
    seed: u64,
    /// How many there are.
    pub(super) count: u64,
}

impl Stories {
    /// The stories to learn from, or those held out, as `data.stories` counts them.
    pub(super) fn new(config: &StoriesConfig, part: Part) -> Self {
        let count = match part {
            Part::Train => config.count,
            Part::HeldOut => config.validation,
        };
        let seed = config.seed;
        Self { part, seed, count }
    }

    /// Story number `n`: some paragraphs, without a line break at the end.
    pub(super) fn story(&self, n: u64) -> String {
        told(PEOPLE, self.part, &[self.seed, self.part as u64, n])
    }

    /// Fingerprint of all of them.
    pub(super) fn fingerprint(&self) -> String {
        let mut hash = Fingerprint::default();
        (0..self.count).for_each(|n| {
            hash.field(self.story(n));
        });
        hash.hex()
    }
}

/// One long text of `stories` held-out stories about the same few people, with blank lines between them:
/// something to read for a model that learned from others. The same seed gives the same book.
pub fn book(seed: u64, stories: u64) -> String {
    let first = below(mix(&[seed, 0xb00c]), (PEOPLE.len() - CAST) as u64) as usize;
    let cast = &PEOPLE[first..first + CAST];
    let stories = (0..stories).map(|n| told(cast, Part::HeldOut, &[seed, 0xb00c, n]));
    stories.collect::<Vec<_>>().join("\n\n") + "\n"
}

/// The first story of these numbers that is on the side of `part`.
fn told(people: &'static [Person], part: Part, numbers: &[u64]) -> String {
    let side = |story: &String| {
        let bytes = story.bytes().map(u64::from);
        let hash = bytes.fold(0x570e1, |hash, byte| mix(&[hash, byte]));
        hash.is_multiple_of(HELD_OUT) == (part == Part::HeldOut)
    };
    (0..u64::MAX)
        .map(|attempt| Teller::new(people, mix(&[mix(numbers), attempt])).tell())
        .find(side)
        .expect("stories of both kinds are found in a few tries")
}

/// One story while it is told: its world, and what chance has decided so far.
struct Teller {
    chance: Chance,
    world: Vec<(&'static str, &'static str)>,
    story: String,
}

impl Teller {
    fn new(people: &'static [Person], key: u64) -> Self {
        let mut chance = Chance::new(key);
        let hero = chance.below(people.len());
        let friend = (hero + 1 + chance.below(people.len() - 1)) % people.len();
        let (name, [he, him, his, child]) = people[hero];
        let mut world = vec![
            ("hero", name),
            ("friend", people[friend].0),
            ("he", he),
            ("him", him),
            ("his", his),
            ("child", child),
        ];
        for (slot, words) in WORDS {
            world.push((*slot, chance.of(words)));
        }
        for (slots, rows) in TABLES {
            let row = chance.of(rows);
            world.extend(slots.iter().copied().zip(row.iter().copied()));
        }
        Self {
            chance,
            world,
            story: String::new(),
        }
    }

    fn tell(mut self) -> String {
        for scene in self.chance.of(PLOTS) {
            self.say(scene, 0);
            // Now and then a paragraph ends.
            if self.chance.below(3) == 0 && self.story.ends_with(' ') {
                self.story.pop();
                self.story.push('\n');
            }
        }
        with_articles(self.story.trim())
    }

    /// Adds what `template` says to the story.
    fn say(&mut self, template: &'static str, depth: usize) {
        assert!(
            depth < DEEPEST,
            "the rules lead in a circle at {template:?}"
        );
        let mut rest = template;
        while let Some(at) = rest.find(['[', '{']) {
            self.story.push_str(&rest[..at]);
            let (ways, behind) = bracket(&rest[at + 1..]);
            match rest.as_bytes()[at] {
                b'[' => {
                    let way = self.chance.of(&ways);
                    self.say(way, depth);
                }
                _ => self.fill(ways[0], depth),
            }
            rest = behind;
        }
        self.story.push_str(rest);
    }

    /// Adds what stands in a slot.
    fn fill(&mut self, slot: &'static str, depth: usize) {
        let plain = slot.to_lowercase();
        let known = |(name, _): &&(&str, &'static str)| *name == plain;
        let start = self.story.len();
        if let Some(&(_, rule)) = RULES.iter().find(known) {
            self.say(rule, depth + 1);
        } else {
            let word = self.world.iter().find(known);
            let (_, word) = word.unwrap_or_else(|| panic!("no word for {{{slot}}}"));
            self.story.push_str(word);
        }
        if plain != slot && self.story.len() > start {
            self.story[start..=start].make_ascii_uppercase();
        }
    }
}

/// The parts between the bars of a bracket that was opened before `text`, and what stands behind its end.
fn bracket(text: &'static str) -> (Vec<&'static str>, &'static str) {
    let (mut open, mut start, mut parts) = (0, 0, Vec::new());
    for (at, byte) in text.bytes().enumerate() {
        if open == 0 && matches!(byte, b'|' | b']' | b'}') {
            parts.push(&text[start..at]);
            start = at + 1;
        }
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' if open == 0 => return (parts, &text[start..]),
            b']' | b'}' => open -= 1,
            _ => {}
        }
    }
    panic!("a bracket is not closed in {text:?}")
}

/// `text` with *an* for *a* before a vowel.
fn with_articles(text: &str) -> String {
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    for i in 1..words.len() {
        let vowel = words[i].starts_with(['a', 'e', 'i', 'o', 'u']);
        let article = words[i - 1].rsplit(['"', '\n']).next();
        if vowel && article.is_some_and(|article| ["a", "A"].contains(&article)) {
            words[i - 1].push('n');
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataConfig;
    use crate::data::{DataSource, TokenizerConfig, prepare};
    use std::collections::HashSet;

    fn stories(part: Part, seed: u64) -> Stories {
        let config = StoriesConfig {
            count: 2000,
            validation: 200,
            seed,
        };
        Stories::new(&config, part)
    }

    /// What is wrong with a story, if anything.
    fn fault(story: &str) -> Option<String> {
        let wrong = [
            "[", "]", "{", "}", "|", "  ", " a a", " a o", " .", " ,", "..", "\n\n", "\n ",
        ];
        let wrong = wrong.iter().find(|wrong| story.contains(**wrong));
        let ends = story.ends_with(['.', '!', '"']);
        let quotes = story.matches('"').count().is_multiple_of(2);
        let small = story
            .match_indices(['.', '!', '?'])
            .filter_map(|(at, _)| {
                story[at + 1..]
                    .trim_start_matches([' ', '\n'])
                    .chars()
                    .next()
            })
            .filter(|c| story.len() > 1 && c.is_lowercase())
            .count();
        match (wrong, ends && quotes && small == 0) {
            (Some(wrong), _) => Some(format!("{wrong:?} in {story}")),
            (None, false) => Some(format!("no sentences: {story}")),
            _ => None,
        }
    }

    #[test]
    fn every_story_is_made_of_sentences() {
        let stories = stories(Part::Train, 3);
        let mut plots = HashSet::new();
        for n in 0..stories.count {
            let story = stories.story(n);
            assert_eq!(fault(&story), None, "story {n}");
            assert!((150..2500).contains(&story.len()), "{story}");
            plots.insert(story.split([' ', '\n']).next_back().map(str::to_owned));
        }
        assert!(plots.len() > 10, "{plots:?}");
        for broken in ["He saw a owl.", "He [sat.", "He sat. he ran.", "\"He sat."] {
            assert!(fault(broken).is_some(), "{broken}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_stories_and_another_gives_others() {
        let all = |seed, part| {
            let stories = stories(part, seed);
            (0..200).map(|n| stories.story(n)).collect::<Vec<_>>()
        };
        assert_eq!(all(1, Part::Train), all(1, Part::Train));
        let learned: HashSet<_> = all(1, Part::Train).into_iter().collect();
        assert!(learned.len() > 195, "they differ");
        for others in [
            all(2, Part::Train),
            all(1, Part::HeldOut),
            all(7, Part::HeldOut),
        ] {
            assert!(others.iter().all(|story| !learned.contains(story)));
        }
        // What earlier versions told: a change of the grammar changes what runs learn from.
        assert_eq!(stories(Part::Train, 1).story(0), FIRST);
    }

    const FIRST: &str = "In a small house beside the river there lived a little girl called Clara. She was proud, and everybody knew it. She had seven nuts. One morning she met Noah not far from the river. Noah had nothing to eat and was sad. \"Would you like some nuts?\" asked Clara. \"Oh yes!\" answered Noah. Clara gave Noah three. Now Clara had four nuts, and Noah had three.\nThey sat down under a tree and ate. \"Thank you for the nuts,\" cried Noah. Soon Clara was fast asleep.";

    #[test]
    fn no_held_out_story_is_learned_under_any_seed() {
        let side = |story: &str| told_side(story);
        for seed in 0..5 {
            for n in 0..40 {
                assert!(!side(&stories(Part::Train, seed).story(n)));
                assert!(side(&stories(Part::HeldOut, seed).story(n)));
            }
        }
    }

    fn told_side(story: &str) -> bool {
        let bytes = story.bytes().map(u64::from);
        let hash = bytes.fold(0x570e1, |hash, byte| mix(&[hash, byte]));
        hash.is_multiple_of(HELD_OUT)
    }

    /// What makes a story worth remembering: a thing is found where it was left, and has its colour still.
    #[test]
    fn what_was_lost_is_found_where_it_was_left() {
        let stories = stories(Part::Train, 1);
        let lost = |story: &String| {
            story.contains("Now I know! It is ") || story.contains("I remember! It is ")
        };
        let found: Vec<String> = (0..2000).map(|n| stories.story(n)).filter(lost).collect();
        assert!(found.len() > 50, "{}", found.len());
        for story in found {
            let at = story.find("! It is ").unwrap() + "! It is ".len();
            let place = &story[at..at + story[at..].find('!').unwrap()];
            assert_eq!(story.matches(place).count(), 3, "{place:?} in {story}");
            assert!(story.find(place).unwrap() < at, "{story}");
        }
    }

    #[test]
    fn a_book_is_about_a_few_people() {
        let text = book(1, 40);
        assert_eq!(text.split("\n\n").count(), 40);
        assert_eq!(text, book(1, 40));
        assert_ne!(text, book(2, 40));
        let there = PEOPLE.iter().filter(|(name, _)| text.contains(name));
        assert!(there.count() <= CAST);
    }

    #[test]
    fn they_are_learned_from_and_what_they_cannot_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataConfig {
            source: DataSource::Stories,
            max_seq_length: 64,
            cache_dir: dir.path().into(),
            stories: StoriesConfig {
                count: 30,
                validation: 4,
                seed: 5,
            },
            ..DataConfig::default()
        };
        let mut told = Vec::new();
        let mut made = |data: &DataConfig| {
            prepare(data, &TokenizerConfig::default(), &mut |event| {
                told.push(event.to_string())
            })
        };
        let first = made(&data).unwrap();
        assert_eq!(first.meta.source.documents, 30);
        assert_eq!(first.valid.documents(), 4);
        let again = made(&data).unwrap();
        assert_eq!(again.directory, first.directory, "found in the cache");
        let mut other = data.clone();
        other.stories.seed = 6;
        assert_ne!(
            made(&other).unwrap().meta.source.hash,
            first.meta.source.hash
        );
        assert!(
            !told.iter().any(|event| event.contains(": making ")),
            "{told:?}"
        );
        type Edit = fn(&mut DataConfig);
        let edits: [(&str, Edit); 5] = [
            ("data.train_file", |data| data.train_file = "a.txt".into()),
            ("data.val_fraction", |data| data.val_fraction = Some(0.1)),
            ("data.stories.count", |data| data.stories.count = 0),
            ("data.stories.validation", |data| {
                data.stories.validation = u64::MAX
            }),
            ("data.train_crates", |data| {
                data.train_crates = vec!["csv".into()]
            }),
        ];
        for (key, edit) in edits {
            let mut wrong = data.clone();
            edit(&mut wrong);
            let message = wrong.validate().unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        }
    }
}
