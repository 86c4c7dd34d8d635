//! Bytes in messages: written as what they are, and not one by one. They look the same as a list of numbers does, so a
//! program that reads them as one understands them.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Some bytes, where a message has many such.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(#[serde(with = "crate::bytes")] pub Vec<u8>);

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<Bytes> for Vec<u8> {
    fn from(Bytes(bytes): Bytes) -> Self {
        bytes
    }
}

/// Writes them, for `#[serde(with = "…")]`.
///
/// # Errors
/// Those of the format.
pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bytes(bytes)
}

/// Reads them, for `#[serde(with = "…")]`.
///
/// # Errors
/// Those of the format.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    from.deserialize_byte_buf(Reading)
}

struct Reading;

impl<'de> Visitor<'de> for Reading {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = from.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_look_as_a_list_of_numbers_does() {
        for bytes in [
            Vec::new(),
            vec![0],
            (0..=255).cycle().take(70_000).collect(),
        ] {
            let as_list = postcard::to_stdvec(&bytes).unwrap();
            let as_bytes = postcard::to_stdvec(&Bytes(bytes.clone())).unwrap();
            assert_eq!(as_bytes, as_list);
            assert_eq!(postcard::from_bytes::<Bytes>(&as_list).unwrap().0, bytes);
            assert!(postcard::from_bytes::<Bytes>(&as_list[..as_list.len() - 1]).is_err());
        }
    }
}
