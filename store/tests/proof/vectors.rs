//! What the standards fix to the byte.

use kimberlite_store::{
    proof::{
        Checkpoint, CheckpointError, CosignerKey, KeyError, KeyKind, LogKey, Note, NoteError,
        NoteSignature, Place, ProofError, Receipt, ReceiptError, SIGNATURES_MAX, Tile, TilePath,
        VerifierKey, consistency, empty_root, inclusion, leaf_hash, subtree_root,
        verify_consistency, verify_inclusion,
    },
    words::Hash,
};

use crate::support::Hashes;

const LOG: &str = "log.example/t1+76c3e1aa+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4";
const WITNESS: &str = "w.example/w1+85687096+BCmsuuFBvMrwsi4alNNNC8c2HlJtC/4SyJeUvJMilm3X";
const NOTE: &str = "log.example/t1
7
o+I7Msy2v5bQktFl2KpUbgmCnejwOw6JV1gdHha5K98=

— log.example/t1 dsPhqmwbyOS4079phvMd/IXKtIsPZSKCUA3GBLHWYaPncS5sGMSthyiPAVw2YD8pn29kQ60aO2vIQju3ghMLfOpPfgM=
— w.example/w1 hWhwlgAAAABlU/EAF3IMtp2aOr42u4A5ZHFjz8aZvig27v/EoO+p625nohsw8QHDfgIIsR0jG6Xmu94Xp4UvyXEz3MBiLN/8cgsBCQ==
";
const WITNESSED_S: u64 = 1_700_000_000;
const ROOTS: [(u64, &str); 6] = [
    (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    (1, "db3426e878068d28d269b6c87172322ce5372b65756d0789001d34835f601c03"),
    (2, "cb00989d94a569c0a678ae042b63dcd4625db96440517f37a6eb7976ea24ed4b"),
    (3, "725d5230db68f557470dc35f1d8865813acd7ebb07ad152774141decbae71327"),
    (4, "9f4a3fc20d4162dc37d4e23d907848731a76043ffff6d69288bf1abfbcff478e"),
    (7, "a3e23b32ccb6bf96d092d165d8aa546e09829de8f03b0e8957581d1e16b92bdf"),
];
const SIBLING: &str = "906c5d2485cae722073a430f4d04fe1767507592cef226629aeadb85a2ec909d";
const FIRST_TWO: &str = "cb00989d94a569c0a678ae042b63dcd4625db96440517f37a6eb7976ea24ed4b";
const LAST_THREE: &str = "973f083957c7359fb1943acf9e6689bca6ca5ea7197d808aad3c14498689efe0";
const THIRD: &str = "fa61e3dec3439589f4784c893bf321d0084f04c572c7af2b68e3f3360a35b486";

fn seed(from: u8) -> [u8; 32] {
    std::array::from_fn(|at| from + at as u8)
}

fn log() -> LogKey {
    LogKey::new("log.example/t1", &seed(0)).unwrap()
}

fn witness() -> CosignerKey {
    CosignerKey::new("w.example/w1", &seed(0x20)).unwrap()
}

fn root(size: u64) -> Hash {
    subtree_root(0, size, &mut Hashes::digits(7).read()).unwrap()
}

fn texts(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(Hash::to_string).collect()
}

#[test]
fn trees_have_the_roots_of_the_standard() {
    assert_eq!(
        leaf_hash(b"").to_string(),
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    );
    for (size, expected) in ROOTS {
        assert_eq!(root(size).to_string(), expected, "{size} leaves");
    }
    assert_eq!(root(0), empty_root());
}

#[test]
fn proofs_are_those_of_the_standard() {
    let tree = Hashes::digits(7);
    let path = inclusion(2, 7, tree.read()).unwrap();
    assert_eq!(texts(&path), [SIBLING, FIRST_TWO, LAST_THREE]);
    verify_inclusion(leaf_hash(b"2"), 2, 7, root(7), &path).unwrap();

    let proof = consistency(3, 7, tree.read()).unwrap();
    assert_eq!(texts(&proof), [THIRD, SIBLING, FIRST_TWO, LAST_THREE]);
    verify_consistency((3, root(3)), (7, root(7)), &proof).unwrap();
}

#[test]
fn proofs_of_something_else_say_what_does_not_hold() {
    let tree = Hashes::digits(7);
    let path = inclusion(2, 7, tree.read()).unwrap();
    let check = |leaf: &[u8], index, size, root, path: &[Hash]| {
        verify_inclusion(leaf_hash(leaf), index, size, root, path)
    };
    assert_eq!(check(b"3", 2, 7, root(7), &path), Err(ProofError::Root));
    assert_eq!(check(b"2", 3, 7, root(7), &path), Err(ProofError::Root));
    assert_eq!(check(b"2", 2, 7, root(4), &path), Err(ProofError::Root));
    assert_eq!(check(b"2", 7, 7, root(7), &path), Err(ProofError::Size));
    let short = Err(ProofError::Length { expected: 3, found: 2 });
    assert_eq!(check(b"2", 2, 7, root(7), &path[..2]), short);

    let proof = consistency(3, 7, tree.read()).unwrap();
    let check = |earlier, later, proof: &[Hash]| verify_consistency(earlier, later, proof);
    assert_eq!(check((3, root(4)), (7, root(7)), &proof), Err(ProofError::EarlierRoot));
    assert_eq!(check((3, root(3)), (7, root(4)), &proof), Err(ProofError::Root));
    assert_eq!(check((7, root(7)), (3, root(3)), &proof), Err(ProofError::Size));
    assert_eq!(check((7, root(7)), (7, root(3)), &[]), Err(ProofError::Root));
    assert_eq!(check((0, root(1)), (7, root(7)), &[]), Err(ProofError::EarlierRoot));
    assert_eq!(check((0, root(0)), (7, root(7)), &[]), Ok(()));
    let long = Err(ProofError::Length { expected: 0, found: 4 });
    assert_eq!(check((7, root(7)), (7, root(7)), &proof), long);
}

#[test]
fn keys_read_and_print_alike() {
    for (text, kind) in [(LOG, KeyKind::Log), (WITNESS, KeyKind::Cosigner)] {
        let key: VerifierKey = text.parse().unwrap();
        assert_eq!((key.to_string().as_str(), key.kind()), (text, kind));
    }
    assert_eq!(log().verifier().to_string(), LOG);
    assert_eq!(witness().verifier().to_string(), WITNESS);
    assert!(!format!("{:?}", log()).contains(&Hash(seed(0)).to_string()), "no seed in the log");
}

#[test]
fn texts_that_are_no_keys_are_refused() {
    // The curve's neutral element: any text has a signature of it that holds.
    let weak = "log.example/t1+00000000+AQEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let cases = [
        ("", KeyError::Form),
        ("name", KeyError::Form),
        ("+76c3e1aa+AQ==", KeyError::Name),
        ("a b+76c3e1aa+AQ==", KeyError::Name),
        ("a\u{a0}b+76c3e1aa+AQ==", KeyError::Name),
        ("name+76c3e1a+AQ==", KeyError::Form),
        ("name++76c3e1a+AQ==", KeyError::Form),
        ("name+76c3e1aa+AQ", KeyError::Form),
        ("name+76c3e1aa+Ag==", KeyError::Kind),
        ("name+76c3e1aa+AQ==", KeyError::Key),
        (weak, KeyError::Key),
        (&LOG.replace("76c3e1aa", "76c3e1ab"), KeyError::Id),
        (&LOG.replace("t1+", "t2+"), KeyError::Id),
    ];
    for (text, error) in cases {
        assert_eq!(text.parse::<VerifierKey>(), Err(error), "{text}");
    }
    assert!(LogKey::new("a+b", &seed(0)).is_err() && CosignerKey::new("", &seed(0)).is_err());
}

