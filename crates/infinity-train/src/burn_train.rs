//! Everything that adapts this crate to burn-train, and nothing else does.
//!
//! Burn's own loop counts epochs and takes a data loader to its end; the loop of `train.rs` counts
//! optimizer steps, so that validations, checkpoints and Ctrl-C fall on steps. It runs inside burn-train's
//! learner as a strategy of its own ([`within_learner`]) and tells it what happens through a [`Shell`]:
//! metric store, dashboard and its keys are Burn's. Weights, optimizer and checkpoints are not: the
//! learner's optimizer and loaders are stand-ins. What the dashboard calls an epoch is the stretch up to a
//! validation ([`Stretches`]).

use crate::config::RunConfig;
use crate::error::TrainError;
use crate::step::{LmBatch, LmOutput, Trainee};
use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::optim::lr_scheduler::constant::ConstantLr;
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::{Device, ExecutionError, TensorReadError};
use burn::train::logger::{EvaluationProgressLogger, InMemoryMetricLogger, TrainingProgressLogger};
use burn::train::metric::state::{FormatOptions, NumericMetricState};
use burn::train::metric::{
    Adaptor, IterationSpeedMetric, LearningRateMetric, Metric, MetricAttributes, MetricDefinition,
    MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry, SerializedEntry,
};
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};
use burn::train::{
    EventProcessorError, EventProcessorTraining, InferenceStep, ItemLazy, Learner, LearnerEvent,
    SupervisedLearningStrategy, SupervisedTraining, SupervisedTrainingEventProcessor, TrainLoader,
    TrainOutput, TrainStep, TrainingComponents, TrainingItem, TrainingStrategy, ValidLoader,
};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

/// Runs `body`, the training loop of `config` from `step` on, inside burn-train's learner, with its `dashboard`
/// or without. `body` returns the trained model and whatever else is to come out. To be killed from the
/// dashboard is an error; a panic goes through.
pub(crate) fn within_learner<T: Send + 'static>(
    config: &RunConfig,
    (stretches, step, dashboard): (Stretches, u64, bool),
    trainee: Trainee,
    body: impl FnOnce(&mut Shell) -> (Trainee, T) + Send + 'static,
) -> Result<T, TrainError> {
    let (give, given) = channel();
    let body = Mutex::new(Some(move |shell: &mut Shell| {
        let (trainee, out) = body(shell);
        give.send(out).expect("somebody waits for it");
        trainee
    }));
    let strategy = Arc::new(Strategy { stretches, body });
    let unused = ModuleOptimizer::from(AdamWConfig::new().build());
    let learner = Learner::new(trainee, unused, ConstantLr::from(0.0));
    let loss = LmMetric::new("Loss", |output| {
        (output.n_tokens > 0).then(|| output.loss_sum / output.n_tokens as f64)
    });
    let root = config.output_dir();
    let mut training = SupervisedTraining::new(root, Arc::new(NoLoader), Arc::new(NoLoader))
        .metric_train_numeric(loss.clone())
        .metric_valid_numeric(loss)
        .metric_train_numeric(LmMetric::new("GradNorm", |output| output.grad_norm))
        .with_metric_logger(InMemoryMetricLogger::default())
        .with_application_logger(None)
        .num_epochs(stretches.count())
        .label(&config.run.name)
        .with_training_strategy(TrainingStrategy::Custom(strategy));
    training = match dashboard {
        true => training
            .metric_train_numeric(LearningRateMetric::new())
            .metric_train_numeric(IterationSpeedMetric::new()),
        false => training.renderer(Box::new(Quiet)),
    };
    if step > 0 {
        training = training.checkpoint(stretches.of(step + 1) - 1);
    }
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| training.launch(learner))) {
        // The dashboard knows no other way to say that somebody asked it to kill the program.
        if !(dashboard && words(&*panic).starts_with("Killing training")) {
            resume_unwind(panic);
        }
        let message = "killed on the dashboard, without a checkpoint of its last step";
        return Err(TrainError::Failed(message.to_owned()));
    }
    Ok(given.recv().expect("a strategy that has ended"))
}

pub(crate) fn words(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words")
}

struct Strategy<F> {
    stretches: Stretches,
    body: Mutex<Option<F>>,
}

impl<F: FnOnce(&mut Shell) -> Trainee> SupervisedLearningStrategy<Trainee> for Strategy<F> {
    fn fit(
        &self,
        components: TrainingComponents<Trainee>,
        learner: Learner<Trainee>,
        _train: TrainLoader<Trainee>,
        _valid: ValidLoader<Trainee>,
        _starting_epoch: usize,
    ) -> (Trainee, SupervisedTrainingEventProcessor<Trainee>) {
        // It would keep the weights of the start beside those that learn.
        drop(learner);
        let body = self.body.lock().ok().and_then(|mut body| body.take());
        let mut shell = Shell {
            components,
            stretches: self.stretches,
        };
        let trainee = body.expect("called once")(&mut shell);
        (trainee, shell.components.event_processor)
    }
}

