//! The routes over a small model: each answer, each error in OpenAI's shape, streams, and broken bodies.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use infinity_serve::{EngineConfig, Served, ServerConfig, router};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::support;

struct Server {
    runtime: tokio::runtime::Runtime,
    router: Router,
}

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    bytes: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&self.bytes)))
    }

    /// Its code, after a look at the error's shape.
    fn code(&self) -> String {
        let body = self.json();
        let error = &body["error"];
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|text| text.len() > 10),
            "{body}"
        );
        assert!(
            error["type"].is_string() && error.get("param").is_some(),
            "{body}"
        );
        error["code"].as_str().unwrap().to_owned()
    }

    fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }

    /// The values of a stream, which must end with `[DONE]`.
    fn events(&self) -> Vec<Value> {
        let text = String::from_utf8(self.bytes.clone()).unwrap();
        let mut events: Vec<&str> = text.split_terminator("\n\n").collect();
        events.retain(|event| !event.starts_with(':'));
        assert_eq!(events.pop(), Some("data: [DONE]"), "{text}");
        let value = |event: &str| serde_json::from_str(event.strip_prefix("data: ").unwrap());
        events
            .into_iter()
            .map(|event| value(event).unwrap())
            .collect()
    }
}

impl Server {
    fn with(served: impl Into<Served>, config: ServerConfig) -> Self {
        Self {
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
            router: router(served, config),
        }
    }

    fn new() -> Self {
        let engine = support::engine(EngineConfig::default());
        Self::with(engine, ServerConfig::default())
    }

    fn send(&self, request: Request<Body>) -> Answer {
        self.runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await.unwrap();
            let (head, body) = response.into_parts();
            let bytes = tokio::time::timeout(Duration::from_secs(60), to_bytes(body, 64 << 20));
            Answer {
                status: head.status,
                headers: head.headers,
                bytes: bytes.await.expect("an answer in time").unwrap().to_vec(),
            }
        })
    }

    fn call(&self, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder().method(method).uri(path);
        self.send(
            request
                .header(header::HOST, "localhost:8080")
                .body(body.into())
                .unwrap(),
        )
    }

    fn get(&self, path: &str) -> Answer {
        self.call("GET", path, Body::empty())
    }

    fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, body.to_string())
    }

    fn session(&self) -> String {
        let made = self.post("/v1/sessions", json!({"name": "One"}));
        assert_eq!(made.status, StatusCode::CREATED);
        made.json()["id"].as_str().unwrap().to_owned()
    }
}

#[test]
fn completions_whole_and_as_a_stream() {
    let server = Server::new();
    let mut ask =
        json!({"prompt": ["ab", "xyz"], "n": 2, "max_tokens": 12, "seed": 7, "ignore_eos": true});
    let whole = server.post("/v1/completions", ask.clone()).json();
    let texts: Vec<&str> = (0..4)
        .map(|i| whole["choices"][i]["text"].as_str().unwrap())
        .collect();
    assert_eq!(whole["usage"]["prompt_tokens"], 10);
    assert_eq!(whole["usage"]["completion_tokens"], 48);
    assert_eq!(whole["choices"][3]["index"], 3);
    assert_eq!(whole["choices"][3]["finish_reason"], "length");
    assert_ne!(texts[0], texts[1], "each of n has a seed of its own");

    ask["stream"] = json!(true);
    ask["stream_options"] = json!({"include_usage": true});
    let answer = server.post("/v1/completions", ask);
    let kind = &answer.headers[header::CONTENT_TYPE];
    assert_eq!(kind, "text/event-stream; charset=utf-8");
    let events = answer.events();
    let mut joined = vec![String::new(); 4];
    for choice in events.iter().filter_map(|event| event["choices"].get(0)) {
        let index = choice["index"].as_u64().unwrap() as usize;
        joined[index].push_str(choice["text"].as_str().unwrap());
    }
    assert_eq!(joined, texts);
    assert_eq!(events.last().unwrap()["usage"], whole["usage"]);
}

