//! A server for production is reached by TLS, or says in one sentence why not.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{Authority, Server, eventually, http};

/// Longer than any step takes.
const LONG: Duration = Duration::from_secs(20);

/// A folder with `cert.pem` and `key.pem`.
struct Files(TempDir);

impl Files {
    fn new() -> (Self, CertificateDer<'static>) {
        let files = Self(tempfile::tempdir().expect("temporary directory"));
        let certificate = files.renew();
        (files, certificate)
    }

    /// Another certificate, signed by itself.
    fn renew(&self) -> CertificateDer<'static> {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        self.write("cert.pem", &pem("CERTIFICATE", &certificate));
        self.write("key.pem", &pem("PRIVATE KEY", &key.serialize_der()));
        certificate
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.at(name), content).expect("written");
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der))
}

/// Connects, if the server's certificate is this.
async fn connect(
    port: u16,
    trusted: &CertificateDer<'static>,
    alpn: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).expect("a certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("localhost").expect("a name"), stream)
        .await
}

/// Asks by HTTP/1.1 how the server is.
async fn health(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("taken");
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).await.expect("an answer");
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_and_http_come_over_tls_and_a_new_certificate_is_for_new_connections() {
    let (files, first) = Files::new();
    let (cert, key) = (files.text("cert.pem"), files.text("key.pem"));
    let server = Server::build().serve(&["--tls-cert", &cert, "--tls-key", &key]).start().await;
    let port = server.port;

    let connector = {
        let first = first.clone();
        tower::service_fn(move |_| {
            let first = first.clone();
            async move { connect(port, &first, "h2").await.map(TokioIo::new) }
        })
    };
    let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
    let mut grpc = HealthClient::new(channel);
    let answer = grpc.check(HealthCheckRequest::default()).await.expect("an answer").into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    let mut old = connect(port, &first, "http/1.1").await.expect("TLS");
    assert!(health(&mut old).await.starts_with("HTTP/1.1 200"));

    let second = files.renew();
    server.send_sighup();
    eventually(LONG, "new connections get the new certificate", async || {
        connect(port, &second, "http/1.1").await.map_err(|error| error.to_string())
    })
    .await;
    connect(port, &first, "http/1.1").await.expect_err("the first is gone");
    assert!(health(&mut old).await.starts_with("HTTP/1.1 200"), "an open connection goes on");
    grpc.check(HealthCheckRequest::default()).await.expect("this one, too");

    let third = files.renew();
    eventually(LONG, "files are looked at without a signal", async || {
        connect(port, &third, "http/1.1").await.map_err(|error| error.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_refused_in_one_sentence() {
    let (files, _) = Files::new();
    let (other, _) = Files::new();
    files.write("empty.pem", "");
    let at = |name| files.text(name);
    let (cert, key, foreign) = (at("cert.pem"), at("key.pem"), other.text("key.pem"));
    for (args, named, advice) in [
        (&["--host", "0.0.0.0"][..], "0.0.0.0", "--plaintext"),
        (&["--tls-cert", &cert], "--tls-cert", "--tls-key"),
        (&["--tls-key", &key], "--tls-key", "--tls-cert"),
        (&["--tls-client-ca", &cert], "--tls-client-ca", "--tls-cert and --tls-key"),
        (
            &["--tls-cert", &cert, "--tls-key", &key, "--tls-require-client-cert"],
            "--tls-require-client-cert",
            "--tls-client-ca",
        ),
        (&["--tls-cert", &cert, "--tls-key", &key, "--plaintext"], "--plaintext", "give one of them"),
        (&["--tls-cert", &at("none.pem"), "--tls-key", &key], &at("none.pem"), "give the path"),
        (&["--tls-cert", &at("empty.pem"), "--tls-key", &key], &at("empty.pem"), "give a PEM file"),
        (&["--tls-cert", &cert, "--tls-key", &at("empty.pem")], &at("empty.pem"), "give a PEM file"),
        (&["--tls-cert", &cert, "--tls-key", &foreign], &foreign, "give the key"),
        (
            &["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &at("empty.pem")],
            &at("empty.pem"),
            "give a PEM file",
        ),
    ] {
        let said = refusal(args, &files.at("data")).await;
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with("hookwire: ") && said.contains(named) && said.contains(advice), "{said}");
    }
    assert!(!files.at("data").exists(), "nothing was begun");
}

/// What a server says that does not start.
async fn refusal(args: &[&str], data: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hookwire"));
    command.args(["serve", "--port", "0", "--data-dir"]).arg(data).args(args);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(LONG, output).await.expect("it ends").expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn clear_text_on_loopback_needs_no_consent() {
    let server = Server::build().serve(&[]).start().await;
    let reply = http(server.port, http::Method::GET, "/health", &[], "").await;
    assert_eq!(reply.status, http::StatusCode::OK);
}

/// Calls by curl, which knows of certificates; the answer and its status.
async fn curl(port: u16, files: &Files, path: &str, more: &[&str]) -> (u16, Value) {
    let mut command = Command::new("curl");
    let url = format!("https://localhost:{port}{path}");
    command.args(["-s", "-w", "\n%{http_code}", "--cacert", &files.text("cert.pem"), &url]).args(more);
    let output = command.output().await.expect("curl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').expect("a status");
    (status.parse().expect("a status"), serde_json::from_str(body).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_stands_for_the_key_that_names_it() {
    let ((files, _), authority) = (Files::new(), Authority::new());
    let (certificate, key) = authority.issue("client");
    files.write("client.pem", &certificate);
    files.write("client.key", &key);
    let ca = authority.file();
    let (cert, own) = (files.text("cert.pem"), files.text("key.pem"));
    let args = ["--tls-cert", &cert, "--tls-key", &own, "--tls-client-ca", ca.to_str().expect("a path")];
    let server = Server::build().serve(&args).start().await;
    let admin = format!("authorization: Bearer {}", server.token().expect("a token"));
    let call = async |path: &str, more: &[&str]| curl(server.port, &files, path, more).await;
    let shown = [files.text("client.pem"), files.text("client.key")];
    let with = ["--cert", &shown[0], "--key", &shown[1]];

    assert_eq!(call("/v1/endpoints", &with).await.0, 401, "a certificate that no key names");
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate");
    let fingerprint = hex::encode(Sha256::digest(&der));
    let wanted = json!({ "scopes": ["endpoints:read"], "client_certificates": [fingerprint] }).to_string();
    let (made, answer) = call("/v1/apiKeys", &["-H", &admin, "--json", &wanted]).await;
    assert_eq!(made, 201, "{answer}");
    let id = answer["api_key"]["id"].as_str().expect("an id");
    assert_eq!(call("/v1/endpoints", &with).await.0, 200);
    assert_eq!(call("/v1/endpoints", &[]).await.0, 401, "without it");
    assert_eq!(call("/v1/events", &with).await.0, 403, "what the key may not do");
    let from = |origin: &str| ["-H".to_owned(), format!("origin: {origin}")];
    let (own, other) = (from(&format!("https://localhost:{}", server.port)), from("https://evil.example"));
    for (origin, status) in [(own, 200), (other, 403)] {
        let more: Vec<_> = with.into_iter().chain(origin.iter().map(String::as_str)).collect();
        assert_eq!(call("/v1/endpoints", &more).await.0, status, "{origin:?}");
    }
    let form: Vec<_> = with.into_iter().chain(["-d", "{\"url\":\"https://example.com/\"}"]).collect();
    assert_eq!(call("/v1/endpoints", &form).await.0, 415, "a form is no JSON");
    let (again, refused) = call("/v1/apiKeys", &["-H", &admin, "--json", &wanted]).await;
    assert_eq!((again, refused["reason"].as_str()), (400, Some("INVALID_FIELD")), "it stands for one key");
    let revoke = format!("/v1/apiKeys/{id}:revoke");
    assert_eq!(call(&revoke, &["-H", &admin, "--json", "{}"]).await.0, 200);
    assert_eq!(call("/v1/endpoints", &with).await.0, 401, "revoked");
}
