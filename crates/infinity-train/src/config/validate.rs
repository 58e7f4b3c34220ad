//! Which values can be trained with: the first problem, named with its key, value and limit.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::{
    ConfigError, DeviceList, DistributedStrategy, FLOOR, GradientCheckpointing, LoraConfig,
    LrSchedulerType, RunConfig, SCHEMA,
};
use infinity_model::Precision;

/// What a number must be, in code and in words.
type Limit = (fn(f64) -> bool, &'static str);

const AT_LEAST_ONE: Limit = (|x| x >= 1.0, "must be at least 1");
const ABOVE_ZERO: Limit = (|x| x > 0.0 && x.is_finite(), "must be a number above 0");
const NOT_NEGATIVE: Limit = (
    |x| x >= 0.0 && x.is_finite(),
    "must be a number of at least 0",
);
const BELOW_ONE: Limit = (
    |x| (0.0..1.0).contains(&x),
    "must be at least 0 and below 1",
);
const PART: Limit = (|x| (0.0..=1.0).contains(&x), "must lie between 0 and 1");
const SCALE: Limit = (
    |x| x >= FLOOR && (x as f32).is_finite(),
    "must be at least 1 and a number that f32 has",
);

/// A key, its number and the limit.
type Limited = (&'static str, fn(&RunConfig) -> f64, Limit);

/// Rows of [`Limited`], in which a key is also where its number is.
macro_rules! limited {
    ($( $section:ident $(. $name:ident)+ : $limit:ident, )+) => {
        [$((
            concat!(stringify!($section) $(, ".", stringify!($name))+),
            |config| config.$section $(. $name)+ as f64,
            $limit,
        )),+]
    };
}

/// Keys whose numbers have a limit whatever the others are.
const LIMITS: [Limited; 22] = limited! {
    training.num_train_epochs: NOT_NEGATIVE,
    training.per_device_train_batch_size: AT_LEAST_ONE,
    training.per_device_eval_batch_size: AT_LEAST_ONE,
    training.gradient_accumulation_steps: AT_LEAST_ONE,
    training.max_grad_norm: NOT_NEGATIVE,
    training.loss_scale.initial: SCALE,
    training.loss_scale.growth_interval: AT_LEAST_ONE,
    training.loss_watchdog.threshold: NOT_NEGATIVE,
    training.loss_watchdog.non_finite_patience: AT_LEAST_ONE,
    lora.alpha: ABOVE_ZERO,
    lora.dropout: BELOW_ONE,
    optimizer.learning_rate: ABOVE_ZERO,
    optimizer.muon_learning_rate: ABOVE_ZERO,
    optimizer.eps: ABOVE_ZERO,
    optimizer.gate_learning_rate_multiplier: ABOVE_ZERO,
    optimizer.beta1: BELOW_ONE,
    optimizer.beta2: BELOW_ONE,
    optimizer.muon_momentum: BELOW_ONE,
    optimizer.weight_decay: NOT_NEGATIVE,
    lr_scheduler.min_lr_ratio: PART,
    lr_scheduler.decay_ratio: PART,
    logging.every: AT_LEAST_ONE,
};

impl RunConfig {
    /// Checks every section, and what sections ask of each other.
    ///
    /// # Errors
    /// The first problem, with the dotted key, the value and the limit.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.schema != SCHEMA {
            let limit = format!("this version reads schema {SCHEMA}");
            return refuse("schema", self.schema, limit);
        }
        // A training text need not be named: a flag may still do so, and reading it says so otherwise.
        let data = self.data.validate();
        data.and_then(|()| self.tokenizer.resolve())
            .map_err(|error| ConfigError(error.to_string()))?;
        self.validate_model()?;
        self.validate_stream()?;
        self.validate_numbers()?;
        self.validate_length()?;
        self.validate_training()?;
        self.validate_lora()?;
        self.validate_schedule()?;
        self.validate_eval()?;
        self.validate_distributed()
    }

    fn validate_model(&self) -> Result<(), ConfigError> {
        if self.model.memory_compression {
            let limit = "rounding has no gradient: train with false, and compress where the model reads: \
                         `infinity eval`, `generate` with --memory-compression";
            return refuse("model.memory_compression", true, limit);
        }
        let precision = self.run.precision;
        if precision == Precision::Bf16Weights && self.lora.r == 0 {
            let limit = "matrices that are kept in bf16 do not learn: train adapters beside them ([lora]), or in \
                         f32, bf16-mixed, f16-mixed or bf16-true";
            return refuse("run.precision", precision, limit);
        }
        let valid = match self.model.vocab_size {
            // It is still to be read from the tokenizer.
            0 => self.model.validate_without_vocab(),
            _ => self.model.validate(),
        };
        valid.map_err(|error| ConfigError(error.to_string()))
    }

    fn validate_numbers(&self) -> Result<(), ConfigError> {
        for (key, value, (holds, words)) in LIMITS {
            let value = value(self);
            if !holds(value) {
                return refuse(key, value, words);
            }
        }
        Ok(())
    }

    /// Something has to end the run.
    fn validate_length(&self) -> Result<(), ConfigError> {
        let t = &self.training;
        if t.max_steps == 0 && t.max_tokens == 0 && t.num_train_epochs == 0.0 {
            return refuse(
                "training.max_steps",
                0,
                "max_tokens and num_train_epochs are 0 too: one of the three must end the run",
            );
        }
        if t.max_tokens > 0 && t.max_tokens < self.tokens_per_step() {
            let limit = format!(
                "one optimizer step alone learns from {} tokens (batch {} × accumulation {} × \
                 window {})",
                self.tokens_per_step(),
                self.rows(),
                t.gradient_accumulation_steps,
                self.data.training_window()
            );
            return refuse("training.max_tokens", t.max_tokens, limit);
        }
        Ok(())
    }

    fn validate_training(&self) -> Result<(), ConfigError> {
        let t = &self.training;
        if t.loss_watchdog.threshold > 0.0 && t.loss_watchdog.patience == 0 {
            return refuse("training.loss_watchdog.patience", 0, AT_LEAST_ONE.1);
        }
        let segments = t.gradient_checkpointing == GradientCheckpointing::Segments;
        if t.checkpoint_segment > 0 && !segments {
            let limit = "only training.gradient_checkpointing = \"segments\" has segments";
            return refuse("training.checkpoint_segment", t.checkpoint_segment, limit);
        }
        Ok(())
    }

    fn validate_lora(&self) -> Result<(), ConfigError> {
        let l = &self.lora;
        if *l == LoraConfig::default() {
            return Ok(());
        }
        if l.r == 0 {
            let limit = "without a rank there are no adapters: write 8, or leave [lora] out";
            return refuse("lora.r", 0, limit);
        }
        if self.training.init_from.as_os_str().is_empty() {
            let limit =
                "adapters are of a model that has learned already: name it in training.init_from";
            return refuse("lora.r", l.r, limit);
        }
        if l.target_modules.is_empty() {
            let limit = "something must learn: write \"all-linear\", or names as in \"q_proj\"";
            return refuse("lora.target_modules", "[]", limit);
        }
        Ok(())
    }

    fn validate_schedule(&self) -> Result<(), ConfigError> {
        let s = &self.lr_scheduler;
        let (key, steps) = ("lr_scheduler.warmup_steps", self.training.max_steps);
        if s.kind == LrSchedulerType::Constant && s.warmup_steps > 0 {
            let limit = "type = \"constant\" has no warm-up: write constant_with_warmup";
            return refuse(key, s.warmup_steps, limit);
        }
        if steps > 0 && s.warmup_steps >= steps {
            let limit = format!("must be below training.max_steps = {steps}");
            return refuse(key, s.warmup_steps, limit);
        }
        Ok(())
    }

    fn validate_eval(&self) -> Result<(), ConfigError> {
        let e = &self.eval;
        let (key, patience) = ("eval.early_stopping_patience", e.early_stopping_patience);
        if patience > 0 && !e.do_eval {
            let limit = "it needs validations, and eval.do_eval is false";
            return refuse(key, patience, limit);
        }
        if patience > 0 && e.every == 0 {
            let limit = "it needs validations while training, and eval.every is 0";
            return refuse(key, patience, limit);
        }
        if e.sample_tokens == 0 && !e.sample_prompts.is_empty() {
            return refuse("eval.sample_tokens", 0, AT_LEAST_ONE.1);
        }
        Ok(())
    }

    fn validate_distributed(&self) -> Result<(), ConfigError> {
        let d = &self.distributed;
        let limit = match (d.strategy, &d.devices) {
            (_, DeviceList::Auto) => return Ok(()),
            (DistributedStrategy::Single, _) => {
                "distributed.strategy = \"single\" runs on run.device alone; write \"multi\" or \
                 \"ddp\" for more than one"
            }
            _ if d.ranks() == 0 => "must be at least one device",
            _ => return Ok(()),
        };
        let list = toml::Value::try_from(&d.devices).expect("a list has a TOML form");
        refuse("distributed.devices", list, limit)
    }

    /// A stream needs a memory that does not grow with it.
    fn validate_stream(&self) -> Result<(), ConfigError> {
        let passing = self.data.initial_state.last_fraction;
        let key = "data.initial_state.last_fraction";
        if passing > 0.0 && self.rows() < 2 {
            let limit = "a batch of one row has no other row to start from: \
                         training.per_device_train_batch_size must be at least 2";
            return refuse(key, passing, limit);
        }
        let Some(setting) = self.model.grows_by() else {
            return Ok(());
        };
        if passing > 0.0 {
            let limit = format!("`{setting}` has no state of constant size to pass on");
            return refuse(key, passing, limit);
        }
        for (key, carries, of) in [
            ("data.stateful", self.data.stateful, "the run"),
            ("eval.carry_state", self.eval.carry_state, "a validation"),
        ] {
            if carries {
                let limit = format!(
                    "`{setting}` keeps every token, so its cache would grow with \
                     every window of {of}; leave `{key}` out"
                );
                return refuse(key, true, limit);
            }
        }
        Ok(())
    }
}

