//! A short run on another device gives the losses of Flex, goes on with the same bits, and a recorded step decodes as
//! the ones before it.

use super::common::{config, run_on};
use infinity_model::burn::tensor::Device;
use infinity_train::data::Packing;
use tempfile::tempdir;

/// Losses of the eight steps and the last validation.
fn losses(device: Device, seed: u64) -> Vec<f64> {
    let directory = tempdir().expect("a folder");
    let mut config = config(directory.path(), Packing::Random);
    config.run.seed = seed;
    let (report, heard) = run_on(device, &config, None, None);
    let eval = report.expect("a run").eval.expect("a validation");
    let mut losses: Vec<f64> = heard.steps.iter().filter_map(|step| step.loss).collect();
    losses.push(eval.loss);
    losses
}

fn apart(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max)
}

/// Nats, where products of f32 are of f32; and where they are in TF32.
const SAME: [f64; 2] = [1e-5, 1e-3];

#[test]
fn another_seed_is_another_run() {
    let distance = apart(&losses(Device::flex(), 1), &losses(Device::flex(), 2));
    assert!(distance > SAME[1]);
}

#[test]
fn the_processor_records_no_step() {
    use infinity_model::replay::Replay;
    let config = infinity_model::ModelConfig {
        vocab_size: 9,
        ..super::common::model()
    };
    let model = config.init_seeded(1, &Device::flex());
    let state = model.initial_state(1);
    assert!(Replay::new(&model, &state).is_none());
}

#[cfg(any(
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "cuda",
    feature = "rocm"
))]
mod gpu {
    use super::{SAME, apart, config, losses, run_on};
    use crate::common::text;
    use infinity_kernels::accelerator::multiplies_in_tf32;
    use infinity_kernels::testing::values;
    use infinity_model::burn::tensor::{Device, DeviceType, Int, Tensor};
    use infinity_model::replay::Replay;
    use infinity_model::{
        GenerationConfig, InfinityModel, ModelConfig, ModelState, Tokenizer, generate::Context,
        generate_from,
    };
    use infinity_train::Resume;
    use infinity_train::data::Packing;
    use std::fs;
    use std::ops::ControlFlow;
    use tempfile::tempdir;

    /// One for bytes.
    fn model(device: &Device) -> InfinityModel {
        let config = ModelConfig {
            vocab_size: 257,
            ..crate::common::model()
        };
        config.init_seeded(3, device)
    }

    fn gives_the_losses_of_flex(device: Device) {
        let limit = SAME[usize::from(multiplies_in_tf32(&device))];
        let here = losses(device, 1);
        let distance = apart(&here, &losses(Device::flex(), 1));
        println!("{distance:.1e} nats apart");
        assert!(distance < limit, "{distance} nats apart: {here:?}");
    }

    /// Eight steps, and four and four.
    fn goes_on_with_the_same_bits(device: Device) {
        let directories = [(); 2].map(|()| tempdir().expect("a folder"));
        let weights = |directory: &tempfile::TempDir, stop_at: Option<u64>| {
            let config = config(directory.path(), Packing::Random);
            run_on(device.clone(), &config, None, stop_at)
                .0
                .expect("a run");
            if stop_at.is_some() {
                let resume = Some(Resume::Latest);
                run_on(device.clone(), &config, resume, None)
                    .0
                    .expect("the rest");
            }
            let file = config.output_dir().join("final/model.safetensors");
            fs::read(file).expect("weights")
        };
        let whole = weights(&directories[0], None);
        assert!(whole == weights(&directories[1], Some(4)));
    }

    /// On a device by its number, which is not the one that `default` stands for: every tensor of both runs has to be
    /// there, for none goes together with another's.
    fn goes_on_by_its_number(kind: DeviceType, default: Device) {
        let all = Device::enumerate(kind).into_vec();
        let Some(device) = all.into_iter().find(|device| *device != default) else {
            return println!("NOTHING SEEN: this machine has one device");
        };
        let together = std::panic::catch_unwind(|| {
            let [here, there] = [&default, &device].map(|x| Tensor::<1>::ones([3], x));
            (here + there).try_into_data().map(drop)
        });
        assert!(!matches!(together, Ok(Ok(()))), "devices are told apart");
        goes_on_with_the_same_bits(device);
    }

    /// The logits after each of `tokens`, by steps that are launched one by one.
    fn launched(model: &InfinityModel, mut state: ModelState, tokens: &[u32]) -> Vec<Vec<f64>> {
        let step = |token: &u32| {
            let ids = Tensor::<1, Int>::from_ints([*token as i32], &model.device());
            let (logits, next) = model.decode_step(ids, state.clone());
            state = next;
            values(logits)
        };
        tokens.iter().map(step).collect()
    }

