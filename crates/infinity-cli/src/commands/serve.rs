//! `infinity serve MODEL`: the model over HTTP, with sessions that are kept.
//!
//! It listens before the model is loaded, and says so until then. The first Ctrl-C lets answers finish
//! and saves sessions, the second ends the program.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use infinity_model::{ChatTemplate, GenerationConfig, Precision, Pretrained};
use infinity_serve::{Engine, EngineConfig, Served, ServerConfig};

use crate::args::{Global, whole};
use crate::device;
use crate::model_dir::{self, Found};
use crate::terminal::{self, errors, signals};

/// Settings of generation beside a model.
const GENERATION: &str = "generation_config.json";

/// How often the server looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Which model, for whom, and how much of it.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Model directory, the directory of a run, or a checkpoint: RUN/checkpoints/best
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Address to listen on; others than this machine's own take --api-key
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(short, long, value_name = "N", default_value_t = 8080)]
    port: u16,
    /// Key that requests have to show
    #[arg(
        long,
        value_name = "KEY",
        env = "INFINITY_API_KEY",
        hide_env_values = true
    )]
    api_key: Option<String>,
    /// Name of the model in requests and answers (default: its directory's)
    #[arg(long, value_name = "NAME")]
    model_name: Option<String>,
    /// Folder that sessions are kept in; without it they end with the server
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Most sessions
    #[arg(long, value_name = "N", default_value_t = 1024)]
    #[arg(value_parser = whole::<usize>(1..=u64::MAX))]
    max_sessions: usize,
    /// Most texts that are continued at once; the others wait
    #[arg(long, value_name = "N", default_value_t = 32)]
    #[arg(value_parser = whole::<usize>(1..=4096))]
    max_rows: usize,
    /// Most requests that wait
    #[arg(long, value_name = "N", default_value_t = 256)]
    #[arg(value_parser = whole::<usize>(1..=1 << 20))]
    max_queue: usize,
    /// Megabytes of states of beginnings of prompts that are kept; 0 = none
    #[arg(long, value_name = "MB", default_value_t = 256)]
    #[arg(value_parser = whole::<usize>(0..=1 << 20))]
    prefix_cache: usize,
    /// Seconds that answers have to finish after the first Ctrl-C
    #[arg(long, value_name = "S", default_value_t = 10)]
    grace: u64,
    /// Number formats: f32, bf16-mixed, f16-mixed or bf16-true
    #[arg(long, alias = "dtype", value_name = "FORMAT", default_value_t)]
    precision: Precision,
}

/// Serves until Ctrl-C.
pub(crate) fn run(args: ServeArgs, global: &Global) -> anyhow::Result<u8> {
    let found = model_dir::find(&args.model)?;
    let config = server_config(&args, &found)?;
    let name = config.model_name.clone();
    config.check_address(args.host).map_err(errors::usage)?;
    let (listener, address) = listen(args.host, args.port)?;
    let interrupt =
        signals::listen("stopping: answers finish, sessions are saved; again to stop now")?;
    let asked = interrupt.asked;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the server's threads")?;
    let served = Served::loading();
    let router = infinity_serve::router(served.clone(), config);
    let stop = until(Arc::clone(&asked));
    let server = runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        infinity_serve::serve(listener, router, stop).await
    });
    if !global.quiet {
        terminal::note(&format!(
            "loading {name}; http://{address} answers when it is there"
        ));
    }
    let chosen = device::open(&device::wanted(global))?;
    let Pretrained {
        model, tokenizer, ..
    } = found.load(&chosen.device, global.quiet)?;
    let model = model_dir::in_precision(model, args.precision, global.quiet)?;
    let tokenizer = tokenizer.with_context(|| {
        format!(
            "{} has no tokenizer.json, which text needs",
            args.model.display()
        )
    })?;
    let engine = EngineConfig {
        max_rows: args.max_rows,
        max_queue: args.max_queue,
        max_sessions: args.max_sessions,
        prefix_bytes: args.prefix_cache << 20,
        state_dir: args.state_dir,
        ..EngineConfig::default()
    };
    let engine = Engine::start(model, tokenizer, engine)?;
    served.ready(engine.clone());
    interrupt.heeded.store(true, Ordering::SeqCst);
    if !global.quiet {
        terminal::note(&format!("{name} on {}: http://{address}", chosen.name));
    }
    let grace = Duration::from_secs(args.grace);
    runtime.block_on(async move {
        until(asked).await;
        engine.stop(grace).await;
        server.await
    })??;
    Ok(errors::INTERRUPTED)
}

async fn until(asked: Arc<AtomicBool>) {
    while !asked.load(Ordering::SeqCst) {
        tokio::time::sleep(LOOK).await;
    }
}

fn listen(host: IpAddr, port: u16) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((host, port)).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => errors::usage(format!(
            "port {port} of {host} is taken by another program: give another one with --port, or \
             --port 0 for any that is free"
        )),
        _ => anyhow::Error::new(error).context(format!("cannot listen on port {port} of {host}")),
    })?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn server_config(args: &ServeArgs, found: &Found) -> anyhow::Result<ServerConfig> {
    let directory = match found {
        Found::Directory(directory) => Some(directory.as_path()),
        Found::Checkpoint(_) => None,
    };
    let named = |path: &Path| Some(path.file_name()?.to_string_lossy().into_owned());
    let mut config = ServerConfig {
        api_key: args.api_key.clone().filter(|key| !key.is_empty()),
        ..ServerConfig::default()
    };
    config.model_name = args
        .model_name
        .clone()
        .or_else(|| named(&args.model.canonicalize().ok()?))
        .unwrap_or(config.model_name);
    if let Some(directory) = directory {
        config.template = ChatTemplate::from_model_dir(directory)?;
        let path = directory.join(GENERATION);
        if path.is_file() {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            config.generation = GenerationConfig::from_json(&text)
                .with_context(|| format!("in {}", path.display()))?;
        }
    }
    if !args.host.is_loopback() {
        // Whoever has the key may come by any name.
        config.hosts = None;
    }
    Ok(config)
}
