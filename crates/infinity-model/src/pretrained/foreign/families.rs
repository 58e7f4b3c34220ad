//! What each family's `config.json` says, in the words of ours. Keys that a file lacks mean what they mean to
//! the program that wrote it.

use serde_json::{Map, Value, json};

use super::keys::Keys;
use super::names::{Family, Heads, Linear, Names};
use crate::error::ConfigError;

/// Why a family with experts is refused.
pub(super) const MOE: &str = "its feed-forward is a mixture of experts, which is not there";
const FULL: &str = "full_attention";
const LINEAR: &str = "linear_attention";
const SLIDING: &str = "sliding_attention";
/// As many as our configuration has.
const MOST_LAYERS: usize = 1024;
/// Added to a sum of squares before the root by all linear layers of others.
const L2_EPS: f64 = 1e-6;

/// A family's configuration, read.
pub(super) struct Settings {
    pub(super) names: Names,
    /// Keys of our configuration.
    pub(super) ours: Map<String, Value>,
    pub(super) vocab_size: usize,
    pub(super) ends: Vec<u32>,
    /// Keys of the file that change nothing here.
    pub(super) ignored: &'static [&'static str],
}

/// What every family says in the same words, and what it means if it does not.
struct Common {
    hidden_size: usize,
    layers: usize,
    ours: Map<String, Value>,
}

/// Reads that; `eps` is the key of the norms' epsilon.
fn common(keys: &Keys<'_>, eps: &'static str, longest: usize) -> Result<Common, ConfigError> {
    let silu = [json!("silu"), json!("swish")];
    keys.only("hidden_act", &silu, "the feed-forward here has SiLU")?;
    let hidden_size = keys.needed("hidden_size")?;
    let layers = keys.needed("num_hidden_layers")?;
    if layers > MOST_LAYERS {
        let instead = format!("at most {MOST_LAYERS}");
        return Err(keys.wrong("num_hidden_layers", &json!(layers), &instead));
    }
    let mut ours = Map::new();
    add(
        &mut ours,
        json!({
            "hidden_size": hidden_size,
            "num_hidden_layers": layers,
            "max_position_embeddings": keys.size("max_position_embeddings")?.unwrap_or(longest),
            "initializer_range": keys.number("initializer_range")?.unwrap_or(0.02),
            "layer_norm_eps": keys.number(eps)?.unwrap_or(1e-6),
        }),
    );
    Ok(Common {
        hidden_size,
        layers,
        ours,
    })
}

/// Adds keys of ours.
fn add(ours: &mut Map<String, Value>, more: Value) {
    if let Value::Object(more) = more {
        ours.extend(more);
    }
}

/// The heads of full attention: H, Hkv and their width.
fn heads(keys: &Keys<'_>, hidden_size: usize, width: Option<usize>) -> Result<Heads, ConfigError> {
    let queries = keys.needed("num_attention_heads")?;
    Ok(Heads {
        queries,
        keys: keys.size("num_key_value_heads")?.unwrap_or(queries),
        width: match keys.size("head_dim")?.or(width) {
            Some(width) => width,
            None => hidden_size / queries,
        },
        gated: false,
    })
}

impl Heads {
    fn ours(&self) -> Value {
        json!({
            "num_attention_heads": self.queries, "num_key_value_heads": self.keys,
            "head_dim": self.width,
        })
    }
}

