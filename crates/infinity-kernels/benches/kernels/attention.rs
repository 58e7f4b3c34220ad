//! Softmax attention, what linear attention is measured against: Burn's own operator (`native`)
//! and the baseline of this crate on tensors.

use crate::case::{Case, HEADS, Way};
use crate::child::{CHECKED_TOKENS, Contestant, TOL, random};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Tensor, module};
use infinity_kernels::softmax_attention::softmax_attention;
use infinity_kernels::testing::{assert_close, values};

/// Inputs of one case.
pub(crate) struct Attention {
    way: Way,
    /// `[B, T, H, K]`: queries, keys, values and the gradient of the result.
    inputs: [Tensor<4>; 4],
}

fn attend(way: Way, [q, k, v]: [Tensor<4>; 3]) -> Tensor<4> {
    if way == Way::Tensors {
        return softmax_attention(q, k, v);
    }
    let [q, k, v] = [q, k, v].map(|x| x.swap_dims(1, 2));
    let options = AttentionModuleOptions {
        is_causal: true,
        ..Default::default()
    };
    module::attention(q, k, v, None, None, options).swap_dims(1, 2)
}

impl Attention {
    pub(crate) fn new(case: &Case, device: &Device) -> Self {
        let dims = [1, case.tokens, HEADS, case.width];
        Attention {
            way: case.way,
            inputs: [0; 4].map(|_| random(dims, [-1.0, 1.0], device)),
        }
    }

    fn gradients(&self, way: Way, inputs: &[Tensor<4>; 4]) -> Vec<Tensor<1>> {
        let [q, k, v, d] = inputs.clone();
        let leaves = [q, k, v].map(|x| x.autodiff().require_grad());
        let o = attend(way, leaves.clone());
        let grads = (o.clone() * Tensor::from_inner(d)).sum().backward();
        let grad = |x: &Tensor<4>| x.grad(&grads).expect("a gradient").flatten(0, 3);
        std::iter::once(o.inner().flatten(0, 3))
            .chain(leaves.iter().map(grad))
            .collect()
    }
}

impl Contestant for Attention {
    fn check(&self) {
        let [_, t, ..] = self.inputs[0].dims();
        let t = t.min(CHECKED_TOKENS);
        let short = self.inputs.clone().map(|x| x.narrow(1, 0, t));
        let pairs = self
            .gradients(Way::Native, &short)
            .into_iter()
            .zip(self.gradients(Way::Tensors, &short));
        for (native, tensors) in pairs {
            let (native, tensors) = (values(native), values(tensors));
            assert_close(
                "softmax_attention",
                "native and tensors",
                &native,
                &tensors,
                TOL,
            );
        }
    }

    fn forward(&self) -> Vec<Tensor<1>> {
        let [q, k, v, _] = self.inputs.clone();
        vec![attend(self.way, [q, k, v]).flatten(0, 3)]
    }

    fn both(&self) -> Vec<Tensor<1>> {
        self.gradients(self.way, &self.inputs)
    }
}
