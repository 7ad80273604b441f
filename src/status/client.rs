//! One call to a server.

use std::{
    error::Error as _,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use http::Uri;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use secrecy::ExposeSecret as _;
use tokio::time::timeout;
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};
use tonic_types::StatusExt as _;

use crate::{
    config::Remote,
    explain,
    grpc::pb::{self, ops_service_client::OpsServiceClient},
};

/// How long it may take, from the first packet to the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no answer. Each sentence says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL.
    #[error(
        "--server {0} is not the URL of a server: write it as http://127.0.0.1:8000 or https://host:8000"
    )]
    Server(String),
    /// The token.
    #[error("the token has characters that no token has: give it as `hookwire admin-key` printed it")]
    Token,
    /// Authorities for a connection without TLS.
    #[error("--ca is for a server by https://: leave it out, or give such a URL by --server")]
    CaWithoutTls,
    /// The file of authorities.
    #[error("--ca {} has no certificates that can be read: give a file of PEM certificates", .0.display())]
    Ca(PathBuf, #[source] Option<io::Error>),
    /// Nobody is there, or nobody to be trusted, or something else than a server.
    #[error(
        "cannot talk to {0}, because {1}: check --server, whether it is http:// or https://, and that the server runs"
    )]
    Unreachable(String, String),
    /// Nothing comes.
    #[error("{0} does not answer: check --server, and that the server is well")]
    Silent(String),
    /// A key is needed, or another one.
    #[error(
        "{0} refuses, because {1}: give the token of an administrator's key with the scope `{2}` in \
         HOOKWIRE_TOKEN"
    )]
    Key(String, String, &'static str),
    /// It refuses for another reason.
    #[error("{0} refuses, because {1}")]
    Refused(String, String),
}

/// Asks which instances there are.
pub(super) async fn list_instances(remote: &Remote) -> Result<pb::ListInstancesResponse, Error> {
    let ask = async |mut client: Client, request| client.list_instances(request).await;
    call(remote, "ops:read", pb::ListInstancesRequest {}, ask).await
}

/// Asks for another log filter.
pub(super) async fn set_log_filter(
    remote: &Remote,
    directives: String,
) -> Result<pb::SetLogFilterResponse, Error> {
    let ask = async |mut client: Client, request| client.set_log_filter(request).await;
    call(remote, "ops:write", pb::SetLogFilterRequest { directives }, ask).await
}

type Client = OpsServiceClient<Channel>;

/// Connects, and makes one call that needs a scope.
async fn call<T, U>(
    remote: &Remote,
    scope: &'static str,
    message: T,
    ask: impl AsyncFnOnce(Client, Request<T>) -> Result<Response<U>, Status>,
) -> Result<U, Error> {
    let server = || remote.server.clone();
    let endpoint = endpoint(&remote.server, remote.ca.as_deref())?;
    let mut request = Request::new(message);
    let token = remote.token.as_ref().map(|token| token.expose_secret().trim());
    if let Some(token) = token.filter(|token| !token.is_empty()) {
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_| Error::Token)?;
        value.set_sensitive(true);
        request.metadata_mut().insert("authorization", value);
    }
    let call = async {
        let channel = endpoint.connect().await;
        let channel = channel.map_err(|error| Error::Unreachable(server(), explain::root(&error)))?;
        let answer = ask(OpsServiceClient::new(channel), request).await;
        answer.map(Response::into_inner).map_err(|status| refusal(server(), scope, &status))
    };
    timeout(PATIENCE, call).await.unwrap_or_else(|_| Err(Error::Silent(server())))
}

/// Where to call, and whom to trust there.
fn endpoint(server: &str, ca: Option<&Path>) -> Result<Endpoint, Error> {
    let bad = || Error::Server(server.to_owned());
    let url: Uri = server.parse().map_err(|_| bad())?;
    let host = url.host().ok_or_else(bad)?;
    let endpoint = Endpoint::from(url.clone());
    match (url.scheme_str(), ca) {
        (Some("http"), None) => Ok(endpoint),
        (Some("http"), Some(_)) => Err(Error::CaWithoutTls),
        (Some("https"), ca) => {
            // An IPv6 address stands in brackets in a URL, and without in a certificate.
            let tls = ClientTlsConfig::new().domain_name(host.trim_matches(['[', ']'])).with_webpki_roots();
            let tls = match ca {
                Some(file) => tls.ca_certificate(authorities(file)?),
                None => tls,
            };
            endpoint.tls_config(tls).map_err(|_| bad())
        }
        (Some(_) | None, _) => Err(bad()),
    }
}

/// A file that has certificates.
fn authorities(file: &Path) -> Result<Certificate, Error> {
    let pem = fs::read(file).map_err(|error| Error::Ca(file.to_owned(), Some(error)))?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    if found.is_ok_and(|found| !found.is_empty()) {
        Ok(Certificate::from_pem(pem))
    } else {
        Err(Error::Ca(file.to_owned(), None))
    }
}

/// What a call that failed comes to.
fn refusal(server: String, scope: &'static str, status: &Status) -> Error {
    // Only what this side made of a broken connection has a cause.
    if let Some(cause) = status.source() {
        return Error::Unreachable(server, explain::root(cause));
    }
    let mut why = status.message().to_owned();
    for violation in status.get_details_bad_request().into_iter().flat_map(|it| it.field_violations) {
        why = format!("{why}: {} {}", violation.field, violation.description);
    }
    if [Code::Unauthenticated, Code::PermissionDenied].contains(&status.code()) {
        Error::Key(server, why, scope)
    } else {
        Error::Refused(server, why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_named_by_a_url_of_http_or_https() {
        for good in
            ["http://127.0.0.1:8000", "http://host/", "https://hooks.example.com", "https://[::1]:8000"]
        {
            assert!(endpoint(good, None).is_ok(), "{good}");
        }
        for bad in ["", "host", "127.0.0.1:8000", "ftp://host", "unix:/run/it", "https://", "http://a b"] {
            assert!(matches!(endpoint(bad, None), Err(Error::Server(_))), "{bad}");
        }
    }
}
