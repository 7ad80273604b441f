//! Tokens against a small authorization server.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use axum::{Router, routing::post};

use super::*;
use crate::{
    domain::{EndpointKey, TenantKey},
    egress,
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
        Self { tokens: Tokens::new(oauth2, SENDER, &Policy::loopback()), client, clock }
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
    let tokens = Tokens::new(oauth2("http://example.com/token".to_owned()), SENDER, &Policy::default());
    let House { client, clock, .. } = House::new(oauth2(String::new()));
    let failed = tokens.header(&client, &clock, LIMIT).await.unwrap_err();
    assert_eq!(failed.cause, Cause::TargetForbidden);
}
