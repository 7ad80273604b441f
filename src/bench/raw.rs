//! The bare requests: what HTTP and a signature cost when there is nothing else.
//!
//! Runs as a process of its own, on a runtime like the server's, and takes its cue
//! from its input: it says `ready`, waits for a line, posts everything, says
//! `done`, and waits for the end of the input before it ends itself.

use std::{
    io::{BufRead as _, Write as _, stdin, stdout},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, runtime::Runtime, task::JoinSet};

use super::payload;
use crate::{
    clock::Clock,
    config::BenchRaw,
    domain::{Endpoint, EventId, Pos, Secret, TenantKey, Uid},
    signing::Signer,
};

/// The type of every event, as in the other loads.
const EVENT_TYPE: &str = "bench.load";
/// A secret like those the server makes: 256 bits.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";

/// Posts bare requests as `hookwire bench` asks for them.
pub fn raw(runtime: &Runtime, options: &BenchRaw) -> Result<()> {
    let post = Arc::new(Post::new(options)?);
    let mut connections = Vec::new();
    for _ in 0..options.connections {
        connections.push(runtime.block_on(connect(options.to))?);
    }
    say("ready")?;
    let mut cue = String::new();
    stdin().lock().read_line(&mut cue)?;
    runtime.block_on(async {
        let mut workers = JoinSet::new();
        for sender in connections {
            workers.spawn(Arc::clone(&post).work(sender));
        }
        while let Some(ended) = workers.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    })?;
    say("done")?;
    stdin().lock().read_line(&mut cue)?;
    Ok(())
}

/// What all workers share.
struct Post {
    clock: Clock,
    signer: Signer,
    headers: HeaderMap,
    next: AtomicU64,
    requests: u64,
    payload: usize,
}

impl Post {
    fn new(options: &BenchRaw) -> Result<Self> {
        let clock = Clock::system();
        let mut endpoint = Endpoint::new(TenantKey::DEFAULT, "ep_raw", "", clock.now());
        endpoint.secrets = vec![Secret {
            id: "raw".to_owned(),
            value: SECRET.into(),
            created_at: clock.now(),
            primary_at: None,
            expires_at: None,
        }];
        let mut headers = HeaderMap::with_capacity(16);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("x-webhook-event", HeaderValue::from_static(EVENT_TYPE));
        headers.insert(header::HOST, HeaderValue::try_from(options.to.to_string())?);
        let agent = concat!("Hookwire/", env!("CARGO_PKG_VERSION"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
        Ok(Self {
            signer: Signer::new(&endpoint),
            clock,
            headers,
            next: AtomicU64::new(0),
            requests: options.requests,
            payload: options.payload as usize,
        })
    }

    async fn work(self: Arc<Self>, mut sender: SendRequest<Full<Bytes>>) -> Result<()> {
        loop {
            let number = self.next.fetch_add(1, Relaxed);
            if number >= self.requests {
                return Ok(());
            }
            let response = sender.send_request(self.request(number)?).await.context("a request failed")?;
            ensure!(response.status().is_success(), "a request was answered {}", response.status());
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                frame?;
            }
        }
    }

    fn request(&self, number: u64) -> Result<Request<Full<Bytes>>> {
        let now = self.clock.wall();
        let uid = Uid::new(now, 0, Pos(number));
        let id = EventId(uid).to_string();
        let mut body = Vec::with_capacity(128 + EVENT_TYPE.len() + self.payload);
        write!(body, r#"{{"id":"{id}","event":"{EVENT_TYPE}","timestamp":"{}","data":"#, now.in_millis())?;
        payload::write(&mut body, number, self.payload);
        body.push(b'}');
        let mut headers = self.headers.clone();
        headers.insert("idempotency-key", HeaderValue::try_from(uid.hyphenated())?);
        for (name, value) in self.signer.sign(&id, now, &body) {
            headers.insert(name, value);
        }
        headers.insert(header::CONTENT_LENGTH, body.len().into());
        let mut request = Request::post("/e/0").body(Full::new(Bytes::from(body)))?;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

async fn connect(to: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(to).await.with_context(|| format!("cannot connect to {to}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

fn say(word: &str) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{word}")?;
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_request_has_the_shape_of_a_delivery() {
        let to = SocketAddr::from(([127, 0, 0, 1], 1));
        let post = Post::new(&BenchRaw { to, requests: 1, payload: 512, connections: 1 }).unwrap();
        let request = post.request(7).unwrap();
        let mut names: Vec<_> = request.headers().keys().map(header::HeaderName::as_str).collect();
        names.sort_unstable();
        let expected = [
            "content-length",
            "content-type",
            "host",
            "idempotency-key",
            "user-agent",
            "webhook-id",
            "webhook-signature",
            "webhook-timestamp",
            "x-webhook-event",
        ];
        assert_eq!(names, expected);
        assert!(request.headers()["webhook-signature"].to_str().unwrap().starts_with("v1,"));
    }
}
