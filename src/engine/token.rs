//! OAuth 2.0 tokens: fetched when needed, by one for all, and used until they are
//! old.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::Mutex;
use url::form_urlencoded::{Serializer, byte_serialize};
use zeroize::Zeroizing;

use crate::{
    clock::Clock,
    domain::{Answer, Cause, Fault, Micros, OAuth2, SecretText, Timestamp},
    egress::{Client, Policy, Request, Sender, Target, Tls, vet},
};

/// Life of a token whose server does not say.
const LIFE: Micros = Micros::from_secs(300);
/// Longest life that is believed.
const LIFE_MAX: i64 = 86_400;
/// Seconds that are no life of a token: a hundred years.
const LIFE_ABSURD: f64 = 100.0 * 365.0 * 86_400.0;
/// How long a failure stands for all who want a token, so that a server in trouble
/// is not asked by every attempt at once.
const PAUSE: Micros = Micros::from_secs(1);

/// The tokens of one endpoint.
pub(super) struct Tokens {
    target: Result<Target, Fault>,
    /// TLS of the endpoint, which holds for the token URL, too.
    tls: Result<Option<Tls>, Fault>,
    sender: Sender,
    oauth2: OAuth2,
    /// Held while a token is fetched: whoever comes meanwhile waits for it.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    failed: Option<(Timestamp, Fault)>,
}

struct Token {
    header: HeaderValue,
    /// From here on another is fetched.
    refresh_at: Timestamp,
    /// From here on it is of no use.
    expires_at: Timestamp,
    /// The endpoint has taken it.
    proven: bool,
}

/// What an authorization server answers.
#[derive(Deserialize)]
struct Granted {
    access_token: Zeroizing<String>,
    token_type: Option<String>,
    /// A number, or a number in a text: servers do both.
    expires_in: Option<Box<RawValue>>,
}

/// Why it refused.
#[derive(Deserialize)]
struct Refused {
    error: String,
}

impl Tokens {
    /// Nothing is fetched yet.
    pub fn new(oauth2: OAuth2, sender: Sender, policy: &Policy, tls: Result<Option<Tls>, Fault>) -> Self {
        let target = vet(&oauth2.token_url, policy).map_err(|forbidden| Fault {
            cause: Cause::TargetForbidden,
            message: format!("the token URL is not allowed: {}", forbidden.message),
        });
        Self { target, tls, sender, oauth2, state: Mutex::default() }
    }

    /// The header `authorization`, with a token that is fetched if need be. Takes no
    /// longer than `limit`.
    pub async fn header(&self, client: &Client, clock: &Clock, limit: Micros) -> Result<HeaderValue, Fault> {
        let get = self.get(client, clock, limit);
        let late = |_| fault("no token came in time");
        tokio::time::timeout(limit.to_std(), get).await.map_err(late)?
    }

    async fn get(&self, client: &Client, clock: &Clock, limit: Micros) -> Result<HeaderValue, Fault> {
        let mut state = self.state.lock().await;
        let now = clock.now();
        if let Some(token) = state.token.as_ref().filter(|token| now < token.refresh_at) {
            return Ok(token.header.clone());
        }
        // An old token is better than none, as long as it lives.
        let old = state.token.as_ref().filter(|token| now < token.expires_at);
        let old = old.map(|token| token.header.clone());
        if let Some((_, fault)) = state.failed.as_ref().filter(|(until, _)| now < *until) {
            return old.ok_or_else(|| fault.clone());
        }
        match self.fetch(client, limit).await {
            Ok((header, life)) => {
                let now = clock.now();
                let refresh_at = now.plus(Micros(life.0 / 5 * 4));
                let token =
                    Token { header: header.clone(), refresh_at, expires_at: now.plus(life), proven: false };
                *state = State { token: Some(token), failed: None };
                Ok(header)
            }
            Err(fault) => {
                state.failed = Some((clock.now().plus(PAUSE), fault.clone()));
                old.ok_or(fault)
            }
        }
    }

    /// Takes note of what the endpoint said to a token. True: the token had been good
    /// and is so no more, so that another one may help.
    pub async fn judged(&self, used: &HeaderValue, status: u16) -> bool {
        let mut state = self.state.lock().await;
        let Some(token) = state.token.as_mut().filter(|token| token.header == *used) else {
            // Somebody was told so before, and there is another one by now.
            return status == 401;
        };
        let proven = token.proven;
        if status == 401 {
            state.token = None;
            return proven;
        }
        token.proven = true;
        false
    }