/// The rotary positions of full layers. `fraction` is the rotated part of a head where the file does not say.
fn rope(keys: &Keys<'_>, fraction: f64) -> Result<Value, ConfigError> {
    let scaling = keys.section("rope_scaling")?;
    let parameters = keys.section("rope_parameters")?;
    let inner = scaling.or(parameters);
    // Only a `null` that is written out means no rotation.
    let base = inner.as_ref().and_then(|inner| inner.given("rope_theta"));
    let base = base.or(keys.given("rope_theta"));
    if base.is_some_and(Value::is_null) {
        return Ok(Value::Null);
    }
    let from = |inner: &Keys<'_>| inner.number("rope_theta");
    let base = inner.as_ref().map(from).transpose()?.flatten();
    let base = base.or(keys.number("rope_theta")?).unwrap_or(1e4);
    let outer = keys.number("partial_rotary_factor")?;
    let mut found = Map::new();
    let mut part = outer.unwrap_or(fraction);
    let mut kind = "default";
    if let Some(inner) = &inner {
        part = inner.number("partial_rotary_factor")?.unwrap_or(part);
        let old = inner.word("type")?;
        kind = inner.word("rope_type")?.or(old).unwrap_or(kind);
        let needed: &[&'static str] = match kind {
            "default" => &[],
            "linear" => &["factor"],
            "llama3" => &["factor", "low_freq_factor", "high_freq_factor"],
            _ => {
                let why = "rotary positions are default, linear or llama3 here";
                return Err(inner.unsupported("rope_type", &json!(kind), why));
            }
        };
        for key in needed {
            let Some(number) = inner.number(key)? else {
                let why = format!("rotary positions of the type {kind:?} need it");
                return Err(ConfigError::missing(format!("rope_parameters.{key}"), why));
            };
            found.insert((*key).into(), json!(number));
        }
        if kind == "llama3" {
            let key = "original_max_position_embeddings";
            let before = match keys.size(key)? {
                Some(length) => Some(length),
                None => inner.size(key)?.or(keys.size("max_position_embeddings")?),
            };
            found.insert(key.into(), json!(before));
        }
    }
    add(
        &mut found,
        json!({ "rope_type": kind, "rope_theta": base, "partial_rotary_factor": part }),
    );
    Ok(Value::Object(found))
}

/// The kind of every layer, from a list of words or by a rule.
fn layer_types(
    keys: &Keys<'_>,
    layers: usize,
    known: &[&str],
    rule: impl Fn(usize) -> &'static str,
) -> Result<Vec<String>, ConfigError> {
    let Some(value) = keys.value("layer_types") else {
        return Ok((0..layers).map(|i| rule(i).to_owned()).collect());
    };
    let words = value.as_array().map_or(&[][..], Vec::as_slice);
    if words.len() != layers {
        let instead = format!("a list of num_hidden_layers = {layers} words");
        return Err(keys.wrong("layer_types", value, &instead));
    }
    let word = |value: &Value| {
        let word = value.as_str().filter(|word| known.contains(word));
        let why = format!("this family's layers are {}", known.join(" or "));
        let unknown = || keys.unsupported("layer_types", value, &why);
        word.map(str::to_owned).ok_or_else(unknown)
    };
    words.iter().map(word).collect()
}

/// Settings of layers of these kinds. `more` is what full layers and the family have of their own.
fn settings(
    keys: &Keys<'_>,
    family: Family,
    common: Common,
    (heads, linear): (Heads, Option<Linear>),
    kinds: Vec<String>,
    more: Value,
) -> Result<Settings, ConfigError> {
    let mut ours = common.ours;
    let full = kinds.iter().map(|kind| kind != LINEAR).collect();
    add(&mut ours, json!({ "layer_types": kinds }));
    add(&mut ours, heads.ours());
    add(
        &mut ours,
        linear.map_or_else(|| json!({ "mixer": "softmax" }), Linear::ours),
    );
    add(&mut ours, more);
    Ok(Settings {
        names: Names {
            family,
            full,
            heads,
            linear,
            tied: keys.flag("tie_word_embeddings", false)?,
        },
        ours,
        vocab_size: keys.needed("vocab_size")?,
        ends: keys.tokens("eos_token_id")?,
        ignored: &[],
    })
}

pub(super) fn llama(keys: &Keys<'_>) -> Result<Settings, ConfigError> {
    let common = common(keys, "rms_norm_eps", 2048)?;
    let heads = heads(keys, common.hidden_size, None)?;
    let kinds = vec![FULL.to_owned(); common.layers];
    let more = json!({
        "intermediate_size": keys.needed("intermediate_size")?, "rope_parameters": rope(keys, 1.0)?,
        "attention_bias": keys.flag("attention_bias", false)?, "mlp_bias": keys.flag("mlp_bias", false)?,
    });
    Ok(Settings {
        ignored: &["pretraining_tp"],
        ..settings(keys, Family::Llama, common, (heads, None), kinds, more)?
    })
}

