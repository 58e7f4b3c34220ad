//! The page, and what the server says of itself: models, health, metrics, its description.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::{OpenApi, ToSchema};

use super::{chat, completions, sessions, tokens};
use crate::answer::{ApiError, ErrorBody, Refusals};
use crate::app::Shared;

/// A page may load nothing but what is here.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Whether the server is ready.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    pub(crate) status: &'static str,
}

/// Whether the model is there.
#[utoipa::path(get, path = "/health", tag = "server",
    responses((status = 200, description = "It is", body = Health),
        (status = 500, description = "It has failed", body = ErrorBody),
        (status = 503, description = "It is still loading, or stopping", body = ErrorBody)))]
pub(crate) async fn health(State(app): State<Shared>) -> Result<Json<Health>, ApiError> {
    app.engine()?.health()?;
    Ok(Json(Health { status: "ok" }))
}

/// The models: one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Models {
    /// `list`.
    pub(crate) object: &'static str,
    /// The one.
    pub(crate) data: Vec<ModelObject>,
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelObject {
    /// Its name in requests.
    pub(crate) id: String,
    /// `model`.
    pub(crate) object: &'static str,
    /// When the server started, in seconds since 1970.
    pub(crate) created: u64,
    /// `infinity`.
    pub(crate) owned_by: &'static str,
    /// What identifies it in state files.
    pub(crate) fingerprint: String,
    /// Tokens it knows.
    pub(crate) vocab_size: usize,
    /// Most tokens of one prompt; a text has no limit.
    pub(crate) max_prompt_tokens: usize,
}

/// Lists the model.
#[utoipa::path(get, path = "/v1/models", tag = "server",
    responses((status = 200, description = "The model", body = Models),
        Refusals))]
pub(crate) async fn models(State(app): State<Shared>) -> Result<Json<Models>, ApiError> {
    let engine = app.engine()?;
    Ok(Json(Models {
        object: "list",
        data: vec![ModelObject {
            id: app.config.model_name.clone(),
            object: "model",
            created: app.started,
            owned_by: "infinity",
            fingerprint: engine.fingerprint().to_owned(),
            vocab_size: engine.model_config().vocab_size,
            max_prompt_tokens: engine.config().max_prompt_tokens,
        }],
    }))
}

/// Counts and times in Prometheus's format.
#[utoipa::path(get, path = "/metrics", tag = "server",
    responses((status = 200, description = "Counts and times", body = String,
            content_type = "text/plain"),
        Refusals))]
pub(crate) async fn metrics(State(app): State<Shared>) -> Result<Response, ApiError> {
    let text = app.engine()?.metrics().text();
    let format = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, format)], text).into_response())
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "infinity serve",
        description = "One model: texts, conversations and sessions"
    ),
    paths(
        completions::completions,
        chat::chat,
        models,
        tokens::tokenize,
        tokens::detokenize,
        tokens::tokenizer_info,
        health,
        metrics,
        sessions::create,
        sessions::list,
        sessions::get,
        sessions::change,
        sessions::delete,
        sessions::append,
        sessions::fork,
        sessions::download,
        sessions::upload,
    )
)]
struct Description;

/// The description of all of it, as OpenAPI.
pub(crate) async fn openapi(State(app): State<Shared>) -> Json<Value> {
    let mut description = json!(Description::openapi());
    if app.config.api_key.is_some() {
        description["components"]["securitySchemes"] =
            json!({"key": {"type": "http", "scheme": "bearer"}});
        description["security"] = json!([{"key": []}]);
    }
    Json(description)
}

/// The page, what it looks like and what it does: a file by its path and kind.
pub(crate) const FILES: [(&str, &str, &str); 3] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_str!("../page/index.html"),
    ),
    (
        "/page.css",
        "text/css; charset=utf-8",
        include_str!("../page/page.css"),
    ),
    (
        "/page.js",
        "text/javascript; charset=utf-8",
        include_str!("../page/page.js"),
    ),
];

/// One of them.
pub(crate) async fn file(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text).into_response()
}

/// A path that is not one.
pub(crate) async fn nothing(request: axum::extract::Request) -> ApiError {
    let path: String = request.uri().path().chars().take(200).collect();
    let message = format!("there is nothing at {path}: /openapi.json lists what there is");
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
}

/// A path that is not asked for in this way.
pub(crate) async fn wrong_method(request: axum::extract::Request) -> ApiError {
    let path: String = request.uri().path().chars().take(200).collect();
    let message = format!("{} is not a method of {path}", request.method());
    let status = StatusCode::METHOD_NOT_ALLOWED;
    ApiError::new(status, "method_not_allowed", message)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::extract::Request;
    use infinity_model::burn::tensor::Device;
    use infinity_model::{ModelConfig, Tokenizer};
    use tower::ServiceExt;

    use super::*;
    use crate::{Engine, EngineConfig, EngineError, Served, ServerConfig, router};

    #[test]
    fn an_engine_that_panicked_is_not_healthy() {
        let model = ModelConfig::new(257).with_hidden_size(16);
        let model = model.init(&Device::flex());
        let engine = Engine::start(model, Tokenizer::bytes(), EngineConfig::default()).unwrap();
        let served = Served::loading();
        let routes = router(served.clone(), ServerConfig::default());
        let status = || {
            let request = Request::get("/health").header(header::HOST, "localhost");
            let answer = routes.clone().oneshot(request.body(Body::empty()).unwrap());
            let runtime = tokio::runtime::Builder::new_current_thread().build();
            runtime.unwrap().block_on(answer).unwrap().status()
        };
        assert_eq!(status(), StatusCode::SERVICE_UNAVAILABLE);
        served.ready(engine.clone());
        assert_eq!(status(), StatusCode::OK);
        engine.panic();
        while engine.health().is_ok() {
            std::thread::yield_now();
        }
        assert_eq!(status(), StatusCode::INTERNAL_SERVER_ERROR);
        let refused = engine.submit(crate::Request::default()).unwrap_err();
        assert!(matches!(refused, EngineError::Failed(_)), "{refused}");
    }
}