/// burn-train, seen from the loop: it is told what happens, and may ask for an end.
pub(crate) struct Shell {
    components: TrainingComponents<Trainee>,
    stretches: Stretches,
}

impl Shell {
    /// A stretch of training begins, after so many steps.
    pub(crate) fn begin_training(&mut self, step: u64) {
        let epoch_number = self.stretches.of(step + 1);
        self.train(LearnerEvent::StartSplit {
            epoch_number,
            total_items: self.stretches.items(epoch_number),
        });
    }

    /// Step number `step`, counted from 1, was taken at this rate.
    pub(crate) fn step(&mut self, output: LmOutput, step: u64, rate: f64) {
        let progress = self.stretches.progress(step);
        let item = TrainingItem::new(output, progress, Some(step as usize), Some(rate.into()));
        self.train(LearnerEvent::ProcessedItem(item));
    }

    /// The validation after `step` begins.
    pub(crate) fn begin_validation(&mut self, step: u64, batches: usize) {
        let epoch_number = self.stretches.of(step);
        self.train(LearnerEvent::EndSplit(epoch_number));
        self.valid(LearnerEvent::StartSplit {
            epoch_number,
            total_items: batches,
        });
    }

    /// Batch `number` of `batches` of a validation, counted from 1.
    pub(crate) fn validated(&mut self, output: LmOutput, number: usize, batches: usize) {
        let progress = Progress::new(number, batches, Some("batches".to_owned()));
        let item = TrainingItem::new(output, progress, Some(number), None);
        self.valid(LearnerEvent::ProcessedItem(item));
    }

    /// The validation after `step` has ended.
    pub(crate) fn end_validation(&mut self, step: u64) {
        let epoch = self.stretches.of(step);
        self.valid(LearnerEvent::EndSplit(epoch));
        self.train(LearnerEvent::EndEpoch(epoch));
        let told = self.components.event_processor.flush();
        self.note(told);
    }

    /// Whether somebody asked for an end on the dashboard.
    pub(crate) fn asked_to_stop(&self) -> bool {
        let interrupter = &self.components.interrupter;
        interrupter.should_stop() && interrupter.error().is_none()
    }

    /// What burn-train met since it started.
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        let error = self.components.interrupter.error();
        error.map_or(Ok(()), |error| Err(TrainError::Failed(error.to_string())))
    }

    fn train(&mut self, event: LearnerEvent<LmOutput>) {
        let told = self.components.event_processor.process_train(event);
        self.note(told);
    }

    fn valid(&mut self, event: LearnerEvent<LmOutput>) {
        let told = self.components.event_processor.process_valid(event);
        self.note(told);
    }

    fn note(&self, told: Result<(), EventProcessorError>) {
        self.components.interrupter.fail_on_error(told);
    }
}

/// How a run is cut into stretches. Steps and stretches are counted from 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretches {
    every: u64,
    total: u64,
}

impl Stretches {
    /// Those of a run of `total` steps that validates after each `every`; 0 is not before its end.
    pub(crate) fn new(every: u64, total: u64) -> Self {
        let every = if every == 0 { total.max(1) } else { every };
        Stretches { every, total }
    }

    pub(crate) fn count(self) -> usize {
        self.total.div_ceil(self.every) as usize
    }

    /// The stretch that `step` falls into.
    pub(crate) fn of(self, step: u64) -> usize {
        (step.saturating_sub(1) / self.every) as usize + 1
    }

    /// Steps of a stretch: the last one is what is left. At least 1, since the dashboard divides by
    /// it, also where a run that is over opens one more.
    pub(crate) fn items(self, number: usize) -> usize {
        let before = (number as u64 - 1).saturating_mul(self.every);
        self.every.min(self.total.saturating_sub(before)).max(1) as usize
    }

    /// The place of `step` in its stretch.
    pub(crate) fn progress(self, step: u64) -> Progress {
        let place = step.saturating_sub(1) % self.every + 1;
        let items = self.items(self.of(step));
        Progress::new(place as usize, items, Some("steps".to_owned()))
    }
}

impl TrainStep for Trainee {
    type Input = LmBatch;
    type Output = LmOutput;

    fn step(&self, batch: LmBatch) -> TrainOutput<LmOutput> {
        let (item, grads) = self.learn(batch);
        TrainOutput { grads, item }
    }
}

impl InferenceStep for Trainee {
    type Input = LmBatch;
    type Output = LmOutput;

    fn step(&self, batch: LmBatch) -> LmOutput {
        self.evaluate(batch)
    }
}

