//! Who is answered: the right `Host`, no stranger's page, the right key.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::answer::ApiError;
use crate::app::{App, Shared};

/// What needs no key: the page, which asks for one, and whether the server is there.
const OPEN: &[&str] = &["/", "/page.css", "/page.js", "/health", "/openapi.json"];

/// Lets a request through or answers it.
pub(crate) async fn guard(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let open = request.method() == Method::GET && OPEN.contains(&request.uri().path());
    let allowed = check_host(&app, &request)
        .and_then(|()| check_origin(request.headers()))
        .and_then(|()| match open {
            true => Ok(()),
            false => check_key(&app, request.headers()),
        });
    match allowed {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn check_host(app: &App, request: &Request) -> Result<(), ApiError> {
    let Some(hosts) = &app.config.hosts else {
        return Ok(());
    };
    let header = request.headers().get(header::HOST);
    let named = header.and_then(|value| value.to_str().ok());
    let host = without_port(named.or(request.uri().host()).unwrap_or_default());
    if hosts.iter().any(|known| known.eq_ignore_ascii_case(host)) {
        return Ok(());
    }
    let shown: String = host.chars().take(100).collect();
    let message = format!("the Host {shown:?} is not one of {}", hosts.join(", "));
    let status = StatusCode::MISDIRECTED_REQUEST;
    Err(ApiError::new(status, "wrong_host", message))
}

/// Browsers say which page a request comes from: only this server's own may ask.
fn check_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or_default();
    let foreign = text(header::ORIGIN).filter(|origin| {
        let from = origin.split_once("://").map_or(*origin, |(_, from)| from);
        !from.eq_ignore_ascii_case(host)
    });
    let Some(origin) = foreign else {
        return Ok(());
    };
    let shown: String = origin.chars().take(100).collect();
    let message = format!("pages of {shown:?} may not use this server");
    let status = StatusCode::FORBIDDEN;
    Err(ApiError::new(status, "wrong_origin", message))
}

fn check_key(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(key) = &app.config.api_key else {
        return Ok(());
    };
    let given = headers.get(header::AUTHORIZATION).map(AsRef::as_ref);
    let given = given.map(|value: &[u8]| value.strip_prefix(b"Bearer ").unwrap_or(value));
    let (code, message) = match given {
        Some(given) if same(given, key.as_bytes()) => return Ok(()),
        Some(_) => ("invalid_api_key", "the API key is not the server's"),
        None => (
            "missing_api_key",
            "this server needs an API key: send `Authorization: Bearer KEY`",
        ),
    };
    Err(ApiError::new(StatusCode::UNAUTHORIZED, code, message))
}

/// Compares in a time that does not tell where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differ = a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differ) == 0
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}
