//! `infinity serve MODEL`: the model over HTTP, with sessions that are kept and a page to use it.
//!
//! The address is taken before the model is loaded, so that a port that is in use is told at once; until
//! the model is there, requests are answered with 503.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use infinity_model::pretrained::read_settings;
use infinity_model::{GenerationConfig, Precision};
use infinity_serve::{Engine, EngineConfig, EngineHandle, Served, ServerConfig, router};
use tokio::net::TcpListener;

use crate::args::{Global, whole};
use crate::model_dir::{self, Found, ModelArgs};
use crate::terminal::{self, errors, refuse, signals};

/// How often a wish to stop is looked for.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    of: ModelArgs,
    /// Address to listen on; anything but this machine's own needs --api-key
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port; 0 takes a free one
    #[arg(short = 'P', long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
    /// Key that requests must have [env: INFINITY_API_KEY]
    #[arg(long, value_name = "KEY", env = "INFINITY_API_KEY", hide_env = true)]
    api_key: Option<String>,
    /// Names of this server that requests may use in their Host header (repeatable; default: those
    /// of this machine, or any with a key and another address)
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// Name of the model in requests (default: its directory's)
    #[arg(long, value_name = "NAME")]
    model_name: Option<String>,
    /// Where sessions are kept (default: in memory, until the server ends)
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Sessions there may be
    #[arg(long, value_name = "N", default_value_t = EngineConfig::default().max_sessions as u64)]
    #[arg(value_parser = whole::<u64>(1..=1 << 32))]
    max_sessions: u64,
    /// Texts that are read and continued at once
    #[arg(long, value_name = "N", default_value_t = EngineConfig::default().max_rows as u64)]
    #[arg(value_parser = whole::<u64>(1..=1024))]
    max_rows: u64,
    /// Requests that wait, at most; more are told to come back later
    #[arg(long, value_name = "N", default_value_t = EngineConfig::default().max_queue as u64)]
    #[arg(value_parser = whole::<u64>(1..=1 << 20))]
    max_queue: u64,
    /// Megabytes of states of beginnings of prompts that are kept; 0 = none
    #[arg(long, value_name = "MB", default_value_t = 256)]
    #[arg(value_parser = whole::<u64>(0..=1 << 20))]
    prefix_cache: u64,
    /// Seconds that answers have to finish when the server is stopped
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    #[arg(value_parser = whole::<u64>(0..=86_400))]
    grace: u64,
    /// Number formats: f32, bf16-mixed, f16-mixed, bf16-true or bf16-weights
    #[arg(long, alias = "dtype", value_name = "FORMAT", default_value_t)]
    precision: Precision,
}

/// Serves until Ctrl-C or SIGTERM.
pub(crate) fn run(args: ServeArgs, global: &Global) -> anyhow::Result<()> {
    let found = args.of.find()?;
    let (directory, template) = model_dir::conversations(&found)?;
    let named = args.model_name.clone();
    let mut config = ServerConfig {
        model_name: named.unwrap_or_else(|| name_of(&args.of.model)),
        template,
        generation: generation(&directory)?,
        api_key: args.api_key.clone().filter(|key| !key.is_empty()),
        ..ServerConfig::default()
    };
    config.check_address(args.host).map_err(errors::usage)?;
    if args.allow_host.is_empty() && !args.host.is_loopback() {
        config.hosts = None;
    } else if let Some(hosts) = &mut config.hosts {
        hosts.extend(args.allow_host.clone());
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the server's threads")?;
    let address = SocketAddr::new(args.host, args.port);
    let listener = match runtime.block_on(TcpListener::bind(address)) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => refuse!(
            "port {} of {} is taken by another program: give another one with --port, or --port 0 \
             for any that is free",
            args.port,
            args.host
        ),
        bound => bound.with_context(|| format!("cannot listen on {address}"))?,
    };
    let address = listener.local_addr()?;
    let interrupt =
        signals::listen("stopping: answers may finish, sessions are saved (again: now)")?;
    terminal::remark(&format!("loading {}", args.of.model.display()));

    let served = Served::loading();
    let grace = Duration::from_secs(args.grace);
    let stopped = stopped(interrupt.asked.clone(), served.clone(), grace);
    let router = router(served.clone(), config);
    let early = runtime.spawn(infinity_serve::serve(listener, router, stopped));
    served.ready(start(&args, &found, global)?);
    interrupt.heeded.store(true, Ordering::SeqCst);
    terminal::remark(&format!("http://{address}/ is ready; Ctrl-C stops it"));
    Ok(runtime.block_on(early)??)
}

fn start(args: &ServeArgs, found: &Found, global: &Global) -> anyhow::Result<EngineHandle> {
    let (_, loaded) = model_dir::load(found, args.precision, global)?;
    let tokenizer = model_dir::needed(loaded.tokenizer, &args.of.model)?;
    let limits = EngineConfig {
        max_rows: args.max_rows as usize,
        max_queue: args.max_queue as usize,
        max_sessions: args.max_sessions as usize,
        prefix_bytes: (args.prefix_cache as usize) << 20,
        state_dir: args.state_dir.clone(),
        ..EngineConfig::default()
    };
    Ok(Engine::start(loaded.model, tokenizer, limits)?)
}

/// Ends when a signal has asked for it and the engine is on its way to stop.
async fn stopped(asked: Arc<AtomicBool>, served: Served, grace: Duration) {
    while !asked.load(Ordering::SeqCst) {
        tokio::time::sleep(LOOK).await;
    }
    if let Some(engine) = served.engine() {
        engine.stop(grace).await;
    }
}

/// How the model's directory says that tokens are drawn.
fn generation(directory: &Path) -> anyhow::Result<GenerationConfig> {
    if directory.join("config.json").is_file() {
        return Ok(read_settings(directory)?.generation);
    }
    let path = directory.join("generation_config.json");
    if !path.is_file() {
        return Ok(GenerationConfig::default());
    }
    let text = std::fs::read_to_string(&path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    GenerationConfig::from_json(&text).with_context(|| format!("in {}", path.display()))
}

/// A model's name: its directory's, or that of the run whose `final` it is.
fn name_of(model: &Path) -> String {
    let named = model.iter().rev().map(|part| part.to_string_lossy());
    let mut named = named.filter(|part| part != "final" && part != "." && part != "/");
    named.next().unwrap_or("infinity".into()).into_owned()
}
