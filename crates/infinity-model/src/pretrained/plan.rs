//! How the weights of a network are made of stored tensors, and made so: a [`Recipe`] each.
//!
//! A tensor is rows of stored ones, one behind the other, and sometimes a constant added. What every recipe
//! takes is compared with what is stored before any number is read.

use super::files::damaged;
use super::read::{Place, StoredWeights};
use crate::config::ModelConfig;
use crate::error::PretrainedError;
use crate::model::InfinityModel;
use crate::parameters::{Weight, weights};
use crate::precision::Precision;
use burn::store::burn_pack::{Error as PackError, Tensor as PackTensor};
use burn::store::{ModuleAdapter, ModuleContext, ModuleSnapshot, PyTorchToBurnAdapter, bridge};
use burn::tensor::{Device, Element, FloatDType, Shape, TensorData, bf16};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Numbers that are read at once.
const PIECE: usize = 1 << 18;

/// Where a tensor of ours comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Recipe {
    /// None: every number is 1.
    pub(super) pieces: Vec<Piece>,
    /// Whether 1 is added to every number: norms that others store as distances from 1.
    pub(super) one_plus: bool,
}

/// Rows of a stored tensor: `len` of them every `stride`, `count` times, from `start` on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    pub(super) tensor: String,
    /// Rows that the tensor must have.
    pub(super) of: usize,
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) stride: usize,
    pub(super) count: usize,
}

impl Recipe {
    /// A stored tensor as it is.
    pub(super) fn whole(tensor: String, rows: usize) -> Self {
        Self::rows(tensor, rows, 0, rows)
    }

    /// `len` rows from `start` on, of a tensor of `of`.
    pub(super) fn rows(tensor: String, of: usize, start: usize, len: usize) -> Self {
        Self::every(tensor, of, start, len, of, 1)
    }

    /// `len` rows from `start` on and again every `stride`, `count` times, of a tensor of `of`.
    pub(super) fn every(
        tensor: String,
        of: usize,
        start: usize,
        len: usize,
        stride: usize,
        count: usize,
    ) -> Self {
        let piece = Piece {
            tensor,
            of,
            start,
            len,
            stride,
            count,
        };
        Self::from(vec![piece])
    }

    /// The same with 1 added to every number.
    pub(super) fn one_plus(self, wanted: bool) -> Self {
        Self {
            one_plus: wanted,
            ..self
        }
    }
}

impl From<Vec<Piece>> for Recipe {
    fn from(pieces: Vec<Piece>) -> Self {
        Self {
            pieces,
            one_plus: false,
        }
    }
}

/// A tensor whose places are known.
#[derive(Clone)]
pub(super) struct Made {
    places: Vec<Place>,
    shape: Vec<usize>,
    one_plus: bool,
    /// What its numbers are read into.
    format: FloatDType,
}

/// Builds the model of `config` with its parameters in the formats of a precision. Each of its weights is made by its recipe; a stored tensor that no recipe
/// takes and that is not `ignored` is refused.
pub(super) fn load(
    stored: &StoredWeights,
    config: &ModelConfig,
    (precision, device): (Precision, &Device),
    recipe: impl Fn(&Weight) -> Recipe,
    ignored: impl Fn(&str) -> bool,
) -> Result<InfinityModel, PretrainedError> {
    let mut made = resolve(stored, config, recipe, ignored)?;
    for (name, made) in &mut made {
        made.format = precision.parameter(name, made.shape.len());
    }
    let made = Arc::new(made);
    let tensors: Vec<PackTensor> = (made.iter())
        .map(|(name, made)| made.deferred(name.clone(), false))
        .collect();
    let mut model = config.unfilled(device);
    let adapter = Box::new(Streamed(Arc::clone(&made)));
    let result = model.apply(tensors, None, Some(adapter), true);
    if let Some(error) = result.errors.first() {
        return Err(damaged(&stored.path, error));
    }
    if !result.missing.is_empty() || !result.unused.is_empty() {
        let reason = format!(
            "parts of the network without weights: {:?}; weights without a part: {:?}",
            result.missing, result.unused
        );
        return Err(damaged(&stored.path, reason));
    }
    Ok(model)
}

