//! The server under measurement.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret as _;
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    sync::OnceCell,
    time::{sleep, timeout},
};
use tonic::{service::interceptor::InterceptedService, transport::Endpoint};

use super::{
    process::Process,
    run::Setup,
    usage::Usage,
    wire::{Bearer, Wire, make_key},
};
use crate::{
    domain::Shard,
    grpc::pb::{self, endpoint_service_client::EndpointServiceClient, ops_service_client::OpsServiceClient},
    store::Scratch,
};

const READY: &str = "Hookwire is ready on http://127.0.0.1:";
/// For a start on a store with millions of rows on a slow disk.
const START_LIMIT: Duration = Duration::from_secs(300);
/// How often servers are asked whether they share the work.
const LOOK: Duration = Duration::from_millis(50);
/// Lines of the server's log that are shown when it fails.
const LOG_LINES: usize = 20;

/// A directory for a server's data; removed when dropped.
pub struct Home {
    folder: TempDir,
    /// The key of servers for production, made for the first of them.
    key: OnceCell<Bearer>,
    /// The database of servers that do not keep a file, made for the first of them.
    database: OnceCell<Scratch>,
}

impl Home {
    /// An empty one below `parent`, or where the system keeps such.
    pub fn new(parent: Option<&Path>) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("hookwire-bench-");
        let made = match parent {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        };
        let folder = made.context("cannot make a directory for the store")?;
        Ok(Self { folder, key: OnceCell::new(), database: OnceCell::new() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The arguments of a server for production, and the key that it takes.
    async fn production(&self, program: &Path) -> Result<(Vec<String>, Bearer)> {
        let (master, administrator) = (self.path().join("master.key"), self.path().join("administrator"));
        let make = async || {
            make_key(program, "keygen", &master).await?;
            Bearer::new(&make_key(program, "admin-key", &administrator).await?)
        };
        let key = self.key.get_or_try_init(make).await?.clone();
        let files = [("--master-key-file", master), ("--admin-key-file", administrator)];
        let files = files.into_iter().flat_map(|(flag, file)| [flag.to_owned(), file.display().to_string()]);
        let targets = ["--allow-http-targets", "--allow-target", "127.0.0.0/8"].map(str::to_owned);
        Ok((files.chain(targets).collect(), key))
    }

    /// The database, if servers do not keep a file.
    async fn database(&self, setup: &Setup) -> Result<Option<&Scratch>> {
        let Some(url) = &setup.options.postgres else { return Ok(None) };
        let make = async || Scratch::make(url.expose_secret()).await.context("cannot make a database");
        self.database.get_or_try_init(make).await.map(Some)
    }

    /// The last words of the servers that lived here.
    fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.path().join("log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// A running server, or several that share a database.
pub struct Server {
    processes: Vec<(Process, u16)>,
    home: Arc<Home>,
    connections: AtomicUsize,
    key: Bearer,
    /// From its start to the line that says it is ready.
    pub start_seconds: f64,
}

impl Server {
    /// Starts one and waits until it is ready. `flags` are added to the usual ones.
    pub async fn start(setup: &Setup, home: Arc<Home>, flags: &[String]) -> Result<Self> {
        let text = |text: &str| text.to_owned();
        let data = home.path().join("data").display().to_string();
        let (profile, own, key) = if setup.options.serve {
            let (own, key) = home.production(&setup.program).await?;
            ("serve", own, key)
        } else {
            ("dev", Vec::new(), Bearer::default())
        };
        let mut args = vec![text(profile), text("--host"), text("127.0.0.1"), text("--port"), text("0")];
        args.extend([text("--log-level"), text("warn"), text("--data-dir"), data]);
        args.extend([text("--drain-delay"), text("0s")]);
        args.extend(own);
        if let Some(database) = home.database(setup).await? {
            args.extend([text("--store"), database.url().to_owned()]);
        }
        args.extend_from_slice(flags);
        let log = fs::OpenOptions::new().create(true).append(true).open(home.path().join("log"))?;
        let started = setup.clock.now();
        let mut processes = Vec::new();
        for _ in 0..setup.options.instances {
            let mut process = Process::start(&setup.program, &args, log.try_clone()?)?;
            let port = match timeout(START_LIMIT, ready(&mut process)).await {
                Ok(Ok(Some(port))) => port,
                Ok(Err(error)) => return Err(error),
                Ok(Ok(None)) | Err(_) => {
                    bail!("the server did not get ready; its log ends:\n{}", home.log_tail())
                }
            };
            processes.push((process, port));
        }
        let start_seconds = setup.clock.now().since(started).as_secs_f64();
        let server = Self { processes, home, connections: AtomicUsize::new(0), key, start_seconds };
        timeout(START_LIMIT, server.shared()).await.context("the servers did not share the work")??;
        Ok(server)
    }

    /// Waits until each has its share of the work: handing over is part of a start.
    async fn shared(&self) -> Result<()> {
        let all = self.processes.len();
        if all == 1 {
            return Ok(());
        }
        let share = usize::from(Shard::COUNT) / all;
        // The steward's is one of them.
        let fair = |it: &pb::Instance| it.shards.len() + usize::from(it.steward) >= share;
        loop {
            let request = pb::ListInstancesRequest {};
            let answer = OpsServiceClient::new(self.connect()?).list_instances(request).await?.into_inner();
            if answer.instances.len() == all && answer.instances.iter().all(fair) {
                return Ok(());
            }
            sleep(LOOK).await;
        }
    }

    /// The port of the server that is next.
    fn port(&self) -> u16 {
        self.processes[self.connections.fetch_add(1, Ordering::Relaxed) % self.processes.len()].1
    }

    /// A new connection, opened when first used.
    pub fn connect(&self) -> Result<Wire> {
        let channel = Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port()))?.connect_lazy();
        Ok(InterceptedService::new(channel, self.key.clone()))
    }

    /// Registers an endpoint; its id.
    pub async fn register(&self, endpoint: pb::Endpoint) -> Result<String> {
        let request = pb::CreateEndpointRequest { endpoint: Some(endpoint), ..Default::default() };
        let answer = EndpointServiceClient::new(self.connect()?).create_endpoint(request).await?;
        Ok(answer.into_inner().endpoint.context("CreateEndpoint answered without an endpoint")?.id)
    }

    /// Deletes an endpoint.
    pub async fn remove(&self, id: String) -> Result<()> {
        let request = pb::DeleteEndpointRequest { id, ..Default::default() };
        EndpointServiceClient::new(self.connect()?).delete_endpoint(request).await?;
        Ok(())
    }

    /// Holds the deliveries of an endpoint back.
    pub async fn pause(&self, id: String) -> Result<()> {
        let request = pb::PauseEndpointRequest { id, ..Default::default() };
        EndpointServiceClient::new(self.connect()?).pause_endpoint(request).await?;
        Ok(())
    }

    /// What it has used so far, its database included.
    pub fn usage(&self) -> Result<Usage> {
        let used: Result<Usage> = self.processes.iter().map(|(process, _)| process.usage()).sum();
        let used =
            used.with_context(|| format!("the server is gone; its log ends:\n{}", self.home.log_tail()))?;
        Ok(match self.home.database.get() {
            Some(database) => used + Usage::of_family(database.server())?,
            None => used,
        })
    }

    /// Waits until it has come to rest: it uses less than a tenth of a core, or 30 s
    /// are over.
    pub async fn settle(&self) -> Result<()> {
        for _ in 0..60 {
            let before = self.usage()?.cpu_seconds;
            sleep(Duration::from_millis(500)).await;
            if self.usage()?.cpu_seconds - before < 0.05 {
                break;
            }
        }
        Ok(())
    }

    /// Deliveries that are not finished, by its metrics.
    pub async fn queue_size(&self) -> Result<u64> {
        let port = self.port();
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let host = format!("127.0.0.1:{port}");
        let mut request = Request::get("/metrics").header(header::HOST, host);
        if let Some(key) = self.key.header() {
            request = request.header(header::AUTHORIZATION, key);
        }
        let request = request.body(Empty::<Bytes>::new())?;
        let body = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
        driver.abort();
        gauge(&String::from_utf8_lossy(&body), "webhook_queue_size")
            .context("the server's metrics have no webhook_queue_size")
    }

    /// Stops it in order.
    pub async fn stop(self) -> Result<()> {
        for (process, _) in self.processes {
            let status = process.terminate().await?;
            if !status.success() {
                bail!("the server ended with {status}; its log ends:\n{}", self.home.log_tail());
            }
        }
        Ok(())
    }
}

/// The port that it says it is ready on.
async fn ready(process: &mut Process) -> Result<Option<u16>> {
    while let Some(line) = process.line().await? {
        if let Some((_, rest)) = line.split_once(READY) {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            return Ok(digits.parse().ok());
        }
    }
    Ok(None)
}

/// A number without labels among metrics.
fn gauge(metrics: &str, name: &str) -> Option<u64> {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.trim().parse::<f64>().ok().map(|number| number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_is_found_by_its_whole_name() {
        let metrics = "# TYPE a gauge\na_total 3\na{b=\"c\"} 4\na 5\n";
        assert_eq!(gauge(metrics, "a"), Some(5));
        assert_eq!(gauge(metrics, "b"), None);
    }
}
