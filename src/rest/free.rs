//! JSON of any form into the wire form of `google.protobuf.Value` and its kin.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

use super::transcode::Writer;
use crate::domain::Rule;

/// How deep a `google.protobuf.Value` may be nested. Each level of an object is
/// three messages on the wire, and prost reads at most 100 nested messages.
pub(super) const DEPTH_MAX: usize = 30;

// Fields of `google.protobuf.Value`.
const STRING: u32 = 3;
const STRUCT: u32 = 5;
const LIST: u32 = 6;
// The one field of `Struct` and of `ListValue`, and the fields of an entry of a struct.
const ITEMS: u32 = 1;
const KEY: u32 = 1;
const VALUE: u32 = 2;

/// What a field of free form takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Value,
    Struct,
    List,
}

/// Writes the content of a `Value` that is `null`, a truth value or a number.
pub(super) fn scalar<E: Error>(writer: &mut Writer<'_>, value: &Json) -> Result<(), E> {
    match value {
        Json::Null => writer.put(&[0x08, 0]),
        Json::Bool(value) => writer.put(&[0x20, u8::from(*value)]),
        Json::Number(number) => {
            writer.put(&[0x11]);
            writer.put(&number.as_f64().unwrap_or_default().to_le_bytes());
        }
        Json::String(value) => return text(writer, value),
        Json::Array(_) | Json::Object(_) => return Err(E::custom("a list or object is no scalar")),
    }
    Ok(())
}

/// Writes the content of a `Value` that is text.
pub(super) fn text<E: Error>(writer: &mut Writer<'_>, text: &str) -> Result<(), E> {
    writer.put_bytes(STRING, text.as_bytes())
}

/// Writes the content of a `Value` or `ListValue` from a list.
pub(super) fn list<'de, A: SeqAccess<'de>>(
    writer: &mut Writer<'_>,
    kind: Kind,
    list: A,
) -> Result<(), A::Error> {
    let mut free = Free { writer, levels: DEPTH_MAX, is_too_deep: &mut false };
    if kind == Kind::Value { free.visit_seq(list) } else { free.items(list) }
}

/// Writes the content of a `Value` or `Struct` from an object.
pub(super) fn object<'de, A: MapAccess<'de>>(
    writer: &mut Writer<'_>,
    kind: Kind,
    object: A,
) -> Result<(), A::Error> {
    let mut free = Free { writer, levels: DEPTH_MAX, is_too_deep: &mut false };
    if kind == Kind::Value { free.visit_map(object) } else { free.entries(object) }
}

/// The content of a `Value`.
struct Free<'w, 'f, 'd> {
    writer: &'w mut Writer<'f>,
    /// How many more levels may be opened.
    levels: usize,
    /// Whether the violation has been noted, which is one for the whole value.
    is_too_deep: &'d mut bool,
}

impl Free<'_, '_, '_> {
    fn items<'de, A: SeqAccess<'de>>(&mut self, mut list: A) -> Result<(), A::Error> {
        let levels = self.levels - 1;
        let is_too_deep = &mut *self.is_too_deep;
        loop {
            let before = self.writer.mark();
            let item = self.writer.nest(ITEMS, |writer| {
                list.next_element_seed(Free { writer, levels, is_too_deep: &mut *is_too_deep })
            })?;
            if item.is_none() {
                self.writer.undo(before);
                return Ok(());
            }
        }
    }

    fn entries<'de, A: MapAccess<'de>>(&mut self, mut object: A) -> Result<(), A::Error> {
        let levels = self.levels - 1;
        let is_too_deep = &mut *self.is_too_deep;
        while let Some(key) = object.next_key::<std::borrow::Cow<'_, str>>()? {
            self.writer.nest(ITEMS, |writer| {
                writer.put_bytes(KEY, key.as_bytes())?;
                writer.nest(VALUE, |writer| {
                    object.next_value_seed(Free { writer, levels, is_too_deep: &mut *is_too_deep })
                })
            })?;
        }
        Ok(())
    }

    /// Whether one level more may be opened.
    fn opens(&mut self) -> bool {
        if self.levels == 0 && !*self.is_too_deep {
            *self.is_too_deep = true;
            let description = format!("is nested deeper than {DEPTH_MAX} levels; give it as JSON text");
            self.writer.refuse(Rule::OutOfRange, description);
        }
        self.levels > 0
    }
}

impl<'de> DeserializeSeed<'de> for Free<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Free<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        scalar(self.writer, &Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        scalar(self.writer, &Json::from(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        scalar(self.writer, &Json::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        scalar(self.writer, &Json::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        scalar(self.writer, &Json::from(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        text(self.writer, value)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        if !self.opens() {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        let Self { writer, levels, is_too_deep } = self;
        writer.nest(LIST, |writer| Free { writer, levels, is_too_deep }.items(list))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut object: A) -> Result<(), A::Error> {
        if !self.opens() {
            while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        let Self { writer, levels, is_too_deep } = self;
        writer.nest(STRUCT, |writer| Free { writer, levels, is_too_deep }.entries(object))
    }
}
