//! `infinity state inspect|diff FILE`: what a kept state holds, and how far two are apart.

use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::{Device, Tensor};
use clap::Subcommand;
use infinity_model::{LayerState, ModelState, state_file};
use serde_json::{Value, json};

use crate::args::{Global, JsonArgs};
use crate::device;
use crate::terminal::{self, refuse};

#[derive(Debug, Subcommand)]
pub(crate) enum StateVerb {
    /// Show what is in a state: layers, sizes, tokens read, and how large its numbers are
    Inspect {
        /// File that a command's --state-out wrote
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        print: JsonArgs,
    },
    /// Show how far two states of one model are apart
    Diff {
        /// The first
        #[arg(value_name = "FILE")]
        first: PathBuf,
        /// The second
        #[arg(value_name = "OTHER")]
        other: PathBuf,
        #[command(flatten)]
        print: JsonArgs,
    },
}

pub(crate) fn run(verb: &StateVerb, global: &Global) -> anyhow::Result<()> {
    let device = device::open(&device::wanted(global))?.device;
    let ((lines, object), print) = match verb {
        StateVerb::Inspect { file, print } => (inspect(file, &device)?, print),
        StateVerb::Diff {
            first,
            other,
            print,
        } => (diff(first, other, &device)?, print),
    };
    match print.json {
        true => terminal::line(object),
        false => terminal::line(lines.join("\n")),
    }
}

/// Lines for a person, and the same for a program.
type Shown = (Vec<String>, Value);

fn read(path: &Path, device: &Device) -> anyhow::Result<(ModelState, Vec<(String, String)>)> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let place = || path.display().to_string();
    let state = ModelState::from_bytes(&bytes, device).with_context(place)?;
    Ok((state, state_file::notes(&bytes).with_context(place)?))
}

fn inspect(path: &Path, device: &Device) -> anyhow::Result<Shown> {
    let (state, notes) = read(path, device)?;
    let bytes = state.bytes() as u64;
    let (shown, rows, layers) = (path.display(), state.batch(), state.layers.len());
    let (size, tokens) = (terminal::bytes(bytes), tokens(&state));
    let mut lines = vec![format!(
        "{shown}: {rows} rows of {layers} layers, {size} in all, after {tokens} tokens"
    )];
    let told = notes.iter();
    lines.extend(told.map(|(key, value)| format!("{key:<14} {value}")));
    lines.push("layer             shape                           RMS  by time scale".to_owned());
    let mut layers = Vec::new();
    for (i, layer) in state.layers.iter().enumerate() {
        for part in parts(layer) {
            let (name, rms, by_scale) = (part.name, rms(&part.values), part.scales());
            let scales: Vec<String> = by_scale.iter().map(|x| format!("{x:.3e}")).collect();
            let shape = format!("{:?}", part.shape);
            lines.push(format!(
                "{i:>5}  {name:<10} {shape:<24} {rms:>10.3e}  {}",
                scales.join(" ")
            ));
            layers.push(json!({
                "layer": i, "name": name, "shape": part.shape, "rms": rms,
                "rms_by_scale": by_scale,
            }));
        }
    }
    let notes = notes.into_iter().map(|(key, value)| (key, value.into()));
    let json = json!({
        "position": state.position, "bytes": bytes, "notes": Value::Object(notes.collect()),
        "tensors": layers,
    });
    Ok((lines, json))
}

fn diff(first: &Path, second: &Path, device: &Device) -> anyhow::Result<Shown> {
    let (a, a_notes) = read(first, device)?;
    let (b, b_notes) = read(second, device)?;
    let [of_a, of_b] = [&a_notes, &b_notes].map(|notes| notes.iter().find(|(k, _)| k == "model"));
    let one_model = of_a == of_b;
    let mut lines = vec![
        format!("tokens read: {} and {}", tokens(&a), tokens(&b)),
        format!("of one model: {}", if one_model { "yes" } else { "no" }),
        "layer                  largest     RMS / RMS".to_owned(),
    ];
    let [of_a, of_b] = [&a, &b].map(|state| (state.batch(), state.layers.len()));
    if of_a != of_b {
        let ((a, a_layers), (b, b_layers)) = (of_a, of_b);
        let [first, second] = [first, second].map(Path::display);
        refuse!(
            "{first} has {a} rows of {a_layers} layers and {second} has {b} rows of {b_layers}: they cannot be \
             compared"
        );
    }
    let (mut layers, mut equal) = (Vec::new(), a.position == b.position);
    for (i, (a, b)) in a.layers.iter().zip(&b.layers).enumerate() {
        for (a, b) in parts(a).into_iter().zip(parts(b)) {
            if a.shape != b.shape {
                let (name, a, b) = (a.name, &a.shape, &b.shape);
                lines.push(format!("{i:>5}  {name:<10} {a:?} and {b:?}"));
                layers.push(json!({ "layer": i, "name": name, "shapes": [a, b] }));
                equal = false;
                continue;
            }
            let apart = a.values.iter().zip(&b.values).map(|(a, b)| (a - b).abs());
            let apart: Vec<f32> = apart.collect();
            let largest = apart.iter().copied().fold(0.0, f32::max);
            let ratio = rms(&apart) / rms(&a.values).max(f64::MIN_POSITIVE);
            let bits = |part: &Part| part.values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            equal &= bits(&a) == bits(&b);
            lines.push(format!(
                "{i:>5}  {:<10} {largest:>12.3e}  {ratio:>12.3e}",
                a.name
            ));
            layers.push(json!({
                "layer": i, "name": a.name, "largest": largest, "relative_rms": ratio,
            }));
        }
    }
    let (not, bits) = if equal {
        ("", " in every bit")
    } else {
        ("not ", "")
    };
    lines.push(format!("{not}equal{bits}"));
    let json = json!({
        "positions": [a.position, b.position], "one_model": one_model, "equal": equal,
        "tensors": layers,
    });
    Ok((lines, json))
}

fn tokens(state: &ModelState) -> String {
    let read = state.position.iter().map(|n| terminal::grouped(*n));
    read.collect::<Vec<_>>().join(", ")
}

struct Part {
    name: &'static str,
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Part {
    fn of<const D: usize>(name: &'static str, tensor: &Tensor<D>) -> Self {
        Self {
            name,
            shape: tensor.dims().to_vec(),
            values: tensor.to_data().iter::<f32>().collect(),
        }
    }

    /// The root mean square of each time scale of a memory `[B, H, S, K, V]`.
    fn scales(&self) -> Vec<f64> {
        let [_, _, scales, k, v] = self.shape[..] else {
            return Vec::new();
        };
        let of = |scale: usize| {
            let blocks = self.values.chunks(k * v).skip(scale).step_by(scales);
            rms(&blocks.flatten().copied().collect::<Vec<f32>>())
        };
        (0..scales).map(of).collect()
    }
}

fn parts(layer: &LayerState) -> Vec<Part> {
    match layer {
        LayerState::Infinity { memory, tails } => {
            let mut parts = vec![Part::of("memory", memory)];
            parts.extend(tails.iter().map(|tail| Part::of("tail", tail)));
            parts
        }
        LayerState::Softmax { cache } => {
            let filled = cache.filled().into_iter().flatten();
            let named = ["keys", "values"].into_iter().zip(filled);
            named.map(|(name, x)| Part::of(name, &x)).collect()
        }
    }
}

fn rms(values: &[f32]) -> f64 {
    let sum: f64 = values.iter().map(|x| f64::from(*x).powi(2)).sum();
    (sum / values.len().max(1) as f64).sqrt()
}
