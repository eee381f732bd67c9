//! The admin endpoint: `/healthz`, `/readyz` and `/metrics` over HTTP, on a thread and a runtime of its own (design T1), so
//! that it answers when the others do not.

use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::health::Health;
use crate::metrics::Metrics;

/// Connections served at once; one more is closed.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to send a request, or keep a connection without one.
const REQUEST_MAX: Duration = Duration::from_secs(30);
/// How long a connection may last.
const CONNECTION_MAX: Duration = Duration::from_secs(300);

/// What the format of the page is called.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves `health` and `metrics` on `listeners` until the process ends. Without listeners nothing is started.
///
/// # Errors
/// The thread or its runtime cannot be made.
pub fn serve(listeners: Vec<TcpListener>, health: Health, metrics: Metrics) -> io::Result<()> {
    if listeners.is_empty() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let router = router(health, metrics);
    let accept = async move {
        let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut accepting = tokio::task::JoinSet::new();
        for listener in listeners {
            accepting.spawn(accept(listener, router.clone(), free.clone()));
        }
        while let Some(ended) = accepting.join_next().await {
            if let Ok(Err(error)) = ended {
                tracing::error!(%error, "an admin listener has ended");
            }
        }
    };
    std::thread::Builder::new().name("admin".into()).spawn(move || runtime.block_on(accept))?;
    Ok(())
}

async fn accept(listener: TcpListener, router: Router, free: Arc<Semaphore>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // Most likely out of files: connections that end make room.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = free.clone().try_acquire_owned() else { continue };
        let connection = connection(socket, router.clone());
        tokio::spawn(async move {
            let _ = tokio::time::timeout(CONNECTION_MAX, connection).await;
            drop(permit);
        });
    }
}

/// One connection, to its end; what goes wrong on it concerns nobody else.
fn connection(socket: TcpStream, router: Router) -> impl Future<Output = ()> {
    let service = TowerToHyperService::new(router);
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(REQUEST_MAX);
    async move {
        let _ = server.serve_connection(TokioIo::new(socket), service).await;
    }
}

fn router(health: Health, metrics: Metrics) -> Router {
    let metrics = Arc::new(metrics);
    Router::new()
        .route("/healthz", get(async |State(h): State<Health>| answer("alive", &h.ailments())))
        .route("/readyz", get(async |State(h): State<Health>| answer("ready", &h.obstacles())))
        .with_state(health)
        .route("/metrics", get(move || page(metrics.clone())))
}

fn answer(good: &str, wrong: &[String]) -> impl IntoResponse + use<> {
    if wrong.is_empty() {
        return (StatusCode::OK, format!("{good}\n"));
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not {good}\n{}\n", wrong.join("\n")))
}

async fn page(metrics: Arc<Metrics>) -> impl IntoResponse {
    match metrics.page() {
        Ok(page) => (StatusCode::OK, [(header::CONTENT_TYPE, OPEN_METRICS)], page),
        Err(error) => {
            let plain = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
            (StatusCode::INTERNAL_SERVER_ERROR, plain, format!("{error}\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpStream};

    use super::*;
    use crate::program::Program;

    fn start() -> (SocketAddr, Health) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("it is a socket");
        let at = listener.local_addr().expect("bound");
        let health = Health::default();
        serve(vec![listener], health.clone(), Metrics::new(Program::Fluxmq)).expect("it starts");
        (at, health)
    }

    fn ask(at: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(at).expect("it listens");
        let request = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut said = String::new();
        stream.read_to_string(&mut said).expect("answered");
        said
    }

    #[test]
    fn the_truth_is_told() {
        let (at, health) = start();
        assert!(ask(at, "GET /healthz").starts_with("HTTP/1.1 200"));
        assert!(ask(at, "GET /readyz").ends_with("\r\n\r\nready\n"));
        health.ready_when("disk", || Err("is full".into()));
        let said = ask(at, "GET /readyz");
        assert!(said.starts_with("HTTP/1.1 503") && said.ends_with("not ready\ndisk: is full\n"));
        assert!(ask(at, "GET /healthz").ends_with("\r\n\r\nalive\n"));
        let page = ask(at, "GET /metrics");
        assert!(page.contains(OPEN_METRICS) && page.contains("process_open_fds "), "{page}");
    }

    #[test]
    fn nothing_else_is_served() {
        let (at, _) = start();
        assert!(ask(at, "GET /").starts_with("HTTP/1.1 404"));
        assert!(ask(at, "GET /../../etc/passwd").starts_with("HTTP/1.1 404"));
        assert!(ask(at, "POST /metrics").starts_with("HTTP/1.1 405"));
        assert!(ask(at, "nonsense").starts_with("HTTP/1.1 400"));
        assert!(ask(at, "HEAD /healthz").ends_with("\r\n\r\n"));
    }

    #[test]
    fn connections_are_bounded() {
        let (at, _) = start();
        let mut held: Vec<_> = (0..CONNECTIONS_MAX)
            .map(|_| {
                let mut stream = TcpStream::connect(at).expect("it listens");
                // An answer shows that the connection has its place.
                stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").expect("sent");
                let _ = stream.read(&mut [0; 512]).expect("answered");
                stream
            })
            .collect();
        let mut refused = TcpStream::connect(at).expect("it listens");
        assert_eq!(refused.read(&mut [0; 1]).unwrap_or(0), 0, "it is closed at once");
        held.pop();
        // The place is free once the server has seen the end.
        let mut stream;
        loop {
            stream = TcpStream::connect(at).expect("it listens");
            let asked = stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
            if asked.is_ok() && stream.read(&mut [0; 512]).is_ok_and(|n| n > 0) {
                break;
            }
        }
    }
}
