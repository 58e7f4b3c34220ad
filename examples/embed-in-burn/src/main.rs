//! InfinityFormer inside another Burn application: an ordinary module, trained with Burn's own AdamW.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::{error::Error, ops::ControlFlow};

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::prelude::*;
use infinity_model::{GenerationConfig, ModelConfig, Tokenizer, generate};

/// Learns `text` by heart. Returns the loss of every step, and how the model continues the first bytes.
fn learn(text: &str, steps: usize) -> Result<(Vec<f32>, String), Box<dyn Error>> {
    let device = Device::flex().autodiff();
    let tokenizer = Tokenizer::bytes();
    let ids = tokenizer.encode(text)?;
    let inputs = Tensor::<1, Int>::from_ints(&ids[..ids.len() - 1], &device).unsqueeze::<2>();
    let targets = Tensor::<1, Int>::from_ints(&ids[1..], &device);

    let vocab_size = tokenizer.vocab_size();
    let mut model = ModelConfig {
        vocab_size,
        hidden_size: 64,
        ..Default::default()
    }
    .init(&device);
    let mut optimizer = AdamWConfig::new().init();
    let mut losses = Vec::new();
    for _ in 0..steps {
        let (logits, _) = model.forward(inputs.clone(), model.initial_state(1));
        let loss = CrossEntropyLossConfig::new()
            .init(&device)
            .forward(logits.squeeze_dim(0), targets.clone());
        losses.push(loss.clone().into_scalar());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(3e-3, model, gradients);
    }

    let greedy = GenerationConfig {
        do_sample: false,
        max_new_tokens: 20,
        ..Default::default()
    };
    let on_text = &mut |_: &str| ControlFlow::Continue(());
    let written = generate(&model.valid(), &tokenizer, &text[..8], &greedy, on_text)?;
    Ok((losses, written.text))
}

fn main() -> Result<(), Box<dyn Error>> {
    let (losses, text) = learn("The quick brown fox jumps over the lazy dog.", 60)?;
    println!("loss {:.3} → {:.3}", losses[0], losses[losses.len() - 1]);
    println!("The quic…{text}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_learns_a_line_by_heart() {
        let text = "The quick brown fox jumps over the lazy dog.";
        let (losses, written) = learn(text, 60).expect("nothing here can fail");
        let (first, last) = (losses[0], losses[losses.len() - 1]);
        assert!(
            (5.0..6.5).contains(&first),
            "257 tokens, nothing learnt: ln 257 = 5.55, got {first}"
        );
        assert!(last < 0.5, "loss {first} → {last}");
        assert_eq!(written, text[8..28]);
    }
}
