//! Subscriptions wake for what they ask for, and sleep through all else.

use kimberlite_store::{
    append::{DeleteStream, Expected},
    read::{Filter, Selection, Source},
    subscribe::Subscription,
    words::{EventType, Tag},
};

use crate::support::*;

fn of(filter: Filter) -> Selection {
    Selection { filter, ..everything() }
}

#[tokio::test]
async fn subscriptions_wake_for_what_they_ask_for_and_sleep_through_all_else() {
    let folder = tempfile::tempdir().unwrap();
    let (store, tenant) = open(folder.path()).await;
    let subscribe = |selection: &Selection| store.subscribe(&tenant, selection);
    let of_stream = Source::Stream { name: stream("mine"), from: None };
    let types = ["rare", "odd"].map(|t| EventType::new(t).unwrap()).to_vec();
    let tags = vec![Tag::new("first").unwrap(), Tag::new("second").unwrap()];
    let mut all = subscribe(&everything());
    let mut mine = subscribe(&Selection { source: of_stream, ..everything() });
    let mut typed = subscribe(&of(Filter { types, ..Filter::default() }));
    let mut tagged_ones = subscribe(&of(Filter { tags, ..Filter::default() }));
    let below = |s: &[&Subscription; 4]| s.map(Subscription::below);
    let add = async |name: &str, events| {
        store.append(&tenant, append(name, Expected::Any, events)).await.unwrap();
    };
    assert_eq!(below(&[&all, &mine, &typed, &tagged_ones]), [0; 4]);
    add("other", vec![event("usual", "1"), event("usual", "2")]).await;
    assert_eq!(below(&[&all, &mine, &typed, &tagged_ones]), [2, 0, 0, 0]);
    add("mine", vec![event("usual", "3"), tagged("usual", &["second"])]).await;
    assert_eq!(below(&[&all, &mine, &typed, &tagged_ones]), [4, 4, 0, 0]);
    add("other", vec![event("usual", "4"), event("odd", "5"), event("usual", "6")]).await;
    assert_eq!(below(&[&all, &mine, &typed, &tagged_ones]), [7, 4, 7, 0]);
    add("other", vec![tagged("usual", &["first", "second"]), event("usual", "7")]).await;
    assert_eq!(below(&[&all, &mine, &typed, &tagged_ones]), [9, 4, 7, 9]);
    for subscription in [&mut all, &mut mine, &mut typed, &mut tagged_ones] {
        assert!(subscription.wait().await);
    }
    // Nobody waits for these types any more.
    drop(typed);
    let delete = DeleteStream { actor: actor(), stream: stream("mine"), expected: Expected::Any };
    store.delete_stream(&tenant, delete).await.unwrap();
    add("other", vec![event("rare", "8")]).await;
    assert_eq!((mine.below(), tagged_ones.below()), (10, 9));
}
