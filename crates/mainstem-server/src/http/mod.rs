//! HTTP: readiness, metrics, a status page, and topics as JSON.

mod metrics;
mod page;
mod records;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use mainstem_broker::Broker;
use mainstem_engine::Engine;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::server::Addresses;

/// What the handlers look at.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) broker: Broker,
    pub(crate) engine: Engine,
    pub(crate) addresses: Addresses,
}

/// Serves until `shutdown`.
pub(crate) async fn serve(listener: TcpListener, state: State, shutdown: CancellationToken) {
    let router = Router::new()
        .route("/", get(status))
        .route("/ready", get(|| async { "ready\n" }))
        .route("/metrics", get(prometheus))
        .route("/topics", get(records::topics))
        .route("/topics/{topic}/records", get(records::read).post(records::write))
        .fallback(records::not_found)
        .with_state(state);
    let stopped = shutdown.clone();
    let serving = axum::serve(listener, router).with_graceful_shutdown(async move { stopped.cancelled().await });
    tokio::select! {
        result = serving => if let Err(error) = result { tracing::error!(%error, "HTTP stopped") },
        // A client that keeps its connection open does not keep the server up.
        () = async { shutdown.cancelled().await; tokio::time::sleep(std::time::Duration::from_secs(2)).await } => {}
    }
}

async fn prometheus(axum::extract::State(state): axum::extract::State<State>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render(&state))
}

async fn status(axum::extract::State(state): axum::extract::State<State>) -> Html<String> {
    Html(page::render(&state))
}