#[test]
fn what_lm_eval_asks_for() {
    let server = Server::new();
    let ask = json!({
        "model": "infinity", "prompt": [[97, 98, 99, 100], [120, 121]], "max_tokens": 1,
        "temperature": 0, "logprobs": 1, "echo": true, "seed": 1234,
    });
    let choices = server.post("/v1/completions", ask).json()["choices"].take();
    for (index, length) in [(0, 5), (1, 3)] {
        let lists = &choices[index]["logprobs"];
        for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            assert_eq!(
                lists[list].as_array().unwrap().len(),
                length,
                "{list}: {lists}"
            );
        }
        assert!(lists["token_logprobs"][0].is_null() && lists["top_logprobs"][0].is_null());
        for at in 1..length {
            let logprob = lists["token_logprobs"][at].as_f64().unwrap();
            let top = lists["top_logprobs"][at].as_object().unwrap();
            let best = top
                .values()
                .filter_map(Value::as_f64)
                .fold(f64::MIN, f64::max);
            assert!(logprob <= best && best <= 0.0, "{lists}");
        }
    }
    assert!(choices[0]["text"].as_str().unwrap().starts_with("abcd"));
}

#[test]
fn chat_whole_as_a_stream_and_in_a_session() {
    let server = Server::new();
    let said = json!([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]);
    let mut ask = json!({"messages": said, "max_completion_tokens": 8, "seed": 3, "ignore_eos": true,
        "logprobs": true, "top_logprobs": 2});
    let whole = server.post("/v1/chat/completions", ask.clone()).json();
    let content = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(whole["object"], "chat.completion");
    let logprobs = whole["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    assert_eq!(logprobs.len(), 8);
    assert_eq!(logprobs[0]["top_logprobs"].as_array().unwrap().len(), 2);
    ask["stream"] = json!(true);
    let events = server.post("/v1/chat/completions", ask.clone()).events();
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let deltas = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    assert_eq!(deltas.collect::<String>(), content);

    let id = server.session();
    ask["session_id"] = json!(id);
    let first = server.post("/v1/chat/completions", ask.clone());
    assert_eq!(first.status, StatusCode::OK);
    let position = server.get(&format!("/v1/sessions/{id}")).json()["position"]
        .as_u64()
        .unwrap();
    assert!(position > 8, "{position}");
    ask["session_fork"] = json!(true);
    server.post("/v1/chat/completions", ask).events();
    let after = server.get(&format!("/v1/sessions/{id}")).json()["position"].as_u64();
    assert_eq!(after, Some(position), "a fork leaves the session as it is");
}

#[test]
fn sessions_from_birth_to_death() {
    let server = Server::new();
    let id = server.session();
    let path = |rest: &str| format!("/v1/sessions/{id}{rest}");
    let append = |key: &str, text: &str| {
        let request = Request::post(path("/append")).header("idempotency-key", key);
        let request = request.header(header::HOST, "127.0.0.1");
        server.send(
            request
                .body(json!({"text": text}).to_string().into())
                .unwrap(),
        )
    };
    assert_eq!(append("k1", "hello").json()["position"], 5);
    let again = append("k1", "hello").json();
    assert_eq!(
        (&again["position"], &again["repeated"]),
        (&json!(5), &json!(true))
    );
    assert_eq!(append("k1", "other").code(), "idempotency_key_reused");
    let streamed = server.post(
        &path("/append"),
        json!({"tokens": vec![65; 700], "stream": true}),
    );
    let text = String::from_utf8(streamed.bytes).unwrap();
    assert!(
        text.contains("\"of\":700") && text.contains("\"position\":705"),
        "{text}"
    );

    let renamed = server
        .call("PATCH", &path(""), r#"{"name": "Two", "note": "[]"}"#)
        .json();
    assert_eq!(
        (&renamed["name"], &renamed["note"]),
        (&json!("Two"), &json!("[]"))
    );
    let fork = server.post(&path("/fork"), json!({}));
    assert_eq!(fork.status, StatusCode::CREATED);
    assert_eq!(fork.json()["parent"], json!(id));
    assert_eq!(
        server.get("/v1/sessions").json()["data"]
            .as_array()
            .unwrap()
            .len(),
        2
    );

    let state = server.get(&path("/state"));
    assert_eq!(state.status, StatusCode::OK);
    let other = server.session();
    let put = |bytes: Vec<u8>| server.call("PUT", &format!("/v1/sessions/{other}/state"), bytes);
    assert_eq!(put(state.bytes.clone()).json()["position"], 705);
    let next = |id: &str| {
        let ask =
            json!({"session_id": id, "session_fork": true, "max_tokens": 9, "temperature": 0});
        server.post("/v1/completions", ask).json()["choices"][0]["text"].take()
    };
    assert_eq!(
        next(&id),
        next(&other),
        "an uploaded state goes on as the one it was made from"
    );
    let mut broken = state.bytes;
    *broken.last_mut().unwrap() ^= 1;
    assert_eq!(put(broken).code(), "invalid_state");

    assert_eq!(server.call("DELETE", &path(""), "").json()["deleted"], true);
    assert_eq!(server.get(&path("")).code(), "session_not_found");
}

#[test]
fn tokens_models_metrics_and_the_page() {
    let server = Server::new();
    let tokens = server.post("/tokenize", json!({"prompt": "né"})).json();
    assert_eq!(tokens["tokens"], json!([110, 195, 169]));
    let text = server
        .post("/detokenize", json!({"tokens": tokens["tokens"]}))
        .json();
    assert_eq!(text["prompt"], "né");
    assert_eq!(
        server.get("/tokenizer_info").json()["eos_token"],
        "<|endoftext|>"
    );
    assert_eq!(server.get("/v1/models").json()["data"][0]["id"], "infinity");
    assert_eq!(server.get("/health").json()["status"], "ok");
    let metrics = String::from_utf8(server.get("/metrics").bytes).unwrap();
    assert!(metrics.contains("# TYPE infinity_requests_total counter"));
    for (path, part) in [
        ("/", "<main>"),
        ("/page.css", ":root"),
        ("/page.js", "readFile"),
    ] {
        let answer = server.get(path);
        assert!(
            String::from_utf8(answer.bytes).unwrap().contains(part),
            "{path}"
        );
        let policy = &answer.headers[header::CONTENT_SECURITY_POLICY];
        assert!(policy.to_str().unwrap().starts_with("default-src 'self'"));
    }
    let paths = server.get("/openapi.json").json()["paths"].take();
    assert_eq!(paths.as_object().unwrap().len(), 13, "{paths}");
    for (path, methods) in paths.as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let path = path.replace("{id}", "none");
            let status = server.call(&method.to_uppercase(), &path, "").status;
            assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
    }
}

#[test]
fn every_mistake_is_named() {
    let config = ServerConfig {
        max_body_bytes: 2000,
        max_choices: 4,
        ..ServerConfig::default()
    };
    let limits = EngineConfig {
        max_new_tokens: 50,
        max_prompt_tokens: 11,
        max_sessions: 1,
        ..EngineConfig::default()
    };
    let server = Server::with(support::engine(limits), config);
    let completions = "/v1/completions";
    for (body, code, part) in [
        ("{\"prompt\": \"a\"", "invalid_json", "line 1"),
        ("{} x", "invalid_json", "trailing"),
        ("[]", "invalid_value", "body"),
        (
            r#"{"prompt": "a", "max_tokens": "many"}"#,
            "invalid_value",
            "max_tokens",
        ),
        (r#"{"prompt": {"a": 1}}"#, "invalid_value", "prompt"),
        (
            r#"{"prompt": [1, "a"]}"#,
            "invalid_value",
            "a text, a list of texts",
        ),
        (r#"{"prompt": [99999]}"#, "invalid_value", "99999"),
        (
            r#"{"prompt": [[1], "a"]}"#,
            "invalid_value",
            "list of such lists",
        ),
        (r#"{"prompt": [[1], ["a"]]}"#, "invalid_value", "u32"),
        (r#"{"prompt": [4294967296]}"#, "invalid_value", "4294967296"),
        (r#"{"prompt": [1, -1]}"#, "invalid_value", "`-1`"),
        (r#"{"prompt": [1, 2"#, "invalid_json", "EOF"),
        (
            r#"{"prompt": "a", "stop": 1}"#,
            "invalid_value",
            "a text or a list of texts",
        ),
        (
            r#"{"prompt": "a", "stop": ["","","","","","","","","","","","","","","","",""]}"#,
            "invalid_value",
            "more than 16",
        ),
        (
            r#"{"prompt": "abc", "n": 4}"#,
            "too_large",
            "prompt tokens = 12 is too large: at most 11",
        ),
        (
            r#"{"prompt": ["abcdef", "abcdef"]}"#,
            "too_large",
            "prompt tokens = 12",
        ),
        (
            r#"{"prompt": "a", "logprobs": 21}"#,
            "too_large",
            "at most 20",
        ),
        (
            r#"{"prompt": "a", "temprature": 1}"#,
            "invalid_value",
            "temprature",
        ),
        (
            r#"{"prompt": "a", "temperature": -1}"#,
            "invalid_value",
            "-1",
        ),
        (r#"{"prompt": "a", "n": 9}"#, "invalid_value", "at most 4"),
        (r#"{"prompt": "a", "n": 0}"#, "invalid_value", "n is empty"),
        (r#"{"prompt": []}"#, "invalid_value", "prompt is empty"),
        (
            r#"{"prompt": "a", "max_tokens": 51}"#,
            "too_large",
            "at most 50",
        ),
        (
            r#"{"prompt": "a", "model": "other"}"#,
            "model_not_found",
            "other",
        ),
        (
            r#"{"prompt": "a", "session_id": "nope"}"#,
            "session_not_found",
            "nope",
        ),
        (
            r#"{"prompt": "a", "session_id": "x", "n": 2}"#,
            "invalid_value",
            "session_fork",
        ),
        (
            r#"{"prompt": "a", "best_of": 3}"#,
            "invalid_value",
            "best_of = 3",
        ),
    ] {
        let answer = server.call("POST", completions, body);
        assert!(answer.status.is_client_error(), "{body}: {}", answer.status);
        assert_eq!(answer.code(), code, "{body}: {}", answer.message());
        assert!(
            answer.message().contains(part),
            "{body}: {}",
            answer.message()
        );
    }
    let long = server.call("POST", completions, "x".repeat(2001));
    assert_eq!(
        (long.status, long.code().as_str()),
        (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large")
    );
    assert!(long.message().contains("2001") || long.message().contains("2000"));
    let whole = json!({"prompt": "a", "max_tokens": 1 << 30, "logprobs": 20});
    let whole = server.post(completions, whole);
    assert!(
        whole
            .message()
            .contains("ask for fewer tokens, or for a stream"),
        "{}",
        whole.message()
    );
    let chat = server.post("/v1/chat/completions", json!({"messages": []}));
    assert_eq!(chat.json()["error"]["param"], "messages");
    let role = json!({"messages": [{"role": "tool", "content": "x"}]});
    assert!(
        server
            .post("/v1/chat/completions", role)
            .message()
            .contains("tool")
    );
    assert_eq!(server.get("/nothing").code(), "not_found");
    assert_eq!(server.get(completions).code(), "method_not_allowed");
    assert_eq!(
        server.get("/v1/sessions/%ff").status,
        StatusCode::BAD_REQUEST
    );
    let id = server.session();
    assert_eq!(
        server.post("/v1/sessions", json!({})).code(),
        "too_many_sessions"
    );
    let nothing = server.post(&format!("/v1/sessions/{id}/append"), json!({}));
    assert!(nothing.message().contains("either text or tokens"));
}

#[test]
fn who_is_answered() {
    let config = ServerConfig {
        api_key: Some("secret".to_owned()),
        ..ServerConfig::default()
    };
    let server = Server::with(support::engine(EngineConfig::default()), config.clone());
    let with = |name: &str, value: &str, path: &str| {
        let host = if name == "host" { value } else { "localhost" };
        let request = Request::get(path).header(header::HOST, host);
        let request = if name == "host" {
            request
        } else {
            request.header(name, value)
        };
        server.send(request.body(Body::empty()).unwrap())
    };
    assert_eq!(with("x", "y", "/v1/models").code(), "missing_api_key");
    assert_eq!(
        with("authorization", "Bearer secres", "/v1/models").code(),
        "invalid_api_key"
    );
    assert_eq!(
        with("authorization", "Bearer secret1", "/v1/models").code(),
        "invalid_api_key"
    );
    assert_eq!(
        with("authorization", "Bearer secret", "/v1/models").status,
        StatusCode::OK
    );
    assert_eq!(
        with("x", "y", "/health").status,
        StatusCode::OK,
        "health needs no key"
    );
    assert_eq!(with("host", "evil.example", "/health").code(), "wrong_host");
    assert_eq!(with("host", "[::1]:80", "/health").status, StatusCode::OK);
    assert_eq!(
        with("origin", "http://evil.example", "/health").code(),
        "wrong_origin"
    );
    assert_eq!(
        with("origin", "http://localhost", "/health").status,
        StatusCode::OK
    );
    assert!(config.check_address("0.0.0.0".parse().unwrap()).is_ok());
    let open = ServerConfig::default().check_address("0.0.0.0".parse().unwrap());
    assert!(open.unwrap_err().contains("API key"));
}

#[test]
fn a_model_that_is_still_loading() {
    let served = Served::loading();
    let server = Server::with(served.clone(), ServerConfig::default());
    for path in ["/health", "/v1/models", "/v1/sessions"] {
        let answer = server.get(path);
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.code(), "loading");
        assert!(answer.headers.contains_key(header::RETRY_AFTER));
    }
    served.ready(support::engine(EngineConfig::default()));
    assert_eq!(server.get("/health").status, StatusCode::OK);
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let limits = EngineConfig {
        max_queue: 0,
        ..EngineConfig::default()
    };
    let server = Server::with(support::engine(limits), ServerConfig::default());
    let answer = server.post("/v1/completions", json!({"prompt": "a"}));
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.code(), "queue_full");
    assert!(answer.headers.contains_key(header::RETRY_AFTER));
}

/// Bodies with bytes changed, cut and doubled: each answer is JSON or a stream, and the server goes on.
fn broken_bodies(count: usize) {
    let limits = EngineConfig {
        max_new_tokens: 4,
        max_sessions: 8,
        ..EngineConfig::default()
    };
    let server = Server::with(support::engine(limits), ServerConfig::default());
    let id = server.session();
    let state = server.get(&format!("/v1/sessions/{id}/state")).bytes;
    let append = format!("/v1/sessions/{id}/append");
    let upload = format!("/v1/sessions/{id}/state");
    let seeds: Vec<(&str, &str, Vec<u8>)> = vec![
        ("POST", "/v1/completions", br#"{"prompt": ["a", "b"], "max_tokens": 2, "n": 1, "stop": ["x"], "logprobs": 2, "echo": true, "seed": 5, "temperature": 0.5}"#.to_vec()),
        ("POST", "/v1/completions", br#"{"prompt": [[1, 2], [3]], "max_tokens": 1, "stream": true, "top_k": 3}"#.to_vec()),
        ("POST", "/v1/chat/completions", br#"{"messages": [{"role": "user", "content": "hi \u00e9"}], "max_tokens": 2, "top_p": 0.9}"#.to_vec()),
        ("POST", "/tokenize", br#"{"prompt": "some text", "add_special_tokens": false}"#.to_vec()),
        ("POST", "/detokenize", br#"{"tokens": [104, 105, 195, 256]}"#.to_vec()),
        ("POST", "/v1/sessions", br#"{"name": "n", "note": "m"}"#.to_vec()),
        ("POST", &append, br#"{"text": "abc", "stream": false}"#.to_vec()),
        ("PUT", &upload, state),
    ];
    let mut next = support::random(16);
    let mut refused = 0;
    for _ in 0..count {
        let (method, path, seed) = &seeds[next(seeds.len())];
        let mut body = seed.clone();
        for _ in 0..=next(4) {
            let at = next(body.len().max(1));
            match next(4) {
                0 if !body.is_empty() => body[at] = next(256) as u8,
                1 => body.truncate(at),
                2 => body.insert(at.min(body.len()), b"{}[]\",:-0e9"[next(11)]),
                _ => {
                    let end = body.len().min(at + next(16));
                    let piece = body[at.min(end)..end].to_vec();
                    body.splice(at.min(end)..at.min(end), piece);
                }
            }
        }
        let answer = server.call(method, path, body.clone());
        let body = String::from_utf8_lossy(&body).into_owned();
        assert_ne!(
            answer.status,
            StatusCode::INTERNAL_SERVER_ERROR,
            "{path} {body}"
        );
        if answer.status.is_client_error() {
            answer.code();
            refused += 1;
        }
    }
    assert!(
        refused > count / 3,
        "only {refused} of {count} were refused: they are not broken enough"
    );
    assert_eq!(server.get("/health").status, StatusCode::OK);
    let ask = json!({"prompt": "a", "max_tokens": 1});
    assert_eq!(
        server.post("/v1/completions", ask).status,
        StatusCode::OK,
        "the engine goes on"
    );
}

#[test]
fn broken_bodies_are_refused() {
    broken_bodies(1500);
}

#[test]
#[ignore = "takes minutes"]
fn many_broken_bodies_are_refused() {
    broken_bodies(100_000);
}
