use super::*;
use burn::tensor::Distribution;
use infinity_kernels::{Form, MemoryScanInputs, MemoryScanOutput, memory_scan};

fn random<const D: usize>(shape: [usize; D], from: f64, to: f64) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(from, to), &Device::flex())
}

fn unit(x: Tensor<4>) -> Tensor<4> {
    let length = x.clone().square().sum_dim(3).sqrt();
    x / length
}

const WIDTHS: [Width; 3] = [Width::Four, Width::Eight, Width::Bf16];

#[test]
fn what_comes_back_is_as_near_as_it_says() {
    let device = Device::flex();
    device.seed(1);
    // Rows of every kind: whole blocks, blocks over rows, no power of two, a single number.
    for (k, v) in [(32, 32), (4, 64), (3, 48), (5, 8), (7, 5), (1, 1)] {
        let memory = random([2, 3, 2, k, v], -1.0, 1.0);
        for (width, most) in [
            (Width::Four, 0.15),
            (Width::Eight, 0.01),
            (Width::Bf16, 0.004),
        ] {
            let small = compress(&memory, width);
            let back = decompress(&small, &device);
            assert_eq!((small.rounding.len(), back.dims()), (6, memory.dims()));
            let difference = host(&(back.clone() - memory.clone()));
            for (head, part) in difference.chunks(2 * k * v).enumerate() {
                let norm = part
                    .iter()
                    .map(|x| f64::from(*x).powi(2))
                    .sum::<f64>()
                    .sqrt();
                assert!((norm - small.rounding[head]).abs() <= 1e-6 * small.norm[head]);
                assert!(norm <= most * small.norm[head], "{width} {k} {v}: {norm}");
            }
            // Folding what was folded changes nothing.
            let again = compress(&back, width);
            assert_eq!((&again.codes, &again.scales), (&small.codes, &small.scales));
            assert_eq!(decompress(&again, &device).to_data(), back.to_data());
        }
    }
}

#[test]
fn zeros_small_large_and_single_numbers() {
    let device = Device::flex();
    let zeros = Tensor::<5>::zeros([1, 1, 1, 4, 32], &device);
    for width in WIDTHS {
        let small = compress(&zeros, width);
        assert_eq!(small.relative_error(), 0.0);
        assert_eq!(decompress(&small, &device).to_data(), zeros.to_data());
        for factor in [1e-30, 1e-6, 1e6] {
            let memory = random([1, 1, 1, 4, 32], -1.0, 1.0) * factor;
            let small = compress(&memory, width);
            // Below the smallest scale a number is lost, and the error says so.
            let error = small.relative_error();
            assert!(
                error.is_finite() && error <= 1.0,
                "{width} {factor}: {error}"
            );
            let back = decompress(&small, &device);
            assert_eq!(
                compress(&back, width).codes,
                small.codes,
                "{width} {factor}"
            );
        }
    }
    // One number that stands out of its row costs the others nothing: that is what is rotated for.
    let mut numbers = vec![0.01_f32; 32 * 32];
    numbers.iter_mut().step_by(32).for_each(|x| *x = 1.0);
    let memory = Tensor::from_data(TensorData::new(numbers, [1, 1, 1, 32, 32]), &device);
    let error = compress(&memory, Width::Four).relative_error();
    assert!(error < 0.1, "{error}");
}

#[test]
fn bytes_are_as_promised() {
    let memory = random([1, 4, 4, 64, 64], -1.0, 1.0);
    let exact = 4 * memory.shape().num_elements();
    let ratio = |width| exact as f64 / compress(&memory, width).bytes() as f64;
    assert!(ratio(Width::Eight) >= 3.7 && ratio(Width::Four) >= 7.0);
    assert_eq!(ratio(Width::Bf16), 2.0);
    assert_eq!(
        [0.1, 0.15, 0.2, 0.3, 0.5]
            .map(Width::of_ratio)
            .map(|w| w.to_string()),
        ["4", "4", "8", "8", "bf16"]
    );
    for width in WIDTHS {
        assert_eq!(Width::of_ratio(width.ratio()), width);
        assert_eq!(width.to_string().parse(), Ok(width));
    }
    assert!("16".parse::<Width>().is_err());
}

