//! What the model remembers of the last batch, where windows follow each other.

use burn::tensor::Device;
use infinity_model::ModelState;
use std::ops::Range;

/// The states of a batch's rows in order, in as many parts as there were ranks, each on the device
/// that computed it. A state from a checkpoint is one part.
#[derive(Clone, Debug)]
pub(crate) struct Carried(Vec<ModelState>);

impl From<ModelState> for Carried {
    fn from(whole: ModelState) -> Self {
        Carried(vec![whole])
    }
}

impl FromIterator<ModelState> for Carried {
    fn from_iter<I: IntoIterator<Item = ModelState>>(parts: I) -> Self {
        Carried(parts.into_iter().collect())
    }
}

impl Carried {
    /// Rows of all parts.
    pub(super) fn rows(&self) -> usize {
        self.0.iter().map(ModelState::batch).sum()
    }

    /// All rows as one state on `device`, which has no autodiff.
    pub(crate) fn whole(&self, device: &Device) -> ModelState {
        match &self.0[..] {
            [whole] => whole.clone().to_device(device),
            parts => {
                let moved = parts.iter().map(|part| part.clone().to_device(device));
                ModelState::cat(moved.collect())
            }
        }
    }

    /// The state that the rows `own` of the next batch start from, on `device`, and in `carry` which
    /// of its rows each of them takes; before the call, `carry` names rows of the whole batch.
    ///
    /// Rows that go on with their own past stay where they are. All are fetched where one starts from
    /// a row that another device has, and where the parts are not this many ranks'.
    pub(super) fn start(
        &self,
        ranks: usize,
        own: Range<usize>,
        carry: &mut [Option<usize>],
        device: &Device,
    ) -> ModelState {
        let mut first = 0;
        for part in &self.0 {
            let rows = first..first + part.batch();
            if self.0.len() == ranks && rows == own && within(carry, &own) {
                for row in carry.iter_mut().flatten() {
                    *row -= first;
                }
                return part.clone();
            }
            first = rows.end;
        }
        self.whole(device)
    }
}

fn within(carry: &[Option<usize>], rows: &Range<usize>) -> bool {
    carry.iter().flatten().all(|row| rows.contains(row))
}
