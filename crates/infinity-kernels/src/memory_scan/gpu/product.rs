//! Products of tiles: the units' own, in `f32`, or those of the planes' matrix units, on tiles of
//! half precision with sums in `f32`. Which one is a [`Plan`]'s to say.

use super::tile::{Plan, col_of, own_col, own_row, row_of};
use burn_cubecl::cubecl;
use cubecl::cmma;
use cubecl::ir::{DeviceProperties, FloatKind};
use cubecl::prelude::*;

/// Rows and columns of what a matrix unit multiplies, and how deep.
const FRAGMENT: usize = 16;

/// Whether planes of 16 × 16 units multiply fragments of `bf16` with sums in `f32`.
pub(super) fn has_matrix_units(properties: &DeviceProperties) -> bool {
    let [half, single] = [FloatKind::BF16, FloatKind::F32].map(ElemType::Float);
    properties.features.matmul.cmma.iter().any(|fragment| {
        [fragment.m, fragment.n, fragment.k] == [FRAGMENT as u32; 3]
            && [fragment.a_type, fragment.b_type, fragment.cd_type] == [half, half, single]
    })
}

/// The factor of a product that is transposed to what lies in its tile.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(super) enum Turned {
    No,
    Left,
    Right,
}

impl Turned {
    fn layout(self, factor: Turned) -> cmma::MatrixLayout {
        match self == factor {
            true => cmma::MatrixLayout::ColMajor,
            false => cmma::MatrixLayout::RowMajor,
        }
    }

    /// Values between two rows of `factor`, and between two columns, in a tile with rows of `pitch`.
    fn strides(self, factor: Turned, pitch: usize) -> [usize; 2] {
        match self == factor {
            true => [1, pitch],
            false => [pitch, 1],
        }
    }
}

/// `acc += left · right` on whole tiles, which are in sync. `spare` is free before and after.
#[cube]
pub(super) fn multiply<E: Float>(
    acc: &mut Array<f32>,
    left: &Shared<[E]>,
    right: &Shared<[E]>,
    spare: &mut Shared<[f32]>,
    #[comptime] turned: Turned,
    #[comptime] plan: Plan,
) {
    if comptime!(plan.matrix) {
        multiply_in_planes::<E>(left, right, spare, turned, plan);
        sync_cube();
        #[unroll]
        for at in 0..comptime!(plan.all_owned()) {
            acc[at] += spare[row_of(at, plan) * comptime!(plan.spare_pitch()) + col_of(at, plan)];
        }
        sync_cube();
    } else {
        multiply_in_units::<E>(acc, left, right, turned, plan);
    }
}

/// `acc += left · right`, every unit its own elements.
#[cube]
fn multiply_in_units<E: Float>(
    acc: &mut Array<f32>,
    left: &Shared<[E]>,
    right: &Shared<[E]>,
    #[comptime] turned: Turned,
    #[comptime] plan: Plan,
) {
    let own = comptime!(plan.owned());
    let a_strides = comptime!(turned.strides(Turned::Left, plan.pitch()));
    let b_strides = comptime!(turned.strides(Turned::Right, plan.pitch()));
    for l in 0..comptime!(plan.side) {
        let mut a = Array::<f32>::new(own);
        #[unroll]
        for i in 0..own {
            let at = own_row(i) * comptime!(a_strides[0]) + l * comptime!(a_strides[1]);
            a[i] = f32::cast_from(left[at]);
        }
        #[unroll]
        for j in 0..own {
            let at = l * comptime!(b_strides[0]) + own_col(j) * comptime!(b_strides[1]);
            let b = f32::cast_from(right[at]);
            #[unroll]
            for i in 0..own {
                acc[comptime!(i * own + j)] += a[i] * b;
            }
        }
    }
}

/// `out = left · right`, every plane fragments in turn.
#[cube]
fn multiply_in_planes<E: Float>(
    left: &Shared<[E]>,
    right: &Shared<[E]>,
    out: &mut Shared<[f32]>,
    #[comptime] turned: Turned,
    #[comptime] plan: Plan,
) {
    let pitch = comptime!(plan.pitch());
    let len = comptime!(plan.len());
    let a_strides = comptime!(turned.strides(Turned::Left, pitch));
    let b_strides = comptime!(turned.strides(Turned::Right, pitch));
    let along = comptime!(plan.side / FRAGMENT);
    let mut fragment = (UNIT_POS / PLANE_DIM) as usize;
    let planes = (CUBE_DIM / PLANE_DIM) as usize;
    while fragment < along * along {
        let row = fragment / along * FRAGMENT;
        let col = fragment % along * FRAGMENT;
        let sums = cmma::Matrix::<f32>::from_value(
            cmma::MatrixIdent::Accumulator,
            FRAGMENT,
            FRAGMENT,
            FRAGMENT,
            cmma::MatrixLayout::Undefined,
            0.0f32,
        );
        #[unroll]
        for l in 0..along {
            let deep = comptime!(l * FRAGMENT);
            let a_at = row * comptime!(a_strides[0]) + comptime!(deep * a_strides[1]);
            let b_at = comptime!(deep * b_strides[0]) + col * comptime!(b_strides[1]);
            let a = cmma::Matrix::<E>::from_slice(
                cmma::MatrixIdent::A,
                FRAGMENT,
                FRAGMENT,
                FRAGMENT,
                comptime!(turned.layout(Turned::Left)),
                &left[a_at..len],
                comptime!(pitch as u32),
            );
            let b = cmma::Matrix::<E>::from_slice(
                cmma::MatrixIdent::B,
                FRAGMENT,
                FRAGMENT,
                FRAGMENT,
                comptime!(turned.layout(Turned::Right)),
                &right[b_at..len],
                comptime!(pitch as u32),
            );
            cmma::execute(&a, &b, &sums, &sums);
        }
        let at = row * comptime!(plan.spare_pitch()) + col;
        cmma::store(
            &mut out[at..comptime!(plan.spare_len())],
            &sums,
            comptime!(plan.spare_pitch() as u32),
            cmma::MatrixLayout::RowMajor,
        );
        fragment += planes;
    }
}
