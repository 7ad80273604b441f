//! The house keeps its order: modules depend one way, each concern has one home.
//!
//! Reads the source as text. A finding names file, line and rule.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// What each module of `src/` may use. A module may use itself.
const MAY_USE: [(&str, &[&str]); 24] = [
    ("domain", &[]),
    ("clock", &["domain"]),
    ("entropy", &["domain"]),
    ("explain", &[]),
    ("signing", &["domain"]),
    ("content", &["domain"]),
    ("machine", &["domain"]),
    ("vault", &["domain", "entropy"]),
    ("store", &["domain", "explain", "machine", "vault"]),
    ("feed", &["domain", "machine", "store"]),
    ("egress", &["domain", "clock", "entropy", "explain"]),
    ("engine", &["domain", "clock", "entropy", "signing", "content", "machine", "store", "feed", "egress"]),
    ("fleet", &["domain", "clock", "machine", "store", "engine"]),
    (
        "app",
        &["domain", "clock", "entropy", "machine", "store", "feed", "egress", "engine", "fleet", "telemetry"],
    ),
    ("peer", &[]),
    ("grpc", &["domain", "explain", "feed", "app", "engine", "machine", "store", "peer"]),
    ("rest", &["domain", "grpc"]),
    ("receiver", &["clock", "domain"]),
    ("front", &["domain", "clock", "explain", "rest", "entropy", "grpc", "peer"]),
    ("telemetry", &["clock", "domain"]),
    ("config", &["domain"]),
    ("bench", &["domain", "clock", "signing", "grpc", "config", "store"]),
    ("status", &["domain", "explain", "grpc", "config"]),
    (
        "server",
        &[
            "app",
            "clock",
            "config",
            "domain",
            "egress",
            "engine",
            "entropy",
            "feed",
            "fleet",
            "front",
            "grpc",
            "peer",
            "receiver",
            "rest",
            "store",
            "telemetry",
            "vault",
        ],
    ),
];

/// Words that have one home: the word, and the only paths that may say it.
const HOMES: [(&str, &[&str]); 6] = [
    ("sqlx::", &["src/store/"]),
    ("rusqlite::", &["src/store/"]),
    ("std::env", &["src/config.rs", "src/config/"]),
    ("Status::new", &["src/grpc/", "src/rest/"]),
    ("SystemTime::now", &["src/clock.rs"]),
    ("Instant::now", &["src/clock.rs"]),
];

/// Words a module may never say.
const NEVER: [(&str, &[&str]); 4] = [
    ("src/machine/", &["tokio", "async fn", "tracing", "rand::"]),
    ("src/domain/", &["tokio", "async fn", "tracing", "tonic", "sqlx", "rusqlite"]),
    ("src/app/", &["tonic", "hyper::", "sqlx", "rusqlite"]),
    ("src/signing", &["tokio", "async fn"]),
];

fn sources() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("a folder of the source tree") {
            let path = entry.expect("an entry of the source tree").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("src"), &mut found);
    found.sort();
    found
}

/// Lines of code with their numbers: no comments, and nothing after the start of
/// the tests.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).expect("a source file");
    text.lines()
        .enumerate()
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .map(|(at, line)| (at + 1, line.to_owned()))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .collect()
}

fn is_test(path: &str) -> bool {
    path.contains("/tests") || path.contains("/sim/") || path.ends_with("/fake.rs")
}

fn module_of(path: &str) -> &str {
    path.trim_start_matches("src/").split(['/', '.']).next().unwrap_or("")
}

