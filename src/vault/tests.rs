//! What is sealed opens at its place and nowhere else.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use proptest::prelude::*;

use super::*;

fn key(byte: u8) -> MasterKey {
    MasterKey::parse(&BASE64.encode([byte; 32]).into()).unwrap()
}

fn vault(current: u8, old: &[u8]) -> Vault {
    Vault::new(key(current), old.iter().copied().map(key), Entropy::seeded(u64::from(current)))
}

const HERE: Place<'static> = Place { tenant: TenantKey(1), kind: "endpoint", id: "ep_1", version: 1 };

#[test]
fn a_master_key_is_32_bytes_in_base64() {
    let parse = |text: &str| MasterKey::parse(&text.into()).map(|key| key.id());
    assert_eq!(parse(""), Err(NotAKey::Length(0)));
    assert_eq!(parse("not base64!"), Err(NotAKey::Base64));
    assert_eq!(parse(&BASE64.encode([1; 31])), Err(NotAKey::Length(31)));
    assert_eq!(parse(&BASE64.encode([1; 33])), Err(NotAKey::Length(33)));
    let text = BASE64.encode([1; 32]);
    assert_eq!(parse(&format!(" {text}\n")), parse(&text), "as an editor leaves it");
    let drawn = MasterKey::draw(&Entropy::seeded(1));
    assert!(parse(drawn.expose()).is_ok());
}

#[test]
fn a_key_is_printed_by_its_id() {
    let (one, two) = (key(1), key(2));
    assert_ne!(one.id(), two.id());
    assert_eq!(one.id().to_string().len(), 16);
    let printed = format!("{one:?} {:?}", vault(1, &[2]));
    assert_eq!(
        printed,
        format!("MasterKey({0}) Vault([MasterKey({0}), MasterKey({1})])", one.id(), two.id())
    );
}

#[test]
fn the_current_key_seals_and_any_key_of_the_ring_opens() {
    let blob = vault(1, &[]).seal(HERE, b"secret");
    assert_eq!(vault(2, &[3, 1]).open(HERE, &blob).unwrap().as_slice(), b"secret");
    assert_eq!(vault(2, &[3]).open(HERE, &blob), Err(OpenError::UnknownKey(key(1).id())));
    assert_eq!(key_of(&blob), Some(key(1).id()));
    assert_eq!(key_of(&vault(2, &[1]).seal(HERE, b"secret")), Some(key(2).id()));
    let told = OpenError::UnknownKey(key(1).id()).to_string();
    assert!(told.contains(&key(1).id().to_string()), "{told}");
}

#[test]
fn a_blob_without_a_version_opens_for_any_version() {
    let blob = vault(1, &[]).seal_unversioned(HERE, b"secret");
    assert!(!is_versioned(&blob) && is_versioned(&vault(1, &[]).seal(HERE, b"secret")));
    for version in [0, 1, 7] {
        let opened = vault(1, &[]).open(Place { version, ..HERE }, &blob).unwrap();
        assert_eq!(opened.as_slice(), b"secret");
    }
    assert_eq!(vault(1, &[]).open(Place { id: "ep_2", ..HERE }, &blob), Err(OpenError::Altered));
    let mut relabelled = blob;
    relabelled[0] = FORM;
    assert_eq!(vault(1, &[]).open(HERE, &relabelled), Err(OpenError::Altered));
}

#[test]
fn no_two_blobs_are_the_same() {
    let vault = vault(1, &[]);
    assert_ne!(vault.seal(HERE, b"secret"), vault.seal(HERE, b"secret"));
}

fn place() -> impl Strategy<Value = (i64, &'static str, String, u64)> {
    let kind = prop::sample::select(vec!["endpoint", "endpoint2", "source", ""]);
    (0..4_i64, kind, "[a-c_2]{0,4}", 0..3_u64)
}

proptest! {
    #[test]
    fn a_blob_opens_at_its_place_alone(a in place(), b in place(), secret in prop::collection::vec(any::<u8>(), 0..200)) {
        let vault = vault(1, &[]);
        let here = Place { tenant: TenantKey(a.0), kind: a.1, id: &a.2, version: a.3 };
        let there = Place { tenant: TenantKey(b.0), kind: b.1, id: &b.2, version: b.3 };
        let blob = vault.seal(here, &secret);
        let opened = vault.open(here, &blob).unwrap();
        prop_assert_eq!(opened.as_slice(), secret.as_slice());
        if here != there {
            prop_assert_eq!(vault.open(there, &blob), Err(OpenError::Altered));
        }
    }

    #[test]
    fn a_changed_bit_is_noticed(bit in 0..(HEAD_LEN + 6 + 16) * 8) {
        let vault = vault(1, &[2]);
        let mut blob = vault.seal(HERE, b"secret");
        blob[bit / 8] ^= 1 << (bit % 8);
        let refused = vault.open(HERE, &blob).unwrap_err();
        let expected = match bit / 8 {
            0 => OpenError::Malformed,
            1..=ID_LEN => OpenError::UnknownKey(key_of(&blob).unwrap()),
            _ => OpenError::Altered,
        };
        prop_assert_eq!(refused, expected);
    }

    #[test]
    fn a_blob_cut_off_is_noticed(len in 0..HEAD_LEN + 6 + 16) {
        let vault = vault(1, &[]);
        let blob = vault.seal(HERE, b"secret");
        prop_assert!(vault.open(HERE, &blob[..len]).is_err());
    }
}