#[test]
fn checkpoint_is_signed_and_cosigned_to_the_byte() {
    let checkpoint = Checkpoint { origin: "log.example/t1".to_owned(), size: 7, root: root(7) };
    let mut note = checkpoint.sign(&log());
    note.add(witness().cosign(note.text(), WITNESSED_S));
    assert_eq!(note.to_string(), NOTE);

    let read = Note::parse(NOTE.as_bytes()).unwrap();
    assert_eq!(read, note);
    assert_eq!(Checkpoint::verified(&read, log().verifier()), Ok(checkpoint));
    let (log, witness) = (log(), witness());
    let times = |signed: &[kimberlite_store::proof::Signed<'_>]| {
        signed.iter().map(|s| s.time_s).collect::<Vec<_>>()
    };
    let signed = read.verify([witness.verifier(), log.verifier()]).unwrap();
    assert_eq!(times(&signed), [Some(WITNESSED_S), None]);
}

#[test]
fn each_signature_of_a_known_key_must_hold() {
    let (log, witness) = (log(), witness());
    let note = Note::parse(NOTE.replace("\n7\n", "\n8\n").as_bytes()).unwrap();
    let wrong = |name: &str| Err(NoteError::Wrong(name.to_owned()));
    assert_eq!(note.verify([log.verifier()]), wrong("log.example/t1"));
    assert_eq!(note.verify([witness.verifier()]), wrong("w.example/w1"));

    // A second one that does not hold spoils the note, wherever it stands.
    let good = Note::parse(NOTE.as_bytes()).unwrap();
    let stale = log.sign("log.example/t1\n6\n").to_string();
    let (text, lines) = NOTE.split_once("\n\n").unwrap();
    for spoiled in [format!("{text}\n\n{stale}{lines}"), format!("{NOTE}{stale}")] {
        let note = Note::parse(spoiled.as_bytes()).unwrap();
        assert_eq!(note.verify([log.verifier()]), wrong("log.example/t1"));
        assert!(note.verify([witness.verifier()]).is_ok(), "another key's is no matter");
    }
    // Another key under the same name is unknown, even where nothing else signed.
    let other = LogKey::new("log.example/t1", &seed(9)).unwrap();
    assert_eq!(good.verify([other.verifier()]), Err(NoteError::Unknown));
    assert_eq!(good.verify([]), Err(NoteError::Unknown));
}

