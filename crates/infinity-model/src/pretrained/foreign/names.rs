//! Where each of our weights is among another family's tensors.

use crate::parameters::Weight;
use crate::pretrained::plan::{Piece, Recipe};
use crate::pretrained::read::StoredWeights;

/// How a family's weights are named and laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pretrained) enum Family {
    /// Llama and Qwen3.
    Llama,
    /// Qwen3.5, and Qwen3-Next if its projections are one matrix.
    Qwen { fused: bool },
    /// Olmo-Hybrid.
    Olmo,
    /// The GatedDeltaNet of flash-linear-attention.
    Fla,
}

/// The heads of full attention.
#[derive(Clone, Copy, Debug)]
pub(in crate::pretrained) struct Heads {
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) width: usize,
    /// Whether the query projection also has a gate's rows, head by head.
    pub(super) gated: bool,
}

/// The sizes of linear layers.
#[derive(Clone, Copy, Debug)]
pub(in crate::pretrained) struct Linear {
    pub(super) key_heads: usize,
    pub(super) value_heads: usize,
    pub(super) key_width: usize,
    pub(super) value_width: usize,
    pub(super) kernel: usize,
    /// Whether there is a convolution; without one q, k and v pass SiLU alone, as by a kernel of one 1.
    pub(super) convolved: bool,
}

/// How to find weights in a family's files.
#[derive(Clone, Debug)]
pub(in crate::pretrained) struct Names {
    pub(super) family: Family,
    /// Which layers are softmax attention.
    pub(super) full: Vec<bool>,
    pub(super) heads: Heads,
    pub(super) linear: Option<Linear>,
    pub(super) tied: bool,
}

/// A family's tensors, and whether some of them are there.
struct Stored<'a> {
    weights: &'a StoredWeights,
    /// What stands before the names of layers.
    prefix: &'static str,
}

impl Stored<'_> {
    fn rows(&self, name: &str) -> Option<usize> {
        self.weights.tensors.get(name)?.shape.first().copied()
    }

    /// The first of these names that is there, or the first.
    fn first(&self, before: &str, names: [&str; 2]) -> String {
        let [usual, other] = names.map(|name| format!("{before}{name}"));
        match self.rows(&usual).is_none() && self.rows(&other).is_some() {
            true => other,
            false => usual,
        }
    }
}

impl Names {
    /// Where one of our weights is.
    pub(in crate::pretrained) fn recipe(&self, weights: &StoredWeights, weight: &Weight) -> Recipe {
        const WITH_VISION: &str = "model.language_model.";
        let mut names = weights.tensors.keys();
        let seen = names.any(|name| name.starts_with(WITH_VISION));
        let stored = Stored {
            weights,
            prefix: if seen { WITH_VISION } else { "model." },
        };
        let (prefix, rows) = (stored.prefix, weight.shape[0]);
        let zero_centred = matches!(self.family, Family::Qwen { .. });
        let name = weight.name.strip_prefix("model.").unwrap_or(&weight.name);
        let layer = name.strip_prefix("layers.");
        let Some((number, name)) = layer.and_then(|rest| rest.split_once('.')) else {
            let theirs = match name {
                "embed_tokens.weight" if self.family == Family::Fla => "embeddings.weight",
                "lm_head.weight" => return Recipe::whole(name.to_owned(), rows),
                name => name,
            };
            let norm = name == "norm.weight";
            return Recipe::whole(format!("{prefix}{theirs}"), rows).one_plus(zero_centred && norm);
        };
        let before = format!("{prefix}layers.{number}.");
        let number = number.parse::<usize>().ok();
        let full = number.and_then(|number| self.full.get(number)) == Some(&true);
        match (name.strip_prefix("mixer."), self.linear) {
            (Some(name), _) if full => {
                let norm = name.ends_with("_norm.weight");
                self.attention(&before, name, rows)
                    .one_plus(zero_centred && norm)
            }
            (Some(name), Some(linear)) => self.linear(&stored, &before, name, rows, linear),
            _ if name.starts_with("mlp.") => self.feed_forward(&stored, &before, name, rows),
            _ => {
                let name = self.norm(&stored, &before, name, full);
                Recipe::whole(name, rows).one_plus(zero_centred)
            }
        }
    }

