//! Event ids that follow from a file's content and a row's number.
//!
//! `id = UUIDv5(UUIDv5(NAMESPACE, hex SHA-256 of the file), row)`, hex in lower case, row in decimal digits from 1:
//! anyone can compute them again (RFC 9562, section 5.5).

use std::io::{self, Read};

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Namespace of all imported files. Another value would import every file once more.
const NAMESPACE: Uuid = Uuid::from_u128(0x5b1c_7f0e_90d4_4d0a_8c3f_6a1e_2f7d_94b6);

const READ_BYTES: usize = 256 * 1024;

/// The ids of one file's rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ids(Uuid);

impl Ids {
    /// Reads a file to its end.
    ///
    /// # Errors
    /// Those of the reader.
    pub(super) fn of(mut input: impl Read) -> io::Result<Self> {
        use std::fmt::Write as _;

        let mut hash = Sha256::new();
        let mut bytes = vec![0; READ_BYTES];
        loop {
            match input.read(&mut bytes) {
                Ok(0) => break,
                Ok(n) => hash.update(&bytes[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let hex = hash.finalize().iter().fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a string takes everything");
            hex
        });
        Ok(Self(Uuid::new_v5(&NAMESPACE, hex.as_bytes())))
    }

    /// The id of a row, counted from 1.
    pub(super) fn of_row(self, row: u64) -> Uuid {
        Uuid::new_v5(&self.0, row.to_string().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_never_change() {
        // Computed with Python's uuid.uuid5 and hashlib.
        let ids = Ids::of("a,b\n1,2\n".as_bytes()).unwrap();
        assert_eq!(ids.of_row(1).to_string(), "9248ac5e-4132-59ac-ba10-c4f9e4d48854");
        assert_eq!(ids.of_row(2).to_string(), "77851319-d482-5d1b-b1f8-0a71a0c72530");
        assert_ne!(Ids::of("a,b\n1,3\n".as_bytes()).unwrap().of_row(1), ids.of_row(1));
    }
}
