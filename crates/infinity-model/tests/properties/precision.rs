//! 7. In half precision: close to f32, itself in any cut, and what must be f32 is f32.

use crate::answer::{Answer, Each, each, random_state, run, same};
use crate::kinds::{Cuts, KINDS, ids, kinds, model, tokens};
use crate::on_flex;
use infinity_kernels::testing::{Random, Tol};
use infinity_model::burn::module::{Module, ModuleVisitor, Param};
use infinity_model::burn::tensor::{DType, Device, Tensor};
use infinity_model::parameters::ParameterRole;
use infinity_model::{InfinityModel, Precision};

/// Limits of the relative errors of logits, state and gradients.
type Limits = [f64; 3];

/// Against f32, over all kinds. Worst on Flex, 2026-11-24: 1.6e-2, 1.1e-2, 7.2e-2 in bf16-mixed;
/// 2.1e-3, 7.8e-4, 1.2e-2 in f16-mixed; 2.4e-2, 1.1e-2, 1.2e-1 in bf16-true.
const AGAINST_F32: [(Precision, Limits); 3] = [
    (Precision::Bf16Mixed, [4e-2, 3e-2, 0.2]),
    (Precision::F16Mixed, F16),
    (Precision::Bf16True, BF16_TRUE),
];
const F16: Limits = [5e-3, 3e-3, 4e-2];
const BF16_TRUE: Limits = [6e-2, 3e-2, 0.3];
const SEEDS: [u64; 2] = [1, 2];

/// Against itself, cut. Worst on Flex, 2026-11-24: 1.9e-3, 1.4e-4, 3.5e-3 in bf16-mixed; 3.8e-4,
/// 1.8e-5, 9.4e-4 in f16-mixed; 2.2e-3, 2.8e-5, 1.2e-2 in bf16-true.
const CUT: [(Precision, Limits); 3] = [
    (Precision::Bf16Mixed, [6e-3, 6e-4, 1e-2]),
    (Precision::F16Mixed, [1e-3, 1e-4, 4e-3]),
    (Precision::Bf16True, [8e-3, 3e-4, 5e-2]),
];
/// Kinds that are cut: the default, denominators, the learnable map, softmax.
const CUT_KINDS: [usize; 4] = [0, 3, 4, 10];
const LEN: usize = 40;

fn tolerances(ratios: [f64; 3]) -> [Tol; 3] {
    ratios.map(|rms_ratio| Tol {
        rms_ratio,
        worst_over_rms: 30.0,
        floor: rms_ratio,
    })
}

/// A whole and a cut run of the same model in `precision`.
fn answer(kind: usize, seed: u64, precision: Precision, cuts: &[usize]) -> Answer {
    let (_, model) = model(kind, seed, &Device::flex().autodiff());
    let model = model.with_precision(precision).unwrap();
    let mut random = Random(seed);
    let tokens = tokens(&mut random, 2, LEN);
    let start = random_state(&model, 2, seed, &mut random);
    run(&model, &tokens, &start, Cuts::carried(cuts), seed)
}

#[test]
fn close_to_f32_forward_and_backward() {
    for (precision, limits) in AGAINST_F32 {
        for (kind, (name, _)) in kinds().iter().enumerate() {
            for seed in SEEDS {
                let exact = answer(kind, seed, Precision::F32, &[]);
                let half = answer(kind, seed, precision, &[]);
                let found = same(&half, &exact, tolerances(limits));
                assert!(found.is_ok(), "{name}, {precision}, seed {seed}: {found:?}");
                // Rounding that does not happen would pass for a good one.
                assert_ne!(half.logits, exact.logits, "{name}, {precision}");
            }
        }
    }
}

/// Ten bits are more than seven, and another model is another model.
#[test]
fn coarser_numbers_and_other_models_are_caught() {
    let (exact, bf16) = (
        answer(0, 1, Precision::F32, &[]),
        answer(0, 1, Precision::Bf16Mixed, &[]),
    );
    assert!(same(&bf16, &exact, tolerances(F16)).is_err());
    let other = answer(0, 2, Precision::Bf16Mixed, &[]);
    assert!(same(&other, &exact, tolerances(BF16_TRUE)).is_err());
}

/// Token by token, in a few pieces, and at once: the same but for values that a rounding error of
/// f32 puts on the other side of a border between two of half.
#[test]
fn decoding_is_the_models_own_prefill() {
    let every: Vec<usize> = (1..LEN).collect();
    for (precision, limits) in CUT {
        for kind in CUT_KINDS {
            let whole = answer(kind, 4, precision, &[]);
            for cuts in [&every[..], &[1, 3, 40]] {
                let parts = answer(kind, 4, precision, cuts);
                let found = same(&parts, &whole, tolerances(limits));
                assert!(found.is_ok(), "kind {kind}, {precision}: {found:?}");
            }
        }
        let exact = answer(0, 4, Precision::F32, &[]);
        let whole = answer(0, 4, precision, &[]);
        assert!(
            same(&whole, &exact, tolerances(limits)).is_err(),
            "{precision}: other numbers would be caught"
        );
    }
}

/// The formats of every parameter, by path.
#[derive(Default)]
struct Formats {
    path: Vec<String>,
    found: Vec<(String, DType, bool)>,
}

impl ModuleVisitor for Formats {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        self.found
            .push((path, param.val().dtype(), param.is_require_grad()));
    }

    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
}

struct Single;

impl Each for Single {
    fn tensor<const D: usize>(&mut self, name: String, tensor: &Tensor<D>) {
        assert_eq!(tensor.dtype(), DType::F32, "{name}");
    }
}

fn formats(model: &InfinityModel) -> Vec<(String, DType, bool)> {
    let mut formats = Formats::default();
    model.visit(&mut formats);
    formats.found
}

#[test]
fn parameters_states_and_logits_have_the_formats_of_the_table() {
    for precision in [
        Precision::F32,
        Precision::Bf16Mixed,
        Precision::F16Mixed,
        Precision::Bf16True,
    ] {
        for kind in 0..KINDS {
            let (_, exact) = model(kind, 1, &Device::flex().autodiff());
            let learned: Vec<bool> = formats(&exact).iter().map(|(.., learns)| *learns).collect();
            let model = exact.with_precision(precision).unwrap();
            for ((path, dtype, learns), learned) in formats(&model).into_iter().zip(learned) {
                let expected = match precision {
                    Precision::Bf16True if ParameterRole::of(&path) != ParameterRole::Gate => {
                        DType::BF16
                    }
                    _ => DType::F32,
                };
                assert_eq!(
                    (dtype, learns),
                    (expected, learned),
                    "{path} in {precision}"
                );
            }
            let tokens = tokens(&mut Random(1), 2, 20);
            let (logits, state) = model.forward(ids(&tokens, 2), model.initial_state(2));
            assert_eq!(logits.dtype(), DType::F32);
            each(&state, &mut Single);
        }
    }
}

#[test]
fn a_model_can_go_back_to_f32() {
    let (_, model) = on_flex(0, 1);
    let tokens = tokens(&mut Random(1), 1, 30);
    let logits = |model: &InfinityModel| {
        let (logits, _) = model.forward(ids(&tokens, 1), model.initial_state(1));
        logits.into_data().try_to_vec::<f32>().unwrap()
    };
    let exact = logits(&model);
    let mixed = model.with_precision(Precision::Bf16Mixed).unwrap();
    assert_ne!(logits(&mixed), exact);
    assert_eq!(
        logits(&mixed.with_precision(Precision::F32).unwrap()),
        exact
    );
}