#[test]
fn cosignature_covers_its_time() {
    let witness = witness();
    let mut note = Note::parse(NOTE.as_bytes()).unwrap();
    let later = NOTE.replace("hWhwlgAAAABlU/EA", "hWhwlgAAAABlU/EB");
    assert_ne!(later, NOTE);
    let later = Note::parse(later.as_bytes()).unwrap();
    assert_eq!(later.verify([witness.verifier()]), Err(NoteError::Wrong("w.example/w1".into())));
    // Of one key the last one added counts.
    note.add(witness.cosign(note.text(), WITNESSED_S + 1));
    assert_eq!(note.signatures().len(), 2);
    assert_eq!(note.verify([witness.verifier()]).unwrap()[0].time_s, Some(WITNESSED_S + 1));
    let beyond = witness.cosign(note.text(), u64::MAX);
    note.add(beyond);
    assert!(note.verify([witness.verifier()]).is_err(), "times end at 2^63 - 1");
}

#[test]
fn notes_are_split_at_their_last_empty_line() {
    let key = log();
    let text = "a\n\n— b\n";
    let note = Note::new(text.to_owned(), key.sign(text));
    let read = Note::parse(note.to_string().as_bytes()).unwrap();
    assert_eq!((read.text(), read.verify([key.verifier()]).is_ok()), (text, true));
}

#[test]
fn texts_that_are_no_notes_are_refused() {
    let many = |n: usize| {
        let one = NoteSignature::parse("— n AAAAAAA=").unwrap().to_string();
        format!("text\n\n{}", one.repeat(n))
    };
    let cases = [
        ("", NoteError::Form),
        ("text\n", NoteError::Form),
        ("text\n\n", NoteError::Form),
        ("text\n\n— n AAAAAAA=", NoteError::Form),
        ("te\txt\n\n— n AAAAAAA=\n", NoteError::NotText),
        ("text\r\n\r\n— n AAAAAAA=\r\n", NoteError::NotText),
        ("text\n\n- n AAAAAAA=\n", NoteError::Line(1)),
        ("text\n\n— n AAAAAAA=\n— n\n", NoteError::Line(2)),
        ("text\n\n— n AAAAAAA\n", NoteError::Line(1)),
        ("text\n\n— n AAAAAAB=\n", NoteError::Line(1)),
        ("text\n\n— n AAAAAA==\n", NoteError::Line(1)),
        ("text\n\n— a+b AAAAAAA=\n", NoteError::Line(1)),
        ("text\n\n—  AAAAAAA=\n", NoteError::Line(1)),
        (&many(SIGNATURES_MAX + 1), NoteError::TooLong),
    ];
    for (text, error) in cases {
        assert_eq!(Note::parse(text.as_bytes()), Err(error), "{text:?}");
    }
    assert_eq!(Note::parse(b"text\xff\n\n"), Err(NoteError::NotText));
    const { assert!(SIGNATURES_MAX >= 16) };
    assert_eq!(Note::parse(many(SIGNATURES_MAX).as_bytes()).unwrap().signatures().len(), 64);
}

