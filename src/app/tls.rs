//! Which TLS options may be registered: those that [`egress`](crate::egress) can
//! use, in the words of a field.

use crate::{
    domain::{Rule, TlsOptions},
    egress::{BadTls, check_tls as check},
};

/// Why TLS options are refused: the field, the rule broken, and a sentence.
pub type TlsRefusal = (&'static str, Rule, String);

/// Checks TLS options.
pub fn check_tls(options: &TlsOptions) -> Result<(), TlsRefusal> {
    check(options).map_err(|bad| match bad {
        BadTls::Authorities(why) => ("ca_certificates_pem", Rule::BadFormat, why),
        BadTls::Certificate(why) => ("client_certificate_pem", Rule::BadFormat, why),
        BadTls::Key(why) => ("client_key_pem", Rule::BadFormat, why),
    })
}
