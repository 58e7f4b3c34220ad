//! Keys and values of what a full layer has read: a buffer that has room and is filled in place.

use burn::tensor::Tensor;
use infinity_kernels::borders::Borders;
use infinity_kernels::softmax_attention::View;

/// The growing part of a state: keys, rotated, and values of the tokens that later ones may look at.
///
/// All rows have as many; of a row that began later the first ones are another's.
#[derive(Clone, Debug)]
pub struct KvCache {
    /// `[B, room, G, K]` and `[B, room, G, V]`; `None` before the first token.
    buffers: Option<[Tensor<4>; 2]>,
    /// Where in them the first token is: a window leaves behind what it has passed.
    first: usize,
    /// Tokens that are in them.
    len: usize,
    /// How many of these are none of a row's, for every row.
    starts: Vec<usize>,
}

impl KvCache {
    /// That of `batch` rows that have read nothing.
    pub fn empty(batch: usize) -> Self {
        KvCache {
            buffers: None,
            first: 0,
            len: 0,
            starts: vec![0; batch],
        }
    }

    /// A cache of these keys `[B, T, G, K]` and values `[B, T, G, V]`, of which `starts` are none of a row's.
    ///
    /// # Panics
    /// If sizes do not agree.
    pub fn new(keys: Tensor<4>, values: Tensor<4>, starts: Vec<usize>) -> Self {
        let [b, len, groups, _] = keys.dims();
        assert_eq!(
            values.dims()[..3],
            [b, len, groups],
            "as many values as keys"
        );
        assert_eq!(starts.len(), b, "a start for each row");
        assert!(
            starts.iter().all(|start| *start <= len),
            "{starts:?} of {len}"
        );
        KvCache {
            buffers: Some([keys, values]),
            first: 0,
            len,
            starts,
        }
    }

    /// Keys and values that are there, `[B, T, G, ·]` each; `None` before the first token.
    pub fn filled(&self) -> Option<[Tensor<4>; 2]> {
        let buffers = self.buffers.clone();
        buffers.map(|buffers| buffers.map(|x| part(x, self.first, self.len)))
    }

    /// Tokens that are in it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many of the first tokens are none of a row's, for every row.
    pub fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// Bytes of keys and values, with the room behind them.
    pub fn bytes(&self) -> usize {
        self.buffers.iter().flatten().map(tensor_bytes).sum()
    }

    /// The cache with keys `[B, T, G, K]` and values `[B, T, G, V]` of further tokens, of which later ones look
    /// at the last `window`.
    ///
    /// Outside autodiff it doubles its room when that is used up, or with a window makes some, and until then
    /// nothing that is there moves, if the tensors are nobody else's.
    pub(crate) fn push(
        mut self,
        keys: Tensor<4>,
        values: Tensor<4>,
        window: Option<usize>,
    ) -> Self {
        let (t, learns) = (keys.dims()[1], keys.device().is_autodiff());
        let (first, len) = (self.first, self.len);
        let end = first + len;
        self.len += t;
        self.buffers = Some(match self.buffers {
            None => [keys, values],
            // Nobody else has the buffers now, unless a state was cloned.
            Some([all_keys, all_values]) if !learns && end + t <= all_keys.dims()[1] => {
                let write = |all: Tensor<4>, x: Tensor<4>| {
                    let [b, _, groups, width] = x.dims();
                    all.slice_assign([0..b, end..end + t, 0..groups, 0..width], x)
                };
                [write(all_keys, keys), write(all_values, values)]
            }
            Some([all_keys, all_values]) => {
                self.first = 0;
                let spare = if learns { 0 } else { spare(window, self.len) };
                let grow = |all, x| with_room(vec![part(all, first, len), x], spare);
                [grow(all_keys, keys), grow(all_values, values)]
            }
        });
        self
    }

    /// The cache before its last `t` tokens, of one that has no window.
    pub(crate) fn without_last(self, t: usize) -> Self {
        let len = self.len.saturating_sub(t);
        match len {
            0 => Self::empty(self.starts.len()),
            _ => KvCache { len, ..self },
        }
    }

    /// Keys and values with the room behind them, and what the last queries see of them.
    ///
    /// # Panics
    /// If it is empty.
    pub(crate) fn view(&self, borders: &Borders, window: Option<usize>) -> ([Tensor<4>; 2], View) {
        let buffers = self
            .buffers
            .clone()
            .expect("the tokens that are read are in it");
        let view = View {
            borders: borders.clone(),
            filled: Some(self.first + self.len),
            starts: match self.first == 0 && self.starts.iter().all(|start| *start == 0) {
                true => Vec::new(),
                false => self.starts.iter().map(|start| self.first + start).collect(),
            },
            window,
        };
        (buffers, view)
    }

