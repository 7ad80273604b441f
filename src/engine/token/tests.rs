//! Tokens against a small authorization server.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use axum::{Router, routing::post};

use super::*;
use crate::{
    domain::{EndpointKey, TenantKey, TlsOptions},
    egress::{self, tests::secure::mutual},
    entropy::Entropy,
};

const SENDER: Sender = Sender { tenant: TenantKey::DEFAULT, endpoint: EndpointKey(1), version: 1 };

const LIMIT: Micros = Micros::from_secs(20);

/// Answers the nth request with what `answer` makes of it; counts the requests.
async fn server(
    answer: impl Fn(u32, &str, &str) -> (u16, String) + Clone + Send + Sync + 'static,
) -> (String, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let handle = move |headers: HeaderMap, body: String| async move {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        let authorization = headers.get(AUTHORIZATION).map_or("", |value| value.to_str().unwrap());
        let (status, text) = answer(number, authorization, &body);
        (http::StatusCode::from_u16(status).unwrap(), text)
    };
    let app = Router::new().route("/token", post(handle));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, asked)
}

fn granted(number: u32, expires_in: u32) -> (u16, String) {
    (200, format!(r#"{{"access_token":"token-{number}","token_type":"bearer","expires_in":{expires_in}}}"#))
}

fn oauth2(token_url: String) -> OAuth2 {
    OAuth2 {
        token_url,
        client_id: "me & you".to_owned(),
        client_secret: "s3cret/:".into(),
        scopes: vec!["a".to_owned(), "b:c".to_owned()],
        audience: "https://api".to_owned(),
        in_body: false,
    }
}

struct House {
    tokens: Tokens,
    client: Client,
    clock: Clock,
}

impl House {
    fn new(oauth2: OAuth2) -> Self {
        let clock = Clock::manual(Timestamp(1_000_000_000));
        let client = Client::new(egress::Config::default(), clock.clone(), Entropy::seeded(1)).unwrap();
        Self { tokens: Tokens::new(oauth2, SENDER, &Policy::loopback(), Ok(None)), client, clock }
    }

    async fn get(&self) -> Result<HeaderValue, Fault> {
        self.tokens.header(&self.client, &self.clock, LIMIT).await
    }

    async fn token(&self) -> String {
        self.get().await.unwrap().to_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn the_client_proves_itself_in_the_header_or_in_the_body() {
    let (url, _) = server(|_, authorization, body| {
        let pair = authorization.strip_prefix("Basic ").map(|text| BASE64.decode(text).unwrap());
        let pair = String::from_utf8(pair.unwrap_or_default()).unwrap();
        let text = format!("{pair}|{body}");
        (200, format!(r#"{{"access_token":"{}"}}"#, hex::encode(text)))
    })
    .await;
    let said = async |oauth2| {
        let token = House::new(oauth2).token().await;
        String::from_utf8(hex::decode(token.strip_prefix("Bearer ").unwrap()).unwrap()).unwrap()
    };
    let form = "grant_type=client_credentials&scope=a+b%3Ac&audience=https%3A%2F%2Fapi";
    assert_eq!(said(oauth2(url.clone())).await, format!("me+%26+you:s3cret%2F%3A|{form}"));
    let in_body = OAuth2 { in_body: true, ..oauth2(url) };
    let credentials = "&client_id=me+%26+you&client_secret=s3cret%2F%3A";
    assert_eq!(said(in_body).await, format!("|{form}{credentials}"));
}

#[tokio::test]
async fn a_token_is_used_for_four_fifths_of_its_life() {
    let (url, asked) = server(|number, _, _| granted(number, 100)).await;
    let house = House::new(oauth2(url));
    assert_eq!(house.token().await, "Bearer token-1");
    house.clock.advance(Micros::from_secs(79));
    assert_eq!(house.token().await, "Bearer token-1");
    house.clock.advance(Micros::from_secs(1));
    assert_eq!(house.token().await, "Bearer token-2");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn one_fetches_for_all() {
    let (url, asked) = server(|number, _, _| granted(number, 100)).await;
    let house = House::new(oauth2(url));
    let tokens = futures_util::future::join_all((0..20).map(|_| house.token())).await;
    assert!(tokens.iter().all(|token| token == "Bearer token-1"), "{tokens:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_is_used_while_it_lives() {
    let (url, asked) =
        server(
            |number, _, _| {
                if number == 1 { granted(number, 100) } else { (503, "token-secret".to_owned()) }
            },
        )
        .await;
    let house = House::new(oauth2(url));
    house.token().await;
    house.clock.advance(Micros::from_secs(80));
    assert_eq!(house.token().await, "Bearer token-1");
    assert_eq!(house.token().await, "Bearer token-1");
    assert_eq!(asked.load(Ordering::SeqCst), 2, "a failure stands for a moment");
    house.clock.advance(Micros::from_secs(20));
    let failed = house.get().await.unwrap_err();
    assert_eq!((failed.cause, &*failed.message), (Cause::Authentication, "the token URL answered HTTP 503"));
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_token_that_had_been_good_is_replaced_once() {
    let (url, asked) = server(|number, _, _| granted(number, 100)).await;
    let house = House::new(oauth2(url));
    let first = house.get().await.unwrap();
    assert!(!house.tokens.judged(&first, 200).await);
    assert!(house.tokens.judged(&first, 401).await, "another may help");
    let second = house.get().await.unwrap();
    assert_ne!(first, second);
    assert!(!house.tokens.judged(&second, 401).await, "it was never any good");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn what_is_wrong_is_told_without_what_the_server_wrote() {
    let cases = [
        (401, r#"{"error":"invalid_client","error_description":"s3cret"}"#, "HTTP 401 (invalid_client)"),
        (400, r#"{"error":"s3cret"}"#, "HTTP 400"),
        (302, "s3cret", "HTTP 302"),
        (200, "s3cret", "without a token"),
        (200, r#"{"access_token":"s3cret","token_type":"mac"}"#, "not a bearer token"),
        (200, r#"{"access_token":"","token_type":"bearer"}"#, "with an empty token"),
        (200, r#"{"access_token":" "}"#, "with an empty token"),
        (200, r#"{"access_token":null}"#, "without a token"),
        (200, "{\"access_token\":\"s3cret\\n\"}", "a header cannot carry"),
    ];
    for (status, body, told) in cases {
        let (url, _) = server(move |_, _, _| (status, body.to_owned())).await;
        let failed = House::new(oauth2(url)).get().await.unwrap_err();
        assert_eq!(failed.cause, Cause::Authentication);
        assert!(failed.message.contains(told), "{}", failed.message);
        assert!(!failed.message.contains("s3cret"), "{}", failed.message);
    }
}

#[tokio::test]
async fn a_token_url_is_vetted_like_any_target() {
    let tokens =
        Tokens::new(oauth2("http://example.com/token".to_owned()), SENDER, &Policy::default(), Ok(None));
    let House { client, clock, .. } = House::new(oauth2(String::new()));
    let failed = tokens.header(&client, &clock, LIMIT).await.unwrap_err();
    assert_eq!(failed.cause, Cause::TargetForbidden);
}

#[tokio::test]
async fn the_life_of_a_token_is_read_however_it_is_written() {
    let cases = [
        ("3600", 3600),
        ("\"3600\"", 3600),
        ("\" 3600 \"", 3600),
        ("3599.5", 3599),
        ("\"3599.5\"", 3599),
        ("3.6e3", 3600),
        ("1", 1),
        ("31536000", 86_400),
        // No life of a token: as if the server did not say.
        ("100000000000000000000", 300),
        ("1e400", 300),
        ("0", 300),
        ("0.5", 300),
        ("-1", 300),
        ("null", 300),
        ("\"\"", 300),
        ("\"soon\"", 300),
        ("\"NaN\"", 300),
        ("{\"seconds\":5}", 300),
    ];
    for (expires_in, seconds) in cases {
        let body = format!(r#"{{"access_token":"t","token_type":null,"expires_in":{expires_in}}}"#);
        let response = crate::domain::Response { body: body.into_bytes(), ..Default::default() };
        let (header, life) = read(&Answer { status: 200, response, ..Answer::default() }).unwrap();
        assert_eq!(
            (header.to_str().unwrap(), life),
            ("Bearer t", Micros::from_secs(seconds)),
            "{expires_in}"
        );
    }
    // An answer of any success is read.
    let response =
        crate::domain::Response { body: br#"{"access_token":"t"}"#.to_vec(), ..Default::default() };
    assert!(read(&Answer { status: 201, response, ..Answer::default() }).is_ok());
}

/// A token URL may stand behind the same authority as the endpoint, and demand the same certificate.
#[tokio::test]
async fn the_tls_options_of_the_endpoint_hold_for_its_token_url() {
    let mut server = mutual("127.0.0.1").await;
    let House { client, clock, .. } = House::new(oauth2(String::new()));
    let url = format!("https://{}/token", server.peer.address);
    let tokens = Tokens::new(oauth2(url), SENDER, &Policy::loopback(), client.tls(&server.options));
    // The server answers nothing but a status, so there is no token in it.
    let failed = tokens.header(&client, &clock, LIMIT).await.unwrap_err();
    assert!(failed.message.contains("without a token"), "{}", failed.message);
    let (certificates, request) = server.requests.recv().await.unwrap();
    assert_eq!(certificates, [server.client]);
    assert!(request.starts_with("POST /token HTTP/1.1\r\nhost: "), "{request}");
}

#[tokio::test]
async fn tls_options_that_cannot_be_used_stop_the_fetching_of_tokens() {
    let (url, asked) = server(|number, _, _| granted(number, 100)).await;
    let House { client, clock, .. } = House::new(oauth2(String::new()));
    let bad = client.tls(&TlsOptions { ca_certificates: "none".to_owned(), identity: None });
    let tokens = Tokens::new(oauth2(url), SENDER, &Policy::loopback(), bad);
    let failed = tokens.header(&client, &clock, LIMIT).await.unwrap_err();
    assert_eq!((failed.cause, asked.load(Ordering::SeqCst)), (Cause::Tls, 0));
}