impl ItemLazy for LmOutput {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}

/// Metrics are made of it as it is, without the state.
impl Adaptor<LmOutput> for LmOutput {
    fn adapt(&self) -> LmOutput {
        LmOutput {
            state: None,
            ..*self
        }
    }
}

/// A mean over tokens of one number of [`LmOutput`], for burn-train's store, early stopping and
/// dashboard.
#[derive(Clone)]
struct LmMetric {
    name: Arc<String>,
    pick: fn(&LmOutput) -> Option<f64>,
    state: NumericMetricState,
}

impl LmMetric {
    fn new(name: &str, pick: fn(&LmOutput) -> Option<f64>) -> Self {
        LmMetric {
            name: Arc::new(name.to_owned()),
            pick,
            state: NumericMetricState::default(),
        }
    }

    fn format(&self) -> FormatOptions {
        FormatOptions::new(self.name.clone()).precision(4)
    }
}

impl Metric for LmMetric {
    type Input = LmOutput;

    fn update(
        &mut self,
        output: &LmOutput,
        _metadata: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        if let Some(value) = (self.pick)(output) {
            self.state.update(value, output.n_tokens);
        }
        Ok(self.state.compute_update(self.format()))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.state.compute_final(self.format()))
    }

    fn clear(&mut self) {
        self.state.reset();
    }

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes {
            unit: None,
            higher_is_better: false,
        }
        .into()
    }
}

impl Numeric for LmMetric {
    fn value(&self) -> Option<NumericEntry> {
        Some(self.state.current_value())
    }

    fn running_value(&self) -> Option<NumericEntry> {
        Some(self.state.running_value())
    }

    fn final_value(&self) -> NumericEntry {
        self.state.final_value()
    }
}

/// burn-train wants loaders; the loop takes batches by number instead.
pub(crate) struct NoLoader;

impl DataLoader<LmBatch> for NoLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<LmBatch> + 'a> {
        unreachable!("the step loop takes batches by number")
    }

    fn num_items(&self) -> usize {
        0
    }

    fn to_device(&self, _device: &Device) -> Arc<dyn DataLoader<LmBatch>> {
        Arc::new(NoLoader)
    }

    fn slice(&self, _start: usize, _end: usize) -> Arc<dyn DataLoader<LmBatch>> {
        Arc::new(NoLoader)
    }
}

/// A renderer that shows nothing: lines come from the [`Reporter`](crate::metrics::Reporter). burn-train's
/// own renderer for pipes prints progress without metrics on every batch.
struct Quiet;

impl MetricsRendererTraining for Quiet {
    fn update_train(&mut self, _: MetricState) {}
    fn update_valid(&mut self, _: MetricState) {}
}

impl MetricsRendererEvaluation for Quiet {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl TrainingProgressLogger for Quiet {
    fn start(&mut self, _: usize, _: usize, _: Option<usize>, _: Option<&str>) {}
    fn update_epoch(&mut self, _: usize) {}
    fn start_split(&mut self, _: &str, _: usize) {}
    fn update_split(&mut self, _: usize) {}
    fn end_split(&mut self) {}
    fn end(&mut self) {}
    fn log_event_training(&mut self, _: String) {}
}

impl EvaluationProgressLogger for Quiet {
    fn start_global_progress(&mut self, _: usize) {}
    fn start_test(&mut self, _: &str, _: usize) {}
    fn update_test_progress(&mut self, _: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _: String) {}
}

impl MetricsRenderer for Quiet {
    fn manual_close(&mut self) {}
    fn register_metric(&mut self, _: MetricDefinition) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_a_place_within_its_stretch() {
        for (every, total) in [(50, 600), (50, 620), (7, 7), (9, 4), (1, 3), (0, 5)] {
            let stretches = Stretches::new(every, total);
            let mut expected = (1, 0);
            for step in 1..=total {
                let (number, progress) = (stretches.of(step), stretches.progress(step));
                // The next place in this stretch, or the first of the next one.
                expected = match number == expected.0 {
                    true => (number, expected.1 + 1),
                    false => (expected.0 + 1, 1),
                };
                let found = (number, progress.items_processed);
                assert_eq!(found, expected, "step {step} of {total}, every {every}");
                assert_eq!(progress.items_total, stretches.items(number));
                let ends = every > 0 && step % every == 0 || step == total;
                assert_eq!(progress.is_completed(), ends, "step {step} of {total}");
            }
            assert_eq!(expected.0, stretches.count());
            let all: usize = (1..=stretches.count()).map(|n| stretches.items(n)).sum();
            assert_eq!(all as u64, total);
        }
        assert_eq!(Stretches::new(50, 100).items(3), 1, "never a division by 0");
    }
}
