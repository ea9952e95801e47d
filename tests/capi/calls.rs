//! The functions, called as C does: right calls, wrong ones, damaged archives, several threads.

use residuum::capi::*;
use residuum::{Bound, Config, Effort, Field, PredictorChoice};
use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};

const F32: i32 = ElementType::F32 as i32;
const F64: i32 = ElementType::F64 as i32;

/// A context, freed at the end.
struct Handle(*mut Context);

impl Handle {
    fn new(bound: f64) -> Self {
        let mut context = null_mut();
        assert_eq!(unsafe { residuum_context_new(&mut context) }, Status::Ok);
        assert_eq!(unsafe { residuum_set_bound(context, BoundMode::Abs as i32, bound) }, Status::Ok);
        Self(context)
    }

    fn message(&self) -> String {
        unsafe { CStr::from_ptr(residuum_last_error(self.0)) }.to_str().unwrap().to_owned()
    }

    fn compress(&self, values: &[f32], shape: &[usize], archive: &mut [u8]) -> (Status, usize) {
        let mut n = usize::MAX;
        let (room, capacity) = (archive.as_mut_ptr().cast(), archive.len());
        let values = values.as_ptr().cast();
        let status =
            unsafe { residuum_compress(self.0, F32, values, shape.len(), shape.as_ptr(), room, capacity, &mut n) };
        (status, n)
    }

    fn decompress(&self, archive: &[u8], values: &mut [f32]) -> Status {
        let (room, capacity) = (values.as_mut_ptr().cast(), values.len());
        unsafe { residuum_decompress(self.0, archive.as_ptr().cast(), archive.len(), 0, F32, room, capacity) }
    }

    fn max_bytes(&self, shape: &[usize]) -> usize {
        let mut n = 0;
        let status = unsafe { residuum_max_archive_bytes(self.0, F32, shape.len(), shape.as_ptr(), &mut n) };
        assert_eq!(status, Status::Ok, "{}", self.message());
        n
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        unsafe { residuum_context_free(self.0) };
    }
}

fn wave(shape: &[usize]) -> Vec<f32> {
    let nx = shape[shape.len() - 1];
    let n: usize = shape.iter().product();
    (0..n).map(|i| 280.0 + ((i % nx) as f32 * 0.1).sin() * 9.0 + ((i / nx) as f32 * 0.07).cos() * 4.0).collect()
}

#[test]
fn archives_are_those_of_rust_callers() {
    let shape = [3, 40, 60];
    let values = wave(&shape);
    let field = Field::new(&values, &shape).unwrap();
    for (effort, level) in [(Effort::Fast, 0), (Effort::Balanced, 1), (Effort::Best, 2)] {
        for (predictor, kind) in
            [(PredictorChoice::Auto, 0), (PredictorChoice::Lorenzo, 2), (PredictorChoice::Fitted, 4)]
        {
            for (bound, mode) in
                [(Bound::abs(0.01), 0), (Bound::rel(1e-3), 1), (Bound::pw_rel(1e-4), 2), (Bound::psnr(70.0), 3)]
            {
                for fill in [None, Some(values[7])] {
                    let c = Handle::new(1.0);
                    unsafe {
                        assert_eq!(residuum_set_bound(c.0, mode, bound.value), Status::Ok);
                        assert_eq!(residuum_set_effort(c.0, level), Status::Ok);
                        assert_eq!(residuum_set_predictor(c.0, kind), Status::Ok);
                        assert_eq!(residuum_set_verify(c.0, 1), Status::Ok);
                        assert_eq!(residuum_set_threads(c.0, 2), Status::Ok);
                        assert_eq!(residuum_set_tile_bytes(c.0, 1 << 14), Status::Ok);
                        if let Some(fill) = fill {
                            assert_eq!(residuum_set_fill(c.0, fill.into()), Status::Ok);
                        }
                    }
                    let config =
                        Config::new(bound).with_effort(effort).with_predictor(predictor).with_tile_bytes(1 << 14);
                    let field = fill.map_or(field, |f| field.with_fill(f));
                    let expected = residuum::compress(&field, &config).unwrap();
                    let mut archive = vec![0; c.max_bytes(&shape)];
                    let (status, n) = c.compress(&values, &shape, &mut archive);
                    assert_eq!((status, n), (Status::Ok, expected.len()), "{}", c.message());
                    assert!(archive[..n] == expected, "{bound} {effort:?} {predictor:?}");
                    let mut restored = vec![f32::NAN; values.len() + 3];
                    assert_eq!(c.decompress(&archive[..n], &mut restored), Status::Ok, "{}", c.message());
                    assert_eq!(restored[..values.len()], residuum::decompress::<f32>(&expected).unwrap().0);
                    assert!(restored[values.len()..].iter().all(|v| v.is_nan()), "written beyond the values");
                }
            }
        }
    }
}

