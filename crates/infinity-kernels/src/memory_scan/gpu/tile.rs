//! Square tiles: what every kernel here is made of.
//!
//! A cube has 16 × 16 units. A tile of `side` × `side` values lies in shared memory. Each unit
//! owns the elements `(y + 16 i, x + 16 j)` of every tile: it loads them, it accumulates them in
//! registers, it stores them. What a unit wrote to a buffer, only that unit reads back in the same
//! launch, so no barrier over device memory is needed (WGSL has none).
//!
//! Loops over own rows go by `CUBE_DIM_Y`, which compilers do not know to be 16: unrolled, the places of all rows in a
//! buffer stay in registers from where it is loaded to where it is stored, and registers are spilled (a product's sums
//! go to a buffer through the spare tile for the same reason).
//!
//! `product.rs` multiplies tiles.

pub(super) use super::super::inputs::Plan;
use crate::gpu::row_type;
use burn::tensor::DType;
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// Units along each side of a cube.
pub(super) const UNITS: usize = 16;

impl Plan {
    /// The same for rows of `dtype`. States can leave the range of `f16`, so only `bf16` goes to matrix units.
    pub(super) fn for_rows(self, dtype: DType) -> Plan {
        let matrix = self.matrix && dtype == DType::BF16;
        Plan { matrix, ..self }
    }

    /// What tiles that are multiplied hold.
    pub(super) const fn holds(self) -> DType {
        if self.matrix { DType::BF16 } else { DType::F32 }
    }

    /// Elements of a tile's row or column that one unit owns.
    pub(super) const fn owned(self) -> usize {
        self.side / UNITS
    }

    /// Elements of a tile that one unit owns.
    pub(super) const fn all_owned(self) -> usize {
        self.owned() * self.owned()
    }

    /// Values between two rows of a tile that is multiplied. Spreads columns over the memory's
    /// banks, and keeps rows where matrix units can load them.
    pub(super) const fn pitch(self) -> usize {
        self.side + if self.matrix { 8 } else { 1 }
    }

    /// Values between two rows of the `f32` tile that sums and spare values go through.
    pub(super) const fn spare_pitch(self) -> usize {
        self.side + 4
    }

    /// Values of a tile that is multiplied.
    pub(super) const fn len(self) -> usize {
        self.side * self.pitch()
    }

    /// Values of an `f32` tile.
    pub(super) const fn spare_len(self) -> usize {
        self.side * self.spare_pitch()
    }
}

/// What kernels read and write for queries, keys and values of these types.
pub(super) fn native([q, k, v]: [DType; 3]) -> DType {
    match q == k && k == v {
        true => row_type(q),
        false => DType::F32,
    }
}

/// Where a tile lies in a buffer.
#[derive(CubeType, Clone, Copy)]
#[expand(derive(Clone, Copy))]
pub(super) struct Block {
    /// Index of its first element.
    pub(super) start: usize,
    /// Elements between two rows.
    pub(super) stride: usize,
    /// Rows that exist; the rest of the tile is zero.
    pub(super) rows: usize,
    /// Columns that exist.
    pub(super) cols: usize,
}

#[cube]
impl Block {
    /// The same block `by` elements further on.
    pub(super) fn shifted(&self, by: usize) -> Block {
        Block {
            start: self.start + by,
            stride: self.stride,
            rows: self.rows,
            cols: self.cols,
        }
    }
}

/// Values of a unit's own elements, all zero.
#[cube]
pub(super) fn zeros(#[comptime] plan: Plan) -> Array<f32> {
    let len = comptime!(plan.all_owned());
    let mut acc = Array::<f32>::new(len);
    #[unroll]
    for at in 0..len {
        acc[at] = 0.0f32;
    }
    acc
}

/// The row of the `i`-th row of own elements.
#[cube]
pub(super) fn own_row(#[comptime] i: usize) -> usize {
    UNIT_POS_Y as usize + comptime!(i * UNITS)
}

/// The column of the `j`-th column of own elements.
#[cube]
pub(super) fn own_col(#[comptime] j: usize) -> usize {
    UNIT_POS_X as usize + comptime!(j * UNITS)
}

