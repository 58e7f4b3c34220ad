//! The gates on the CPU: one pass forward, one pass back, tokens in pieces over the threads.
//!
//! Gradients of `A_log` and of the biases are summed within a piece and then over the pieces in
//! their order: two runs give the same bits.

use super::rule::{GateRule, Sections};
use crate::cpu::exp::{exp, log1p_of_unit, minus_expm1};
use crate::cpu::results::{in_pieces, summed};
use crate::cpu::simd::{Level, leveled, multiply_add};
use crate::cpu::tensors::{Input, Primitive};

/// Tokens a thread takes at a time.
const TOKENS: usize = 64;

leveled!(
    /// Log decay, read, write and erase of some tokens, `[tokens, H·S]` each; the last are empty with additive writes.
    fn forward_tokens<const FMA: bool, const ROWS: usize>(
        rule: GateRule,
        rate: &[f32],
        bias: &[f32],
        z: &[f32],
        gates: [&mut [f32]; 4],
    ) {
        let [log_decay, read, write, erase] = gates;
        let (per_state, mut token) = (rule.per_state(), Token::new(rule, rate, bias));
        for (i, z) in z.chunks_exact(rule.width()).enumerate() {
            token.read_projections::<FMA>(z);
            let at = i * per_state..(i + 1) * per_state;
            log_decay[at.clone()].copy_from_slice(&token.log_decay);
            token.write_gates(&mut read[at.clone()], &mut write[at.clone()]);
            if rule.delta {
                erase[at].copy_from_slice(&token.allocation);
            }
        }
    }
);

leveled!(
    /// Gradients of projections, `A_log` and biases for those of the gates of some tokens; the last two are added to.
    fn backward_tokens<const FMA: bool, const ROWS: usize>(
        rule: GateRule,
        rate: &[f32],
        bias: &[f32],
        z: &[f32],
        d: [&[f32]; 4],
        grads: [&mut [f32]; 3],
    ) {
        let ([d_log_decay, d_read, d_write, d_erase], [d_z, d_a_log, d_bias]) = (d, grads);
        let (width, per_state) = (rule.width(), rule.per_state());
        let mut token = Token::new(rule, rate, bias);
        let tokens = z.chunks_exact(width).zip(d_z.chunks_exact_mut(width));
        for (i, (z, d_z)) in tokens.enumerate() {
            token.read_projections::<FMA>(z);
            let at = i * per_state..(i + 1) * per_state;
            let d_erase = d_erase.get(at.clone()).unwrap_or_default();
            token.back_through_writes::<FMA>(&d_write[at.clone()], d_erase, d_z);
            token.back_through_reads(&d_read[at.clone()], d_z);
            token.back_through_decay(&d_log_decay[at], d_z, d_a_log, d_bias);
            token.add_to_biases(d_z, d_bias);
        }
    }
);

/// The gates, `[B, T, H, S]` each: log decay, read, write, and erase with delta writes.
pub(crate) fn forward(rule: GateRule, inputs: [Primitive; 3]) -> Vec<Primitive> {
    let [z, a_log, bias] = inputs.map(Input::new);
    let [b, t, width] = z.dims();
    let (rate, level) = (rates(&a_log), Level::detect());
    let one = b * t * rule.per_state();
    let lens = [one, one, one, if rule.delta { one } else { 0 }];
    let gates = in_pieces(lens, [TOKENS * rule.per_state(); 4], |i, gates| {
        let z = &z[i * TOKENS * width..];
        let z = &z[..z.len().min(TOKENS * width)];
        forward_tokens(level, rule, &rate, &bias, z, gates);
    });
    let gate = |values| z.result(values, [b, t, rule.n_heads, rule.n_states]);
    let results = 3 + usize::from(rule.delta);
    gates.into_iter().take(results).map(gate).collect()
}

/// Gradients of projections, `A_log` and biases, given those of the gates.
pub(crate) fn backward(
    rule: GateRule,
    inputs: [Primitive; 3],
    d: Vec<Primitive>,
) -> [Primitive; 3] {
    let [z, a_log, bias] = inputs.map(Input::new);
    let d: Vec<Input> = d.into_iter().map(Input::new).collect();
    let ([.., width], level) = (z.dims::<3>(), Level::detect());
    let (rate, per_state) = (rates(&a_log), rule.per_state());
    let pieces = z.len().div_ceil(TOKENS * width);
    let sizes = [TOKENS * width, a_log.len(), bias.len()];
    let lens = [z.len(), pieces * a_log.len(), pieces * bias.len()];
    let [d_z, d_a_log, d_bias] = in_pieces(lens, sizes, |i, grads| {
        let z = &z[i * TOKENS * width..][..grads[0].len()];
        let at = i * TOKENS * per_state;
        let len = z.len() / width * per_state;
        let part = |gate: usize| d.get(gate).map_or(&[][..], |d| &d[at..][..len]);
        let d = [0, 1, 2, 3].map(part);
        backward_tokens(level, rule, &rate, &bias, z, d, grads);
    });
    [
        z.like(d_z),
        a_log.like(summed(&d_a_log, a_log.len())),
        bias.like(summed(&d_bias, bias.len())),
    ]
}

