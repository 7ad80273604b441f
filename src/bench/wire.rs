//! Connections to the server, with a key where one is asked for.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

/// A connection that calls go out on.
pub type Wire = InterceptedService<Channel, Bearer>;

/// Sends a token with every call, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    /// What a token is sent as.
    pub fn new(token: &str) -> Result<Self> {
        Ok(Self(Some(format!("Bearer {token}").parse()?)))
    }

    /// The value of the header; nothing if none is sent.
    pub fn header(&self) -> Option<&[u8]> {
        self.0.as_ref().map(MetadataValue::as_bytes)
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// Has a key made by one of the program's commands; what that printed.
pub async fn make_key(program: &Path, command: &str, file: &Path) -> Result<String> {
    let made = Command::new(program).args([command, "--out"]).arg(file).output().await?;
    ensure!(made.status.success(), "hookwire {command} failed: {}", String::from_utf8_lossy(&made.stderr));
    let text = String::from_utf8(made.stdout).context("a key is text")?;
    Ok(text.trim().to_owned())
}
