//! FNV-1a, 64 bits: says whether files are the ones that were seen before.
//!
//! ```text
//! h ← (h xor byte) · 0x100000001b3
//! ```
//! Fowler, Noll and Vo; it finds accidents (edits, truncation, bit rot), not attacks. It is written
//! out here because the standard library does not promise the same hash in its next release, and
//! these values are stored in files.

/// A running 64-bit hash of everything given to it, in order.
#[derive(Clone, Debug)]
pub struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    /// Continues the hash over `bytes`; splitting them differently gives the same result.
    pub fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// Adds a value together with its length, so that `("ab", "c")` differs from `("a", "bc")`.
    pub fn field(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        self.update(&(bytes.len() as u64).to_le_bytes());
        self.update(bytes);
        self
    }

    /// The hash as 16 hexadecimal digits.
    pub fn hex(&self) -> String {
        format!("{:016x}", self.0)
    }
}

/// Hash of one text, for example a `tokenizer.json`.
pub fn fingerprint(bytes: impl AsRef<[u8]>) -> String {
    let mut hash = Fingerprint::default();
    hash.update(bytes.as_ref());
    hash.hex()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_values_of_fnv_1a() {
        assert_eq!(fingerprint(""), "cbf29ce484222325");
        assert_eq!(fingerprint("a"), "af63dc4c8601ec8c");
        assert_eq!(fingerprint("foobar"), "85944171f73967e8");
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
}
