//! Messages read by a schema: of every field its name, and the JSON that protobuf's own libraries make of them
//! (protobuf.dev/programming-guides/json, with the fields' original names). Nothing here knows what v2p writes.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// Field or enumerator by its number, of each message and enumeration.
pub(super) struct Schema(HashMap<String, HashMap<u64, Field>>);

struct Field {
    name: String,
    /// `uint64`, `string`, the name of a message or of an enumeration; empty: it is an enumerator.
    kind: String,
    is_repeated: bool,
}

impl Schema {
    /// Reads a .proto file whose messages are not nested and that has a declaration a line.
    pub(super) fn parse(text: &str) -> Self {
        let mut all: HashMap<String, HashMap<u64, Field>> = HashMap::new();
        let mut last = String::new();
        for line in text.lines() {
            let line = line.split("//").next().unwrap().trim();
            let words: Vec<_> = line.trim_end_matches(';').split_whitespace().collect();
            match *words.as_slice() {
                [] | ["}"] | ["oneof", ..] => {}
                ["message" | "enum", name, "{"] => name.clone_into(&mut last),
                [.., name, "=", number] => {
                    let before = &words[..words.len() - 3];
                    let field = Field {
                        name: name.to_owned(),
                        kind: before.last().copied().unwrap_or_default().to_owned(),
                        is_repeated: before.first() == Some(&"repeated"),
                    };
                    let fields = all.entry(last.clone()).or_default();
                    let known = fields.insert(number.parse().unwrap(), field);
                    assert!(known.is_none(), "twice: {line}");
                }
                _ => panic!("not understood: {line}"),
            }
        }
        Self(all)
    }

    /// A message as JSON. None where it is cut off.
    pub(super) fn read(&self, message: &str, mut bytes: &[u8]) -> Option<Value> {
        let fields = &self.0[message];
        let mut out = Map::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes)?;
            let field = fields.get(&(key >> 3));
            let field = field.unwrap_or_else(|| panic!("{message} has no field {}", key >> 3));
            let value = match key & 7 {
                0 => self.number(&field.kind, varint(&mut bytes)?),
                2 => {
                    let len = usize::try_from(varint(&mut bytes)?).ok()?;
                    let (value, rest) = bytes.split_at_checked(len)?;
                    bytes = rest;
                    match field.kind.as_str() {
                        "string" => Value::from(std::str::from_utf8(value).unwrap()),
                        inner => self.read(inner, value)?,
                    }
                }
                other => panic!("{message}.{}: wire type {other}", field.name),
            };
            let place = out.entry(&field.name);
            match field.is_repeated {
                true => {
                    let all = place.or_insert_with(|| Value::Array(Vec::new()));
                    all.as_array_mut().unwrap().push(value);
                }
                false => _ = place.or_insert(value),
            }
        }
        Some(Value::Object(out))
    }

    /// Numbers of 64 bits are texts in JSON, those of 32 bits are numbers; enumerators have their names.
    fn number(&self, kind: &str, n: u64) -> Value {
        match kind {
            "uint64" => n.to_string().into(),
            "int64" => n.cast_signed().to_string().into(),
            "uint32" => u32::try_from(n).unwrap().into(),
            "int32" => i32::try_from(n.cast_signed()).unwrap().into(),
            of => self.0[of][&n].name.clone().into(),
        }
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    panic!("a number of more than ten bytes");
}
