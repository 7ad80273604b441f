//! What went wrong, in words: an error with its causes as one line, without the debug forms
//! that libraries print of their own types.

use std::{error::Error, io, iter};

use rustls::{AlertDescription, CertificateError, pki_types::ServerName};

/// An error and its causes, joined by colons. A cause that only repeats what stands before it
/// is left out.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    // Libraries also repeat what their causes say, in the form that is not wanted.
    let found = causes(error).find_map(tls_in).map(|found| (found.to_string(), tls(found)));
    let mut text = String::new();
    for cause in causes(error) {
        let is_tls = tls_in(cause).is_some();
        let words = match &found {
            Some((_, words)) if is_tls => words.clone(),
            Some((said, words)) => cause.to_string().replace(said, words),
            None => cause.to_string(),
        };
        if text.is_empty() {
            text = words;
        } else if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        if is_tls {
            break;
        }
    }
    text
}

/// The cause of all causes: those on the way to it say the same in other words.
pub fn root(error: &(dyn Error + 'static)) -> String {
    match causes(error).find_map(tls_in) {
        Some(found) => tls(found),
        None => causes(error).last().unwrap_or(error).to_string(),
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |cause| (*cause).source())
}

/// The TLS error that an error is, or that it wraps as an I/O error.
pub fn tls_in<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let inner = || error.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref();
    error.downcast_ref().or_else(inner)
}

/// What a TLS error says about the other end.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library adds to them")]
pub fn tls(error: &rustls::Error) -> String {
    use rustls::Error;
    match error {
        Error::InvalidCertificate(error) => format!("its certificate {}", certificate(error)),
        Error::AlertReceived(alert) => self::alert(*alert),
        Error::NoCertificatesPresented => "it showed no certificate".to_owned(),
        Error::InvalidMessage(_)
        | Error::InappropriateMessage { .. }
        | Error::InappropriateHandshakeMessage { .. } => {
            "it does not speak TLS, or breaks its rules".to_owned()
        }
        Error::PeerIncompatible(_) => "it has no version of TLS or no cipher in common with us".to_owned(),
        Error::PeerMisbehaved(_) => "it breaks the rules of TLS".to_owned(),
        Error::DecryptError => "it sent what cannot be decrypted".to_owned(),
        Error::PeerSentOversizedRecord => "it sent a record that is too large".to_owned(),
        Error::NoApplicationProtocol => "it does not speak our version of HTTP".to_owned(),
        Error::InconsistentKeys(_) => "the key is not the key of the certificate".to_owned(),
        Error::General(text) => text.clone(),
        _ => "the TLS library failed".to_owned(),
    }
}

/// What is wrong with a certificate, after "the certificate".
#[expect(clippy::wildcard_enum_match_arm, reason = "the library adds to them")]
pub fn certificate(error: &CertificateError) -> String {
    use webpki::Error;
    let words = match error {
        CertificateError::UnknownIssuer => "was not issued by an authority that is trusted here",
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "is not valid yet",
        CertificateError::NotValidForNameContext { expected, presented } => {
            return wrong_name(expected, presented);
        }
        CertificateError::NotValidForName => "is not for this host",
        CertificateError::BadEncoding => "cannot be read",
        CertificateError::BadSignature => "was not signed by the authority that it names",
        CertificateError::Revoked => "was revoked",
        CertificateError::UnhandledCriticalExtension => "has a critical extension of an unknown kind",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is for another purpose"
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "was signed by an algorithm that is not supported"
        }
        CertificateError::Other(other) => match other.0.downcast_ref() {
            Some(Error::CaUsedAsEndEntity) => {
                "is that of an authority: a server needs one that the authority issued"
            }
            Some(Error::EndEntityUsedAsCa) => "was issued by a certificate that is no authority",
            Some(Error::UnsupportedCertVersion) => "is not of X.509 version 3",
            Some(_) | None => "is not valid",
        },
        _ => "is not valid",
    };
    words.to_owned()
}