impl ConfigError {
    /// Adds who set the value, where that is known.
    pub(super) fn placed(self, origins: &BTreeMap<String, String>) -> Self {
        // Messages of all sections begin with the key.
        let key = self.0.split(' ').next().unwrap_or_default();
        match origins.get(key.trim_matches(['`', ':'])) {
            Some(place) => Self(format!("{} (set in {place})", self.0)),
            None => self,
        }
    }
}

fn refuse(key: &str, value: impl Display, limit: impl Display) -> Result<(), ConfigError> {
    Err(ConfigError(format!("`{key}` is {value}, but {limit}")))
}

#[cfg(test)]
mod tests {
    /// The message of a default configuration with these assignments.
    fn refused(assignments: &[&str]) -> String {
        let mut layers = crate::config::ConfigLayers::new();
        for assignment in assignments {
            layers = layers.set(assignment).unwrap();
        }
        match layers.resolve() {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_limit_names_key_value_and_limit() {
        for (assignments, key, words) in [
            (&["schema=2"][..], "schema", "2"),
            (
                &["training.num_train_epochs=0"],
                "training.max_steps",
                "must end the run",
            ),
            (
                &["training.max_tokens=5"],
                "training.max_tokens",
                "8192 tokens",
            ),
            (
                &["training.per_device_train_batch_size=0"],
                "per_device_train_batch_size",
                "least 1",
            ),
            (
                &["training.max_grad_norm=nan"],
                "training.max_grad_norm",
                "NaN",
            ),
            (
                &["optimizer.learning_rate=0"],
                "optimizer.learning_rate",
                "above 0",
            ),
            (&["optimizer.beta2=1.0"], "optimizer.beta2", "below 1"),
            (
                &["lr_scheduler.decay_ratio=1.5"],
                "lr_scheduler.decay_ratio",
                "between 0 and 1",
            ),
            (
                &["training.max_steps=10", "lr_scheduler.warmup_steps=10"],
                "lr_scheduler.warmup_steps",
                "below training.max_steps = 10",
            ),
            (
                &["lr_scheduler.type=constant", "lr_scheduler.warmup_steps=10"],
                "lr_scheduler.warmup_steps",
                "constant_with_warmup",
            ),
            (
                &["eval.do_eval=false", "eval.early_stopping_patience=3"],
                "eval.early_stopping_patience",
                "eval.do_eval is false",
            ),
            (&["logging.every=0"], "logging.every", "at least 1"),
            (
                &["training.loss_scale.initial=0.5"],
                "training.loss_scale.initial",
                "at least 1",
            ),
            (
                &["training.loss_scale.growth_interval=0"],
                "training.loss_scale.growth_interval",
                "at least 1",
            ),
            (
                &["training.checkpoint_segment=512"],
                "training.checkpoint_segment",
                "\"segments\"",
            ),
            (
                &[
                    "data.packing=shuffled",
                    "data.initial_state.last_fraction=0.1",
                    "training.per_device_train_batch_size=1",
                ],
                "data.initial_state.last_fraction",
                "0.1",
            ),
            (
                &[
                    "data.packing=shuffled",
                    "data.initial_state.last_fraction=0.1",
                    "model.mixer=softmax",
                ],
                "data.initial_state.last_fraction",
                "0.1",
            ),
            (
                &["data.stateful=true", "model.mixer=softmax"],
                "data.stateful",
                "cache would grow",
            ),
            (
                &["eval.carry_state=true", "model.mixer=softmax"],
                "eval.carry_state",
                "cache would grow",
            ),
            (
                &[
                    "data.stateful=true",
                    "data.initial_state={own=0.8,other=0.3,zero=0.1}",
                ],
                "data.initial_state",
                "add up to 1",
            ),
            (
                &["data.initial_state.zero=0.1"],
                "data.initial_state",
                "data.stateful = true",
            ),
            (
                &["model.num_attention_heads=7"],
                "model.hidden_size",
                "divisible",
            ),
        ] {
            let message = refused(assignments);
            assert!(
                message.contains(key) && message.contains(words),
                "{assignments:?}: {message}"
            );
        }
    }

    #[test]
    fn a_legal_change_is_not_refused() {
        assert_eq!(
            refused(&["training.max_steps=10", "lr_scheduler.warmup_steps=9"]),
            ""
        );
        for way in ["none", "ops", "blocks", "segments"] {
            let assignment = format!("training.gradient_checkpointing={way}");
            assert_eq!(refused(&[&assignment]), "");
        }
    }
}
