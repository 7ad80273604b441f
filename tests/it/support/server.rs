//! The server as a process of its own.

use std::{
    collections::{HashSet, VecDeque},
    env,
    fs::{self, OpenOptions},
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::{Api, eventually, postgres::Database};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_hookwire");
const READY: &str = "Hookwire is ready on ";
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
    log: String,
    /// The URL of a store elsewhere than in the data directory.
    store: Option<String>,
    /// The database behind that URL, if it is there for this server alone.
    database: Option<Arc<Database>>,
    port: u16,
    profile: &'static str,
    args: Vec<String>,
    token: Option<String>,
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
        let database = Self::on_postgres().then(|| Arc::new(Database::new()));
        Builder {
            data: Arc::new(tempfile::tempdir().expect("temporary directory")),
            log: "server.log".to_owned(),
            store: database.as_ref().map(|database| database.url()),
            database,
            port: 0,
            profile: "dev",
            args: Vec::new(),
            token: None,
            env: Vec::new(),
        }
    }

    /// Whether servers keep their data in PostgreSQL in this run, each in a database
    /// of its own, instead of in files.
    pub fn on_postgres() -> bool {
        match env::var("HOOKWIRE_TEST_STORE").as_deref() {
            Ok("postgres") => true,
            Ok("sqlite") | Err(_) => false,
            Ok(other) => panic!("HOOKWIRE_TEST_STORE is sqlite or postgres, not {other}"),
        }
    }

    /// Clients of this server over a connection of their own, which is opened
    /// when used and opened again after a restart.
    pub fn api(&self) -> Api {
        Api::at_with(self.port, self.token())
    }

    /// The token of the administrator's key, of a server for production.
    pub fn token(&self) -> Option<&str> {
        self.settings.token.as_deref()
    }

    /// Another instance on the same store.
    pub fn fellow(&self) -> Builder {
        self.settings.fellow()
    }

    /// The database that it has for itself, in a run on PostgreSQL.
    pub fn database(&self) -> Option<&Database> {
        self.settings.database.as_deref()
    }

    /// The arguments that say where its data is, for other commands.
    pub fn place(&self) -> Vec<String> {
        let data = self.data_dir().display().to_string();
        let store = self.settings.store.iter().flat_map(|url| ["--store", url]);
        ["--data-dir", &data].into_iter().chain(store).map(str::to_owned).collect()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its own ports of its connections to a port of this machine.
    pub fn ports_to(&self, port: u16) -> Vec<u16> {
        let process = Path::new("/proc").join(self.pid().to_string());
        let files = fs::read_dir(process.join("fd")).expect("its files");
        let sockets: HashSet<_> = files
            .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
            .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
            .collect();
        // Of all processes; the tenth column is the socket.
        let table = fs::read_to_string(process.join("net/tcp")).expect("the connections");
        let port_of = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
        table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|line| line.len() > 9 && sockets.contains(line[9]) && port_of(line[2]) == Some(port))
            .filter_map(|line| port_of(line[1]))
            .collect()
    }

    /// Where the data is.
    pub fn data_dir(&self) -> PathBuf {
        self.settings.data_dir()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).expect("log file")
    }

    /// The most memory it ever had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    /// Where its log is.
    pub fn log_file(&self) -> PathBuf {
        self.settings.log()
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill9(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    /// Halts it: its connections stay open, and nobody answers.
    pub fn freeze(&self) {
        self.send(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.send(Signal::CONT);
    }

    /// Asks to stop, without waiting.
    pub fn send_sigterm(&self) {
        self.send(Signal::TERM);
    }

    /// Asks to read its files again.
    pub fn send_sighup(&self) {
        self.send(Signal::HUP);
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a signal");
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

    /// Keeps its data in a database that the test has made.
    pub fn store(self, url: impl Into<String>) -> Self {
        Self { store: Some(url.into()), database: None, ..self }
    }

    /// Keeps its data in files, whatever others do in this run.
    pub fn in_files(self) -> Self {
        Self { store: None, database: None, ..self }
    }

    /// Another instance on the same store, set up likewise: its data directory, and so
    /// its keys, are the same; its port and its log are its own.
    pub fn fellow(&self) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(2);
        assert!(self.store.is_some(), "a store in files is for one instance");
        let log = format!("server-{}.log", NEXT.fetch_add(1, Ordering::Relaxed));
        let port = if self.port == 0 { 0 } else { fixed_port() };
        Self { log, port, ..self.clone() }
    }

    /// A server for production with a master key, an administrator's key and these
    /// arguments besides. Its clients call with the administrator's key.
    pub fn serve(mut self, args: &[&str]) -> Self {
        let make = |command: &str, file: &str| {
            let made = Command::new(PROGRAM).args([command, "--out", file]).output().expect("a key");
            String::from_utf8(made.stdout).expect("text").trim().to_owned()
        };
        let file = |name: &str| self.data.path().join(name).display().to_string();
        let (master, administrator) = (file("master.key"), file("administrator"));
        make("keygen", &master);
        self.token = Some(make("admin-key", &administrator));
        self.profile = "serve";
        self.args = ["--master-key-file", &master, "--admin-key-file", &administrator]
            .iter()
            .chain(args)
            .map(|argument| (*argument).to_owned())
            .collect();
        self
    }

    /// On a port that is not handed out to outgoing connections, so that it is
    /// still free at a restart.
    pub fn restartable(mut self) -> Self {
        self.port = fixed_port();
        self
    }

    /// The port of one that is restartable.
    pub fn port(&self) -> u16 {
        self.port
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
                let url = line.strip_prefix(READY);
                let port = url.and_then(|url| url.rsplit(':').next()).and_then(|port| port.parse().ok());
                if let Some((port, ready)) = port.zip(ready.take()) {
                    // The test may have given up.
                    let _ = ready.send(port);
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
        let mut command = Command::new(PROGRAM);
        command
            .args([self.profile, "--host", "127.0.0.1", "--port", &port.to_string(), "--data-dir"])
            .arg(self.data_dir())
            .args(self.store.iter().flat_map(|url| ["--store", url]))
            .args(&self.args)
            .env("HOOKWIRE_DRAIN_DELAY", "0s")
            .env("LOG_LEVEL", env::var("LOG_LEVEL").unwrap_or_else(|_| "info".to_owned()))
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    fn data_dir(&self) -> PathBuf {
        self.data.path().join("data")
    }

    /// Where it writes its log.
    pub fn log(&self) -> PathBuf {
        self.data.path().join(&self.log)
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
