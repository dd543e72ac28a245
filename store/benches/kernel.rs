//! The codec, the kernel and proofs without disk and network.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kimberlite_store::{
    measure::{Bench, commit},
    proof::{consistency, inclusion},
};

use crate::{
    kept::{Kept, SIZE},
    support::Chance,
};

#[path = "../tests/proof/kept.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod kept;
#[path = "../tests/proof/support.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod support;

fn codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");
    for bytes in [256, 4096] {
        let json = vec![b'1'; bytes];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("commit to a payload of {bytes} B"), |b| {
            b.iter(|| commit(&json));
        });
    }
    let mut bench = Bench::new(100, 256);
    let command = bench.resolve();
    let frame = bench.decide(vec![command]);
    group.throughput(Throughput::Bytes(frame.len() as u64));
    group.bench_function("check an op of 100 events of 256 B", |b| b.iter(|| Bench::check(&frame)));
    group.finish();
}

fn kernel(c: &mut Criterion) {
    let mut group = c.benchmark_group("kernel");
    for events in [1, 100] {
        let asking = Bench::new(events, 256);
        let mut bench = Bench::new(events, 256);
        group.throughput(Throughput::Elements(64 * events as u64));
        group.bench_function(format!("resolve 64 appends of {events}"), |b| {
            b.iter(|| (0..64).map(|_| bench.resolve()).collect::<Vec<_>>());
        });
        group.bench_function(format!("decide and encode 64 appends of {events}"), |b| {
            b.iter_batched(
                || (0..64).map(|_| asking.resolve()).collect::<Vec<_>>(),
                |commands| bench.decide(commands),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn proofs(c: &mut Criterion) {
    let mut group = c.benchmark_group("proof among 10,000,000 records");
    let (kept, mut chance) = (Kept::new(), Chance(5));
    group.bench_function("of a record", |b| {
        b.iter(|| inclusion(chance.below(SIZE), SIZE, kept.read()));
    });
    group.bench_function("of growth", |b| {
        b.iter(|| consistency(1 + chance.below(SIZE), SIZE, kept.read()));
    });
    group.finish();
}

criterion_group!(benches, codec, kernel, proofs);
criterion_main!(benches);