pub(super) fn qwen3(keys: &Keys<'_>) -> Result<Settings, ConfigError> {
    let common = common(keys, "rms_norm_eps", 32_768)?;
    let heads = heads(keys, common.hidden_size, Some(128))?;
    let window = keys.size("sliding_window")?.unwrap_or(4096);
    let none = keys.given("sliding_window").is_some_and(Value::is_null);
    let slides = keys.flag("use_sliding_window", false)? && !none;
    let first = keys
        .value("max_window_layers")
        .map_or(Some(28), Value::as_u64);
    let rule = |i: usize| match slides && first.is_some_and(|first| i as u64 >= first) {
        true => SLIDING,
        false => FULL,
    };
    let kinds = layer_types(keys, common.layers, &[FULL, SLIDING], rule)?;
    if let (Some(kind), false) = (kinds.iter().find(|kind| *kind == SLIDING), slides) {
        let why = "use_sliding_window is false";
        return Err(keys.unsupported("layer_types", &json!(kind), why));
    }
    let mut more = json!({
        "intermediate_size": keys.needed("intermediate_size")?, "rope_parameters": rope(keys, 1.0)?,
        "attention_bias": keys.flag("attention_bias", false)?, "attn_qk_norm": "head",
    });
    if slides {
        more["sliding_window"] = json!(window);
    }
    settings(keys, Family::Llama, common, (heads, None), kinds, more)
}

impl Linear {
    /// Linear layers of ours that compute the gated delta rule as others do.
    fn ours(self) -> Value {
        json!({
            "mixer": "infinity", "kernel_type": "identity", "qk_norm": "l2", "qk_l2_eps": L2_EPS,
            "use_rotary_embeddings": false, "memory_update": "delta", "decay": "adaptive",
            "use_multi_scale_memory": false, "use_gating": false, "output_gate_act": "silu",
            "conv_kernel_size": self.kernel, "linear_num_key_heads": self.key_heads,
            "linear_num_value_heads": self.value_heads, "linear_key_head_dim": self.key_width,
            "linear_value_head_dim": self.value_width,
        })
    }
}

/// The sizes of linear layers, `linear_…`; the file may leave out heads and widths of keys and values.
fn linear(
    keys: &Keys<'_>,
    [key_heads, value_heads, key_width, value_width]: [usize; 4],
) -> Result<Linear, ConfigError> {
    let or = |key, size| Ok::<_, ConfigError>(keys.size(key)?.unwrap_or(size));
    Ok(Linear {
        key_heads: or("linear_num_key_heads", key_heads)?,
        value_heads: or("linear_num_value_heads", value_heads)?,
        key_width: or("linear_key_head_dim", key_width)?,
        value_width: or("linear_value_head_dim", value_width)?,
        kernel: or("linear_conv_kernel_dim", 4)?,
        convolved: true,
    })
}

