//! A text with its escapes decoded, and where each decoded byte comes from.

use std::{borrow::Cow, ops::Range};

/// How a text may be escaped.
#[derive(Clone, Copy)]
enum Coding {
    /// `\"`, `\/`, `\u0041`, `\x41`.
    Json,
    /// `%41`.
    Percent,
    /// `%41`, and `+` for a space.
    Form,
    /// `&quot;`, `&#65;`, `&#x41;`.
    Html,
}

/// What stands at the start of an escaped text.
enum Unit {
    /// An escape: what it stands for, and its length.
    Byte(u8, usize),
    Char(char, usize),
    /// A byte that stands for itself.
    Plain,
    /// An escape that the end of the text cuts off.
    Cut,
}

/// Named characters that libraries escape.
const ENTITIES: [(&[u8], char); 5] =
    [(b"quot", '"'), (b"amp", '&'), (b"lt", '<'), (b"gt", '>'), (b"apos", '\'')];
/// Of `&#x10ffff;`.
const ENTITY_LEN_MAX: usize = 10;

/// A decoded text.
pub(super) struct View<'a> {
    bytes: Cow<'a, [u8]>,
    /// Where in the original each byte starts, and at last where the original ends.
    /// Empty for the original itself.
    starts: Vec<usize>,
}

impl<'a> View<'a> {
    /// The text as it is, and decoded in each way that changes it.
    pub fn all(text: &'a [u8]) -> Vec<Self> {
        let original = Self { bytes: Cow::Borrowed(text), starts: Vec::new() };
        let once = original.decoded(Coding::Json);
        // JSON that was put into a string of other JSON.
        let twice = once.as_ref().and_then(|view| view.decoded(Coding::Json));
        let unescaped = twice.as_ref().or(once.as_ref());
        let mut views = Vec::new();
        for view in unescaped.into_iter().chain([&original]) {
            let codings = [Coding::Percent, Coding::Form, Coding::Html].into_iter();
            views.extend(codings.filter_map(|coding| view.decoded(coding)));
        }
        views.extend(twice.into_iter().chain(once).chain([original]));
        views
    }

    /// The decoded text.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where a range of the decoded text stands in the original.
    pub fn origin(&self, range: Range<usize>) -> Range<usize> {
        self.start(range.start)..self.start(range.end)
    }

    fn start(&self, at: usize) -> usize {
        self.starts.get(at).copied().unwrap_or(at)
    }

    /// Decodes the text further; `None` if nothing in it is escaped this way.
    fn decoded(&self, coding: Coding) -> Option<View<'a>> {
        if !self.bytes.iter().any(|byte| coding.is_marker(*byte)) {
            return None;
        }
        let mut bytes = Vec::with_capacity(self.bytes.len());
        let mut starts = Vec::with_capacity(self.bytes.len() + 1);
        let mut at = 0;
        while let Some(byte) = self.bytes.get(at) {
            let (unit, mut buffer) = (coding.unit(&self.bytes[at..]), [0; 4]);
            let (decoded, len): (&[u8], usize) = match unit {
                Unit::Cut => break,
                Unit::Plain => (&[*byte], 1),
                Unit::Byte(byte, len) => (&[byte], len),
                Unit::Char(char, len) => (char.encode_utf8(&mut buffer).as_bytes(), len),
            };
            bytes.extend_from_slice(decoded);
            starts.extend(decoded.iter().map(|_| self.start(at)));
            at += len;
        }
        starts.push(self.start(self.bytes.len()));
        Some(View { bytes: Cow::Owned(bytes), starts })
    }
}

impl Coding {
    fn is_marker(self, byte: u8) -> bool {
        match self {
            Self::Json => byte == b'\\',
            Self::Percent => byte == b'%',
            Self::Form => byte == b'%' || byte == b'+',
            Self::Html => byte == b'&',
        }
    }

    /// What stands at the start of a text that is not empty.
    fn unit(self, text: &[u8]) -> Unit {
        match (self, text[0]) {
            (Self::Json, b'\\') => backslash(text),
            (Self::Form, b'+') => Unit::Byte(b' ', 1),
            (Self::Percent | Self::Form, b'%') => byte(text, 1),
            (Self::Html, b'&') => entity(text),
            _ => Unit::Plain,
        }
    }
}

/// `\n`, `\u0041`, or two of the latter for one character.
fn backslash(text: &[u8]) -> Unit {
    let Some(kind) = text.get(1) else { return Unit::Cut };
    match kind {
        b'n' => Unit::Byte(b'\n', 2),
        b't' => Unit::Byte(b'\t', 2),
        b'r' => Unit::Byte(b'\r', 2),
        b'b' => Unit::Byte(8, 2),
        b'f' => Unit::Byte(12, 2),
        b'"' | b'\\' | b'/' | b'\'' => Unit::Byte(*kind, 2),
        b'x' => byte(text, 2),
        b'u' => {
            let Some(first) = hexadecimal(text, 2, 4) else { return cut_if_short(text, 6) };
            if let Some(char) = char::from_u32(first) {
                return Unit::Char(char, 6);
            }
            match hexadecimal(text, 8, 4).filter(|_| text[6..8] == *b"\\u") {
                Some(second) => {
                    let pair = [first, second].map(|half| u16::try_from(half).unwrap_or(0));
                    let char = char::decode_utf16(pair).next().and_then(Result::ok);
                    char.map_or(Unit::Plain, |char| Unit::Char(char, 12))
                }
                None => cut_if_short(text, 12),
            }
        }
        _ => Unit::Plain,
    }
}

/// A byte as two hexadecimal digits, from a place on.
fn byte(text: &[u8], from: usize) -> Unit {
    match hexadecimal(text, from, 2).and_then(|byte| u8::try_from(byte).ok()) {
        Some(byte) => Unit::Byte(byte, from + 2),
        None => cut_if_short(text, from + 2),
    }
}

fn entity(text: &[u8]) -> Unit {
    let Some(end) = text.iter().take(ENTITY_LEN_MAX).position(|byte| *byte == b';') else {
        return cut_if_short(text, ENTITY_LEN_MAX);
    };
    let char = match &text[1..end] {
        [b'#', b'x' | b'X', digits @ ..] => hexadecimal(digits, 0, digits.len()).and_then(char::from_u32),
        [b'#', digits @ ..] => {
            str::from_utf8(digits).ok().and_then(|it| it.parse().ok()).and_then(char::from_u32)
        }
        name => ENTITIES.iter().find(|(known, _)| *known == name).map(|(_, char)| *char),
    };
    char.map_or(Unit::Plain, |char| Unit::Char(char, end + 1))
}

/// The number that some hexadecimal digits give.
fn hexadecimal(text: &[u8], from: usize, len: usize) -> Option<u32> {
    let digits = text.get(from..from + len).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
    u32::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

/// What is no escape, unless more of the text could have made it one.
fn cut_if_short(text: &[u8], len: usize) -> Unit {
    if text.len() < len { Unit::Cut } else { Unit::Plain }
}
