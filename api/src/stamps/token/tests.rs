use kimberlite_store::words::Hex;
use sha2::{Digest, Sha256};

use super::*;

/// Made for [`asked`] with `openssl ts -reply` (milliseconds, accuracy, ordering and name of the authority).
const ANSWER: &[u8] = include_bytes!("answer.tsr");

fn digest() -> [u8; 32] {
    Sha256::digest(b"kimberlite\n").into()
}

fn asked() -> Question {
    Question::new(digest(), 7)
}

#[test]
fn a_request_is_what_openssl_makes_of_the_same_fields() {
    assert_eq!(
        Hex(&asked().encode()).to_string(),
        "3041020101302f300b0609608648016503040201042063e23c939cfca3d97bc5b21d9bdd6cf4d3a7c41d7d2ee76f7cc8c20d11\
         1a5e6f020840000000000000010101ff"
    );
}

#[test]
fn an_answer_gives_its_token_and_its_time() {
    let token = asked().accept(ANSWER).unwrap();
    assert_eq!(token.time.to_string(), "2026-11-23T13:22:22.522Z");
    // The answer is status and token, so the token is its end, byte for byte.
    assert!(ANSWER.ends_with(&token.der));
    assert_eq!(token.der[0], 0x30);
}

#[test]
fn an_answer_to_another_question_is_none() {
    let other = Question::new([1; 32], 7);
    assert_eq!(other.accept(ANSWER), Err(AnswerError::OtherDigest));
    let later = Question::new(digest(), 8 << 2);
    assert_eq!(later.accept(ANSWER), Err(AnswerError::OtherNonce));
}

#[test]
fn a_refusal_says_its_status() {
    // PKIStatusInfo with status 2, and no token.
    assert_eq!(asked().accept(&[0x30, 5, 0x30, 3, 2, 1, 2]), Err(AnswerError::Refused(2)));
    assert_eq!(asked().accept(&[0x30, 5, 0x30, 3, 2, 1, 0]), Err(AnswerError::Malformed));
}

#[test]
fn no_bytes_panic_and_no_cut_answer_is_accepted() {
    for n in 0..ANSWER.len() {
        assert_eq!(asked().accept(&ANSWER[..n]), Err(AnswerError::Malformed), "{n} bytes");
    }
    let mut changed = ANSWER.to_vec();
    for at in 0..changed.len() {
        for bit in 0..8 {
            changed[at] ^= 1 << bit;
            // What is not looked at may be anything: the signature is for others to check.
            let _ = asked().accept(&changed);
            changed[at] ^= 1 << bit;
        }
    }
}

#[test]
fn times_are_those_of_the_standard() {
    let time = |text: &str| generalized(text.as_bytes()).map(|t| t.to_string());
    assert_eq!(time("20260102030405Z").as_deref(), Some("2026-01-02T03:04:05Z"));
    assert_eq!(time("20260102030405.25Z").as_deref(), Some("2026-01-02T03:04:05.25Z"));
    for wrong in [
        "20260102030405",
        "20260102030405.Z",
        "2026010203040Z",
        "20261302030405Z",
        "20260102030405+0100",
        "2026010203040éZ",
        "20260102030405.1234567890Z",
        "+0260102030405Z",
        "",
    ] {
        assert_eq!(time(wrong), None, "{wrong}");
    }
}
