//! How many kernels a GPU is asked to run for operators that take much at once: counted in a process of its own, as a
//! launch counts whichever thread asks for it.

#[cfg(all(feature = "wgpu", not(any(feature = "vulkan", feature = "metal"))))]
mod wgpu {
    use burn::tensor::{DType, Device, DeviceKind, Tensor, module};
    use infinity_kernels::adamw::{AdamW, Parameter, adamw};
    use infinity_kernels::borders::Borders;
    use infinity_kernels::cross_entropy::{Targets, with_gradient};
    use infinity_kernels::feature_map::FeatureMap;
    use infinity_kernels::launches::{Launches, launches};
    use infinity_kernels::linear::{joined, linear, projections, projections_and};
    use infinity_kernels::memory_gates::{DecayRule, GateInputs, GateRule, memory_gates};
    use infinity_kernels::muon::{Matrix, Muon, muon};
    use infinity_kernels::rms_norm::{GateAct, gated_rms_norm, rms_norm};
    use infinity_kernels::rotary::{Rotary, RotaryDims, Scaling};
    use infinity_kernels::short_conv::{Conv, short_conv_silu, short_conv_silu_each};
    use infinity_kernels::square_sum::square_sum;
    use infinity_kernels::swiglu::swiglu;
    use infinity_kernels::testing::{Random, tensor};
    use infinity_kernels::{Form, MemoryScanInputs, memory_scan};
    use std::process::Command;

    const CHILD: &str = "INFINITY_TEST_COUNTS_LAUNCHES";
    /// Forward and backward, a layer.
    const OF_A_LAYER: usize = 60;
    /// All matrices of one shape.
    const OF_MUON: usize = 17;
    const TENSORS: usize = 40;
    const D: usize = 64;
    const RULE: GateRule = GateRule {
        n_heads: 2,
        n_states: 4,
        delta: true,
        doubled: false,
        routed: false,
        decay: DecayRule::Adaptive,
        memory_gate: true,
    };

    fn device() -> Device {
        Device::wgpu(DeviceKind::DefaultDevice)
    }

    fn drawn<const N: usize>(random: &mut Random, dims: [usize; N], device: &Device) -> Tensor<N> {
        let values = random.values(dims.iter().product(), -0.5, 0.5);
        let x = tensor(&values, dims, DType::F32, device);
        if device.is_autodiff() {
            x.require_grad()
        } else {
            x
        }
    }

    /// A block as the model has it, with four states; `together` as it calls the operators, or one by one.
    fn layer(x: Tensor<3>, seed: u64, together: bool) -> Tensor<3> {
        let ([b, t, _], device) = (x.dims(), x.device());
        let random = &mut Random(seed);
        let mut matrix = |rows, columns| drawn(random, [rows, columns], &device);
        let linears: Vec<_> = (0..4).map(|_| matrix(D, D)).collect();
        let thin = [8, 2, 8, 8, 2].map(|out| matrix(D, out)).to_vec();
        let (o_proj, down) = (matrix(D, D), matrix(2 * D, D));
        let feeds = vec![matrix(D, 2 * D), matrix(D, 2 * D)];
        let taps = [(); 3].map(|()| matrix(D, 4));
        let a_log = matrix(2, 4);
        let mut vector = |len| drawn(random, [len], &device);
        let norms = [vector(D), vector(D), vector(D / 2)];
        let biases = [8, 8, 8, 2].map(&mut vector).to_vec();
        let one = |x: &Tensor<3>, weight: Tensor<2>| match together {
            true => linear(x.clone(), weight),
            false => module::linear(x.clone(), weight, None),
        };
        let all = |x: Tensor<3>, weights: Vec<Tensor<2>>| match together {
            true => projections(x, weights),
            false => weights.into_iter().map(|weight| one(&x, weight)).collect(),
        };
        let [before, between, after] = norms;
        let normed = rms_norm(x.clone(), before, 1e-5);
        let (projected, z) = match together {
            true => projections_and(normed, linears, thin),
            false => {
                let z = one(&normed, Tensor::cat(thin, 1));
                (all(normed, linears), z)
            }
        };
        let [q, k, v, gate] = <[Tensor<3>; 4]>::try_from(projected).expect("four");
        let tail = Tensor::zeros([b, D, 3], &device.clone().inner());
        let convs = [q, k, v].into_iter().zip(taps);
        let convs = convs.map(|(x, weight)| (x, weight, tail.clone()));
        let convolved = match together {
            true => {
                let convs = convs.map(|(x, weight, tail)| Conv { x, weight, tail });
                short_conv_silu_each(convs.collect(), &Borders::default())
            }
            false => convs
                .map(|(x, w, tail)| short_conv_silu(x, w, tail))
                .collect(),
        };
        let heads = convolved
            .into_iter()
            .map(|(y, _)| y.reshape([b, t, 2, D / 2]));
        let [q, k, v] = <[Tensor<4>; 3]>::try_from(heads.collect::<Vec<_>>()).expect("three");
        let dims = RotaryDims {
            key_dim: D / 2,
            rotated: D / 4,
            base: 1e4,
            scaling: Scaling::None,
        };
        let rotary = Rotary::new(&[0], t, dims, &device.clone().inner());
        let [q, k] = match together {
            true => rotary.units([q, k], FeatureMap::Identity, 1e-12),
            false => [q, k].map(|x| rotary.unit(x, FeatureMap::Identity, 1e-12)),
        };
        let bias = match together {
            true => joined(biases),
            false => Tensor::cat(biases, 0),
        };
        let inputs = GateInputs {
            projections: z,
            a_log,
            bias,
        };
        let gates = memory_gates(RULE, inputs);
        let inputs = MemoryScanInputs {
            q,
            k,
            v,
            log_decay: gates.log_decay,
            read: gates.read,
            write: gates.write,
            erase: gates.erase,
        };
        let state = Tensor::zeros([b, 2, 4, D / 2, D / 2], &device.clone().inner());
        let o = memory_scan(inputs, state, Form::choose(t, &device)).o;
        let o = gated_rms_norm(o, after, gate, GateAct::Sigmoid, 1e-5).reshape([b, t, D]);
        let x = x + one(&o, o_proj);
        let normed = rms_norm(x.clone(), between, 1e-5);
        let [gate, up] = <[Tensor<3>; 2]>::try_from(all(normed, feeds)).expect("two");
        x + one(&swiglu(gate, up), down)
    }

