//! Tasks: a model learns one, and what it is measured to hold is what stands in its rows.

use crate::common::{config, model, run};
use infinity_model::burn::tensor::{Device, Int, Tensor, TensorData};
use infinity_model::{InfinityModel, ModelConfig, Tokenizer, from_pretrained};
use infinity_train::Resume;
use infinity_train::config::RunConfig;
use infinity_train::data::{DataConfig, DataSource, IGNORE_INDEX, Packing, Part, TokenStore};
use infinity_train::evaluate::tasks::{
    Needle, QUESTION, TaskOptions, evaluate_needle, evaluate_positions, evaluate_rows,
};
use std::path::Path;

/// A run that learns to copy a few symbols.
fn copying(directory: &Path) -> RunConfig {
    let mut config = config(directory, Packing::default());
    config.data = DataConfig {
        source: DataSource::Copy,
        max_seq_length: 20,
        ..DataConfig::default()
    };
    config.data.task.values = 8;
    config.data.task.validation_rows = 40;
    config.model.num_hidden_layers = 2;
    config.training.max_steps = 60;
    config.training.per_device_train_batch_size = 16;
    config.optimizer.learning_rate = 1e-2;
    config.eval.every = 30;
    config.eval.sample_prompts = Vec::new();
    config.checkpoint.every = 20;
    config
}

fn options(lengths: &[usize], window: usize, batch: usize) -> TaskOptions {
    TaskOptions {
        lengths: lengths.to_vec(),
        seeds: 2,
        rows: 5,
        batch,
        window,
        loss_chunk: 7,
    }
}

fn untrained(vocab_size: usize) -> InfinityModel {
    let config = ModelConfig {
        vocab_size,
        initializer_range: 0.5,
        ..model()
    };
    config.init(&Device::flex())
}

#[test]
fn copying_is_learned_and_a_resumed_run_sees_the_same_rows() {
    let dir = tempfile::tempdir().unwrap();
    let whole = copying(dir.path());
    let (report, heard) = run(&whole, None, None);
    let report = report.unwrap().eval.unwrap();
    let first = heard.steps[0].loss.unwrap();
    assert!(
        (first - 11f64.ln()).abs() < 0.5,
        "11 tokens, evenly: {first}"
    );
    assert!(report.loss < 0.93 * first, "{first} to {}", report.loss);
    assert_eq!(
        report.tokens,
        40 * 10,
        "every answer of every row, and nothing else"
    );

    let other = tempfile::tempdir().unwrap();
    let parts = copying(other.path());
    run(&parts, None, Some(33)).0.unwrap();
    let (resumed, again) = run(&parts, Some(Resume::Latest), None);
    assert_eq!(
        resumed.unwrap().eval.unwrap().loss,
        report.loss,
        "bit by bit"
    );
    let last = |heard: &crate::common::Heard| heard.steps.last().unwrap().loss.unwrap();
    assert_eq!(last(&again), last(&heard));

    // What it learned shows in the measure, and in no distance but its own.
    let final_model = Path::new(&whole.run.output_dir).join("final");
    let learned = from_pretrained(&final_model, &Device::flex())
        .unwrap()
        .model;
    let figures =
        evaluate_rows(&learned, &whole.data, &options(&[20], 7, 3), &mut |_, _| ()).unwrap();
    assert_eq!((figures.len(), figures[0].answers), (1, 100));
    assert!((figures[0].loss - report.loss).abs() < 0.3, "{figures:?}");
    assert!(figures[0].standard_error.is_some());
}

/// Accuracy and loss on rows, by scalar loops over whole rows.
fn by_hand(model: &InfinityModel, data: &DataConfig, seeds: u64, rows: u64) -> (f64, f64, u64) {
    let held = data.task_rows(Part::HeldOut, 0).unwrap();
    let (mut right, mut loss, mut n) = (0.0, 0.0, 0);
    for row in (1..=seeds).flat_map(|seed| (0..rows).map(move |i| held.with_seed(seed).row(i))) {
        let ids = TensorData::new(row.inputs.clone(), [1, row.inputs.len()]);
        let tokens = Tensor::<2, Int>::from_data(ids, &Device::flex());
        let (logits, _) = model.forward(tokens, model.initial_state(1));
        let logits: Vec<f64> = infinity_kernels::testing::values(logits);
        let vocabulary = model.config().vocab_size;
        for (logits, target) in logits.chunks(vocabulary).zip(&row.targets) {
            if *target == IGNORE_INDEX {
                continue;
            }
            let best = (0..vocabulary)
                .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
                .unwrap();
            right += f64::from(best as i32 == *target);
            loss += logits.iter().map(|x| x.exp()).sum::<f64>().ln() - logits[*target as usize];
            n += 1;
        }
    }
    (right / n as f64, loss / n as f64, n)
}