/// `exp(A_log)`, `[H·S]`.
fn rates(a_log: &[f32]) -> Vec<f32> {
    a_log.iter().map(|a| a.exp()).collect()
}

/// Gates of one token, `[H·S]` or `[H]` each, and what their gradients need.
struct Token<'a> {
    rule: GateRule,
    of: Sections,
    /// Factor of the read weights.
    scale: f32,
    /// `exp(A_log)`.
    rate: &'a [f32],
    bias: &'a [f32],
    /// `σ(z_g + dt_bias)`.
    step_slope: Vec<f32>,
    log_decay: Vec<f32>,
    beta: Vec<f32>,
    allocation: Vec<f32>,
    /// `sqrt(1 − exp(2g))`, or one.
    kept: Vec<f32>,
    /// `σ(z_r + c_r)`, or one.
    open: Vec<f32>,
    /// Factor of the memory gate: `2(1 − m)` or `2m`, or one.
    side: Vec<f32>,
    memory: Vec<f32>,
    /// Gradient of the log decay on its way.
    d_log_decay: Vec<f32>,
}

/// `y = sigmoid(x + bias)`.
#[inline(always)]
fn sigmoid<const FMA: bool>(x: &[f32], bias: &[f32], y: &mut [f32]) {
    for ((y, x), bias) in y.iter_mut().zip(x).zip(bias) {
        *y = 1.0 / (1.0 + exp::<FMA>(-(x + bias)));
    }
}

impl<'a> Token<'a> {
    fn new(rule: GateRule, rate: &'a [f32], bias: &'a [f32]) -> Self {
        let (h, per_state) = (rule.n_heads, rule.per_state());
        Token {
            rule,
            of: Sections::of(&rule),
            scale: rule.read_scale(),
            rate,
            bias,
            step_slope: vec![0.0; per_state],
            log_decay: vec![0.0; per_state],
            beta: vec![0.0; h],
            allocation: vec![1.0; per_state],
            kept: vec![1.0; per_state],
            open: vec![1.0; per_state],
            side: vec![1.0; per_state],
            memory: vec![0.0; h],
            d_log_decay: vec![0.0; per_state],
        }
    }

    #[inline(always)]
    fn read_projections<const FMA: bool>(&mut self, z: &[f32]) {
        let (of, biases) = (self.of, self.bias);
        let (h, s) = (self.rule.n_heads, self.rule.n_states);
        if let Some(at) = of.decay {
            self.decay::<FMA>(of.steps.map(|from| &z[from..from + h * s]), at);
        }
        let strongest = self.rule.strongest();
        for (beta, z) in self.beta.iter_mut().zip(&z[of.beta..]) {
            *beta = strongest / (1.0 + exp::<FMA>(-z));
        }
        if let Some([at, bias]) = of.write {
            self.allocate::<FMA>(&z[at..at + h * s], &biases[bias..bias + h * s], s);
        }
        if let Some([at, bias]) = of.read {
            sigmoid::<FMA>(&z[at..at + h * s], &biases[bias..], &mut self.open);
        }
        if let Some([at, bias]) = of.memory {
            sigmoid::<FMA>(&z[at..at + h], &biases[bias..], &mut self.memory);
            for (side, m) in self.side.chunks_exact_mut(s).zip(&self.memory) {
                side.fill(2.0 * m);
                side[0] = 2.0 * (1.0 - m);
            }
        }
        if self.rule.keeps_size() {
            for (kept, g) in self.kept.iter_mut().zip(&self.log_decay) {
                *kept = minus_expm1::<FMA>(2.0 * g).sqrt();
            }
        }
    }

    /// Log decay and the slope of its step; without `z` the steps are the biases alone.
    #[inline(always)]
    fn decay<const FMA: bool>(&mut self, z: Option<&[f32]>, bias: usize) {
        let steps = &mut self.step_slope;
        steps.copy_from_slice(&self.bias[bias..bias + self.rule.per_state()]);
        if let Some(z) = z {
            for (step, z) in steps.iter_mut().zip(z) {
                *step += z;
            }
        }
        let values = steps.iter_mut().zip(&mut self.log_decay);
        for ((step, g), rate) in values.zip(self.rate) {
            let x = *step;
            let small = exp::<FMA>(-x.abs());
            let positive = if x < 0.0 { 0.0 } else { x };
            *g = -rate * (positive + log1p_of_unit::<FMA>(small));
            let far = 1.0 / (1.0 + small);
            *step = if x < 0.0 { small * far } else { far };
        }
    }

