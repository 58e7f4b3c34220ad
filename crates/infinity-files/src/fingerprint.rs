//! Fingerprints: whether a file or text is the one that was seen before.
//!
//! XXH3 with 64 bits, written `xxh3:` and 16 hexadecimal digits. It finds accidents (edits,
//! truncation, bit rot), not attacks. Values without the prefix are FNV-1a's, from earlier versions,
//! and are compared as such.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3Default;

const PREFIX: &str = "xxh3:";

/// A running 64-bit hash of everything given to it, in order.
#[derive(Clone)]
pub struct Fingerprint(Hash);

#[derive(Clone)]
enum Hash {
    Xxh3(Box<Xxh3Default>),
    Fnv1a(u64),
}

impl Default for Fingerprint {
    fn default() -> Self {
        Self(Hash::Xxh3(Box::default()))
    }
}

impl Fingerprint {
    /// A hash to be compared with `stored`, by the algorithm that made that one.
    pub fn like(stored: &str) -> Self {
        match stored.starts_with(PREFIX) {
            true => Self::default(),
            false => Self(Hash::Fnv1a(0xcbf2_9ce4_8422_2325)),
        }
    }

    /// Whether `bytes` are what `stored` was taken of.
    pub fn matches(stored: &str, bytes: impl AsRef<[u8]>) -> bool {
        let mut hash = Self::like(stored);
        hash.update(bytes.as_ref());
        hash.hex() == stored
    }

    /// Whether two stored values were made by one algorithm, so that they can be compared.
    pub fn comparable(a: &str, b: &str) -> bool {
        a.starts_with(PREFIX) == b.starts_with(PREFIX)
    }

    /// Continues the hash over `bytes`; splitting them differently gives the same result.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Hash::Xxh3(hash) => hash.update(bytes),
            Hash::Fnv1a(hash) => {
                for byte in bytes {
                    *hash = (*hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
                }
            }
        }
    }

    /// Adds a value together with its length, so that `("ab", "c")` differs from `("a", "bc")`.
    pub fn field(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        self.update(&(bytes.len() as u64).to_le_bytes());
        self.update(bytes);
        self
    }

    /// Continues the hash over a whole file and returns its length in bytes.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn file(&mut self, path: &Path) -> io::Result<u64> {
        let (mut file, mut buffer, mut bytes) = (File::open(path)?, vec![0; 1 << 20], 0);
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok(bytes);
            }
            self.update(&buffer[..read]);
            bytes += read as u64;
        }
    }

    /// The hash as text, the way it is stored.
    pub fn hex(&self) -> String {
        match &self.0 {
            Hash::Xxh3(hash) => format!("{PREFIX}{:016x}", hash.digest()),
            Hash::Fnv1a(hash) => format!("{hash:016x}"),
        }
    }
}

/// Fingerprint of one text, for example a `tokenizer.json`.
pub fn fingerprint(bytes: impl AsRef<[u8]>) -> String {
    let mut hash = Fingerprint::default();
    hash.update(bytes.as_ref());
    hash.hex()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_values_of_both_algorithms() {
        assert_eq!(fingerprint(""), "xxh3:2d06800538d394c2");
        for (text, value) in [
            ("", "cbf29ce484222325"),
            ("a", "af63dc4c8601ec8c"),
            ("foobar", "85944171f73967e8"),
        ] {
            assert!(Fingerprint::matches(value, text), "{text}");
        }
        let new = fingerprint("foobar");
        assert!(Fingerprint::matches(&new, "foobar") && !Fingerprint::matches(&new, "fooba"));
        assert!(!Fingerprint::comparable(&new, "85944171f73967e8"));
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let hash = |fields: &[&str]| {
            let mut hash = Fingerprint::default();
            fields.iter().for_each(|field| {
                hash.field(field);
            });
            hash.hex()
        };
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_eq!(hash(&["ab", "c"]), hash(&["ab", "c"]));
    }

    #[test]
    fn a_file_is_hashed_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let mut hash = Fingerprint::default();
        assert_eq!(hash.file(&path).unwrap(), 3_000_000);
        assert_eq!(hash.hex(), fingerprint(&bytes));
    }
}