/// Finds what the recipes take, by the names of our weights.
fn resolve(
    stored: &StoredWeights,
    config: &ModelConfig,
    recipe: impl Fn(&Weight) -> Recipe,
    ignored: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Made>, PretrainedError> {
    let mut problems = Problems::default();
    let mut others: BTreeSet<&str> = stored.tensors.keys().map(String::as_str).collect();
    let mut all = BTreeMap::new();
    for weight in weights(config) {
        let recipe = recipe(&weight);
        for piece in &recipe.pieces {
            others.remove(piece.tensor.as_str());
        }
        let made = made(stored, &weight, &recipe, &mut problems);
        all.insert(weight.name, made);
    }
    let unexpected = others.into_iter().filter(|name| !ignored(name));
    let unexpected = unexpected.map(str::to_owned).collect();
    problems.into_result(&stored.path, unexpected)?;
    Ok(all)
}

/// What recipes take and is not stored so.
#[derive(Default)]
pub(super) struct Problems {
    missing: BTreeSet<String>,
    wrong: BTreeSet<String>,
}

impl Problems {
    /// Whether there are none, and nothing `unexpected` in the file at `path`.
    pub(super) fn into_result(
        self,
        path: &Path,
        unexpected: Vec<String>,
    ) -> Result<(), PretrainedError> {
        let kinds = [
            ("missing", Vec::from_iter(self.missing)),
            ("wrong", Vec::from_iter(self.wrong)),
            ("unexpected", unexpected),
        ];
        let problems: Vec<String> = (kinds.iter())
            .filter(|(_, names)| !names.is_empty())
            .map(|(kind, names)| format!("{kind}: {}", shortened(names)))
            .collect();
        match problems.is_empty() {
            true => Ok(()),
            false => {
                let problems = problems.join("; ");
                let reason = format!("its tensors do not fit config.json: {problems}");
                Err(damaged(path, reason))
            }
        }
    }
}

/// Finds what one recipe takes.
pub(super) fn made(
    stored: &StoredWeights,
    weight: &Weight,
    recipe: &Recipe,
    problems: &mut Problems,
) -> Made {
    let mut places = Vec::new();
    for piece in &recipe.pieces {
        let name = &piece.tensor;
        let Some(place) = stored.tensors.get(name) else {
            problems.missing.insert(name.clone());
            continue;
        };
        let expected = [&[piece.of], &weight.shape[1..]].concat();
        if trimmed(&place.shape) != trimmed(&expected) {
            let wrong = format!("{name} {:?} instead of {expected:?}", place.shape);
            problems.wrong.insert(wrong);
        } else if let Some(format) = place.not_floats() {
            let wrong = format!("{name} of {format:?} instead of floats");
            problems.wrong.insert(wrong);
        } else {
            let starts = (0..piece.count).map(|i| piece.start + i * piece.stride);
            places.extend(starts.map(|start| place.rows(start, piece.len)));
        }
    }
    Made {
        places,
        shape: weight.shape.clone(),
        one_plus: recipe.one_plus,
        format: FloatDType::F32,
    }
}

/// A shape without the ones at its end, by which others write the same numbers.
fn trimmed(shape: &[usize]) -> &[usize] {
    let end = shape.iter().rposition(|&size| size != 1);
    &shape[..end.map_or(0, |end| end + 1)]
}

/// The first names, and how many more there are.
pub(super) fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

impl Made {
    /// A stored tensor as it is.
    pub(super) fn of(place: Place) -> Self {
        Self {
            shape: place.shape.clone(),
            places: vec![place],
            one_plus: false,
            format: FloatDType::F32,
        }
    }

    fn shape(&self, transposed: bool) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if transposed {
            shape.reverse();
        }
        shape
    }

    /// The tensor, read when it is asked for; `transposed` from `[out, in]` to `[in, out]`.
    fn deferred(&self, name: String, transposed: bool) -> PackTensor {
        let (made, shape) = (self.clone(), Shape::from(self.shape(transposed)));
        bridge::deferred(name, self.format.into(), shape, None, move || {
            let read = match made.format {
                FloatDType::BF16 => made.read_as(transposed, bf16::from_f32),
                _ => made.read(transposed),
            };
            read.map_err(PackError::IoError)
        })
    }

    /// Its numbers in f32, with what the system says of a file that does not give them.
    pub(super) fn read(&self, transposed: bool) -> Result<TensorData, String> {
        self.read_as(transposed, |number| number)
    }

    /// Its numbers, each made by `number`.
    fn read_as<E: Element>(
        &self,
        transposed: bool,
        number: impl Fn(f32) -> E,
    ) -> Result<TensorData, String> {
        let mut values = vec![number(1.0); self.shape.iter().product()];
        // A zero that is added takes the sign of another.
        let number = |stored: f32| match self.one_plus {
            true => number(1.0 + stored),
            false => number(stored),
        };
        let mut done = 0;
        for place in &self.places {
            let read = match transposed {
                false => in_order(place, &mut values[done..], number),
                true => self.turned(place, &mut values, done, number),
            };
            read.map_err(|error| format!("{}: {error}", place.path().display()))?;
            done += match transposed {
                false => place.shape.iter().product(),
                true => place.shape[0],
            };
        }
        Ok(TensorData::new(values, self.shape(transposed)))
    }

    /// Rows of a place as columns of `values`, from column `first` on.
    fn turned<E: Element>(
        &self,
        place: &Place,
        values: &mut [E],
        mut first: usize,
        number: impl Fn(f32) -> E,
    ) -> io::Result<()> {
        let (rows, columns) = (self.shape[0], self.shape[1]);
        let at_once = (PIECE / columns.max(1)).max(1) * columns;
        place.read(at_once, |piece| {
            // Down a column of the piece, so that what is written lies together.
            for column in 0..columns {
                let row = values[column * rows + first..].iter_mut();
                let numbers = piece[column..].iter().step_by(columns);
                row.zip(numbers)
                    .for_each(|(value, stored)| *value = number(*stored));
            }
            first += piece.len() / columns;
        })
    }
}

fn in_order<E>(place: &Place, values: &mut [E], number: impl Fn(f32) -> E) -> io::Result<()> {
    let mut done = 0;
    place.read(PIECE, |numbers| {
        for (value, stored) in values[done..].iter_mut().zip(numbers) {
            *value = number(*stored);
        }
        done += numbers.len();
    })
}

/// Finds a tensor under the name that PyTorch gives it, and turns projections around.
#[derive(Clone)]
struct Streamed(Arc<BTreeMap<String, Made>>);

impl ModuleAdapter for Streamed {
    fn adapt(&self, tensor: PackTensor, context: ModuleContext<'_>) -> PackTensor {
        let projection = context.module_type() == Some("Struct:Linear") && tensor.shape.len() == 2;
        match self.0.get(&tensor.name) {
            Some(made) if projection => made.deferred(tensor.name, true),
            _ => tensor,
        }
    }

    fn get_alternative_param_name(&self, name: &str, container: &str) -> Option<String> {
        PyTorchToBurnAdapter.get_alternative_param_name(name, container)
    }

    fn clone_box(&self) -> Box<dyn ModuleAdapter> {
        Box::new(self.clone())
    }
}
