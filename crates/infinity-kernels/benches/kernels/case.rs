//! What is measured: operators, their forms and their sizes.

use burn::tensor::Device;
use infinity_kernels::Form;
use std::fmt;
use std::str::FromStr;

/// Lengths unless others are asked for.
pub(crate) const LENGTHS: [usize; 6] = [256, 1024, 4096, 16_384, 65_536, 131_072];
/// Widths of keys and values.
const WIDTHS: [usize; 3] = [32, 64, 128];
/// Heads, one row of the batch.
pub(crate) const HEADS: usize = 4;
/// Token by token on tensors takes minutes beyond.
const LONGEST_RECURRENT: usize = 256;

/// An operator of the crate, or what it is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    MemoryScan,
    SoftmaxAttention,
    ShortConvSilu,
    UnitRotary,
    MemoryGates,
    RmsNorm,
    GatedRmsNorm,
    Swiglu,
    Linear,
}

/// How it is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A form of `memory_scan`.
    Form(Form),
    /// What a call takes by itself: the native kernel where there is one.
    Native,
    /// Burn tensors.
    Tensors,
}

/// One operator in one form and size: `T` tokens of four heads, `K = V`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) operator: Operator,
    pub(crate) way: Way,
    /// Tokens, `T`.
    pub(crate) tokens: usize,
    /// States, `S`; 1 where there are none.
    pub(crate) states: usize,
    /// Key and value dim of a head.
    pub(crate) width: usize,
}

impl Operator {
    pub(crate) const ALL: [Operator; 9] = [
        Operator::MemoryScan,
        Operator::SoftmaxAttention,
        Operator::ShortConvSilu,
        Operator::UnitRotary,
        Operator::MemoryGates,
        Operator::RmsNorm,
        Operator::GatedRmsNorm,
        Operator::Swiglu,
        Operator::Linear,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Operator::MemoryScan => "memory_scan",
            Operator::SoftmaxAttention => "softmax_attention",
            Operator::ShortConvSilu => "short_conv_silu",
            Operator::UnitRotary => "unit_rotary",
            Operator::MemoryGates => "memory_gates",
            Operator::RmsNorm => "rms_norm",
            Operator::GatedRmsNorm => "gated_rms_norm",
            Operator::Swiglu => "swiglu",
            Operator::Linear => "linear",
        }
    }

    pub(crate) fn names() -> String {
        Operator::ALL.map(Operator::name).join(", ")
    }

    /// All cases of this operator, by form, states, width and length.
    pub(crate) fn cases(self, lengths: &[usize], device: &Device) -> Vec<Case> {
        let has_kernel = Form::Fused.check(device).is_ok();
        let ways = match self {
            Operator::MemoryScan => [Form::Fused, Form::Chunkwise, Form::Recurrent]
                .into_iter()
                .filter(|form| form.check(device).is_ok())
                .map(Way::Form)
                .collect(),
            Operator::SoftmaxAttention => vec![Way::Native, Way::Tensors],
            _ if has_kernel => vec![Way::Native, Way::Tensors],
            _ => vec![Way::Tensors],
        };
        let (states, widths): (&[usize], &[usize]) = match self {
            Operator::MemoryScan => (&[1, 4], &WIDTHS),
            Operator::SoftmaxAttention => (&[1], &WIDTHS),
            Operator::MemoryGates => (&[4], &[64]),
            _ => (&[1], &[64]),
        };
        let mut cases = Vec::new();
        for way in ways {
            for states in states.iter().copied() {
                for width in widths.iter().copied() {
                    cases.extend(lengths.iter().copied().map(|tokens| Case {
                        operator: self,
                        way,
                        tokens,
                        states,
                        width,
                    }));
                }
            }
        }
        cases.retain(|case| {
            case.way != Way::Form(Form::Recurrent) || case.tokens <= LONGEST_RECURRENT
        });
        cases
    }
}

impl Case {
    /// Floating-point operations of forward, a multiplication and an addition being two. Backward
    /// is counted as two forwards. `memory_scan` is counted in its recurrent form, attention over
    /// the causal half; element-wise operators are not counted.
    pub(crate) fn flops(&self) -> f64 {
        let (t, s, width) = (self.tokens as f64, self.states as f64, self.width as f64);
        let per_head = match self.operator {
            Operator::MemoryScan => 7.0 * t * s * width * width,
            Operator::SoftmaxAttention => 2.0 * t * t * width,
            Operator::Linear => 2.0 * t * width * width * HEADS as f64,
            _ => 0.0,
        };
        per_head * HEADS as f64
    }

    /// Bytes of inputs and outputs of forward. Backward is counted as two forwards: it reads what
    /// forward read and the gradient, and writes as much.
    pub(crate) fn bytes(&self) -> f64 {
        let (states, width) = (self.states as f64, self.width as f64);
        let per_token_and_head = match self.operator {
            Operator::MemoryScan => 4.0 * width + 4.0 * states,
            Operator::SoftmaxAttention => 4.0 * width,
            Operator::MemoryGates => 7.0 * states + 2.0,
            Operator::ShortConvSilu
            | Operator::UnitRotary
            | Operator::RmsNorm
            | Operator::Linear => 2.0 * width,
            Operator::GatedRmsNorm | Operator::Swiglu => 3.0 * width,
        };
        4.0 * per_token_and_head * (self.tokens * HEADS) as f64
    }

    /// Bytes that forward and backward hold at most, a guess on the safe side.
    pub(crate) fn guessed_peak_bytes(&self) -> f64 {
        match (self.operator, self.way) {
            // Both ways hold the scores, several times.
            (Operator::SoftmaxAttention, _) => {
                24.0 * (HEADS * self.tokens * self.tokens) as f64 + 20.0 * self.bytes()
            }
            (Operator::MemoryScan, Way::Form(Form::Fused)) => 8.0 * self.bytes(),
            _ => 60.0 * self.bytes(),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Way::Form(form) => write!(f, "{form}"),
            Way::Native => f.write_str("native"),
            Way::Tensors => f.write_str("tensors"),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case {
            way,
            tokens,
            states,
            width,
            ..
        } = self;
        write!(
            f,
            "{}:{way}:{tokens}:{states}:{width}",
            self.operator.name()
        )
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let mut words = text.split(':');
            let operator = words.next()?;
            let operator = Operator::ALL
                .into_iter()
                .find(|known| known.name() == operator)?;
            let way = match words.next()? {
                "native" => Way::Native,
                "tensors" => Way::Tensors,
                form => Way::Form(form.parse().ok()?),
            };
            let mut number = || words.next()?.parse().ok();
            Some(Case {
                operator,
                way,
                tokens: number()?,
                states: number()?,
                width: number()?,
            })
        };
        parse().ok_or_else(|| format!("--case `{text}` is not a case of this bench"))
    }
}