    /// `sqrt(softmax)` over the states of every head.
    #[inline(always)]
    fn allocate<const FMA: bool>(&mut self, z: &[f32], bias: &[f32], s: usize) {
        for ((a, z), bias) in self.allocation.iter_mut().zip(z).zip(bias) {
            *a = z + bias;
        }
        for a in self.allocation.chunks_exact_mut(s) {
            let highest = a.iter().fold(f32::NEG_INFINITY, |high, a| high.max(*a));
            for a in a {
                *a -= highest;
            }
        }
        for a in &mut self.allocation {
            *a = exp::<FMA>(*a);
        }
        for a in self.allocation.chunks_exact_mut(s) {
            let inverse = 1.0 / a.iter().sum::<f32>();
            for a in a {
                *a = (*a * inverse).sqrt();
            }
        }
    }

    /// Read and write weights.
    #[inline(always)]
    fn write_gates(&self, read: &mut [f32], write: &mut [f32]) {
        let (s, scale) = (self.rule.n_states, self.scale);
        for ((read, open), side) in read.iter_mut().zip(&self.open).zip(&self.side) {
            *read = scale * open * side;
        }
        for (j, write) in write.iter_mut().enumerate() {
            *write = self.allocation[j] * self.kept[j] * self.beta[j / s];
        }
    }

    /// From `write` and `erase` to `z_β`, `z_a`, and for additive writes to the log decay.
    #[inline(always)]
    fn back_through_writes<const FMA: bool>(
        &mut self,
        d_write: &[f32],
        d_erase: &[f32],
        d_z: &mut [f32],
    ) {
        let s = self.rule.n_states;
        for head in 0..self.rule.n_heads {
            let (beta, of_head) = (self.beta[head], head * s..(head + 1) * s);
            let (mut d_beta, mut along) = (0.0, 0.0);
            for j in of_head.clone() {
                let (a, kept) = (self.allocation[j], self.kept[j]);
                d_beta = multiply_add::<FMA>(d_write[j], a * kept, d_beta);
                let erased = d_erase.get(j).copied().unwrap_or(0.0);
                let d_a = multiply_add::<FMA>(d_write[j], beta * kept, erased);
                along = multiply_add::<FMA>(a, d_a, along);
                if let Some([at, _]) = self.of.write {
                    d_z[at + j] = 0.5 * a * d_a;
                }
                let slope = if kept > 0.0 {
                    (kept * kept - 1.0) / kept
                } else {
                    0.0
                };
                self.d_log_decay[j] = match self.rule.keeps_size() {
                    true => d_write[j] * a * beta * slope,
                    false => 0.0,
                };
            }
            if let Some([at, _]) = self.of.write {
                for j in of_head {
                    let a = self.allocation[j];
                    d_z[at + j] -= 0.5 * a * a * along;
                }
            }
            let part = beta / self.rule.strongest();
            d_z[self.of.beta + head] = d_beta * beta * (1.0 - part);
        }
    }

    /// From `read` to `z_r` and `z_m`.
    #[inline(always)]
    fn back_through_reads(&self, d_read: &[f32], d_z: &mut [f32]) {
        let (s, scale) = (self.rule.n_states, self.scale);
        if let Some([at, _]) = self.of.read {
            let outputs = d_z[at..].iter_mut().zip(d_read);
            for (((d_z, d), open), side) in outputs.zip(&self.open).zip(&self.side) {
                *d_z = d * scale * side * open * (1.0 - open);
            }
        }
        if let Some([at, _]) = self.of.memory {
            for (head, m) in self.memory.iter().enumerate() {
                let sum: f32 = (head * s..(head + 1) * s)
                    .map(|j| d_read[j] * self.open[j] * if j % s == 0 { -2.0 } else { 2.0 })
                    .sum();
                d_z[at + head] = scale * sum * m * (1.0 - m);
            }
        }
    }

    /// From the log decay to `z_g`, `A_log` and `dt_bias`.
    #[inline(always)]
    fn back_through_decay(
        &self,
        d_log_decay: &[f32],
        d_z: &mut [f32],
        d_a_log: &mut [f32],
        d_bias: &mut [f32],
    ) {
        let Some(bias) = self.of.decay else {
            return;
        };
        for (j, d) in d_log_decay.iter().enumerate() {
            let d = d + self.d_log_decay[j];
            d_a_log[j] += d * self.log_decay[j];
            let d_step = -d * self.rate[j] * self.step_slope[j];
            d_bias[bias + j] += d_step;
            if let Some(at) = self.of.steps {
                d_z[at + j] = d_step;
            }
        }
    }

    /// Adds a token's gradients to those of the biases of its sections; `dt_bias` has its own way.
    #[inline(always)]
    fn add_to_biases(&self, d_z: &[f32], d_bias: &mut [f32]) {
        let sections = [
            (self.of.write, self.rule.per_state()),
            (self.of.read, self.rule.per_state()),
            (self.of.memory, self.rule.n_heads),
        ];
        for (section, len) in sections {
            if let Some([from, to]) = section {
                let to = d_bias[to..to + len].iter_mut();
                for (to, d) in to.zip(&d_z[from..from + len]) {
                    *to += d;
                }
            }
        }
    }
}
