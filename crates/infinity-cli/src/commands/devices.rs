//! `infinity devices`: what this build can compute on, what of it is here, and in which formats.

use burn::tensor::{DType, Device};
use clap::Args;
use serde_json::{Value, json};

use crate::device::{self, Backend};
use crate::terminal::{self, errors};

/// How to print.
#[derive(Debug, Args)]
pub(crate) struct DevicesArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The number formats worth knowing about, and their names.
const FORMATS: [(DType, &str); 5] = [
    (DType::F64, "f64"),
    (DType::F32, "f32"),
    (DType::F16, "f16"),
    (DType::BF16, "bf16"),
    (DType::I64, "i64"),
];

/// One backend, looked at.
struct Found {
    backend: Backend,
    /// Its working devices with their formats, or why there are none.
    devices: Result<Vec<(String, Vec<&'static str>)>, String>,
}

/// Prints the list.
pub(crate) fn run(args: &DevicesArgs) -> anyhow::Result<u8> {
    let found: Vec<Found> = Backend::ALL.into_iter().map(look).collect();
    let auto = device::open("auto").map(|chosen| chosen.name).ok();
    if args.json {
        let backends: Vec<Value> = found.iter().map(as_json).collect();
        let all = json!({ "auto": auto, "backends": backends });
        terminal::line(&serde_json::to_string_pretty(&all)?)?;
        return Ok(errors::OK);
    }
    for one in &found {
        terminal::line(&as_text(one))?;
    }
    match auto {
        Some(name) => terminal::line(&format!("\n--device auto is {name}"))?,
        None => terminal::line("\n--device auto finds nothing that works")?,
    }
    Ok(errors::OK)
}

fn look(backend: Backend) -> Found {
    let devices = backend.devices().and_then(|devices| {
        if devices.is_empty() {
            return Err("no device found".to_owned());
        }
        let named = devices
            .iter()
            .enumerate()
            .map(|(i, one)| match backend.is_cpu() {
                true => (backend.name().to_owned(), one),
                false => (format!("{}:{i}", backend.name()), one),
            });
        named
            .map(|(name, one)| device::works(one).map(|()| (name, formats(one))))
            .collect::<Result<Vec<_>, _>>()
    });
    Found { backend, devices }
}

pub(super) fn formats(device: &Device) -> Vec<&'static str> {
    let supports = |dtype| errors::caught(|| device.supports_dtype(dtype)).unwrap_or(false);
    FORMATS
        .iter()
        .filter(|(dtype, _)| supports(*dtype))
        .map(|(_, name)| *name)
        .collect()
}

fn as_text(found: &Found) -> String {
    let name = found.backend.name();
    match &found.devices {
        Ok(devices) => devices
            .iter()
            .map(|(name, formats)| format!("{name:<10} ready    {}", formats.join(" ")))
            .collect::<Vec<_>>()
            .join("\n"),
        Err(_) if !found.backend.is_compiled() => {
            format!("{name:<10} absent   build with --features {name}")
        }
        Err(why) => format!("{name:<10} compiled in, but not usable here: {why}"),
    }
}

fn as_json(found: &Found) -> Value {
    let (devices, problem) = match &found.devices {
        Ok(devices) => (&devices[..], None),
        Err(why) => (&[][..], Some(why)),
    };
    let devices: Vec<Value> = devices
        .iter()
        .map(|(name, formats)| json!({ "name": name, "dtypes": formats }))
        .collect();
    json!({
        "backend": found.backend.name(),
        "compiled": found.backend.is_compiled(),
        "devices": devices,
        "problem": problem,
    })
}