#[test]
fn texts_that_are_no_checkpoints_are_refused() {
    let root = "o+I7Msy2v5bQktFl2KpUbgmCnejwOw6JV1gdHha5K98=";
    for text in [
        String::new(),
        "\n".to_owned(),
        format!("o\n7\n{root}"),
        format!("o\n07\n{root}\n"),
        format!("o\n+7\n{root}\n"),
        format!("o\n-7\n{root}\n"),
        format!("o\n9223372036854775808\n{root}\n"),
        format!("\n7\n{root}\n"),
        "o\n7\no+I7\n".to_owned(),
        format!("o\n7\n{root}\n\n"),
        format!("o\n7\n{root}\n\nmore\n"),
    ] {
        assert_eq!(Checkpoint::parse(&text), Err(CheckpointError::Form), "{text:?}");
    }
    assert_eq!(Checkpoint::parse(&format!("o\n0\n{root}\nmore\n")).unwrap().size, 0);
}

#[test]
fn another_logs_checkpoint_is_not_taken_for_this_ones() {
    let key = log();
    let text = NOTE.split("\n\n").next().unwrap().replace("t1", "t2") + "\n";
    let note = Note::new(text.clone(), key.sign(&text));
    let origin = CheckpointError::Origin {
        expected: "log.example/t1".to_owned(),
        found: "log.example/t2".to_owned(),
    };
    assert_eq!(Checkpoint::verified(&note, key.verifier()), Err(origin));
    // Nor is what a cosigner saw what the log wrote, though they share a name.
    let cosigner = CosignerKey::new("log.example/t1", &seed(3)).unwrap();
    let text = NOTE.split("\n\n").next().unwrap().to_owned() + "\n";
    let note = Note::new(text.clone(), cosigner.cosign(&text, WITNESSED_S));
    let unsigned = Err(CheckpointError::Note(NoteError::Unknown));
    assert_eq!(Checkpoint::verified(&note, cosigner.verifier()), unsigned);
}

#[test]
fn receipts_read_and_print_alike_and_hold() {
    let receipt = Receipt {
        index: 2,
        hashes: inclusion(2, 7, Hashes::digits(7).read()).unwrap(),
        checkpoint: Note::parse(NOTE.as_bytes()).unwrap(),
        extra: None,
    };
    let text = receipt.to_string();
    assert!(text.starts_with("c2sp.org/tlog-proof@v1\nindex 2\nkGxdJIXK5yIH"), "{text}");
    assert!(text.ends_with(&format!("\n\n{NOTE}")), "{text}");
    assert_eq!(Receipt::parse(text.as_bytes()), Ok(receipt.clone()));
    let extra = Receipt { extra: Some(b"so".to_vec()), ..receipt.clone() };
    assert!(extra.to_string().starts_with("c2sp.org/tlog-proof@v1\nextra c28=\nindex 2\n"));
    assert_eq!(Receipt::parse(extra.to_string().as_bytes()), Ok(extra));

    let witnesses = [witness().verifier().clone()];
    let covered = receipt.verify(leaf_hash(b"2"), log().verifier(), &witnesses).unwrap();
    assert_eq!(covered.checkpoint.size, 7);
    assert_eq!(covered.cosigned, [("w.example/w1".to_owned(), WITNESSED_S)]);
    let other = receipt.verify(leaf_hash(b"3"), log().verifier(), &witnesses);
    assert_eq!(other, Err(ReceiptError::Proof(ProofError::Root)));
    let unseen = receipt.verify(leaf_hash(b"2"), log().verifier(), &[]).unwrap();
    assert!(unseen.cosigned.is_empty());
}

