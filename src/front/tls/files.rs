//! The files that TLS is made from.

use std::{
    fs,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::Error;

/// Where the server's certificate and key are, and those of who may sign clients'.
#[derive(Clone, Debug)]
pub struct Files {
    /// The server's certificate and those that lead from it to an authority, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// Certificates of the authorities whose signature on a client's is believed, in
    /// PEM. Without it clients are not asked for certificates.
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is turned away.
    pub require_client_certificate: bool,
}

/// What is in them.
pub(super) struct Contents {
    pub certificate: Vec<u8>,
    pub key: Zeroizing<Vec<u8>>,
    pub client_ca: Option<Vec<u8>>,
}

impl Files {
    /// All of them.
    pub(super) fn read(&self) -> Result<Contents, Error> {
        Ok(Contents {
            certificate: read(&self.certificate)?,
            key: Zeroizing::new(read(&self.key)?),
            client_ca: self.client_ca.as_deref().map(read).transpose()?,
        })
    }
}

impl Contents {
    /// Tells them from others without keeping the key.
    pub fn digest(&self) -> [u8; 32] {
        let all = [&self.certificate, &*self.key, self.client_ca.as_ref().unwrap_or(&Vec::new())]
            .map(Sha256::digest);
        Sha256::digest(all.concat()).into()
    }
}

/// A path as it is told.
pub(super) fn named(path: &Path) -> String {
    path.display().to_string()
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|error| Error::Unreadable(named(path), error))
}
