//! `infinity devices`: what this build can compute on, what of it is here, and in which formats.

use burn::tensor::{DType, Device};
use infinity_kernels::accelerator::{self, Facts};
use serde_json::{Value, json};

use crate::args::JsonArgs;
use crate::device::{self, Backend};
use crate::terminal::{self, errors};

/// The number formats worth knowing about.
const FORMATS: [DType; 5] = [DType::F64, DType::F32, DType::F16, DType::BF16, DType::I64];

/// One backend, and its working devices or why there are none.
type Found = (Backend, Result<Vec<Working>, String>);

struct Working {
    name: String,
    formats: Vec<&'static str>,
    facts: Option<Facts>,
}

pub(crate) fn run(args: &JsonArgs) -> anyhow::Result<()> {
    let found: Vec<Found> = Backend::ALL.into_iter().map(look).collect();
    let auto = device::open("auto").map(|chosen| chosen.name).ok();
    if args.json {
        let backends: Vec<Value> = found.iter().map(as_json).collect();
        let all = json!({ "auto": auto, "backends": backends, "gpu_cache": cache() });
        return terminal::line(serde_json::to_string_pretty(&all)?);
    }
    for one in &found {
        terminal::line(as_text(one))?;
    }
    let mut working = found
        .iter()
        .flat_map(|(_, devices)| devices.iter().flatten());
    if working.any(|device| device.facts.is_some()) {
        let cache = cache().unwrap_or_else(|| "nowhere (INFINITY_GPU_CACHE=off)".to_owned());
        terminal::line(format!("\ncompiled and tuned kernels are kept in {cache}"))?;
    }
    let auto = auto.map(|name| format!("is {name}"));
    let auto = auto.unwrap_or_else(|| "finds nothing that works".to_owned());
    terminal::line(format!("\n--device auto {auto}"))
}

fn cache() -> Option<String> {
    accelerator::cache_file().map(|file| file.display().to_string())
}

fn look(backend: Backend) -> Found {
    let working = |(name, device): (String, Device)| {
        device::works(&device)?;
        let facts = errors::caught(|| accelerator::facts(&device))?;
        let formats = formats(&device);
        Ok(Working {
            name,
            formats,
            facts,
        })
    };
    let devices = backend.devices();
    let devices = devices.and_then(|devices| devices.into_iter().map(working).collect());
    (backend, devices)
}

pub(super) fn formats(device: &Device) -> Vec<&'static str> {
    let supports = |dtype| errors::caught(|| device.supports_dtype(dtype)).unwrap_or(false);
    let formats = FORMATS.iter().filter(|dtype| supports(**dtype));
    formats.map(DType::name).collect()
}

fn as_text((backend, devices): &Found) -> String {
    let name = backend.name();
    match devices {
        Ok(devices) => {
            let lines = devices.iter().map(|one| {
                let facts = one.facts.as_ref();
                let facts = facts.map(|facts| format!("\n{:<20}{}", "", told(facts)));
                let (name, formats) = (&one.name, one.formats.join(" "));
                format!("{name:<10} ready    {formats}{}", facts.unwrap_or_default())
            });
            lines.collect::<Vec<_>>().join("\n")
        }
        Err(_) if !backend.is_compiled() => {
            format!("{name:<10} absent   build with --features {name}")
        }
        Err(why) => format!("{name:<10} compiled in, but not usable here: {why}"),
    }
}

/// What there is to know of a GPU, in a line.
fn told(facts: &Facts) -> String {
    let memory = match facts.memory {
        Some(bytes) => terminal::bytes(bytes),
        None => "memory unknown".to_owned(),
    };
    let units = match &facts.matrix_units[..] {
        [] => "no matrix units".to_owned(),
        formats => format!("matrix units {}", formats.join(" ")),
    };
    let products = match facts.tf32 {
        true => "f32 products in TF32 (10 bits of fraction)",
        false => "f32 products in f32",
    };
    format!("{}, {memory}, {units}, {products}", facts.name)
}

fn as_json((backend, devices): &Found) -> Value {
    let told = |one: &Working| {
        let mut told = json!({ "name": one.name, "dtypes": one.formats });
        if let Some(facts) = &one.facts {
            told["hardware"] = json!(facts.name);
            told["memory_bytes"] = json!(facts.memory);
            told["matrix_units"] = json!(facts.matrix_units);
            told["f32_products"] = json!(if facts.tf32 { "tf32" } else { "f32" });
        }
        told
    };
    let working = devices.iter().flatten().map(told).collect::<Vec<_>>();
    json!({
        "backend": backend.name(), "compiled": backend.is_compiled(), "devices": working,
        "problem": devices.as_ref().err(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_f32_means_on_a_device_is_said() {
        let mut facts = Facts {
            name: "NVIDIA H200".to_owned(),
            memory: Some(150 << 30),
            tf32: true,
            matrix_units: vec!["bf16".to_owned(), "f16".to_owned()],
        };
        assert_eq!(
            told(&facts),
            "NVIDIA H200, 150.0 GiB, matrix units bf16 f16, f32 products in TF32 (10 bits of fraction)"
        );
        (facts.tf32, facts.memory) = (false, None);
        facts.matrix_units.clear();
        assert_eq!(
            told(&facts),
            "NVIDIA H200, memory unknown, no matrix units, f32 products in f32"
        );
    }
}