    async fn fetch(&self, client: &Client, limit: Micros) -> Result<(HeaderValue, Micros), Fault> {
        let (headers, body) = self.request()?;
        let request = Request {
            sender: self.sender,
            target: self.target.clone()?,
            tls: self.tls.clone()?,
            headers,
            body,
            timeout: limit,
            connect_timeout: limit,
        };
        match client.send(request).await.result {
            Ok(answer) => read(&answer),
            Err(found) => {
                let forbidden = found.cause == Cause::TargetForbidden;
                let cause = if forbidden { found.cause } else { Cause::Authentication };
                Err(Fault { cause, message: format!("no token could be fetched: {}", found.message) })
            }
        }
    }

    fn request(&self) -> Result<(HeaderMap, Bytes), Fault> {
        let it = &self.oauth2;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let mut form = Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if !it.scopes.is_empty() {
            form.append_pair("scope", &it.scopes.join(" "));
        }
        if !it.audience.is_empty() {
            form.append_pair("audience", &it.audience);
        }
        if it.in_body {
            form.append_pair("client_id", &it.client_id);
            form.append_pair("client_secret", it.client_secret.expose());
        } else {
            // Both are encoded as in a form first (RFC 6749, section 2.3.1).
            let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
            let secret = SecretText::from(encoded(it.client_secret.expose()));
            headers.insert(AUTHORIZATION, basic(&encoded(&it.client_id), &secret)?);
        }
        Ok((headers, form.finish().into()))
    }
}

/// `Basic …`.
pub(super) fn basic(username: &str, password: &SecretText) -> Result<HeaderValue, Fault> {
    let pair = Zeroizing::new(format!("{username}:{}", password.expose()));
    secret_value(&format!("Basic {}", BASE64.encode(pair.as_bytes())))
}

/// `Bearer …`.
pub(super) fn bearer(token: &str) -> Result<HeaderValue, Fault> {
    secret_value(&format!("Bearer {token}"))
}

/// A header value that libraries do not print.
pub(super) fn secret_value(text: &str) -> Result<HeaderValue, Fault> {
    let mut value = HeaderValue::from_str(text).map_err(|_| Fault {
        cause: Cause::InvalidRequest,
        message: "the authentication has characters that headers cannot carry".to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The token in an answer, and how long it lives. Nothing that the server wrote is
/// told, except for the codes that are in the standard: the rest may hold secrets.
fn read(answer: &Answer) -> Result<(HeaderValue, Micros), Fault> {
    const KNOWN: [&str; 5] =
        ["invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "invalid_scope"];
    let body = &answer.response.body;
    if !(200..300).contains(&answer.status) {
        let refused: Option<Refused> = serde_json::from_slice(body).ok();
        let code = refused.and_then(|refused| KNOWN.into_iter().find(|known| *known == refused.error));
        let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
        return Err(fault(format!("the token URL answered HTTP {}{code}", answer.status)));
    }
    let granted: Granted = serde_json::from_slice(body)
        .map_err(|_| fault("the token URL answered without a token, or with more than 16 KiB"))?;
    let kind = granted.token_type.as_deref().unwrap_or_default().trim();
    if !kind.is_empty() && !kind.eq_ignore_ascii_case("bearer") {
        return Err(fault("the token URL answered with a token that is not a bearer token"));
    }
    if granted.access_token.trim().is_empty() {
        return Err(fault("the token URL answered with an empty token"));
    }
    let header = bearer(&granted.access_token)
        .map_err(|_| fault("the token URL answered with a token that a header cannot carry"))?;
    Ok((header, life(granted.expires_in.as_deref())))
}

/// How long a token lives, by `expires_in`: whole seconds, at most [`LIFE_MAX`]. What is less than
/// a second, more than [`LIFE_ABSURD`] or no number is taken for a server that does not say.
fn life(expires_in: Option<&RawValue>) -> Micros {
    let text = expires_in.map_or("", RawValue::get);
    let seconds: f64 = text.trim_matches('"').trim().parse().unwrap_or(f64::NAN);
    if !(1.0..=LIFE_ABSURD).contains(&seconds) {
        return LIFE;
    }
    #[expect(clippy::cast_possible_truncation, reason = "it is within the limits")]
    let seconds = seconds as i64;
    Micros::from_secs(seconds.min(LIFE_MAX))
}

fn fault(message: impl Into<String>) -> Fault {
    Fault { cause: Cause::Authentication, message: message.into() }
}

#[cfg(test)]
mod tests;
