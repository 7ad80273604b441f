//! How the one port is encrypted.

use std::path::PathBuf;

use clap::Args;

/// Certificates, or the consent to do without.
#[derive(Clone, Debug, Default, Args)]
pub struct Tls {
    /// The server's certificate and the chain that leads to its authority, as a PEM file.
    /// The files are read again when they change and on SIGHUP.
    #[arg(long, env = "HOOKWIRE_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of the certificate, as a PEM file.
    #[arg(long, env = "HOOKWIRE_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Certificates of the authorities that may sign those of clients, as a PEM file:
    /// clients are asked for one, and it must be good if they have one.
    #[arg(long, env = "HOOKWIRE_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Turn away clients that show no certificate.
    #[arg(long, env = "HOOKWIRE_TLS_REQUIRE_CLIENT_CERT")]
    pub tls_require_client_cert: bool,
    /// Listen beyond loopback in clear text: a proxy in front does TLS.
    #[arg(long, env = "HOOKWIRE_PLAINTEXT")]
    pub plaintext: bool,
}
