//! Bytes from outside: whatever they are, they are read or refused, and what is read prints as it was.

use kimberlite_store::{
    proof::{
        Checkpoint, CosignerKey, LogKey, Note, Receipt, Submission, TilePath, VerifierKey,
        inclusion, leaf_hash, subtree_root,
    },
    words::Hash,
};

use crate::support::{Chance, Hashes};

/// A receipt with a witness, and the texts it is made of.
fn texts() -> Vec<Vec<u8>> {
    let (log, witness) =
        (LogKey::new("l", &[1; 32]).unwrap(), CosignerKey::new("w", &[2; 32]).unwrap());
    let tree = Hashes::digits(9);
    let root = subtree_root(0, 9, &mut tree.read()).unwrap();
    let mut note = Checkpoint { origin: "l".to_owned(), size: 9, root }.sign(&log);
    note.add(witness.cosign(note.text(), 1));
    let hashes = inclusion(4, 9, tree.read()).unwrap();
    let text = note.text().to_owned();
    let receipt =
        Receipt { index: 4, hashes, checkpoint: note.clone(), extra: Some(vec![0, 1, 2]) };
    let keys = [log.verifier().to_string(), witness.verifier().to_string()];
    let path = "tile/0/x001/x234/067.p/5".to_owned();
    let submission = Submission::new(3, receipt.hashes.clone(), note.clone()).unwrap();
    let all = [receipt.to_string(), submission.to_string(), note.to_string(), text, path]
        .into_iter()
        .chain(keys);
    all.map(String::into_bytes).collect()
}

/// Reads bytes in every way there is; says in how many it can.
fn read(bytes: &[u8]) -> usize {
    let mut read = 0;
    if let Ok(note) = Note::parse(bytes) {
        assert_eq!(note.to_string().as_bytes(), bytes);
        read += 1;
    }
    if let Ok(receipt) = Receipt::parse(bytes) {
        assert_eq!(receipt.to_string().as_bytes(), bytes);
        let log = LogKey::new("l", &[1; 32]).unwrap();
        let _held = receipt.verify(Hash([0; 32]), log.verifier(), &[]).is_ok();
        read += 1;
    }
    if let Ok(submission) = Submission::parse(bytes) {
        assert_eq!(submission.to_string().as_bytes(), bytes);
        let log = LogKey::new("l", &[1; 32]).unwrap();
        let _judged = submission.judge(&[log.verifier().clone()], None).is_ok();
        read += 1;
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return read };
    if let Ok(checkpoint) = Checkpoint::parse(text) {
        assert!(text.starts_with(&checkpoint.to_string()));
        read += 1;
    }
    if let Ok(key) = text.parse::<VerifierKey>() {
        assert_eq!(key.to_string().to_lowercase(), text.to_lowercase());
        read += 1;
    }
    if let Ok(path) = text.parse::<TilePath>() {
        assert_eq!(path.to_string(), text);
        read += 1;
    }
    read
}

#[test]
fn whole_texts_are_read_and_spoiled_ones_never_panic() {
    let mut chance = Chance(5);
    let texts = texts();
    // A receipt and a submission have a note's form too.
    assert_eq!(texts.iter().map(|t| read(t)).collect::<Vec<_>>(), [2, 2, 1, 1, 1, 1, 1]);
    let mut still = 0;
    for _ in 0..200_000 {
        let mut bytes = texts[chance.below(texts.len() as u64) as usize].clone();
        for _ in 0..=chance.below(3) {
            let at = chance.below(bytes.len() as u64 + 1) as usize;
            let byte = match chance.below(4) {
                0 => chance.next() as u8,
                1 => b"\n +/=0x"[chance.below(7) as usize],
                _ => b'0' + chance.below(75) as u8,
            };
            match chance.below(5) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, byte),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 => {
                    let from = chance.below(at as u64 + 1) as usize;
                    let part = bytes[from..at].to_vec();
                    bytes.extend(part);
                }
                _ if at < bytes.len() => bytes[at] = byte,
                _ => {}
            }
        }
        still += read(&bytes);
    }
    assert!(still > 1000, "{still} of 200,000 could still be read");
}

/// Not one byte of a receipt but its extra data can be changed without being noticed.
#[test]
fn one_byte_changed_in_a_receipt_is_noticed() {
    let (log, witness) =
        (LogKey::new("l", &[1; 32]).unwrap(), CosignerKey::new("w", &[2; 32]).unwrap());
    let text = &texts()[0];
    let witnesses = [witness.verifier().clone()];
    let leaf = leaf_hash(b"4");
    let holds = |bytes: &[u8]| {
        let receipt = Receipt::parse(bytes).ok()?;
        let covered = receipt.verify(leaf, log.verifier(), &witnesses).ok()?;
        (covered.cosigned.len() == 1).then_some(())
    };
    assert!(holds(text).is_some());
    let whole = String::from_utf8(text.clone()).unwrap();
    let extra = whole.find("AAEC").unwrap();
    for at in (0..text.len()).filter(|at| !(extra..extra + 4).contains(at)) {
        let mut bytes = text.clone();
        bytes[at] ^= 1 << (at % 8);
        assert!(holds(&bytes).is_none(), "byte {at}");
    }
}
