//! Time of each case: `cargo bench -p micro`. `cargo test` runs each once.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn parts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parts");
    for case in micro::CASES {
        group.throughput(Throughput::Elements(case.operations));
        let mut call = (case.prepare)();
        group.bench_function(case.name, |bencher| bencher.iter(&mut call));
    }
    group.finish();
}

criterion_group!(benches, parts);
criterion_main!(benches);