    /// Whether a stored tensor is known and of no use here.
    pub(in crate::pretrained) fn ignores(&self, name: &str) -> bool {
        let unused = match self.family {
            Family::Qwen { .. } => name.starts_with("mtp.") || name.starts_with("model.visual."),
            Family::Fla => name.ends_with(".attn.D"),
            Family::Olmo => name.starts_with("mtp."),
            Family::Llama => false,
        };
        // What another program computes from its configuration, or ties.
        unused || name.ends_with(".inv_freq") || (self.tied && name == "lm_head.weight")
    }

    fn norm(&self, stored: &Stored<'_>, before: &str, name: &str, full: bool) -> String {
        const OURS: [&str; 2] = ["input_layernorm.weight", "post_attention_layernorm.weight"];
        let second = name == OURS[1];
        match (self.family, full) {
            (Family::Fla, _) if second => format!("{before}mlp_norm.weight"),
            (Family::Fla, _) => format!("{before}attn_norm.weight"),
            // Transformers 5 renames linear layers' norms where it saves, and those of full layers with them.
            (Family::Olmo, true) if second => format!("{before}post_feedforward_layernorm.weight"),
            (Family::Olmo, true) => {
                stored.first(before, [OURS[1], "feedforward_layer_norm.weight"])
            }
            (Family::Olmo, false) if second => {
                stored.first(before, ["feedforward_layer_norm.weight", OURS[1]])
            }
            (Family::Olmo, false) => stored.first(before, ["attention_layer_norm.weight", OURS[0]]),
            _ => format!("{before}{name}"),
        }
    }

    fn feed_forward(&self, stored: &Stored<'_>, before: &str, name: &str, rows: usize) -> Recipe {
        // Until 2025, flash-linear-attention had gate and up in one matrix.
        let gate = format!("{before}mlp.gate_proj.weight");
        let one = self.family == Family::Fla && stored.rows(&gate) == Some(2 * rows);
        match name {
            "mlp.gate_proj.weight" if one => Recipe::rows(gate, 2 * rows, 0, rows),
            "mlp.up_proj.weight" if one => Recipe::rows(gate, 2 * rows, rows, rows),
            _ => Recipe::whole(format!("{before}{name}"), rows),
        }
    }

    fn attention(&self, before: &str, name: &str, rows: usize) -> Recipe {
        let under = match self.family {
            Family::Fla => "attn",
            _ => "self_attn",
        };
        let Heads { queries, width, .. } = self.heads;
        let halves = |start, end: &str| {
            let tensor = format!("{before}{under}.q_proj.{end}");
            let each = 2 * width;
            Recipe::every(tensor, each * queries, start, width, each, queries)
        };
        match (name.split_once('.'), self.heads.gated) {
            (Some(("q_proj", end)), true) => halves(0, end),
            (Some(("output_gate_proj", end)), true) => halves(width, end),
            _ => Recipe::whole(format!("{before}{under}.{name}"), rows),
        }
    }

