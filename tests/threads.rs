//! Many fields at once: from a pool, from within a user's own pool, from several threads of the system. Results are those of
//! one field after the other, stacks stay shallow, and nothing waits for itself.

use rayon::prelude::*;
use residuum::{Bound, Config, Effort, Field, compress, decompress};
use std::sync::mpsc;
use std::time::Duration;

/// Fields small enough that many are at work at once, of sizes that do not fit each other.
fn fields(n: usize) -> Vec<(Vec<f32>, [usize; 3])> {
    (0..n)
        .map(|k| {
            let shape = [1 + k % 3, 20 + k % 13, 30 + k % 17];
            let n: usize = shape.iter().product();
            let wave = |i: usize| ((i * (k + 3)) as f32 * 0.01).sin() * 10.0 + (i % shape[2]) as f32 * 0.2;
            ((0..n).map(wave).collect(), shape)
        })
        .collect()
}

fn config(k: usize) -> Config {
    let effort = if k.is_multiple_of(4) { Effort::Balanced } else { Effort::Fast };
    // Some with the inner parallel steps of a check, a logarithm or a mean square.
    let bound = [Bound::abs(0.01), Bound::rel(1e-3), Bound::pw_rel(1e-3), Bound::psnr(60.0)][k % 4];
    Config::new(bound).with_effort(effort).with_verify(k.is_multiple_of(5))
}

fn archive(k: usize, field: &(Vec<f32>, [usize; 3])) -> Vec<u8> {
    compress(&Field::new(&field.0, &field.1).unwrap(), &config(k)).unwrap()
}

/// There and back.
fn round_trip(k: usize, field: &(Vec<f32>, [usize; 3])) -> (Vec<u8>, Vec<u32>) {
    let archive = archive(k, field);
    let bits = decompress::<f32>(&archive).unwrap().0.iter().map(|v| v.to_bits()).collect();
    (archive, bits)
}

/// Runs `f`, and fails instead of hanging if it waits for ever.
fn within_minutes<R: Send + 'static>(what: &str, f: impl FnOnce() -> R + Send + 'static) -> R {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(f()));
    receiver.recv_timeout(Duration::from_secs(240)).unwrap_or_else(|e| panic!("{what}: {e}"))
}

fn pool(n_threads: usize) -> rayon::ThreadPool {
    // Half of what threads have by default: nesting shows early.
    rayon::ThreadPoolBuilder::new().num_threads(n_threads).stack_size(1 << 20).build().unwrap()
}

#[test]
fn many_fields_at_once_in_a_pool() {
    let fields = fields(600);
    let alone: Vec<_> = fields.iter().enumerate().map(|(k, f)| round_trip(k, f)).collect();
    for n_threads in [1, 2, 8] {
        let (fields, alone) = (fields.clone(), alone.clone());
        within_minutes(&format!("{n_threads} threads"), move || {
            let together: Vec<_> =
                pool(n_threads).install(|| fields.par_iter().enumerate().map(|(k, f)| round_trip(k, f)).collect());
            for (k, (a, b)) in alone.iter().zip(&together).enumerate() {
                assert!(a == b, "field {k} on {n_threads} threads");
            }
        });
    }
}

/// Each field a task of its own, all there at once: the most that threads can take on top of each other.
#[test]
fn many_tasks_of_a_users_scope() {
    for n_threads in [1, 2, 8] {
        within_minutes(&format!("{n_threads} threads"), move || {
            let fields = fields(400);
            let alone: Vec<_> = fields.iter().enumerate().map(|(k, f)| archive(k, f)).collect();
            let mut together = vec![Vec::new(); fields.len()];
            pool(n_threads).scope(|scope| {
                for (k, (place, field)) in together.iter_mut().zip(&fields).enumerate() {
                    scope.spawn(move |_| *place = archive(k, field));
                }
            });
            assert!(together == alone, "{n_threads} threads");
        });
    }
}

#[test]
fn several_threads_of_the_system_at_once() {
    within_minutes("eight threads", || {
        let fields = fields(40);
        let alone: Vec<_> = fields.iter().enumerate().map(|(k, f)| round_trip(k, f)).collect();
        // Half share a pool, the others the process's.
        let shared = pool(3);
        std::thread::scope(|scope| {
            for t in 0..8 {
                let (fields, alone, shared) = (&fields, &alone, &shared);
                scope.spawn(move || {
                    for i in 0..fields.len() {
                        let k = (i + 5 * t) % fields.len();
                        let done = if t.is_multiple_of(2) {
                            shared.install(|| round_trip(k, &fields[k]))
                        } else {
                            round_trip(k, &fields[k])
                        };
                        assert!(done == alone[k], "field {k} on thread {t}");
                    }
                });
            }
        });
    });
}