    /// The launches of `work` once all that is to be tuned is.
    fn counted<R>(mut work: impl FnMut() -> R) -> Launches {
        let mut synced = || {
            let result = work();
            device().sync().expect("a device that works");
            result
        };
        synced();
        synced();
        launches(synced).1
    }

    fn total(launches: &Launches) -> usize {
        launches.values().sum()
    }

    fn print(title: &str, launches: &Launches) {
        println!("{title}: {}", total(launches));
        launches
            .iter()
            .for_each(|(name, n)| println!("  {n:4}  {name}"));
    }

    /// Forward and backward of so many layers.
    fn of_layers(layers: u64, together: bool) -> Launches {
        let device = device().autodiff();
        counted(|| {
            let mut x = drawn(&mut Random(1), [2, 64, D], &device);
            for seed in 0..layers {
                x = layer(x, seed + 2, together);
            }
            x.sum().backward()
        })
    }

    /// What a second layer adds.
    fn of_a_layer(together: bool) -> Launches {
        let mut two = of_layers(2, together);
        for (name, n) in of_layers(1, together) {
            let count = two.entry(name).or_default();
            *count = count.saturating_sub(n);
        }
        two.retain(|_, n| *n > 0);
        two
    }

    #[test]
    fn many_tensors_take_few_launches() {
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args([
                "--exact",
                "launches::wgpu::in_a_process_alone",
                "--nocapture",
            ])
            .env(CHILD, "1")
            .output()
            .expect("a process");
        println!("{}", String::from_utf8_lossy(&child.stdout));
        assert!(
            child.status.success(),
            "{}",
            String::from_utf8_lossy(&child.stderr)
        );
    }

    /// The other process; nothing in this one.
    #[test]
    fn in_a_process_alone() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let device = device();
        let vectors = || -> Vec<Tensor<1>> {
            let mut random = Random(1);
            (0..TENSORS)
                .map(|i| drawn(&mut random, [i * 37 + 1], &device))
                .collect()
        };
        let norm = counted(|| square_sum(vectors()));
        print("global norm of 40 tensors", &norm);
        let updated = counted(|| {
            let parameter = |x: Tensor<1>| Parameter {
                rule: AdamW {
                    beta1: 0.9,
                    beta2: 0.95,
                    eps: 1e-8,
                    learning_rate: 0.01,
                    weight_decay: 0.1,
                    time: 1,
                    scale: 0.5,
                },
                weights: x.clone(),
                grad: x.clone(),
                moments: [x.clone(), x],
            };
            adamw(vectors().into_iter().map(parameter).collect())
        });
        print("AdamW of 40 tensors", &updated);
        let moved = |n: usize| {
            counted(|| {
                let mut random = Random(2);
                let matrix = |_| {
                    let mut x = || drawn(&mut random, [48, 80], &device);
                    Matrix {
                        rule: Muon {
                            momentum: 0.95,
                            scale: 0.5,
                            rate: 0.02,
                            decay: 0.1,
                            cautious: false,
                        },
                        weights: x(),
                        grad: x(),
                        velocity: Some(x()),
                    }
                };
                muon((0..n).map(matrix).collect())
            })
        };
        let (two, twelve) = (moved(2), moved(12));
        print("Muon of 12 matrices of a shape", &twelve);
        let loss = counted(|| {
            let logits = drawn(&mut Random(3), [30, 65], &device);
            let targets: Vec<i32> = (0..30).collect();
            with_gradient(logits, &Targets::new(&targets, &device), 1.0)
        });
        print("loss and gradient of logits", &loss);
        let (apart, layer) = (of_a_layer(false), of_a_layer(true));
        print("a layer, operators called one by one", &apart);
        print("a layer, forward and backward", &layer);
        assert!(total(&norm) <= 2 + TENSORS / 16, "the norm");
        assert!(total(&updated) <= TENSORS / 3, "AdamW");
        assert!(total(&two) <= OF_MUON && total(&twelve) <= OF_MUON, "Muon");
        assert_eq!(total(&loss), 1, "the loss");
        assert!(total(&layer) <= OF_A_LAYER, "a layer");
        assert!(
            total(&apart) > total(&layer),
            "what is counted is what is launched"
        );
    }
}