#[test]
fn modules_depend_one_way() {
    let known: BTreeSet<&str> = MAY_USE.iter().map(|(module, _)| *module).collect();
    let mut findings = Vec::new();
    for path in sources() {
        let name = path.to_string_lossy().replace('\\', "/");
        let module = module_of(&name);
        if ["main", "lib"].contains(&module) || is_test(&name) {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(known, _)| *known == module) else {
            findings.push(format!("{name} belongs to no known module: add it to MAY_USE"));
            continue;
        };
        let mut in_use = false;
        for (line, text) in code(&path) {
            let mut used: Vec<String> = Vec::new();
            let trimmed = text.trim();
            if let Some(at) = trimmed.find("crate::") {
                let rest = &trimmed[at + 7..];
                in_use = rest.starts_with('{') && !rest.contains('}');
                used.extend(rest.trim_start_matches('{').split([',', '}']).map(first_word));
                if !rest.starts_with('{') {
                    used.truncate(1);
                }
            } else if in_use {
                // The body of `use crate::{ … }`, one module a line.
                if text.starts_with("    ") && !text.starts_with("     ") {
                    used.push(first_word(trimmed));
                }
                in_use = !trimmed.starts_with("};");
            }
            for used in used {
                if known.contains(used.as_str()) && used != module && !allowed.contains(&used.as_str()) {
                    findings.push(format!("{name}:{line} {module} may not use {used}"));
                }
            }
        }
    }
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

fn first_word(text: &str) -> String {
    text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn every_concern_has_one_home() {
    let mut findings = Vec::new();
    for path in sources() {
        let name = path.to_string_lossy().replace('\\', "/");
        if is_test(&name) {
            continue;
        }
        for (line, text) in code(&path) {
            for (word, homes) in HOMES {
                if text.contains(word) && !homes.iter().any(|home| name.starts_with(home)) {
                    findings.push(format!("{name}:{line} {word} belongs to {}", homes.join(", ")));
                }
            }
            for (place, words) in NEVER {
                for word in words.iter().filter(|word| name.starts_with(place) && text.contains(**word)) {
                    findings.push(format!("{name}:{line} {place} never says {word}"));
                }
            }
        }
    }
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn every_file_is_part_of_the_house_and_says_what_it_is() {
    let mut findings = Vec::new();
    for path in sources() {
        let name = path.to_string_lossy().replace('\\', "/");
        let text = fs::read_to_string(&path).expect("a source file");
        if !text.starts_with("//!") {
            findings.push(format!("{name} does not begin by saying what it is"));
        }
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if ["main", "lib"].contains(&stem.as_str()) {
            continue;
        }
        let (stem, parent) = match stem.as_str() {
            "mod" => {
                let folder = path.parent().expect("a file has a folder");
                let stem = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
                (stem, folder.parent().expect("src has a parent").to_owned())
            }
            _ => (stem, path.parent().expect("a file has a folder").to_owned()),
        };
        let mut roots = vec![parent.join("mod.rs"), parent.join("lib.rs"), parent.with_extension("rs")];
        roots.retain(|root| root.exists());
        let declared = roots.iter().any(|root| {
            let text = fs::read_to_string(root).unwrap_or_default();
            text.lines().any(|line| {
                let line = line.trim();
                line == format!("mod {stem};")
                    || (line.starts_with("pub") && line.ends_with(&format!(" mod {stem};")))
            })
        });
        if !declared {
            findings.push(format!("{name} is declared by no module"));
        }
    }
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

/// Name, version and source of each package in a lock file.
fn locked(path: &str) -> BTreeSet<(String, String, Option<String>)> {
    let text = fs::read_to_string(path).expect("a lock file");
    let packages = text.split("[[package]]").skip(1).map(|package| {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))?;
            Some(line.trim_matches('"').to_owned())
        };
        (value("name").expect("a name"), value("version").expect("a version"), value("source"))
    });
    packages.collect()
}

#[test]
fn dependencies_come_from_crates_io_and_none_is_banned() {
    let bans = fs::read_to_string("deny.toml").expect("deny.toml");
    let banned = |line: &str| line.trim().strip_prefix("{ crate = \"")?.split('"').next().map(str::to_owned);
    let bans: Vec<_> = bans.lines().filter_map(banned).collect();
    assert!(!bans.is_empty());
    let (server, fuzz) = (locked("Cargo.lock"), locked("fuzz/Cargo.lock"));
    assert!(server.len() > 100);
    for (name, version, source) in server.union(&fuzz) {
        let ours = name.starts_with("hookwire");
        let known = source.as_ref().map_or(ours, |source| source.ends_with("/crates.io-index"));
        assert!(known, "{name} {version} comes from {source:?}");
        assert!(!bans.contains(name), "{name} is banned, see deny.toml");
    }
    // What is fuzzed is what is shipped.
    for package @ (name, version, _) in &fuzz {
        let shared = server.iter().any(|(other, ..)| other == name);
        assert!(
            !shared || server.contains(package),
            "fuzz/Cargo.lock has {name} {version}: copy Cargo.lock over"
        );
    }
}