    /// A recorded step gives the bits of a step that is launched, and so does the state that it leaves.
    fn a_recorded_step_decodes_as_the_ones_before_it(device: Device) {
        let model = model(&device);
        let text: Vec<u32> = text(1).bytes().map(u32::from).collect();
        let (before, after) = text.split_at(5);
        let ids: Vec<i32> = before.iter().map(|id| *id as i32).collect();
        let ids = Tensor::<1, Int>::from_ints(ids.as_slice(), &device);
        let (_, state) = model.prefill(ids.unsqueeze(), model.initial_state(1));
        let expected = launched(&model, state.clone(), after);
        let mut replay = Replay::new(&model, &state).expect("a device that records");
        for (token, expected) in after.iter().zip(&expected) {
            assert_eq!(values(replay.step(&[*token])), *expected);
        }
        let next = [after, &[7]].concat();
        let gone_on = launched(&model, replay.state(), &[7]);
        assert_eq!(
            gone_on[..],
            launched(&model, state.clone(), &next)[after.len()..]
        );
        // Rows at places of their own.
        let mut rows = ModelState::cat(vec![state.clone(), model.initial_state(1)]);
        let mut replay = Replay::new(&model, &rows).expect("a device that records");
        for pair in after.windows(2).take(9) {
            let ids = Tensor::<1, Int>::from_ints([pair[0] as i32, pair[1] as i32], &device);
            let (logits, next) = model.decode_step(ids, rows);
            rows = next;
            assert_eq!(values(replay.step(pair)), values(logits));
        }
        assert_eq!(replay.state().position, rows.position);
        // Another token, and another place, are seen.
        let mut other = Replay::new(&model, &state).expect("a device that records");
        assert_ne!(values(other.step(&[after[0] + 1])), expected[0]);
        let mut late = state;
        late.position[0] += 1;
        let mut late = Replay::new(&model, &late).expect("a device that records");
        assert_ne!(values(late.step(&after[..1])), expected[0]);
    }

    /// Generation with enough tokens to come that a step is recorded, against one with too few at a time.
    fn a_text_does_not_depend_on_what_is_recorded(device: Device) {
        let model = model(&device);
        let tokenizer = Tokenizer::bytes();
        let more = |context: Context, prompt: &str, tokens: usize| {
            let config = GenerationConfig {
                max_new_tokens: Some(tokens),
                ignore_eos: true,
                seed: Some(1),
                ..GenerationConfig::default()
            };
            let on_text = &mut |_: &str| ControlFlow::Continue(());
            generate_from(&model, &tokenizer, prompt, context, &config, on_text).expect("a text")
        };
        let (whole, left) = more(Context::new(&model), "line 1: ", 48);
        let (first, context) = more(Context::new(&model), "line 1: ", 16);
        let (second, context) = more(context, "", 16);
        let (third, context) = more(context, "", 16);
        let parts = [first.tokens, second.tokens, third.tokens].concat();
        assert_eq!(whole.tokens, parts);
        assert_eq!(left.position(), context.position());
        assert_eq!(left.logits, context.logits);
    }

    macro_rules! on {
        ($name:ident, $kind:ident, $device:expr) => {
            mod $name {
                use infinity_model::burn::tensor::*;

                #[test]
                fn gives_the_losses_of_flex() {
                    super::gives_the_losses_of_flex($device);
                }

                #[test]
                fn goes_on_with_the_same_bits() {
                    super::goes_on_with_the_same_bits($device);
                }

                #[test]
                fn goes_on_by_its_number() {
                    super::goes_on_by_its_number(DeviceType::$kind, $device);
                }

                #[test]
                fn a_recorded_step_decodes_as_the_ones_before_it() {
                    super::a_recorded_step_decodes_as_the_ones_before_it($device);
                }

                #[test]
                fn a_text_does_not_depend_on_what_is_recorded() {
                    super::a_text_does_not_depend_on_what_is_recorded($device);
                }
            }
        };
    }

    #[cfg(all(feature = "wgpu", not(any(feature = "vulkan", feature = "metal"))))]
    on!(wgpu, Wgpu, Device::wgpu(DeviceKind::DefaultDevice));
    #[cfg(feature = "vulkan")]
    on!(vulkan, Vulkan, Device::vulkan(DeviceKind::DefaultDevice));
    #[cfg(feature = "metal")]
    on!(metal, Metal, Device::metal(DeviceKind::DefaultDevice));
    #[cfg(feature = "cuda")]
    on!(cuda, Cuda, Device::cuda(0));
    #[cfg(feature = "rocm")]
    on!(rocm, Rocm, Device::rocm(0));
}
