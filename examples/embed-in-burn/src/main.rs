//! InfinityFormer inside another Burn application: an ordinary module, trained with Burn's own AdamW.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::{error::Error, ops::ControlFlow};

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::prelude::*;
use infinity_model::{GenerationConfig, InfinityModel, ModelConfig, Tokenizer, generate};

const LINE: &str = "The quick brown fox jumps over the lazy dog.";

/// Learns `ids` by heart; returns the model and the loss of every step.
fn learn(ids: &[u32], vocab_size: usize, steps: usize) -> (InfinityModel, Vec<f32>) {
    let device = Device::flex().autodiff();
    let config = ModelConfig {
        vocab_size,
        hidden_size: 64,
        ..Default::default()
    };
    let mut model = config.init(&device);
    let mut optimizer = AdamWConfig::new().init();
    let cross_entropy = CrossEntropyLossConfig::new().init(&device);

    let inputs = Tensor::<1, Int>::from_ints(&ids[..ids.len() - 1], &device).unsqueeze::<2>();
    let targets = Tensor::<1, Int>::from_ints(&ids[1..], &device);
    let mut losses = Vec::new();
    for _ in 0..steps {
        let (logits, _state) = model.forward(inputs.clone(), model.initial_state(1));
        let loss = cross_entropy.forward(logits.squeeze_dim(0), targets.clone());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(3e-3, model, gradients);
        losses.push(loss.into_scalar());
    }
    (model, losses)
}

/// What the model writes after the first word of [`LINE`].
fn go_on(model: &InfinityModel, tokenizer: &Tokenizer) -> Result<String, Box<dyn Error>> {
    let greedy = GenerationConfig {
        do_sample: false,
        max_new_tokens: Some(20),
        ..Default::default()
    };
    let on_text = &mut |_: &str| ControlFlow::Continue(());
    let written = generate(&model.valid(), tokenizer, "The quic", &greedy, on_text)?;
    Ok(written.text)
}

fn main() -> Result<(), Box<dyn Error>> {
    let tokenizer = Tokenizer::bytes();
    let (model, losses) = learn(&tokenizer.encode(LINE)?, tokenizer.vocab_size(), 60);
    println!("loss {:.3} → {:.3}", losses[0], losses[losses.len() - 1]);
    println!("The quic…{}", go_on(&model, &tokenizer)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_learns_a_line_by_heart() {
        let tokenizer = Tokenizer::bytes();
        let ids = tokenizer.encode(LINE).expect("bytes hold any text");
        let (model, losses) = learn(&ids, tokenizer.vocab_size(), 60);
        let (first, last) = (losses[0], losses[losses.len() - 1]);
        // ln 257 = 5.55: every byte and the end of the text equally likely.
        assert!((5.0..6.5).contains(&first), "nothing learnt yet: {first}");
        assert!(last < 0.5, "loss {first} → {last}");
        let written = go_on(&model, &tokenizer).expect("a prompt the model knows");
        assert_eq!(written, LINE["The quic".len()..][..20]);
    }
}