/// A kind of text for a memory: random, or as bad as it can be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Text {
    Random,
    /// Nothing is forgotten and every write turns the memory around, with one key again and again.
    Turning,
    /// One state forgets all, one nothing; writes do not correct.
    Additive,
    /// All keys are the same and the reads ask for just that.
    OneKey,
}

const DIMS: [usize; 4] = [1, 2, 2, 16];

fn inputs(text: Text, t: usize) -> MemoryScanInputs {
    let [b, h, s, k] = DIMS;
    let gate = |from: f64, to: f64| random([b, t, h, s], from, to);
    let mut x = MemoryScanInputs {
        q: unit(random([b, t, h, k], -1.0, 1.0)),
        k: unit(random([b, t, h, k], -1.0, 1.0)),
        v: random([b, t, h, k], -1.0, 1.0),
        log_decay: gate(-0.2, 0.0),
        read: gate(0.0, 2.0),
        write: gate(0.0, 1.0),
        erase: Some(unit(gate(0.0, 1.0))),
    };
    let turning = x.erase.clone().map(|erase| erase * 2.0);
    match text {
        Text::Random => x.write = x.erase.clone().unwrap() * random([b, t, h, 1], 0.0, 2.0),
        Text::Turning => {
            x.log_decay = gate(-1e-6, 0.0);
            x.write = turning.unwrap();
        }
        Text::Additive => {
            x.log_decay =
                Tensor::cat(vec![gate(-200.0, -100.0), gate(-1e-6, 0.0)], 3).narrow(3, s / 2, s);
            x.erase = None;
        }
        Text::OneKey => {
            let one = unit(Tensor::ones([b, t, h, k], &Device::flex()));
            (x.q, x.k) = (one.clone(), one);
            x.log_decay = gate(-1e-6, 0.0);
            x.write = turning.unwrap() * 0.5;
        }
    }
    x
}

/// A memory that reads `pieces` of `len` tokens and folds after every `every` of them.
fn read(text: Text, pieces: usize, len: usize, every: usize, width: Width, wrong: f64) -> Held {
    let device = Device::flex();
    let [b, h, s, k] = DIMS;
    let mut memory = Tensor::<5>::zeros([b, h, s, k, k], &device);
    let mut certificate = Certificate::new(&memory);
    for piece in 1..=pieces {
        let inputs = inputs(text, len);
        let form = Form::choose(len, &device);
        let MemoryScanOutput { state, .. } = memory_scan(inputs.clone(), memory.clone(), form);
        certificate.read(&inputs, &memory, &state);
        memory = state;
        if piece % every == 0 {
            let folded = compress(&memory, width);
            certificate.fold(&memory, &folded);
            // A fold that does another thing than it says.
            memory = decompress(&folded, &device) * (1.0 + wrong);
        }
    }
    certificate.held()
}

#[test]
fn the_bound_holds_at_every_token_of_any_text() {
    Device::flex().seed(2);
    for text in [Text::Random, Text::Turning, Text::Additive, Text::OneKey] {
        for width in [Width::Four, Width::Eight] {
            // Token by token, so that the memories are compared after each; then in pieces.
            for (pieces, len, every) in [(400, 1, 16), (60, 64, 1), (30, 32, 4)] {
                let held = read(text, pieces, len, every, width, 0.0);
                let [b, h, ..] = DIMS;
                let folds = pieces / every;
                assert_eq!(held.checks as usize, b * h * (pieces * (len + 1) + folds));
                assert_eq!(held.broken, 0, "{text:?} {width} {len}: {held:?}");
                assert!(held.closest <= 1.0 && held.closest > 0.0);
                assert!(held.memory.measured() > 0.0, "folding costs something");
            }
        }
    }
}

#[test]
fn a_broken_bound_is_caught() {
    Device::flex().seed(3);
    for text in [Text::Random, Text::Turning, Text::OneKey] {
        let held = read(text, 60, 64, 1, Width::Eight, 0.5);
        assert!(held.broken > 0 && held.closest > 1.0, "{text:?}: {held:?}");
    }
}

#[test]
fn what_is_expected_is_what_is_measured() {
    Device::flex().seed(4);
    let held = read(Text::Random, 300, 64, 2, Width::Eight, 0.0);
    for sizes in [held.memory, held.outputs] {
        let ratio = sizes.measured() / sizes.expected();
        assert!((0.8..1.25).contains(&ratio), "{ratio}");
        assert!(sizes.bound() > sizes.measured());
    }
}