#[test]
fn measured_in_pieces_is_measured_whole() {
    for (source, len) in [
        (DataSource::Recall, 128),
        (DataSource::Sticky, 192),
        (DataSource::Parity, 64),
    ] {
        let data = DataConfig {
            source,
            max_seq_length: len,
            ..DataConfig::default()
        };
        let model = untrained(130);
        let (right, loss, n) = by_hand(&model, &data, 2, 5);
        for (window, batch) in [(len, 5), (17, 3), (50, 1)] {
            let mut told = Vec::new();
            let options = options(&[len], window, batch);
            let figures = evaluate_rows(&model, &data, &options, &mut |done, all| {
                told.push((done, all))
            })
            .unwrap();
            assert!(told.is_sorted() && told.last().is_some_and(|(done, all)| done == all));
            let answers: u64 = figures.iter().map(|figure| figure.answers).sum();
            assert_eq!(answers, n);
            let mean = |of: &dyn Fn(&infinity_train::evaluate::tasks::Figure) -> f64| {
                figures
                    .iter()
                    .map(|f| of(f) * f.answers as f64)
                    .sum::<f64>()
                    / n as f64
            };
            assert!((mean(&|f| f.loss) - loss).abs() < 1e-4, "{source:?}");
            let found = mean(&|f| f.accuracy.unwrap());
            assert!((found - right).abs() < 1e-9, "{source:?}: {found} {right}");
            assert!(
                figures
                    .iter()
                    .all(|f| f.state_bytes == figures[0].state_bytes)
            );
            let kinds = figures.iter().filter(|f| f.kind == Some("sticky")).count();
            assert_eq!(kinds > 0, source == DataSource::Sticky);
        }
    }
}

#[test]
fn a_row_longer_than_any_learned_has_farther_buckets_and_no_larger_state() {
    let data = DataConfig {
        source: DataSource::Recall,
        max_seq_length: 128,
        ..DataConfig::default()
    };
    let model = untrained(130);
    let figures = evaluate_rows(
        &model,
        &data,
        &options(&[128, 1024], 100, 5),
        &mut |_, _| (),
    )
    .unwrap();
    let of = |length| figures.iter().filter(move |figure| figure.length == length);
    assert_eq!(
        of(128).map(|f| f.range.clone()).collect::<Vec<_>>(),
        [0..32, 32..64, 64..128]
    );
    assert_eq!(of(1024).next_back().unwrap().range, 512..1024);
    assert_eq!(
        of(128).next().unwrap().state_bytes,
        of(1024).next().unwrap().state_bytes
    );
    let error = evaluate_rows(
        &untrained(100),
        &data,
        &options(&[128], 64, 5),
        &mut |_, _| (),
    );
    let message = error.unwrap_err().to_string();
    assert!(
        message.contains("130") && message.contains("100"),
        "{message}"
    );
}

/// Text of some length that no model knows.
fn text(tokens: usize) -> TokenStore {
    let ids = (0..tokens).map(|i| b"abcdefgh ijk\n"[i * i % 13].into());
    TokenStore::from_documents(&[ids.collect()])
}

#[test]
fn a_needle_is_one_of_a_hundred_and_the_same_however_it_is_read() {
    let tokenizer = Tokenizer::bytes();
    let model = untrained(tokenizer.vocab_size());
    let needle = Needle::new(&tokenizer, QUESTION).unwrap();
    let measured = |window, batch| {
        let options = TaskOptions {
            seeds: 4,
            ..options(&[128, 300], window, batch)
        };
        let mut told = Vec::new();
        let figures = evaluate_needle(&model, &text(90), &needle, &options, &mut |done, all| {
            told.push((done, all));
        })
        .unwrap();
        assert!(told.is_sorted() && told.last().is_some_and(|(done, all)| done == all));
        figures
    };
    let whole = measured(1024, 100);
    assert_eq!(whole.len(), 2);
    assert_eq!(whole.iter().map(|f| f.answers).collect::<Vec<_>>(), [4, 4]);
    for (a, b) in whole.iter().zip(measured(33, 7)) {
        assert_eq!(
            (a.length, a.accuracy, a.state_bytes),
            (b.length, b.accuracy, b.state_bytes)
        );
        assert!((a.loss - b.loss).abs() < 1e-3, "{a:?} {b:?}");
        assert!(a.loss > 1.0, "an untrained model does not know: {a:?}");
    }
    let short = evaluate_needle(
        &model,
        &text(90),
        &needle,
        &options(&[60], 64, 4),
        &mut |_, _| (),
    );
    assert!(short.unwrap_err().to_string().contains("context lengths"));
    let letters = Needle::new(
        &Tokenizer::chars(format!("{QUESTION}etaoinsrhd.").chars()),
        QUESTION,
    );
    letters.unwrap();
    let error = Needle::new(&Tokenizer::chars("abc".chars()), QUESTION).unwrap_err();
    assert!(error.to_string().contains("question"), "{error}");
}

#[test]
fn positions_are_those_of_a_stream() {
    let model = untrained(257);
    let measured = |window, batch| {
        evaluate_positions(
            &model,
            &text(500),
            &options(&[100], window, batch),
            &mut |_, _| (),
        )
        .unwrap()
    };
    let whole = measured(100, 2);
    let ranges: Vec<_> = whole
        .iter()
        .map(|f| (f.range.start, f.range.end, f.answers))
        .collect();
    let (mut next, mut all) = (0, 0);
    for (start, end, answers) in ranges {
        assert_eq!((start, answers), (next, 2 * (end - start)));
        (next, all) = (end, all + answers);
    }
    assert_eq!((next, all), (100, 200));
    for (a, b) in whole.iter().zip(measured(13, 1)) {
        assert!(
            (a.loss - b.loss).abs() < 1e-4 && a.accuracy.is_none(),
            "{a:?} {b:?}"
        );
    }
    let long = evaluate_positions(&model, &text(50), &options(&[50], 13, 2), &mut |_, _| ());
    assert!(long.unwrap_err().to_string().contains("50 tokens"));
}
