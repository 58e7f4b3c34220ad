//! The optimizer's file in a checkpoint: `optim.bpk`, laid out as Burn's `OptimizerRecord` is, so that
//! either reads what the other wrote.
//!
//! ```text
//! tensors   {parameter id}.momentum.{moment_1, moment_2}   AdamW, in the parameter's shape, f32
//!           {parameter id}.momentum.velocity               Muon
//! scalars   {parameter id}.momentum.time                   AdamW's steps
//! metadata  {parameter id} = path of the parameter
//! ```
//!
//! It is read as plain numbers and put on each parameter's own device. (Burn's reader makes tensors on the
//! process's default device first, which may be one that this machine does not have.)

use super::{Moments, Optimizer, Slot};
use crate::error::CheckpointError;
use burn::tensor::{DType, Tensor, TensorData};
use burn_pack::{Bytes, Reader, Writer};
use std::collections::HashMap;
use std::path::Path;

impl Slot {
    /// The names of its moments.
    fn leaves(&self) -> &'static [&'static str] {
        match self.muon {
            true => &["velocity"],
            false => &["moment_1", "moment_2"],
        }
    }
}

fn name(id: u64, leaf: &str) -> String {
    format!("{id}.momentum.{leaf}")
}

impl Optimizer {
    /// The moments of all parameters as the bytes of the file, fetched one tensor at a time.
    pub(crate) fn to_bytes(&self) -> Result<Bytes, burn_pack::Error> {
        let mut slots: Vec<_> = self.slots.iter().collect();
        slots.sort_by(|(_, a), (_, b)| a.path.cmp(&b.path));
        let (mut tensors, mut times) = (Vec::new(), Vec::new());
        for (id, slot) in &slots {
            let id = id.val();
            let Some(Moments { time, rows }) = &slot.moments else {
                continue;
            };
            let rows = slot.leaves().iter().zip(rows);
            tensors.extend(rows.map(|(leaf, row)| entry(id, leaf, slot, row)));
            if !slot.muon {
                times.push((name(id, "time"), *time));
            }
        }
        let mut writer = Writer::new(tensors);
        for (name, time) in times {
            writer = writer.with_scalar(&name, time.into());
        }
        for (id, slot) in slots {
            writer = writer.with_metadata(&id.val().to_string(), &slot.path);
        }
        writer.into_bytes()
    }

    /// Takes over the moments in `path`, of the same parameters as the module's. Those of a parameter that has none there
    /// begin anew, as they do for one that never had a gradient.
    pub(crate) fn load(&mut self, path: &Path) -> Result<(), CheckpointError> {
        self.read(path).map_err(|reason| CheckpointError::Damaged {
            path: path.to_path_buf(),
            reason,
        })
    }

    fn read(&mut self, path: &Path) -> Result<(), String> {
        let reader = Reader::from_file_exact(path).map_err(|error| error.to_string())?;
        let times = reader.scalars().clone();
        let mut tensors = HashMap::new();
        for tensor in reader.into_tensors().map_err(|error| error.to_string())? {
            let parts = tensor.into_parts().map_err(|error| error.to_string())?;
            let (name, dtype, shape, _, bytes) = parts;
            tensors.insert(name, (dtype, shape, bytes));
        }
        for (id, slot) in &mut self.slots {
            let (id, dims) = (id.val(), &slot.dims);
            let mut take = |leaf: &str| match tensors.remove(&name(id, leaf)) {
                Some((dtype, shape, _)) if shape[..] != dims[..] || dtype != DType::F32 => {
                    Err(format!(
                        "the {leaf} of {} is {shape:?} {dtype:?}, not {dims:?} in f32",
                        slot.path
                    ))
                }
                found => Ok(found.map(|(.., bytes)| bytes)),
            };
            let found: Vec<Option<Bytes>> =
                (slot.leaves().iter().map(|leaf| take(leaf))).collect::<Result<_, _>>()?;
            let time = times.get(&name(id, "time")).copied();
            let time = time.and_then(|time| usize::try_from(time).ok());
            let row = |bytes: Bytes| {
                let numbers = bytes.len() / size_of::<f32>();
                let data = TensorData::from_bytes(bytes, [numbers], DType::F32);
                Tensor::from_data(data, (&slot.device, DType::F32))
            };
            let rows = found.into_iter().map(|bytes| bytes.map(row)).collect();
            slot.moments = match (slot.muon, time, rows) {
                (true, _, Some(rows)) => Some(Moments { time: 0, rows }),
                (false, Some(time), Some(rows)) => Some(Moments { time, rows }),
                _ => None,
            };
        }
        match tensors.into_keys().next() {
            Some(name) => Err(format!("{name} is of no parameter of the model")),
            None => Ok(()),
        }
    }
}

/// A tensor of the file, fetched from its device when it is written.
fn entry(id: u64, leaf: &str, slot: &Slot, tensor: &Tensor<1>) -> burn_pack::Tensor {
    let (shape, tensor) = (slot.dims.clone(), tensor.clone());
    let bytes = tensor.shape().num_elements() * size_of::<f32>();
    let fetch = move || Ok(tensor.to_data().into_parts().0);
    burn_pack::Tensor::deferred(name(id, leaf), DType::F32, shape, Some(id), bytes, fetch)
}