fn wrong_name(expected: &ServerName<'_>, presented: &[String]) -> String {
    let expected = expected.to_str();
    if presented.is_empty() {
        return format!("is not for {expected}: it has no subject alternative name");
    }
    // They come as `DnsName("a.example")`.
    let plain = |name: &String| {
        let inner = name.split_once('(').map_or(name.as_str(), |(_, rest)| rest.trim_end_matches(')'));
        inner.trim_matches('"').to_owned()
    };
    let names: Vec<_> = presented.iter().map(plain).collect();
    format!("is not for {expected}, only for {}", names.join(", "))
}

/// Why the other end refused.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library adds to them")]
fn alert(alert: AlertDescription) -> String {
    let why = match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
            "it demands a client certificate"
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired => "it does not accept our certificate",
        AlertDescription::UnknownCA => "it does not know the authority of our certificate",
        AlertDescription::AccessDenied => "it denies access",
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => {
            "it has nothing in common with us, or demands a client certificate"
        }
        AlertDescription::ProtocolVersion => "it has no version of TLS in common with us",
        AlertDescription::UnrecognisedName => "it does not know this host name",
        AlertDescription::NoApplicationProtocol => "it does not speak our version of HTTP",
        AlertDescription::InternalError => "it has an internal error",
        other => return format!("the other end refused (TLS alert {})", u8::from(other)),
    };
    format!("the other end refused: {why}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{OtherError, PeerIncompatible};

    use super::*;

    fn other(error: webpki::Error) -> rustls::Error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }

    #[test]
    fn tls_errors_are_told_in_words() {
        let name = |presented: &[&str]| {
            rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                expected: ServerName::try_from("a.example").unwrap(),
                presented: presented.iter().copied().map(str::to_owned).collect(),
            })
        };
        let cases = [
            (
                CertificateError::UnknownIssuer.into(),
                "its certificate was not issued by an authority that is trusted here",
            ),
            (
                name(&["DnsName(\"b.example\")", "IpAddress(10.0.0.1)"]),
                "its certificate is not for a.example, only for b.example, 10.0.0.1",
            ),
            (name(&[]), "its certificate is not for a.example: it has no subject alternative name"),
            (
                other(webpki::Error::CaUsedAsEndEntity),
                "its certificate is that of an authority: a server needs one that the authority issued",
            ),
            (other(webpki::Error::UnsupportedCertVersion), "its certificate is not of X.509 version 3"),
            (other(webpki::Error::EmptyEkuExtension), "its certificate is not valid"),
            (
                rustls::Error::AlertReceived(AlertDescription::CertificateRequired),
                "the other end refused: it demands a client certificate",
            ),
            (
                rustls::Error::AlertReceived(AlertDescription::DecodeError),
                "the other end refused (TLS alert 50)",
            ),
            (
                rustls::Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
                "it has no version of TLS or no cipher in common with us",
            ),
        ];
        for (error, words) in cases {
            assert_eq!(tls(&error), words);
            let wrapped = io::Error::other(error);
            assert_eq!((chain(&wrapped), root(&wrapped)), (words.to_owned(), words.to_owned()));
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Outer {
        text: String,
        source: io::Error,
    }

    #[test]
    fn causes_are_joined_without_repeats() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = Outer { text: "the database does not answer".to_owned(), source: refused() };
        assert_eq!(chain(&error), "the database does not answer: connection refused");
        let error = Outer { text: "not now: connection refused".to_owned(), source: refused() };
        assert_eq!(chain(&error), "not now: connection refused");
        assert_eq!(root(&error), "connection refused");

        // A library that repeats a TLS error in its own text.
        let unknown = || rustls::Error::from(CertificateError::UnknownIssuer);
        let error =
            Outer { text: format!("no database: {}", unknown()), source: io::Error::other(unknown()) };
        let words = "its certificate was not issued by an authority that is trusted here";
        assert_eq!((chain(&error), root(&error)), (format!("no database: {words}"), words.to_owned()));
    }
}