    /// The cache after `t` tokens with `borders`: what was there before the last document of a row is none of
    /// the row's, and what no later token looks at is left behind.
    pub(crate) fn left_by(mut self, t: usize, borders: &Borders, window: Option<usize>) -> Self {
        for (row, start) in self.starts.iter_mut().enumerate() {
            let last = borders.pieces(row, t).next_back();
            if let Some(piece) = last.filter(|piece| piece.fresh) {
                *start = self.len - t + piece.tokens.start;
            }
        }
        // A token sees its own key and so many before it.
        let Some(kept) = window.map(|window| self.len.min(window - 1)) else {
            return self;
        };
        if kept == 0 {
            return Self::empty(self.starts.len());
        }
        let gone = self.len - kept;
        (self.first, self.len) = (self.first + gone, kept);
        for start in &mut self.starts {
            *start = start.saturating_sub(gone);
        }
        // Many tokens at once leave more behind than there is room for.
        let (first, spare) = (self.first, spare(window, kept));
        if first <= spare {
            return self;
        }
        let moved = |all: Tensor<4>| match all.device().is_autodiff() {
            true => part(all, first, kept),
            false => with_room(vec![part(all, first, kept)], spare),
        };
        KvCache {
            first: 0,
            ..self.map(moved)
        }
    }

    /// Every tensor through `change`.
    pub(crate) fn map(self, change: impl FnMut(Tensor<4>) -> Tensor<4>) -> Self {
        let buffers = self.buffers.map(|buffers| buffers.map(change));
        KvCache { buffers, ..self }
    }

    /// The same without room, and without what belongs to no row.
    pub(crate) fn trimmed(self) -> Self {
        let gone = self.starts.iter().copied().min().unwrap_or(0);
        let Some(buffers) = self.filled().filter(|_| gone < self.len) else {
            return Self::empty(self.starts.len());
        };
        let len = self.len - gone;
        KvCache {
            buffers: Some(buffers.map(|x| part(x, gone, len))),
            first: 0,
            len,
            starts: self.starts.iter().map(|start| start - gone).collect(),
        }
    }

    /// Row `i` of the result is row `from[i]`, or one that has read nothing.
    pub(crate) fn gather(
        self,
        from: &[Option<usize>],
        rows: impl FnMut(Tensor<4>) -> Tensor<4>,
    ) -> Self {
        let starts = from.iter();
        let starts = starts.map(|row| row.map_or(self.len, |row| self.starts[row]));
        KvCache {
            starts: starts.collect(),
            ..self.map(rows)
        }
        .trimmed()
    }

    /// The rows of all, one after the other, which end together: shorter ones have zeros before them.
    pub(crate) fn cat(caches: Vec<Self>) -> Self {
        let len = caches.iter().map(|cache| cache.len).max().unwrap_or(0);
        let starts = caches.iter().flat_map(|cache| {
            let before = len - cache.len;
            cache.starts.iter().map(move |start| start + before)
        });
        let starts: Vec<usize> = starts.collect();
        let like = caches.iter().find_map(Self::filled);
        let mut parts = [Vec::new(), Vec::new()];
        for cache in caches {
            let (b, before, filled) = (cache.starts.len(), len - cache.len, cache.filled());
            for (i, (parts, like)) in parts.iter_mut().zip(like.iter().flatten()).enumerate() {
                let zeros = (before > 0).then(|| room(like, b, before));
                let own = filled.as_ref().map(|filled| filled[i].clone());
                parts.push(Tensor::cat(zeros.into_iter().chain(own).collect(), 1));
            }
        }
        KvCache {
            buffers: like.map(|_| parts.map(|parts| Tensor::cat(parts, 0))),
            first: 0,
            len,
            starts,
        }
    }
}

/// The tokens from `first` on.
fn part(x: Tensor<4>, first: usize, len: usize) -> Tensor<4> {
    match x.dims()[1] == len {
        true => x,
        false => x.narrow(1, first, len),
    }
}

/// How much room is made behind `len` tokens.
fn spare(window: Option<usize>, len: usize) -> usize {
    window.map_or(len, |window| window / 4).max(16)
}

/// The parts one behind the other, and room for `spare` tokens.
fn with_room(mut parts: Vec<Tensor<4>>, spare: usize) -> Tensor<4> {
    if spare > 0 {
        parts.push(room(&parts[0], parts[0].dims()[0], spare));
    }
    Tensor::cat(parts, 1)
}

/// Zeros for `t` tokens of `b` rows of what is `like` them.
fn room(like: &Tensor<4>, b: usize, t: usize) -> Tensor<4> {
    let [_, _, groups, width] = like.dims();
    let zeros = Tensor::<4>::zeros([b, t, groups, width], &like.device());
    zeros.cast(like.dtype())
}

