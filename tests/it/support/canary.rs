//! Looks for secrets where none should be.

use std::{fs, path::Path};

use ::http::Method;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use serde_json::Value;
use url::form_urlencoded::byte_serialize;

use super::{Dice, Server, http};

const JSON: (&str, &str) = ("content-type", "application/json");

/// A secret that stands nowhere else.
pub struct Canary {
    name: &'static str,
    spellings: Vec<Vec<u8>>,
}

impl Canary {
    /// Looks for a secret.
    pub fn of(name: &'static str, secret: &[u8]) -> Self {
        let mut spellings =
            vec![secret.to_vec(), hex::encode(secret).into(), hex::encode_upper(secret).into()];
        spellings.push(byte_serialize(secret).collect::<String>().into());
        for engine in [&STANDARD, &URL_SAFE] {
            for before in 0..3 {
                // What stands before and after it in the same text decides the ends.
                let text = engine.encode([&vec![0; before], secret, &[0; 3]].concat());
                spellings.push(text.as_bytes()[4..text.len() - 8].to_vec());
            }
        }
        Self { name, spellings }
    }

    /// `lossy` is the same text, in which whatever is text is found faster.
    fn is_in(&self, text: &[u8], lossy: &str) -> bool {
        self.spellings.iter().any(|spelling| match str::from_utf8(spelling) {
            Ok(spelling) => lossy.contains(spelling),
            Err(_) => text.windows(spelling.len()).any(|window| window == spelling.as_slice()),
        })
    }
}

/// A text nobody guesses, with characters that are spelled differently in URLs.
pub fn secret(dice: &mut Dice, name: &str) -> String {
    format!("{name}/{:016x}+{:016x}", dice.roll(1, u64::MAX), dice.roll(1, u64::MAX))
}

/// Everything the server said and wrote, by where it was.
#[derive(Default)]
pub struct Said(pub Vec<(String, Vec<u8>)>);

impl Said {
    /// Calls by REST and keeps the answer.
    pub async fn call(&mut self, server: &Server, method: Method, target: &str, body: &Value) -> Value {
        self.call_as(server, None, method, target, body).await
    }

    /// As [`Self::call`], with a token.
    pub async fn call_as(
        &mut self,
        server: &Server,
        token: Option<&str>,
        method: Method,
        target: &str,
        body: &Value,
    ) -> Value {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let authorization = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![JSON];
        headers.extend(authorization.iter().map(|it| ("authorization", it.as_str())));
        let reply = http(server.port, method, target, &headers, text).await;
        let head = format!("{:?}", reply.headers);
        self.0.push((format!("answer of {target}"), [head.as_bytes(), &reply.body].concat()));
        serde_json::from_slice(&reply.body).unwrap_or_default()
    }

    /// Keeps every file of a folder but its key.
    pub fn files(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).expect("the folder") {
            let path = entry.expect("an entry").path();
            if path.is_file() && path.extension().is_none_or(|ending| ending != "key") {
                self.0.push((path.display().to_string(), fs::read(&path).expect("the file")));
            }
        }
    }

    /// Keeps what a server has stored: the files of its folder, and what is in its
    /// database if that is elsewhere.
    pub fn stored(&mut self, server: &Server) {
        self.files(&server.data_dir());
        self.0.extend(server.database().map(|it| ("the database".to_owned(), it.dump().into_bytes())));
    }

    /// Which secrets stand where.
    pub fn found(&self, canaries: &[Canary]) -> Vec<String> {
        let mut found = Vec::new();
        for (place, text) in &self.0 {
            let lossy = String::from_utf8_lossy(text);
            for canary in canaries.iter().filter(|canary| canary.is_in(text, &lossy)) {
                found.push(format!("{} in {place}", canary.name));
            }
        }
        found
    }
}
