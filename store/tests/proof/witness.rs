//! What a witness cosigns, and what it does not.

use kimberlite_store::{
    proof::{
        Checkpoint, CosignerKey, LogKey, NoSubmission, ProofError, Refused, Submission,
        VerifierKey, consistency, subtree_root,
    },
    words::Hash,
};

use crate::support::Hashes;

const ORIGIN: &str = "log.example/t1";

fn key(seed: u8) -> LogKey {
    LogKey::new(ORIGIN, &[seed; 32]).unwrap()
}

fn checkpoint(size: u64) -> Checkpoint {
    let root = subtree_root(0, size, &mut Hashes::digits(20).read()).unwrap();
    Checkpoint { origin: ORIGIN.to_owned(), size, root }
}

/// From `old` records to `size`, as the log itself would ask.
fn honest(old: u64, size: u64) -> Submission {
    let proof = consistency(old.min(size), size, Hashes::digits(20).read()).unwrap();
    Submission::new(old, proof, checkpoint(size).sign(&key(1))).unwrap()
}

fn keys() -> Vec<VerifierKey> {
    vec![key(1).verifier().clone(), LogKey::new("other", &[3; 32]).unwrap().verifier().clone()]
}

#[test]
fn what_follows_is_seen() {
    for (old, size) in [(0, 0), (0, 7), (7, 7), (7, 8), (7, 20), (16, 20)] {
        let seen = (old > 0).then(|| checkpoint(old));
        let submission = honest(old, size);
        assert_eq!(submission.judge(&keys(), seen.as_ref()), Ok(&checkpoint(size)), "{old} {size}");
        let text = submission.to_string();
        assert_eq!(Submission::parse(text.as_bytes()), Ok(submission));
    }
    // Each key of an origin is good, so that a log may change its key.
    let both = [key(2).verifier().clone(), key(1).verifier().clone()];
    assert!(honest(0, 7).judge(&both, None).is_ok());
}

#[test]
fn what_does_not_follow_is_refused_in_the_standards_order() {
    let judge = |submission: &Submission, seen: u64| {
        let seen = (seen > 0).then(|| checkpoint(seen));
        submission.judge(&keys(), seen.as_ref()).cloned()
    };
    let signed = |old, checkpoint: &Checkpoint, key: &LogKey| {
        Submission::new(old, Vec::new(), checkpoint.sign(key)).unwrap()
    };
    let stranger = LogKey::new("unknown", &[1; 32]).unwrap();
    let unknown = Checkpoint { origin: "unknown".to_owned(), ..checkpoint(7) };
    assert_eq!(judge(&signed(9, &unknown, &stranger), 7), Err(Refused::Origin));
    assert_eq!(judge(&signed(9, &checkpoint(7), &key(2)), 7), Err(Refused::Signature));
    assert_eq!(judge(&honest(8, 7), 7), Err(Refused::Size));
    assert_eq!(judge(&honest(6, 20), 7), Err(Refused::Stale(7)));
    assert_eq!(judge(&honest(0, 20), 7), Err(Refused::Stale(7)));
    assert_eq!(judge(&honest(7, 20), 0), Err(Refused::Stale(0)));
    let forked = Checkpoint { root: Hash([9; 32]), ..checkpoint(7) };
    assert_eq!(judge(&signed(7, &forked, &key(1)), 7), Err(Refused::Root(7)));
    let short = ProofError::Length { expected: 6, found: 0 };
    assert_eq!(judge(&signed(7, &checkpoint(20), &key(1)), 7), Err(Refused::Proof(short)));

    let fork = Checkpoint { root: Hash([9; 32]), ..checkpoint(20) };
    let proof = consistency(7, 20, Hashes::digits(20).read()).unwrap();
    let forked = Submission::new(7, proof.clone(), fork.sign(&key(1))).unwrap();
    assert_eq!(judge(&forked, 7), Err(Refused::Proof(ProofError::Root)));
    let rewritten = Checkpoint { root: Hash([9; 32]), ..checkpoint(7) };
    let later = Submission::new(7, proof, checkpoint(20).sign(&key(1))).unwrap();
    let refused = Err(Refused::Proof(ProofError::EarlierRoot));
    assert_eq!(later.judge(&keys(), Some(&rewritten)).cloned(), refused);
    let full = Submission::new(0, vec![Hash([0; 32])], checkpoint(7).sign(&key(1))).unwrap();
    let long = ProofError::Length { expected: 0, found: 1 };
    assert_eq!(judge(&full, 0), Err(Refused::Proof(long)));
}

#[test]
fn texts_that_are_no_submissions_are_refused() {
    let good = honest(7, 20).to_string();
    let (front, note) = good.split_once("\n\n").unwrap();
    let hash = front.lines().nth(1).unwrap();
    for text in [
        String::new(),
        front.to_owned(),
        format!("{front}\n\n"),
        good.replacen("old 7", "old 07", 1),
        good.replacen("old 7", "old -7", 1),
        good.replacen("old 7", "new 7", 1),
        good.replacen("\n20\n", "\n020\n", 1),
        good.replacen(hash, &hash[1..], 1),
        good.replacen('\n', "\r\n", 1),
        format!("old 7\n{}\n{note}", format!("{hash}\n").repeat(64)),
    ] {
        assert_eq!(Submission::parse(text.as_bytes()), Err(NoSubmission), "{text:?}");
    }
    let cosigner = CosignerKey::new("w", &[4; 32]).unwrap();
    let note = kimberlite_store::proof::Note::new("x\n".to_owned(), cosigner.cosign("x\n", 1));
    assert_eq!(Submission::new(0, Vec::new(), note), Err(NoSubmission));
}