/// Bytes of a tensor at its present precision.
pub(crate) fn tensor_bytes<const D: usize>(tensor: &Tensor<D>) -> usize {
    tensor.shape().num_elements() * tensor.dtype().size()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};

    fn noise(b: usize, t: usize) -> [Tensor<4>; 2] {
        let device = Device::flex();
        [3, 2].map(|width| Tensor::random([b, t, 2, width], Distribution::Default, &device))
    }

    fn shown(cache: &KvCache) -> String {
        let numbers = |x: Tensor<4>| x.into_data().iter::<f32>().collect::<Vec<_>>();
        let filled = cache.filled().map(|filled| filled.map(numbers));
        format!("{filled:?} {:?}", cache.starts)
    }

    fn push(cache: KvCache, [k, v]: [Tensor<4>; 2]) -> KvCache {
        cache.push(k, v, None)
    }

    #[test]
    fn pieces_are_one_behind_the_other_whatever_the_room() {
        let mut cache = KvCache::empty(2);
        let (mut all, mut rooms) = (Vec::new(), Vec::new());
        for t in [5, 1, 1, 1, 30, 1, 1] {
            all.push(noise(2, t));
            cache = push(cache, all.last().unwrap().clone());
            rooms.push(cache.bytes() / (2 * 2 * 5 * 4));
        }
        let expected = [0, 1].map(|i| Tensor::cat(all.iter().map(|x| x[i].clone()).collect(), 1));
        let [keys, values] = expected;
        let expected = KvCache::new(keys, values, vec![0, 0]);
        assert_eq!((shown(&cache), cache.len()), (shown(&expected), 40));
        assert_eq!(rooms, [5, 22, 22, 22, 76, 76, 76], "they double");
    }

    /// A copy that somebody kept is not written into.
    #[test]
    fn a_clone_goes_its_own_way() {
        let cache = push(push(KvCache::empty(1), noise(1, 3)), noise(1, 1));
        let before = shown(&cache);
        let kept = cache.clone();
        let [one, other] = [noise(1, 1), noise(1, 1)].map(|next| push(cache.clone(), next));
        assert_eq!(shown(&kept), before);
        assert_ne!(shown(&one), shown(&other));
    }

    /// Two hundred tokens into room of their own take less time than ten into room that is somebody else's too.
    #[test]
    fn a_token_is_written_in_place() {
        let device = Device::flex();
        let zeros = |t| Tensor::<4>::zeros([1, t, 16, 64], &device);
        let fill = |cache: KvCache| cache.push(zeros(1), zeros(1), None);
        let mut cache = fill(KvCache::new(zeros(4000), zeros(4000), vec![0]));
        let room = cache.bytes();
        let start = std::time::Instant::now();
        for _ in 0..200 {
            cache = fill(cache);
        }
        let in_place = start.elapsed();
        let start = std::time::Instant::now();
        for _ in 0..10 {
            let _kept = cache.clone();
            cache = fill(cache);
        }
        let copied = start.elapsed();
        assert_eq!((cache.bytes(), cache.len()), (room, 4211));
        assert!(
            in_place < copied,
            "{in_place:?} in place, {copied:?} copied"
        );
    }

    #[test]
    fn a_window_keeps_its_length() {
        let mut cache = KvCache::empty(1);
        let mut rooms = Vec::new();
        let mut last = Vec::new();
        for _ in 0..500 {
            let [k, v] = noise(1, 1);
            last.push(k.clone());
            cache = cache
                .push(k, v, Some(20))
                .left_by(1, &Borders::default(), Some(20));
            rooms.push(cache.bytes());
        }
        let most = (20 + 16) * 2 * 5 * 4;
        assert!(rooms.iter().all(|bytes| *bytes <= most));
        let [keys, _] = cache.filled().unwrap();
        let expected = Tensor::cat(last[481..].to_vec(), 1).into_data();
        assert_eq!(keys.into_data(), expected);
        // Many at once are not kept either.
        let [k, v] = noise(1, 400);
        let expected = k.clone().narrow(1, 381, 19).into_data();
        let cache = cache
            .push(k, v, Some(20))
            .left_by(400, &Borders::default(), Some(20));
        assert!(cache.bytes() <= most);
        assert_eq!(cache.filled().unwrap()[0].clone().into_data(), expected);
        let [k, v] = noise(1, 2);
        let alone = cache
            .push(k, v, Some(1))
            .left_by(2, &Borders::default(), Some(1));
        assert!(alone.is_empty());
    }

    #[test]
    fn rows_come_and_go() {
        let long = push(KvCache::empty(1), noise(1, 6));
        let short = push(KvCache::empty(1), noise(1, 2));
        let both = KvCache::cat(vec![long.clone(), short.clone(), KvCache::empty(1)]);
        assert_eq!((both.len(), both.starts()), (6, &[0, 4, 6][..]));
        let row = |from: &[Option<usize>]| {
            let gathered = |x: Tensor<4>| {
                let rows = from
                    .iter()
                    .map(|row| x.clone().narrow(0, row.unwrap_or(0), 1));
                Tensor::cat(rows.collect(), 0)
            };
            both.clone().gather(from, gathered)
        };
        assert_eq!(shown(&row(&[Some(0)])), shown(&long));
        assert_eq!(shown(&row(&[Some(1)])), shown(&short));
        assert_eq!(shown(&row(&[Some(2)])), shown(&KvCache::empty(1)));
        assert_eq!(row(&[Some(1), None, Some(1)]).starts(), [0, 2, 0]);
    }

    #[test]
    fn documents_leave_what_is_theirs() {
        let cache = push(push(KvCache::empty(3), noise(3, 4)), noise(3, 5));
        let borders = Borders::new(vec![vec![1, 3], vec![], vec![0]]);
        assert_eq!(cache.left_by(5, &borders, None).starts(), [7, 0, 4]);
    }
}
