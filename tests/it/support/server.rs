//! The server as a process of its own.

use std::{
    collections::VecDeque,
    env,
    fs::{self, OpenOptions},
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::{Api, eventually};

const READY: &str = "Hookwire is ready on http://127.0.0.1:";
/// A debug build that replays a store left behind by kill -9, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running server with a data directory of its own. Killed when dropped; its
/// log is shown when the test fails.
pub struct Server {
    child: Child,
    settings: Builder,
    /// Where it listens.
    pub port: u16,
}

/// How to start a server.
#[derive(Clone)]
pub struct Builder {
    data: Arc<TempDir>,
    port: u16,
    env: Vec<(&'static str, String)>,
}

impl Server {
    /// A server with the defaults of `hookwire dev`, on a port that the system
    /// chooses.
    pub async fn start() -> Self {
        Self::build().start().await
    }

    /// A server with other settings.
    pub fn build() -> Builder {
        let data = Arc::new(tempfile::tempdir().expect("temporary directory"));
        Builder { data, port: 0, env: Vec::new() }
    }

    /// Clients of this server over a connection of their own, which is opened
    /// when used and opened again after a restart.
    pub fn api(&self) -> Api {
        Api::at(self.port)
    }

    /// Where the data is.
    pub fn data_dir(&self) -> PathBuf {
        self.settings.data_dir()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.settings.log()).expect("log file")
    }

    /// The most memory it has had at once, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("/proc");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kib << 10
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill9(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Asks to stop, without waiting.
    pub fn send_sigterm(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("SIGTERM");
    }

    /// SIGTERM, and the status it ends with.
    pub async fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.send_sigterm();
        self.exited(limit).await
    }

    /// The status it ends with by itself.
    pub async fn exited(&mut self, limit: Duration) -> ExitStatus {
        let child = &mut self.child;
        eventually(limit, "the server has ended", async || {
            child.try_wait().expect("wait").ok_or_else(|| "still running".to_owned())
        })
        .await
    }

    /// Starts again on the same data and the same port. The old process must be
    /// gone.
    pub async fn restart(&mut self) {
        let settings = Builder { port: self.port, ..self.settings.clone() };
        let (child, port) = settings.spawn().await;
        (self.child, self.settings, self.port) = (child, settings, port);
    }

    /// The same, under other environment variables.
    pub async fn restart_with(&mut self, env: &[(&'static str, &str)]) {
        self.settings.env = env.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.restart().await;
    }

    /// Runs a second process on the same data to its end.
    pub async fn rival(&self, limit: Duration) -> Output {
        self.settings.to_its_end(limit).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- end of the server's log ---\n{}", tail(&self.settings.log(), 60));
        }
    }
}

impl Builder {
    /// Sets an environment variable.
    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// On a port that is not handed out to outgoing connections, so that it is
    /// still free at a restart.
    pub fn restartable(mut self) -> Self {
        self.port = fixed_port();
        self
    }

    /// Starts it and waits until it says that it is ready.
    pub async fn start(self) -> Server {
        let (child, port) = self.spawn().await;
        Server { child, settings: self, port }
    }

    /// Starts one that does not want to, and returns what it says of that.
    pub async fn refused(self, limit: Duration) -> String {
        let output = self.to_its_end(limit).await;
        assert!(!output.status.success(), "it ended as if nothing had happened");
        String::from_utf8(output.stderr).expect("text")
    }

    async fn to_its_end(&self, limit: Duration) -> Output {
        let child = self.command(0).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("spawn");
        let ended = eventually(limit, "the process has ended", async || {
            child.try_wait().expect("wait").ok_or_else(|| "still running".to_owned())
        });
        ended.await;
        child.wait_with_output().expect("output")
    }

    async fn spawn(&self) -> (Child, u16) {
        let log = OpenOptions::new().create(true).append(true).open(self.log()).expect("log file");
        let mut child =
            self.command(self.port).stdout(Stdio::piped()).stderr(log).spawn().expect("spawn the server");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (ready, port) = oneshot::channel();
        thread::spawn(move || {
            let mut ready = Some(ready);
            // Reads on after the line it looks for, so that the server never
            // blocks on a full pipe.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(rest) = line.split_once(READY).map(|(_, rest)| rest) {
                    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                    if let (Ok(port), Some(ready)) = (digits.parse(), ready.take()) {
                        // The test may have given up.
                        let _ = ready.send(port);
                    }
                }
            }
        });
        match tokio::time::timeout(START_LIMIT, port).await {
            Ok(Ok(port)) => (child, port),
            Ok(Err(_)) | Err(_) => {
                let _ = child.kill();
                let status = child.wait().expect("wait");
                panic!("the server did not get ready ({status}); its log ends:\n{}", tail(&self.log(), 60));
            }
        }
    }

    fn command(&self, port: u16) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hookwire"));
        command
            .args(["dev", "--host", "127.0.0.1", "--port", &port.to_string(), "--data-dir"])
            .arg(self.data_dir())
            .env("LOG_LEVEL", env::var("LOG_LEVEL").unwrap_or_else(|_| "info".to_owned()))
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    fn data_dir(&self) -> PathBuf {
        self.data.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.data.path().join("server.log")
    }
}

/// A free port below the range that Linux hands out to outgoing connections
/// (32768 and up): one of those could take the port while the server is down,
/// or, dialling it, connect to itself.
fn fixed_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let block = u16::try_from(std::process::id() % 100).expect("below 100");
    loop {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (block * 100 + offset) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let mut last = VecDeque::with_capacity(lines);
    for line in text.lines() {
        if last.len() == lines {
            last.pop_front();
        }
        last.push_back(line);
    }
    Vec::from(last).join("\n")
}