/// The row of own element `at`, counted row by row.
#[cube]
pub(super) fn row_of(#[comptime] at: usize, #[comptime] plan: Plan) -> usize {
    own_row(comptime!(at / plan.owned()))
}

/// The column of own element `at`.
#[cube]
pub(super) fn col_of(#[comptime] at: usize, #[comptime] plan: Plan) -> usize {
    own_col(comptime!(at % plan.owned()))
}

/// One value of a block, zero where it has none.
#[cube]
pub(super) fn value<F: Float>(buffer: &[F], block: Block, row: usize, col: usize) -> f32 {
    let mut x = 0.0f32;
    if row < block.rows && col < block.cols {
        x = f32::cast_from(buffer[block.start + row * block.stride + col]);
    }
    x
}

/// Own elements of a block into a tile.
#[cube]
pub(super) fn load<F: Float, E: Float>(
    tile: &mut Shared<[E]>,
    buffer: &[F],
    block: Block,
    #[comptime] plan: Plan,
) {
    let mut row = UNIT_POS_Y as usize;
    while row < comptime!(plan.side) {
        #[unroll]
        for j in 0..comptime!(plan.owned()) {
            let col = own_col(j);
            let x = value::<F>(buffer, block, row, col);
            tile[row * comptime!(plan.pitch()) + col] = E::cast_from(x);
        }
        row += CUBE_DIM_Y as usize;
    }
}

/// Own elements from registers into a tile with rows of `pitch`.
#[cube]
pub(super) fn put<E: Float>(
    tile: &mut Shared<[E]>,
    acc: &Array<f32>,
    #[comptime] pitch: usize,
    #[comptime] plan: Plan,
) {
    #[unroll]
    for at in 0..comptime!(plan.all_owned()) {
        tile[row_of(at, plan) * pitch + col_of(at, plan)] = E::cast_from(acc[at]);
    }
}

/// Own elements of a block from registers to a buffer.
#[cube]
pub(super) fn store<F: Float>(
    buffer: &mut [F],
    block: Block,
    acc: &Array<f32>,
    #[comptime] plan: Plan,
) {
    #[unroll]
    for at in 0..comptime!(plan.all_owned()) {
        let row = row_of(at, plan);
        let col = col_of(at, plan);
        if row < block.rows && col < block.cols {
            buffer[block.start + row * block.stride + col] = F::cast_from(acc[at]);
        }
    }
}

/// Own elements of a tile to the block of a buffer.
#[cube]
pub(super) fn store_tile<E: Float, F: Float>(
    buffer: &mut [F],
    block: Block,
    tile: &Shared<[E]>,
    #[comptime] pitch: usize,
    #[comptime] plan: Plan,
) {
    let mut row = UNIT_POS_Y as usize;
    while row < comptime!(plan.side) {
        #[unroll]
        for j in 0..comptime!(plan.owned()) {
            let col = own_col(j);
            if row < block.rows && col < block.cols {
                buffer[block.start + row * block.stride + col] =
                    F::cast_from(tile[row * pitch + col]);
            }
        }
        row += CUBE_DIM_Y as usize;
    }
}

/// `acc += diag(weights) · part`, a weight for every row of own elements.
#[cube]
pub(super) fn add_rows(
    acc: &mut Array<f32>,
    weights: &Array<f32>,
    part: &Array<f32>,
    #[comptime] plan: Plan,
) {
    #[unroll]
    for at in 0..comptime!(plan.all_owned()) {
        acc[at] += weights[comptime!(at / plan.owned())] * part[at];
    }
}

/// `new = factor · old + sum`, own elements of two blocks of one buffer, which are as large.
#[cube]
pub(super) fn carry_on(
    buffer: &mut [f32],
    old: Block,
    new: Block,
    factor: f32,
    sum: &Shared<[f32]>,
    #[comptime] plan: Plan,
) {
    let mut row = UNIT_POS_Y as usize;
    while row < comptime!(plan.side) {
        #[unroll]
        for j in 0..comptime!(plan.owned()) {
            let col = own_col(j);
            if row < old.rows && col < old.cols {
                let was = buffer[old.start + row * old.stride + col];
                buffer[new.start + row * new.stride + col] =
                    sum[row * comptime!(plan.spare_pitch()) + col] + factor * was;
            }
        }
        row += CUBE_DIM_Y as usize;
    }
}