    fn linear(
        &self,
        stored: &Stored<'_>,
        before: &str,
        name: &str,
        rows: usize,
        sizes: Linear,
    ) -> Recipe {
        let under = match self.family {
            Family::Fla => format!("{before}attn."),
            _ => format!("{before}linear_attn."),
        };
        let keys = sizes.key_heads * sizes.key_width;
        let values = sizes.value_heads * sizes.value_width;
        let (part, end) = name.rsplit_once('.').unwrap_or((name, ""));
        // q, k and v as rows of one tensor.
        let place = match &part[..1] {
            "q" => (0, keys),
            "k" => (keys, keys),
            _ => (2 * keys, values),
        };
        let all = 2 * keys + values;
        let named = |other: &str| Recipe::whole(format!("{under}{other}"), rows);
        match (self.family, part) {
            (_, "q_conv1d" | "k_conv1d" | "v_conv1d") if !sizes.convolved => Recipe::default(),
            (Family::Fla, "q_conv1d" | "k_conv1d" | "v_conv1d") => named(name),
            (_, "q_conv1d" | "k_conv1d" | "v_conv1d") => {
                convolution(stored, &under, place, all, name)
            }
            (Family::Qwen { fused: true }, _) => {
                fused(&under, part, end, sizes).unwrap_or_else(|| named(qwen(part, end)))
            }
            (Family::Qwen { .. }, "q_proj" | "k_proj" | "v_proj") => {
                Recipe::rows(format!("{under}in_proj_qkv.{end}"), all, place.0, place.1)
            }
            (Family::Qwen { .. }, _) => named(qwen(part, end)),
            (_, "output_gate_proj") => named("g_proj.weight"),
            (_, "gates.decay_proj") => named("a_proj.weight"),
            (_, "gates.beta_proj") => named("b_proj.weight"),
            (_, "gates") => named(end),
            _ => named(name),
        }
    }
}

/// Qwen3.5's name of a part that is a tensor of its own.
fn qwen<'a>(part: &'a str, end: &'a str) -> &'a str {
    match (part, end) {
        ("output_gate_proj", _) => "in_proj_z.weight",
        ("gates.decay_proj", _) => "in_proj_a.weight",
        ("gates.beta_proj", _) => "in_proj_b.weight",
        ("o_norm", _) => "norm.weight",
        ("o_proj", _) => "out_proj.weight",
        _ => end,
    }
}

/// Qwen3-Next's projections: for each key head its q, its k and the v and gate of the value heads that it
/// serves, then their write strengths and decays.
fn fused(under: &str, part: &str, end: &str, sizes: Linear) -> Option<Recipe> {
    let (count, k) = (sizes.key_heads, sizes.key_width);
    let served = sizes.value_heads / count.max(1);
    let v = served * sizes.value_width;
    let (tensor, each, start, len) = match part {
        "q_proj" => ("in_proj_qkvz", 2 * (k + v), 0, k),
        "k_proj" => ("in_proj_qkvz", 2 * (k + v), k, k),
        "v_proj" => ("in_proj_qkvz", 2 * (k + v), 2 * k, v),
        "output_gate_proj" => ("in_proj_qkvz", 2 * (k + v), 2 * k + v, v),
        "gates.beta_proj" => ("in_proj_ba", 2 * served, 0, served),
        "gates.decay_proj" => ("in_proj_ba", 2 * served, served, served),
        _ => return None,
    };
    let tensor = format!("{under}{tensor}.{end}");
    Some(Recipe::every(tensor, each * count, start, len, each, count))
}

/// One convolution over q, k and v, or one each. Transformers 5 saves Olmo's in three equal parts,
/// wherever q, k and v end.
fn convolution(
    stored: &Stored<'_>,
    under: &str,
    (start, len): (usize, usize),
    all: usize,
    name: &str,
) -> Recipe {
    let parts = ["q", "k", "v"].map(|part| format!("{under}{part}_conv1d.weight"));
    let sizes: Vec<usize> = parts.iter().filter_map(|part| stored.rows(part)).collect();
    if sizes.len() < 3 {
        return Recipe::rows(format!("{under}conv1d.weight"), all, start, len);
    }
    if sizes.iter().sum::<usize>() != all {
        return Recipe::whole(format!("{under}{name}"), len);
    }
    let (mut before, mut pieces) = (0, Vec::new());
    for (tensor, of) in parts.into_iter().zip(sizes) {
        let (first, last) = (start.max(before), (start + len).min(before + of));
        if first < last {
            pieces.push(Piece {
                tensor,
                of,
                start: first - before,
                len: last - first,
                stride: of,
                count: 1,
            });
        }
        before += of;
    }
    pieces.into()
}