#[test]
fn buffers_too_small_say_what_is_needed() {
    let (c, shape) = (Handle::new(0.01), [50, 50]);
    let values = wave(&shape);
    let mut archive = vec![0; c.max_bytes(&shape)];
    let (status, needed) = c.compress(&values, &shape, &mut archive);
    assert_eq!(status, Status::Ok);
    for room in [0, 1, needed / 2, needed - 1] {
        let mut small = vec![7; needed];
        let (status, n) = c.compress(&values, &shape, &mut small[..room]);
        assert_eq!((status, n), (Status::BufferTooSmall, needed));
        assert!(c.message().contains(&needed.to_string()), "{}", c.message());
        assert!(small[room..].iter().all(|&b| b == 7), "written beyond the buffer");
    }
    let (status, n) = c.compress(&values, &shape, &mut archive[..needed]);
    assert_eq!((status, n, c.message()), (Status::Ok, needed, String::new()));

    let mut few = vec![1.5; 2499];
    assert_eq!(c.decompress(&archive[..needed], &mut few), Status::BufferTooSmall);
    assert!(c.message().contains("2500 ") || c.message().ends_with("2500"), "{}", c.message());
    assert!(few.iter().all(|&v| v == 1.5), "written although there is too little room");
}

#[test]
fn memory_of_the_library_is_used_again_and_freed_once() {
    let (c, shape) = (Handle::new(0.01), [60, 70]);
    let values = wave(&shape);
    let compress = |archive: &mut Bytes, shape: &[usize]| unsafe {
        residuum_compress_owned(c.0, F32, values.as_ptr().cast(), shape.len(), shape.as_ptr(), archive)
    };
    let mut archive = Bytes { data: null_mut(), len: 0, capacity: 0 };
    assert_eq!(compress(&mut archive, &shape), Status::Ok, "{}", c.message());
    let first = unsafe { std::slice::from_raw_parts(archive.data, archive.len) }.to_vec();
    let at = archive.data;
    assert_eq!(compress(&mut archive, &shape), Status::Ok);
    assert_eq!(archive.data, at, "memory was not used again");
    assert_eq!(unsafe { std::slice::from_raw_parts(archive.data, archive.len) }, first);
    assert_eq!(compress(&mut archive, &[60, 0]), Status::Ok);
    assert!(archive.len < first.len());
    // A call that fails leaves something that can be freed.
    assert_eq!(compress(&mut archive, &[1, 1, 1, 1, 1, 1]), Status::Usage);
    unsafe {
        residuum_bytes_free(&mut archive);
        residuum_bytes_free(&mut archive);
        residuum_bytes_free(null_mut());
    }
    assert!(archive.data.is_null() && archive.capacity == 0);
}

