//! States of beginnings of prompts, so that a beginning that many prompts have is read once.
//!
//! A beginning is kept only where reading cuts a prompt anyway, at multiples of
//! [`PROMPT_PIECE`] tokens: what goes on from there has the bits of reading it all.

use infinity_model::ModelState;
use infinity_model::decoder::PROMPT_PIECE;

/// The kept states; the least recently used go first.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    limit: usize,
    bytes: usize,
    clock: u64,
    kept: Vec<Prefix>,
}

#[derive(Debug)]
struct Prefix {
    tokens: Vec<u32>,
    state: ModelState,
    bytes: usize,
    used: u64,
}

impl Prefixes {
    /// None yet, and never more than `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// The state after the longest kept beginning of `prompt` that leaves a token to read, and its
    /// length.
    pub(crate) fn find(&mut self, prompt: &[u32]) -> Option<(usize, ModelState)> {
        let begins = |prefix: &&mut Prefix| {
            prefix.tokens.len() < prompt.len() && prompt.starts_with(&prefix.tokens)
        };
        let found = self.kept.iter_mut().filter(begins);
        let longest = found.max_by_key(|prefix| prefix.tokens.len())?;
        self.clock += 1;
        longest.used = self.clock;
        Some((longest.tokens.len(), longest.state.clone()))
    }

    /// Whether the state after the first `read` tokens of a prompt of `of` is worth keeping: at the
    /// prompt's last cut, and where the cuts double, so that prompts which part later share
    /// something.
    pub(crate) fn wants(&self, read: usize, of: usize) -> bool {
        let cuts = read / PROMPT_PIECE;
        let is_last = read + PROMPT_PIECE > of;
        self.limit > 0
            && read > 0
            && read.is_multiple_of(PROMPT_PIECE)
            && (is_last || cuts.is_power_of_two())
    }

    /// Keeps the state after `tokens`.
    pub(crate) fn keep(&mut self, tokens: &[u32], state: &ModelState) {
        let bytes = state.bytes() + size_of_val(tokens);
        if bytes > self.limit || self.kept.iter().any(|prefix| prefix.tokens == tokens) {
            return;
        }
        while self.bytes + bytes > self.limit {
            let oldest = (0..self.kept.len()).min_by_key(|i| self.kept[*i].used);
            let Some(oldest) = oldest else { break };
            self.bytes -= self.kept.swap_remove(oldest).bytes;
        }
        self.clock += 1;
        self.bytes += bytes;
        self.kept.push(Prefix {
            tokens: tokens.to_vec(),
            state: state.clone().compact(),
            bytes,
            used: self.clock,
        });
    }

    /// Bytes of all of them.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use infinity_model::ModelConfig;
    use infinity_model::burn::tensor::Device;

    #[test]
    fn the_longest_beginning_and_the_oldest_goes() {
        let model = ModelConfig::new(11)
            .with_hidden_size(16)
            .init(&Device::flex());
        let state = |position| ModelState {
            position: vec![position],
            ..model.initial_state(1)
        };
        let prompt: Vec<u32> = (0..3000).map(|i| i % 11).collect();
        let each = state(0).bytes();
        let room = 2 * each + 4 * (512 + 1024) + 100;
        let mut prefixes = Prefixes::new(room);
        assert!(prefixes.find(&prompt).is_none());
        for length in [512, 1024] {
            prefixes.keep(&prompt[..length], &state(length as u64));
        }
        let found = |prefixes: &mut Prefixes, prompt: &[u32]| {
            prefixes
                .find(prompt)
                .map(|(length, state)| (length, state.position[0]))
        };
        assert_eq!(found(&mut prefixes, &prompt), Some((1024, 1024)));
        assert_eq!(
            found(&mut prefixes, &prompt[..1024]),
            Some((512, 512)),
            "a token is left"
        );
        let mut other = prompt.clone();
        other[600] = 10;
        other[511] = prompt[511];
        assert_eq!(found(&mut prefixes, &other), Some((512, 512)));
        other[0] = 10;
        assert_eq!(found(&mut prefixes, &other), None);
        // 1024 was used before 512 was: it goes.
        prefixes.keep(&other[..512], &state(512));
        assert_eq!(found(&mut prefixes, &prompt), Some((512, 512)));
        assert!(prefixes.bytes() <= room);
        prefixes.keep(&other, &state(3000));
        assert!(prefixes.bytes() <= room);
    }

    #[test]
    fn which_cuts_are_worth_keeping() {
        let prefixes = Prefixes::new(1);
        let kept = |of| {
            (0..=of)
                .filter(|read| prefixes.wants(*read, of))
                .collect::<Vec<_>>()
        };
        assert_eq!(kept(511), [0; 0]);
        assert_eq!(kept(512), [512]);
        assert_eq!(kept(2700), [512, 1024, 2048, 2560]);
        assert!(!Prefixes::new(0).wants(512, 600));
    }
}
