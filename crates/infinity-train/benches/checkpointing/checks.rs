//! What has to be true before anything is measured: every way gives the same gradients. A failed
//! check panics, so nothing is printed after it.

use crate::case::{Way, batch};
use crate::flags::Flags;
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn::train::TrainStep;
use infinity_kernels::testing::{Tol, assert_close, compare, values};
use infinity_model::ModelConfig;
use infinity_train::step::{LmBatch, Recompute, Trainee, default_segment};

/// All gradients as one vector, relative.
const GRADIENTS: Tol = Tol {
    rms_ratio: 1e-6,
    worst_over_rms: 1e3,
    floor: 0.0,
};

/// Runs all checks and says what they found.
pub(crate) fn run(flags: &Flags) -> Vec<String> {
    let [rows, length] = [flags.rows, flags.length];
    let mut found = compared(&flags.model(), rows, length, default_segment(length));
    let segment = default_segment(flags.long.max(flags.check_length));
    let long = flags.long_model();
    found.extend(compared(&long, 1, flags.check_length, segment));
    found
}

fn compared(model: &ModelConfig, rows: usize, length: usize, segment: usize) -> Vec<String> {
    let batch = LmBatch::alone(batch(model.vocab_size, rows, length));
    let whole = gradients(&Way::None.trainee(model, length), &batch);
    let ways = Way::ALL.into_iter().skip(1);
    ways.map(|way| {
        let trainee = match way {
            Way::Segments => Way::None
                .trainee(model, length)
                .recomputing(Recompute::Segments(segment)),
            _ => way.trainee(model, length),
        };
        let found = gradients(&trainee, &batch);
        let error = assert_close("gradients", &way.to_string(), &found, &whole, GRADIENTS);
        let spoiled: Vec<f64> = found.iter().map(|x| x * (1.0 + 1e-5)).collect();
        assert!(
            compare(&spoiled, &whole, GRADIENTS).is_err(),
            "a wrong answer must be noticed"
        );
        let layers = model.num_hidden_layers;
        format!("{layers} layers, {length} tokens: {way} = none, all gradients: {error:.1e}")
    })
    .collect()
}

/// Every gradient of a step, one behind the other.
fn gradients(trainee: &Trainee, batch: &LmBatch) -> Vec<f64> {
    let output = TrainStep::step(trainee, batch.clone());
    let mut all = All {
        grads: output.grads,
        found: Vec::new(),
    };
    trainee.visit(&mut all);
    all.found
}

struct All {
    grads: GradientsParams,
    found: Vec<f64>,
}

impl ModuleVisitor for All {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let grad = self.grads.remove::<D>(param.id);
        self.found
            .extend(values(grad.expect("every parameter learns")));
    }
}