pub(super) fn qwen_hybrid(keys: &Keys<'_>, model_type: &str) -> Result<Settings, ConfigError> {
    let next = model_type == "qwen3_next";
    let experts = keys.value("num_experts");
    // Qwen3-Next's class has experts unless it is told to have none.
    let some = json!(512);
    let experts = experts.or(next.then_some(&some));
    if let Some(experts) = experts.filter(|n| **n != json!(0)) {
        return Err(keys.unsupported("num_experts", experts, MOE));
    }
    let why = "full layers of this family gate their output here";
    keys.only("attn_output_gate", &[json!(true)], why)?;
    let why = "the projection to that gate has no bias here";
    keys.only("attention_bias", &[json!(false)], why)?;
    let common = common(keys, "rms_norm_eps", 32_768)?;
    let eps = keys.number("rms_norm_eps")?.unwrap_or(1e-6);
    let linear = linear(keys, [16, 32, 128, 128])?;
    let heads = Heads {
        gated: true,
        ..heads(keys, common.hidden_size, Some(256))?
    };
    let every = keys.size("full_attention_interval")?.unwrap_or(4);
    let rule = |i: usize| match (i + 1).is_multiple_of(every) {
        true => FULL,
        false => LINEAR,
    };
    let kinds = layer_types(keys, common.layers, &[FULL, LINEAR], rule)?;
    let more = json!({
        "intermediate_size": keys.needed("intermediate_size")?,
        "o_norm_eps": eps * linear.key_width as f64, "attn_qk_norm": "head",
        "attn_output_gate": true, "rope_parameters": rope(keys, 0.25)?,
    });
    let family = Family::Qwen { fused: next };
    Ok(Settings {
        ignored: &[
            "mamba_ssm_dtype",
            "mtp_num_hidden_layers",
            "mtp_use_dedicated_embeddings",
            "mlp_only_layers",
            "decoder_sparse_step",
            "moe_intermediate_size",
            "shared_expert_intermediate_size",
            "num_experts_per_tok",
            "norm_topk_prob",
            "output_router_logits",
            "router_aux_loss_coef",
        ],
        ..settings(keys, family, common, (heads, Some(linear)), kinds, more)?
    })
}

pub(super) fn olmo(keys: &Keys<'_>) -> Result<Settings, ConfigError> {
    let common = common(keys, "rms_norm_eps", 65_536)?;
    let heads = heads(keys, common.hidden_size, None)?;
    let key_heads = keys.size("linear_num_key_heads")?.unwrap_or(heads.queries);
    let key_width = keys.size("linear_key_head_dim")?;
    let key_width = key_width.unwrap_or((3 * common.hidden_size / (4 * key_heads)).max(1));
    let linear = linear(keys, [key_heads, heads.queries, key_width, 2 * key_width])?;
    let last = (common.layers < 4).then(|| common.layers - 1);
    let rule = |i: usize| match i % 4 == 3 || Some(i) == last {
        true => FULL,
        false => LINEAR,
    };
    let kinds = layer_types(keys, common.layers, &[FULL, LINEAR], rule)?;
    let more = json!({
        "intermediate_size": keys.needed("intermediate_size")?,
        "o_norm_eps": 1e-5 * linear.key_width as f64, "attn_qk_norm": "full",
        "attn_norm_order": "post", "rope_parameters": rope(keys, 1.0)?,
        "allow_neg_eigval": keys.flag("linear_allow_neg_eigval", true)?,
        "attention_bias": keys.flag("attention_bias", false)?,
    });
    Ok(Settings {
        ignored: &[
            "linear_a_log_min",
            "linear_a_log_max",
            "linear_dt_min",
            "linear_dt_max",
            "linear_dt_init_floor",
        ],
        ..settings(
            keys,
            Family::Olmo,
            common,
            (heads, Some(linear)),
            kinds,
            more,
        )?
    })
}

