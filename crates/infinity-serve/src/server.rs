//! The routes put together, and connections to them.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::app::{App, Served, ServerConfig};
use crate::guard::guard;
use crate::routes::{about, chat, completions, sessions, tokens};

/// Connections at once; more wait in the system's queue.
const MAX_CONNECTIONS: usize = 1024;
/// Time until a request's head must be there.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// Time that open answers have when the server stops.
const LAST_TIME: Duration = Duration::from_secs(30);
/// Pause after the system refused a connection: it is out of files, most likely.
const PAUSE: Duration = Duration::from_millis(100);

/// All routes to an engine, which may be still [loading](Served::loading).
pub fn router(served: impl Into<Served>, config: ServerConfig) -> Router {
    let app = App::new(served.into(), config);
    let session = get(sessions::get)
        .patch(sessions::change)
        .delete(sessions::delete);
    let state = get(sessions::download).put(sessions::upload);
    let mut pages = Router::new();
    for (path, kind, text) in about::FILES {
        pages = pages.route(path, get(move || about::file(kind, text)));
    }
    pages
        .route("/health", get(about::health))
        .route("/metrics", get(about::metrics))
        .route("/openapi.json", get(about::openapi))
        .route("/v1/models", get(about::models))
        .route("/v1/completions", post(completions::completions))
        .route("/v1/chat/completions", post(chat::chat))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/tokenizer_info", get(tokens::tokenizer_info))
        .route("/v1/sessions", get(sessions::list).post(sessions::create))
        .route("/v1/sessions/{id}", session)
        .route("/v1/sessions/{id}/append", post(sessions::append))
        .route("/v1/sessions/{id}/fork", post(sessions::fork))
        .route("/v1/sessions/{id}/state", state)
        .fallback(about::nothing)
        .method_not_allowed_fallback(about::wrong_method)
        .layer(from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

/// Answers on a listener until `shutdown`; then takes no more connections, and gives open answers
/// half a minute. The engine is to be [stopped](crate::EngineHandle::stop) meanwhile.
///
/// # Errors
/// None today: a connection that fails is that client's matter.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, place)) = accepted else {
            continue;
        };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(LAST_TIME, graceful.shutdown()).await;
    Ok(())
}

/// The next connection, when there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(_) => {
            tokio::time::sleep(PAUSE).await;
            None
        }
    }
}
