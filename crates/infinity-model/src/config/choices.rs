//! The settings that are a word out of a list, spelled the same in TOML, JSON and flags, and what a
//! misspelled word was probably meant to be.

/// Enums of lower-case words: `Display` and `FromStr` say what serde says.
macro_rules! choice {
    ($(
        $(#[$doc:meta])* $name:ident, key = $key:literal,
        { $( $(#[$variant_doc:meta])* $variant:ident = $word:literal ),+ $(,)? }
    )+) => {$(
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
        )]
        pub enum $name {
            $( $(#[$variant_doc])* #[serde(rename = $word)] $variant, )+
        }

        impl $name {
            /// Every choice, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$( Self::$variant ),+];

            /// The word for this choice in configuration files.
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $word ),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::error::ConfigError;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                let found = Self::ALL.iter().find(|choice| choice.as_str() == word);
                found.copied().ok_or_else(|| {
                    let words: Vec<&str> = Self::ALL.iter().map(|choice| choice.as_str()).collect();
                    let meant = $crate::config::did_you_mean(word, &words);
                    let limit = format!("one of \"{}\"{meant}", words.join("\", \""));
                    $crate::error::ConfigError::unknown($key, word, limit)
                })
            }
        }
    )+};
}
pub(crate) use choice;

choice! {
    /// What mixes positions in a block.
    Mixer, key = "model.mixer", {
        /// The recurrent memory: linear time, constant state.
        Infinity = "infinity",
        /// Causal softmax attention: quadratic time, a state that grows.
        ///
        /// It has the q, k, v and output projections and the rotary embedding, and what the keys about
        /// attention add; those about convolution, feature map, memory and gates change nothing in it.
        Softmax = "softmax",
    }

    /// The feature map φ on queries and keys.
    KernelType, key = "model.kernel_type", {
        /// `elu(x) + 1`.
        Elu = "elu",
        /// `max(x, 0)`.
        Relu = "relu",
        /// `elu(x·W + b) + 1` with one K×K matrix W per head, started at the identity.
        Learnable = "learnable",
        /// `x` itself: what follows a convolution with SiLU needs no more.
        Identity = "identity",
    }

    /// How the size of queries and keys is kept from mattering.
    QkNorm, key = "model.qk_norm", {
        /// φ(q) and φ(k) get unit length.
        L2 = "l2",
        /// Classic kernel attention: the output is divided by the sum of its weights.
        Denominator = "denominator",
    }

    /// What a token does to the memory.
    MemoryUpdate, key = "model.memory_update", {
        /// Writes the difference between its value and what the memory already says.
        Delta = "delta",
        /// Adds its value.
        Additive = "additive",
    }

    /// What decides to which states of the memory a token writes and from which it reads.
    MemoryRouting, key = "model.memory_routing", {
        /// The layer's input, by a projection for writes and another for reads; softly.
        Input = "input",
        /// What the token's key and query say, by directions that writes and reads share; sharply, so
        /// that a query looks into the states that keys like it were written to.
        Content = "content",
    }

    /// How the memory forgets.
    Decay, key = "model.decay", {
        /// By an amount computed from the token.
        Adaptive = "adaptive",
        /// By the starting amount of each head and state, never learned.
        Fixed = "fixed",
        /// Not at all.
        None = "none",
    }

    /// What a layer is.
    LayerType, key = "model.layer_types", {
        /// The recurrent memory: linear time, constant state.
        Linear = "linear_attention",
        /// Softmax attention to all that was read: a state that grows.
        Full = "full_attention",
        /// Softmax attention to the last `sliding_window` tokens.
        Sliding = "sliding_attention",
    }

    /// How positions are rotated into queries and keys of full layers.
    RopeType, key = "model.rope_parameters.rope_type", {
        /// Not at all.
        None = "none",
        /// By frequencies as they are.
        Default = "default",
        /// By frequencies that are all divided by `factor`.
        Linear = "linear",
        /// By frequencies of which the slow ones are divided by `factor`, as in Llama 3.1.
        Llama3 = "llama3",
    }

    /// Which RMS norm the queries and keys of full layers get before they are rotated.
    AttnQkNorm, key = "model.attn_qk_norm", {
        /// None.
        None = "none",
        /// One over each head, with a weight that all heads share.
        Head = "head",
        /// One over all heads together.
        Full = "full",
    }

    /// Where the norms of a block with full attention stand.
    AttnNormOrder, key = "model.attn_norm_order", {
        /// Before attention and feed-forward.
        Pre = "pre",
        /// Behind them, before the sum with the residual stream.
        Post = "post",
    }

    /// What becomes of the output gate of linear layers before it multiplies.
    OutputGateAct, key = "model.output_gate_act", {
        /// `σ(g)`.
        Sigmoid = "sigmoid",
        /// `g·σ(g)`.
        Silu = "silu",
    }
}

/// `; did you mean "…"?`, or nothing when no known word is near.
pub(crate) fn did_you_mean(word: &str, known: &[&str]) -> String {
    let near = infinity_files::nearest(word, known.iter().copied());
    near.map_or(String::new(), |near| format!("; did you mean \"{near}\"?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_same_for_serde_display_and_from_str() {
        for kind in KernelType::ALL {
            let json = serde_json::to_string(kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
            assert_eq!(kind.to_string().parse::<KernelType>().unwrap(), *kind);
            assert_eq!(serde_json::from_str::<KernelType>(&json).unwrap(), *kind);
        }
        assert_eq!("l2".parse::<QkNorm>().unwrap(), QkNorm::L2);
        assert_eq!("none".parse::<Decay>().unwrap(), Decay::None);
        assert_eq!("softmax".parse::<Mixer>().unwrap(), Mixer::Softmax);
    }

    #[test]
    fn an_unknown_word_is_named_with_the_choices_and_a_suggestion() {
        let message = "aditive".parse::<MemoryUpdate>().unwrap_err().to_string();
        assert_eq!(
            message,
            "model.memory_update = \"aditive\" is not known: it must be one of \
             \"delta\", \"additive\"; did you mean \"additive\"?"
        );
    }

    #[test]
    fn suggests_the_nearest_and_nothing_far() {
        let known = ["hidden_size", "num_hidden_layers", "vocab_size"];
        assert_eq!(
            did_you_mean("hiden_size", &known),
            "; did you mean \"hidden_size\"?"
        );
        assert_eq!(
            did_you_mean("num_layers", &known),
            "; did you mean \"num_hidden_layers\"?"
        );
        assert_eq!(did_you_mean("zzz", &known), "");
    }
}