pub(super) fn fla(keys: &Keys<'_>) -> Result<Settings, ConfigError> {
    let not_there = "a block of this kind is not there";
    keys.only("norm_first", &[json!(false)], not_there)?;
    keys.only("attnres_block_size", &[], not_there)?;
    let bias = "the convolution here has no bias";
    keys.only("conv_bias", &[json!(false)], bias)?;
    let common = common(keys, "norm_eps", 2048)?;
    let eps = keys.number("norm_eps")?.unwrap_or(1e-6);
    let key_heads = keys.size("num_heads")?.unwrap_or(6);
    let key_width = keys.size("head_dim")?.unwrap_or(256);
    let expand = keys.number("expand_v")?.unwrap_or(2.0);
    let value_width = key_width as f64 * expand;
    if value_width.fract() != 0.0 || !(1.0..=65_536.0).contains(&value_width) {
        let why = format!("head_dim = {key_width} times it is no whole number from 1 on");
        return Err(keys.unsupported("expand_v", &json!(expand), &why));
    }
    let convolved = keys.flag("use_short_conv", true)?;
    let kernel = keys.size("conv_size")?.unwrap_or(4);
    let linear = Linear {
        key_heads,
        value_heads: keys.size("num_v_heads")?.unwrap_or(key_heads),
        key_width,
        value_width: value_width as usize,
        kernel: if convolved { kernel } else { 1 },
        convolved,
    };
    let ratio = keys.number("hidden_ratio")?.unwrap_or(4.0);
    let inner = (common.hidden_size as f64 * ratio * 2.0 / 3.0).floor();
    let inner = match keys.size("intermediate_size")? {
        Some(size) => size,
        None => (inner.clamp(1.0, 1e9) as usize).div_ceil(256) * 256,
    };
    let Attention { heads, full, ours } = fla_attention(keys, common.hidden_size, common.layers)?;
    let sliding = ours.contains_key("sliding_window");
    let kind = |full: bool| match (full, sliding) {
        (false, _) => LINEAR,
        (true, false) => FULL,
        (true, true) => SLIDING,
    };
    let kinds = full.into_iter().map(|full| kind(full).to_owned()).collect();
    let mut more = ours;
    add(
        &mut more,
        json!({
            "intermediate_size": inner, "o_norm_eps": eps * linear.key_width as f64,
            "allow_neg_eigval": keys.flag("allow_neg_eigval", false)?,
            "use_output_gate": keys.flag("use_gate", true)?,
        }),
    );
    let more = Value::Object(more);
    Ok(Settings {
        ignored: &[
            "attn_mode",
            "fuse_norm",
            "fuse_swiglu",
            "fuse_cross_entropy",
            "fuse_linear_cross_entropy",
            "use_l2warp",
        ],
        ..settings(
            keys,
            Family::Fla,
            common,
            (heads, Some(linear)),
            kinds,
            more,
        )?
    })
}

/// Which layers of flash-linear-attention's model are softmax attention, and how.
struct Attention {
    heads: Heads,
    full: Vec<bool>,
    ours: Map<String, Value>,
}

fn fla_attention(
    keys: &Keys<'_>,
    hidden_size: usize,
    layers: usize,
) -> Result<Attention, ConfigError> {
    let value = keys.value("attn");
    if value.is_some_and(Value::is_array) {
        let why = "all softmax layers of a model have the same heads here: give one object";
        return Err(keys.unsupported("attn", value.unwrap_or(&Value::Null), why));
    }
    let heads = |queries, keys, width| Heads {
        queries,
        keys,
        width,
        gated: false,
    };
    let mut full = vec![false; layers];
    let Some(attn) = keys.section("attn")? else {
        return Ok(Attention {
            // No layer is one: any heads will do.
            heads: heads(1, 1, hidden_size.min(1024)),
            full,
            ours: Map::from_iter([("rope_parameters".into(), Value::Null)]),
        });
    };
    let listed = attn.value("layers");
    let places = listed
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    for place in places {
        let index = place.as_u64().and_then(|place| usize::try_from(place).ok());
        match index.and_then(|index| full.get_mut(index)) {
            Some(layer) => *layer = true,
            None => {
                let instead = format!("a number below num_hidden_layers = {layers}");
                return Err(attn.wrong("layers", place, &instead));
            }
        }
    }
    let queries = attn.needed("num_heads")?;
    let why = "norms of q and k in these layers are not there";
    attn.only("qk_norm", &[json!(false)], why)?;
    let key_heads = attn.size("num_kv_heads")?.unwrap_or(queries);
    let heads = heads(queries, key_heads, hidden_size / queries);
    let base = attn.number("rope_theta")?.unwrap_or(1e4);
    let rope = json!({ "rope_type": "default", "rope_theta": base, "partial_rotary_factor": 1.0 });
    let mut ours = Map::from_iter([
        ("qkv_bias".into(), json!(attn.flag("qkv_bias", false)?)),
        ("rope_parameters".into(), rope),
    ]);
    let window = attn.size("window_size")?;
    ours.extend(window.map(|window| ("sliding_window".into(), json!(window))));
    Ok(Attention { heads, full, ours })
}