#[test]
fn wrong_calls_are_refused_with_a_message() {
    let (c, shape) = (Handle::new(0.01), [4, 5]);
    let values = wave(&shape);
    let mut archive = vec![0; 4096];
    let (room, capacity) = (archive.as_mut_ptr().cast::<c_void>(), archive.len());
    let (v, s): (*const c_void, *const usize) = (values.as_ptr().cast(), shape.as_ptr());
    let mut n = 0;
    let huge = [usize::MAX / 2, 3];
    let large = [1usize << 31, 1 << 31];
    let odd = unsafe { v.cast::<u8>().add(1) }.cast::<c_void>();
    unsafe {
        let calls = [
            (residuum_compress(c.0, F32, null(), 2, s, room, capacity, &mut n), "null values"),
            (residuum_compress(c.0, F32, v, 2, null(), room, capacity, &mut n), "null shape"),
            (residuum_compress(c.0, F32, v, 2, s, null_mut(), capacity, &mut n), "null archive"),
            (residuum_compress(c.0, F32, v, 2, s, room, capacity, null_mut()), "null length"),
            (residuum_compress(c.0, F32, odd, 2, s, room, capacity, &mut n), "values not aligned"),
            (residuum_compress(c.0, 4, v, 2, s, room, capacity, &mut n), "integers"),
            (residuum_compress(c.0, -1, v, 2, s, room, capacity, &mut n), "no type"),
            (residuum_compress(c.0, F32, v, 0, s, room, capacity, &mut n), "no dimensions"),
            (residuum_compress(c.0, F32, v, 2, huge.as_ptr(), room, capacity, &mut n), "overflow"),
            (residuum_compress(c.0, F32, v, 2, large.as_ptr(), room, capacity, &mut n), "more than memory"),
            (residuum_compress_owned(c.0, F32, v, 2, s, null_mut()), "null bytes"),
            (residuum_max_archive_bytes(c.0, F64, 2, huge.as_ptr(), &mut n), "worst case overflow"),
            (residuum_set_bound(c.0, 4, 1.0), "mode"),
            (residuum_set_bound(c.0, -1, 1.0), "negative mode"),
            (residuum_set_bound(c.0, 0, f64::NAN), "NaN"),
            (residuum_set_bound(c.0, 1, 1.0), "range bound of 1"),
            (residuum_set_effort(c.0, 3), "effort"),
            (residuum_set_predictor(c.0, 5), "predictor"),
            (residuum_set_threads(c.0, u32::MAX), "threads"),
            (residuum_decompress(c.0, null(), 5, 0, F32, room, 1), "null archive to read"),
            (residuum_find_variable(c.0, room, 5, null(), &mut n), "null name"),
        ];
        for (status, what) in calls {
            assert_eq!(status, Status::Usage, "{what}");
        }
        assert_eq!(residuum_set_effort(c.0, 3), Status::Usage);
        assert!(c.message().contains('3'), "{}", c.message());
        assert_eq!(residuum_set_bound(null_mut(), 0, 1.0), Status::Usage);
        assert_eq!(residuum_context_new(null_mut()), Status::Usage);
        assert!(!CStr::from_ptr(residuum_last_error(null())).is_empty());
        residuum_context_free(null_mut());
        // Settings that were refused changed nothing.
        assert_eq!(residuum_compress(c.0, F32, v, 2, s, room, capacity, &mut n), Status::Ok, "{}", c.message());
    }
    assert!(
        archive[..n]
            == residuum::compress(&Field::new(&values, &shape).unwrap(), &Config::new(Bound::abs(0.01))).unwrap()
    );
    // Buffers of no length may be null; a bound must be set.
    let mut context = null_mut();
    unsafe {
        residuum_context_new(&mut context);
        let none = [0usize];
        assert_eq!(residuum_compress(context, F32, null(), 1, none.as_ptr(), room, capacity, &mut n), Status::Usage);
        assert!(CStr::from_ptr(residuum_last_error(context)).to_str().unwrap().contains("residuum_set_bound"));
        residuum_set_bound(context, 0, 1.0);
        assert_eq!(residuum_compress(context, F32, null(), 1, none.as_ptr(), room, capacity, &mut n), Status::Ok);
        assert_eq!(residuum_decompress(context, room, n, 0, F32, null_mut(), 0), Status::Ok);
        residuum_context_free(context);
    }
}

