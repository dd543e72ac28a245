//! Synthetic events: JSON of a given size with the time of its making in it.

use std::time::{SystemTime, UNIX_EPOCH};

use rand::RngExt;

/// The smallest data: the time and an empty text.
pub(super) const DATA_BYTES_MIN: u64 = 39;
/// The largest event that a server takes is 1 MiB.
pub(super) const DATA_BYTES_MAX: u64 = 1 << 20;

const NOISE_BYTES: usize = 2 << 20;
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 .";
const MARK: &[u8] = b"{\"at_ns\":";

/// Makes events whose text is random, so that it neither compresses well nor repeats.
#[derive(Debug)]
pub(super) struct Payload {
    noise: Vec<u8>,
    text_bytes: usize,
}

impl Payload {
    /// Events with `size` bytes of data.
    pub(super) fn new(size: u64) -> Self {
        let mut noise = vec![0; NOISE_BYTES];
        rand::rng().fill(noise.as_mut_slice());
        for byte in &mut noise {
            *byte = LETTERS[usize::from(*byte % 64)];
        }
        Self { noise, text_bytes: size.saturating_sub(DATA_BYTES_MIN) as usize }
    }

    /// The body of an append of `batch` events; `expected` is the JSON of that member.
    pub(super) fn append_body(&self, batch: u64, expected: &str) -> Vec<u8> {
        let mut body = Vec::with_capacity(batch as usize * (self.text_bytes + 80) + 64);
        body.extend_from_slice(b"{\"events\":[");
        for index in 0..batch {
            if index > 0 {
                body.push(b',');
            }
            body.extend_from_slice(b"{\"type\":\"bench\",\"data\":");
            self.push_data(&mut body, now_ns());
            body.push(b'}');
        }
        body.extend_from_slice(b"],\"expected\":");
        body.extend_from_slice(expected.as_bytes());
        body.push(b'}');
        body
    }

    fn push_data(&self, out: &mut Vec<u8>, at_ns: u64) {
        let begin = rand::random_range(0..=self.noise.len() - self.text_bytes);
        out.extend_from_slice(MARK);
        out.extend_from_slice(at_ns.to_string().as_bytes());
        out.extend_from_slice(b",\"text\":\"");
        out.extend_from_slice(&self.noise[begin..begin + self.text_bytes]);
        out.extend_from_slice(b"\"}");
    }
}

/// Nanoseconds since 1970, with 19 digits from 2001 to 2286.
pub(super) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// When an event was made that holds data of ours.
pub(super) fn made_at_ns(event: &[u8]) -> Option<u64> {
    let at = memchr::memmem::find(event, MARK)? + MARK.len();
    let digits = event.get(at..at + 19)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_has_the_size_that_was_asked_for_and_its_time() {
        for size in [DATA_BYTES_MIN, 256, DATA_BYTES_MAX] {
            let body = Payload::new(size).append_body(2, "\"any\"");
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["expected"], "any");
            for event in body["events"].as_array().unwrap() {
                let data = event["data"].to_string();
                assert_eq!(data.len() as u64, size);
                assert_eq!(made_at_ns(data.as_bytes()), event["data"]["at_ns"].as_u64());
            }
        }
        assert_eq!(made_at_ns(b"{\"data\":1}"), None);
        assert_eq!(made_at_ns(b"{\"at_ns\":1}"), None);
    }
}