/// Tiles whose steps are coded in two chains: the same on any number of threads, alone and many at once.
#[test]
fn chains_of_a_tile() {
    let field = |shape: &[usize], k: usize| -> (Vec<f32>, Vec<usize>) {
        let nx = shape[shape.len() - 1];
        let image = nx * shape[shape.len() - 2];
        let wave = |i: usize| {
            let (step, y, x) = (i / image, i / nx % (image / nx), i % nx);
            let value = ((x + 3 * step) as f32 * 0.05).sin() * 20.0 + (y as f32 * 0.1 + k as f32).cos() * 7.0;
            if x < 20 && y > 30 { f32::NAN } else { value + (i * 7919 % 1009) as f32 * 1e-3 }
        };
        ((0..shape.iter().product()).map(wave).collect(), shape.to_vec())
    };
    fn through(field: &(Vec<f32>, Vec<usize>), effort: Effort) -> Vec<u8> {
        let config = Config::new(Bound::abs(0.01)).with_effort(effort);
        let archive = compress(&Field::new(&field.0, &field.1).unwrap(), &config).unwrap();
        let restored = decompress::<f32>(&archive).unwrap().0;
        let is_good = |(a, b): (&f32, &f32)| (a - b).abs() <= 0.01 || a.to_bits() == b.to_bits();
        assert!(field.0.iter().zip(&restored).all(is_good), "bound of {:?}", field.1);
        archive
    }
    // More than 2^18 values each; of one and of two leading axes; from the least number of steps on.
    let shapes: [&[usize]; 5] = [&[4, 250, 270], &[9, 170, 180], &[4, 3, 140, 160], &[7, 2, 150, 130], &[181, 39, 38]];
    let fields: Vec<_> = shapes.iter().enumerate().map(|(k, shape)| field(shape, k)).collect();
    for effort in [Effort::Balanced, Effort::Best] {
        let alone: Vec<_> = pool(1).install(|| fields.iter().map(|f| through(f, effort)).collect());
        for n_threads in [2, 3, 8] {
            let (fields, alone) = (fields.clone(), alone.clone());
            within_minutes(&format!("{n_threads} threads"), move || {
                let pool = pool(n_threads);
                let is_same = |field: &(Vec<f32>, Vec<usize>), alone: &Vec<u8>| {
                    assert!(through(field, effort) == *alone, "{:?} on {n_threads} threads", field.1);
                };
                fields.iter().zip(&alone).for_each(|(field, alone)| pool.install(|| is_same(field, alone)));
                let many: Vec<_> = fields.iter().zip(&alone).cycle().take(15).collect();
                pool.install(|| many.par_iter().for_each(|(field, alone)| is_same(field, alone)));
            });
        }
    }
}

/// Small tiles of all numbers of steps: with one stream chains are learned from one after the other, or one would wait for the other for ever.
#[test]
fn short_chains() {
    let mut shapes: Vec<Vec<usize>> =
        (1..40).flat_map(|n| [vec![n, 23, 24], vec![n, 2, 22, 25], vec![n, 5, 8, 70]]).collect();
    // Here the fourth image of chain 1 in the trial comes before that of chain 0.
    shapes.push(vec![11, 93, 100]);
    within_minutes("all numbers of steps", move || {
        let pool = pool(2);
        for shape in shapes {
            let value = |i: usize| ((i * i % 1009) as f32 * 0.01).sin() + (i % shape[shape.len() - 1]) as f32 * 0.2;
            let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
            for effort in [Effort::Balanced, Effort::Best] {
                let config = Config::new(Bound::abs(0.01)).with_effort(effort);
                let compressed = || compress(&Field::new(&values, &shape).unwrap(), &config).unwrap();
                let archive = compressed();
                assert!(pool.install(compressed) == archive, "{shape:?}");
                let restored = decompress::<f32>(&archive).unwrap().0;
                assert!(values.iter().zip(&restored).all(|(a, b)| (a - b).abs() <= 0.01), "bound of {shape:?}");
            }
        }
    });
}

/// A call inside a task that others of the same pool wait for.
#[test]
fn from_within_nested_work() {
    for n_threads in [1, 2, 8] {
        within_minutes(&format!("{n_threads} threads"), move || {
            let fields = fields(64);
            let alone: Vec<_> = fields.iter().enumerate().map(|(k, f)| archive(k, f)).collect();
            fn halves(from: usize, fields: &[(Vec<f32>, [usize; 3])]) -> Vec<Vec<u8>> {
                if let [field] = fields {
                    return vec![archive(from, field)];
                }
                let (a, b) = fields.split_at(fields.len() / 2);
                let (mut a, b) = rayon::join(|| halves(from, a), || halves(from + a.len(), b));
                a.extend(b);
                a
            }
            assert!(pool(n_threads).install(|| halves(0, &fields)) == alone, "{n_threads} threads");
        });
    }
}