#[test]
fn every_kind_of_error_has_its_status() {
    let (c, shape) = (Handle::new(0.01), [30, 30]);
    let values = wave(&shape);
    let mut archive = vec![0; c.max_bytes(&shape)];
    let n = c.compress(&values, &shape, &mut archive).1;
    archive.truncate(n);
    let mut restored = vec![0.0; 900];
    let changed = |at: usize, byte: u8| {
        let mut changed = archive.clone();
        changed[at] = byte;
        changed
    };
    for (bytes, status, word) in [
        (changed(0, b'x'), Status::Input, "not a residuum archive"),
        (changed(8, 99), Status::Unsupported, "99"),
        (changed(n / 2, !archive[n / 2]), Status::Corrupt, ""),
        (archive[..n - 1].to_vec(), Status::Corrupt, "incomplete"),
        (vec![], Status::Input, "too short"),
    ] {
        assert_eq!(c.decompress(&bytes, &mut restored), status, "{}", c.message());
        assert!(c.message().contains(word) && !c.message().is_empty(), "{}", c.message());
    }
    unsafe {
        let (a, room) = (archive.as_ptr().cast(), restored.as_mut_ptr().cast());
        assert_eq!(residuum_decompress(c.0, a, n, 0, F64, room, 900), Status::Usage);
        assert!(c.message().contains("f32"), "{}", c.message());
        assert_eq!(residuum_decompress(c.0, a, n, 1, F32, room, 900), Status::Usage);
    }
    // A bound that the type can not hold is refused when the type is known.
    unsafe { residuum_set_bound(c.0, 0, 1e-60) };
    assert_eq!(c.compress(&values, &shape, &mut [0; 64]).0, Status::Usage);
    let text = |status| unsafe { CStr::from_ptr(residuum_status_text(status)) };
    for status in [0, 1, 2, 3, 4, 5, 6, 7, 64, 65] {
        assert!(!text(status).is_empty() && text(status) != text(-7), "{status}");
    }
    assert_eq!(unsafe { CStr::from_ptr(residuum_version()) }.to_str().unwrap(), env!("CARGO_PKG_VERSION"));
    assert_eq!(residuum_abi_version(), ABI_VERSION);
}

/// Every byte of an archive changed: a status or the same values, never a crash.
#[test]
fn damage_gives_a_status() {
    let (c, shape) = (Handle::new(0.01), [9, 20]);
    let values = wave(&shape);
    let mut archive = vec![0; c.max_bytes(&shape)];
    let n = c.compress(&values, &shape, &mut archive).1;
    archive.truncate(n);
    let mut whole = vec![0.0; 180];
    assert_eq!(c.decompress(&archive, &mut whole), Status::Ok);
    for at in 0..n {
        let mut damaged = archive.clone();
        damaged[at] = !damaged[at];
        let mut restored = vec![0.0; 180];
        match c.decompress(&damaged, &mut restored) {
            Status::Ok => assert_eq!(restored, whole),
            status => {
                assert!(matches!(status, Status::Corrupt | Status::Input | Status::Unsupported), "{at}: {status:?}")
            }
        }
        let mut d = described();
        unsafe { residuum_inspect(c.0, damaged.as_ptr().cast(), n, 0, &mut d) };
    }
}

fn described() -> Variable {
    // SAFETY: numbers only.
    let mut d: Variable = unsafe { std::mem::zeroed() };
    d.struct_bytes = size_of::<Variable>();
    d
}

#[test]
fn archives_are_described() {
    let c = Handle::new(0.5);
    let shape = [2usize, 3, 4];
    let values: Vec<f64> = (0..24).map(f64::from).collect();
    let mut archive = Bytes { data: null_mut(), len: 0, capacity: 0 };
    let inspect = |archive: &Bytes| {
        let mut d = described();
        let status = unsafe { residuum_inspect(c.0, archive.data.cast(), archive.len, 0, &mut d) };
        assert_eq!(status, Status::Ok, "{}", c.message());
        d
    };
    for (mode, value, largest, fill) in
        [(0, 0.5, 0.5, None), (1, 0.1, 2.3, Some(-1.0)), (2, 0.1, f64::INFINITY, None), (0, 0.0, 0.0, None)]
    {
        unsafe {
            residuum_set_bound(c.0, mode, value);
            match fill {
                Some(fill) => residuum_set_fill(c.0, fill),
                None => residuum_unset_fill(c.0),
            };
            let v = values.as_ptr().cast();
            assert_eq!(residuum_compress_owned(c.0, F64, v, 3, shape.as_ptr(), &mut archive), Status::Ok);
        }
        let d = inspect(&archive);
        assert_eq!((d.element_type, d.n_dims, d.n_values), (F64, 3, 24));
        assert_eq!(d.shape[..4], [2, 3, 4, 0]);
        assert_eq!((d.bound_mode, d.bound_value), (mode, value));
        assert!(d.max_abs_error == largest || (d.max_abs_error - largest).abs() < 1e-12, "{}", d.max_abs_error);
        assert_eq!((d.has_fill != 0).then_some(d.fill), fill);
        assert!(d.stored_bytes > 0 && d.stored_bytes < archive.len as u64);
    }
    let (a, n) = (archive.data.cast::<c_void>().cast_const(), archive.len);
    unsafe {
        let mut count = 0;
        assert_eq!((residuum_count_variables(c.0, a, n, &mut count), count), (Status::Ok, 1));
        let mut name = [1; 8];
        let mut len = 0;
        assert_eq!(residuum_variable_name(c.0, a, n, 0, name.as_mut_ptr(), 4, &mut len), Status::BufferTooSmall);
        assert_eq!((len, name[4]), (5, 1));
        assert_eq!(residuum_variable_name(c.0, a, n, 0, name.as_mut_ptr(), 8, &mut len), Status::Ok);
        assert_eq!(CStr::from_ptr(name.as_ptr()), c"data");
        assert_eq!(residuum_variable_name(c.0, a, n, 1, name.as_mut_ptr(), 8, &mut len), Status::Usage);
        assert_eq!((residuum_find_variable(c.0, a, n, c"data".as_ptr(), &mut count), count), (Status::Ok, 0));
        assert_eq!(residuum_find_variable(c.0, a, n, c"other".as_ptr(), &mut count), Status::Usage);
        let mut d = described();
        d.struct_bytes = 8;
        assert_eq!(residuum_inspect(c.0, a, n, 0, &mut d), Status::Usage);
        residuum_bytes_free(&mut archive);
    }
}

