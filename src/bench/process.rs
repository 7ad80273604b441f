//! A child process: started, listened to, looked at, and ended by its own id.

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::usage::Usage;

/// How long a child may take to end: more than the 30 s that a server gives the
/// attempts in flight.
const END_LIMIT: Duration = Duration::from_secs(45);

/// A running child. Killed when dropped.
pub struct Process {
    child: Child,
    pid: u32,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts a program with its output to be read here and its complaints in `log`.
    pub fn start(program: &Path, args: &[String], log: impl Into<Stdio>) -> Result<Self> {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let pid = child.id().context("the child ended at once")?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the child has no output")?;
        Ok(Self { child, pid, stdin, lines: BufReader::new(stdout).lines() })
    }

    /// The next line it prints; nothing once it prints no more.
    pub async fn line(&mut self) -> Result<Option<String>> {
        Ok(self.lines.next_line().await?)
    }

    /// Sends it a line.
    pub async fn tell(&mut self, line: &str) -> Result<()> {
        if let Some(stdin) = &mut self.stdin {
            stdin.write_all(line.as_bytes()).await?;
            stdin.write_all(b"\n").await?;
            stdin.flush().await?;
        }
        Ok(())
    }

    /// What it has used so far.
    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.pid)
    }

    /// Tells it that nothing more will be said, and waits for its end.
    pub async fn finish(mut self) -> Result<ExitStatus> {
        drop(self.stdin.take());
        self.ended().await
    }

    /// Asks it to stop, and waits for its end.
    pub async fn terminate(mut self) -> Result<ExitStatus> {
        // Not waited for yet, so the id is still this child's.
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        self.ended().await
    }

    async fn ended(&mut self) -> Result<ExitStatus> {
        let ended = timeout(END_LIMIT, self.child.wait()).await;
        Ok(ended.with_context(|| format!("process {} does not end", self.pid))??)
    }
}
