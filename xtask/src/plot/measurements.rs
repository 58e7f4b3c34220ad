//! What the plot needs of the JSON files that `cargo xtask bench length` and `bench kernels` write.

use anyhow::{Context, ensure};
use serde_json::Value;

use super::kernels;
use infinity_plot::axis::grouped;

/// Lines to draw and words to put below them.
#[derive(Debug)]
pub(super) struct Measurements {
    /// Microseconds a token, by length.
    pub(super) time: Vec<Series>,
    /// Peak memory by length, in what its title says. Without lines where the system did not tell.
    pub(super) memory: Vec<Series>,
    /// What stands above the two.
    pub(super) titles: [&'static str; 2],
    /// Machine and model, and what was left out.
    pub(super) notes: Vec<String>,
}

/// One line of a panel.
#[derive(Debug, PartialEq)]
pub(super) struct Series {
    pub(super) name: String,
    /// Length and value, by ascending length.
    pub(super) points: Vec<(f64, f64)>,
}

impl Measurements {
    /// Reads the text of the file.
    ///
    /// # Errors
    ///
    /// If it is no JSON, if a field is missing (the message names it), or without measurements.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let file: Value = serde_json::from_str(text).context("not JSON")?;
        if file["bench"] == "kernels" {
            return kernels::measurements(&file);
        }
        let training = list(&file, "training")?;
        ensure!(
            !training.is_empty(),
            "`training` is empty: run the bench with rounds"
        );
        let mut memory = series(training, "peak_bytes", 1e-9)?;
        memory.retain(|line| line.points.iter().all(|point| point.1 > 0.0));
        ensure!(
            !memory.is_empty(),
            "`peak_bytes` is 0: the system did not tell"
        );
        Ok(Measurements {
            time: series(training, "us_per_token", 1.0)?,
            memory,
            titles: [
                "Training: time per token (µs)",
                "Training: peak memory (GB)",
            ],
            notes: notes(&file)?,
        })
    }
}

/// `field` of every point, one line a mixer, in the order of the file.
fn series(training: &[Value], field: &str, unit: f64) -> anyhow::Result<Vec<Series>> {
    let mut lines: Vec<Series> = Vec::new();
    for point in training {
        let name = word(point, "mixer")?;
        let place = (number(point, "length")?, number(point, field)? * unit);
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(place),
            None => lines.push(Series {
                name: name.to_owned(),
                points: vec![place],
            }),
        }
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    Ok(lines)
}

fn notes(file: &Value) -> anyhow::Result<Vec<String>> {
    let (machine, model) = (field(file, "machine")?, field(file, "model")?);
    let mut notes = vec![format!(
        "{} layers, D {}, H {}; {} tokens a step at every length. {}, {} cores, {}.",
        number(model, "num_hidden_layers")?,
        number(model, "hidden_size")?,
        number(model, "num_attention_heads")?,
        grouped(number(file, "tokens_per_step")?),
        word(machine, "cpu")?,
        number(machine, "cores")?,
        word(file, "date")?,
    )];
    if let Some(first) = list(file, "left_out")?.first() {
        let mixer = word(first, "mixer")?;
        let lengths = list(file, "training")?
            .iter()
            .filter(|point| point["mixer"] == mixer);
        let longest = lengths
            .filter_map(|point| point["length"].as_f64())
            .fold(0.0, f64::max);
        notes.push(format!(
            "{mixer} stops at {}. At {}: {}.",
            grouped(longest),
            grouped(number(first, "length")?),
            word(first, "why")?,
        ));
    }
    Ok(notes)
}

fn field<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a Value> {
    value
        .get(name)
        .with_context(|| format!("`{name}` is missing"))
}

pub(super) fn list<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a Vec<Value>> {
    field(value, name)?
        .as_array()
        .with_context(|| format!("`{name}` is not a list"))
}

pub(super) fn number(value: &Value, name: &str) -> anyhow::Result<f64> {
    field(value, name)?
        .as_f64()
        .with_context(|| format!("`{name}` is not a number"))
}

pub(super) fn word<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    field(value, name)?
        .as_str()
        .with_context(|| format!("`{name}` is not text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = include_str!("example.json");

    #[test]
    fn lines_are_read_by_mixer_in_ascending_length() {
        let found = Measurements::parse(FILE).expect("a file of the bench");
        let names: Vec<&str> = found.time.iter().map(|line| line.name.as_str()).collect();
        assert_eq!(names, ["infinity", "softmax"]);
        assert_eq!(
            found.time[0].points,
            [(1024.0, 90.0), (4096.0, 91.5), (16384.0, 95.0)]
        );
        assert_eq!(found.memory[1].points, [(1024.0, 3.0), (4096.0, 11.5)]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let message = |text: &str| format!("{:#}", Measurements::parse(text).expect_err("broken"));
        assert!(message("{").contains("not JSON"));
        assert!(message("{}").contains("`training` is missing"));
        assert!(message("{\"training\": []}").contains("is empty"));
        let renamed = FILE.replace("us_per_token", "ms_per_token");
        assert!(message(&renamed).contains("`us_per_token` is missing"));
        let unknown = FILE.replace("\"length\": 4096", "\"length\": \"long\"");
        assert!(message(&unknown).contains("`length` is not a number"));
        let untold = FILE.replace("\"peak_bytes\": ", "\"peak_bytes\": 0, \"x\": ");
        assert!(message(&untold).contains("did not tell"));
    }
}