#[test]
fn texts_that_are_no_receipts_say_which_line() {
    let hash = "kGxdJIXK5yIHOkMPTQT+F2dQdZLO8iZimurbhaLskJ0=";
    let line = |text: &str| match Receipt::parse(text.as_bytes()) {
        Err(ReceiptError::Line { line, .. }) => line,
        other => panic!("{text:?}: {other:?}"),
    };
    assert_eq!(line(""), 1);
    assert_eq!(line("c2sp.org/tlog-proof@v2\nindex 0\n\n"), 1);
    assert_eq!(line("c2sp.org/tlog-proof@v1\nindex 00\n\n"), 2);
    assert_eq!(line("c2sp.org/tlog-proof@v1\nextra ?\nindex 0\n\n"), 2);
    assert_eq!(line("c2sp.org/tlog-proof@v1\nextra AAAA\nextra AAAA\n"), 3);
    assert_eq!(line(&format!("c2sp.org/tlog-proof@v1\nindex 0\n{hash}\nx\n\n")), 4);
    assert_eq!(line(&format!("c2sp.org/tlog-proof@v1\nindex 0\n{hash}")), 3);
    let long = format!("c2sp.org/tlog-proof@v1\nindex 0\n{}", format!("{hash}\n").repeat(64));
    assert_eq!(Receipt::parse(long.as_bytes()), Err(ReceiptError::TooLong));
}

#[test]
fn tiles_have_the_paths_and_widths_of_the_standard() {
    let hashes = |level, index, width| TilePath::Hashes(Tile { level, index, width });
    for (path, tile) in [
        ("tile/0/x001/x234/067", hashes(0, 1_234_067, 256)),
        ("tile/0/000", hashes(0, 0, 256)),
        ("tile/1/999.p/255", hashes(1, 999, 255)),
        ("tile/63/x018/x446/x744/x073/x709/x551/615.p/1", hashes(63, u64::MAX, 1)),
        ("tile/entries/x001/000.p/7", TilePath::Entries { index: 1000, width: 7 }),
    ] {
        assert_eq!(tile.to_string(), path);
        assert_eq!(path.parse(), Ok(tile));
    }
    for path in [
        "",
        "tile",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/x000",
        "tile/0/x000/067",
        "tile/0/001/067",
        "tile/0/x001/67",
        "tile/00/067",
        "tile/64/067",
        "tile/0/067.p/0",
        "tile/0/067.p/256",
        "tile/0/067.p/01",
        "tile/0/067.p/",
        "tile/0/+67",
        "tile/0/1000",
        "tile/data/000",
        "tile/0/x018/x446/x744/x073/x709/x551/616",
    ] {
        assert!(path.parse::<TilePath>().is_err(), "{path}");
    }
    let width = |level, index, size| Tile::at(level, index, size).map(|t| t.width);
    assert_eq!([width(0, 272, 70_000), width(0, 273, 70_000)], [Some(256), Some(112)]);
    assert_eq!([width(1, 0, 70_000), width(1, 1, 70_000)], [Some(256), Some(17)]);
    assert_eq!([width(2, 0, 70_000), width(2, 1, 70_000)], [Some(1), None]);
    assert_eq!([width(0, 0, 256), width(0, 1, 256), width(1, 0, 256)], [Some(256), None, Some(1)]);
    assert_eq!([width(8, 0, 1 << 60), width(63, u64::MAX, u64::MAX)], [None, None]);
    assert!(Tile::at(0, 0, 5).unwrap().is_in(6) && !Tile::at(0, 0, 6).unwrap().is_in(5));
}

#[test]
fn every_node_lies_in_a_tile() {
    let place = |level, index| Place::of(kimberlite_store::proof::Node { level, index });
    let at = |level, index, first, count| Some(Place { level, index, first, count });
    assert_eq!(place(0, 70_000), at(0, 273, 112, 1));
    assert_eq!(place(3, 33), at(0, 1, 8, 8));
    assert_eq!(place(7, 3), at(0, 1, 128, 128));
    assert_eq!(place(8, 257), at(1, 1, 1, 1));
    assert_eq!(place(16, 0), at(2, 0, 0, 1));
    assert_eq!(place(7, u64::MAX), None);
}