/// Archives of files hold other types too.
#[test]
fn variables_of_files_come_back() {
    use residuum::io::{Format, Schema};
    let mut schema = Schema::single(Format::Npy, "counts", residuum::DType::I16, &[6]);
    schema.variables.push(Schema::single(Format::Npy, "words", residuum::DType::Text, &[1]).variables.remove(0));
    let mut source = Both(schema);
    let config = Config::new(Bound::rel(1e-3));
    let archive = residuum::compress_source(&mut source, Vec::new(), &config, &mut |_| ()).unwrap();
    let c = Handle::new(1.0);
    let mut counts = [0i16; 6];
    unsafe {
        let (a, n) = (archive.as_ptr().cast(), archive.len());
        let i16 = ElementType::I16 as i32;
        assert_eq!(
            residuum_decompress(c.0, a, n, 0, i16, counts.as_mut_ptr().cast(), 6),
            Status::Ok,
            "{}",
            c.message()
        );
        let text = ElementType::Text as i32;
        assert_eq!(residuum_decompress(c.0, a, n, 1, text, counts.as_mut_ptr().cast(), 6), Status::Unsupported);
    }
    assert_eq!(counts, [0, -1, -2, -3, -4, -5]);
}

struct Both(residuum::io::Schema);

impl residuum::io::Source for Both {
    fn schema(&self) -> &residuum::io::Schema {
        &self.0
    }
    fn read(&mut self, variable: usize, region: &[std::ops::Range<u64>]) -> residuum::Result<residuum::Values> {
        Ok(match variable {
            0 => residuum::Values::I16(region[0].clone().map(|i| -(i as i16)).collect()),
            _ => residuum::Values::Text(vec!["word".into()]),
        })
    }
}

#[test]
fn each_thread_has_its_context() {
    let shape = [40, 200];
    let expected =
        residuum::compress(&Field::new(&wave(&shape), &shape).unwrap(), &Config::new(Bound::abs(0.01))).unwrap();
    std::thread::scope(|scope| {
        for n_threads in [0, 0, 1, 2, 3, 0] {
            let expected = &expected;
            scope.spawn(move || {
                let (c, values) = (Handle::new(0.01), wave(&shape));
                assert_eq!(unsafe { residuum_set_threads(c.0, n_threads) }, Status::Ok);
                let mut archive = vec![0; c.max_bytes(&shape)];
                let mut restored = vec![0.0; values.len()];
                for _ in 0..10 {
                    let (status, n) = c.compress(&values, &shape, &mut archive);
                    assert!(status == Status::Ok && archive[..n] == *expected, "{}", c.message());
                    assert_eq!(c.decompress(&archive[..n], &mut restored), Status::Ok);
                }
                assert!(values.iter().zip(&restored).all(|(x, y)| (x - y).abs() <= 0.01));
            });
        }
    });
}
