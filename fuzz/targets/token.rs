//! Tokens of pages and streams: made here, brought back by anybody.
#![no_main]

use hookwire::{
    domain::{Pos, TenantKey},
    feed::{Token, TokenError},
};
use libfuzzer_sys::fuzz_target;

// Fields of a token, a place in its text, what is put there, and a text of the
// client's own.
fuzz_target!(|input: (u8, i64, u32, u32, u64, u8, u8, &str)| {
    let (purpose, tenant, incarnation, binding, pos, place, byte, own) = input;
    let token = Token { purpose, tenant: TenantKey(tenant), incarnation, binding, pos: Pos(pos) };
    let text = token.encode();
    assert_eq!(text.len(), 40);
    let any = Token { pos: Pos(0), ..token };
    assert_eq!(any.decode(&text), Ok(Pos(pos)));

    // One other character, and it is no token.
    let mut mangled = text.clone().into_bytes();
    let place = usize::from(place) % mangled.len();
    mangled[place] = byte & 0x7f;
    let mangled = String::from_utf8(mangled).expect("ASCII");
    if mangled != text {
        assert_eq!(any.decode(&mangled), Err(TokenError), "{mangled}");
    }

    // For anything else it is none either.
    for other in [
        Token { purpose: purpose ^ 1, ..any },
        Token { tenant: TenantKey(any.tenant.0 ^ 1), ..any },
        Token { incarnation: incarnation ^ 1, ..any },
        Token { binding: binding ^ 1, ..any },
    ] {
        assert_eq!(other.decode(&text), Err(TokenError));
    }

    // What is taken has one spelling.
    if let Ok(pos) = any.decode(own) {
        assert_eq!(Token { pos, ..any }.encode(), own);
    }
});
