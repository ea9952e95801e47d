//! The C interface on memory of the software driver's device, called as C does.

use crate::registry::{FILL, Random, content};
use residuum::capi::*;
use residuum::device::cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use residuum::{Bound, Config, Effort, Field};
use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};
use std::sync::Arc;

const F32: i32 = ElementType::F32 as i32;

/// A context with a bound, freed at the end.
struct Handle(*mut Context);

impl Handle {
    fn new() -> Self {
        let mut context = null_mut();
        unsafe {
            assert_eq!(residuum_context_new(&mut context), Status::Ok);
            assert_eq!(residuum_set_bound(context, BoundMode::Rel as i32, 1e-3), Status::Ok);
            assert_eq!(residuum_set_effort(context, EffortLevel::Fast as i32), Status::Ok);
            assert_eq!(residuum_set_fill(context, FILL), Status::Ok);
        }
        Self(context)
    }

    fn message(&self) -> String {
        unsafe { CStr::from_ptr(residuum_last_error(self.0)) }.to_str().unwrap().to_owned()
    }

    fn compress(&self, values: *const c_void, to: *mut c_void, capacity: usize, n: &mut usize) -> Status {
        unsafe { residuum_compress_device(self.0, F32, values, 2, SHAPE.as_ptr(), to, capacity, n, null_mut()) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        unsafe { residuum_context_free(self.0) };
    }
}

const SHAPE: [usize; 2] = [50, 61];

fn address<T>(slice: &CudaSlice<T>, stream: &CudaStream) -> *const c_void {
    slice.device_ptr(stream).0 as *const c_void
}

fn room<T>(slice: &mut CudaSlice<T>, stream: &CudaStream) -> *mut c_void {
    slice.device_ptr_mut(stream).0 as *mut c_void
}

fn start() -> (Arc<CudaStream>, Vec<f32>, Vec<u8>) {
    let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
    let values: Vec<f32> = content("fill", &SHAPE, &mut Random(2)).iter().map(|&v| v as f32).collect();
    let field = Field::new(&values, &SHAPE).unwrap().with_fill(FILL as f32);
    let expected = residuum::compress(&field, &Config::new(Bound::rel(1e-3)).with_effort(Effort::Fast)).unwrap();
    (stream, values, expected)
}

#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn calls() {
    let (stream, values, expected) = start();
    let on_device = stream.clone_htod(&values).unwrap();
    let at = address(&on_device, &stream);
    let c = Handle::new();
    let mut capacity = 0;
    unsafe {
        assert_eq!(residuum_max_archive_bytes(c.0, F32, 2, SHAPE.as_ptr(), &mut capacity), Status::Ok);
        assert_eq!(residuum_reserve_device(c.0, 0, F32, 2, SHAPE.as_ptr()), Status::Ok, "{}", c.message());
        let mut bytes = 0;
        assert_eq!(residuum_device_workspace_bytes(c.0, &mut bytes), Status::Ok);
        assert!(bytes > values.len() * 20, "{bytes}");
    }
    // To the host, to the device.
    let (mut n, mut archive) = (0, vec![0u8; capacity]);
    assert_eq!(c.compress(at, archive.as_mut_ptr().cast(), capacity, &mut n), Status::Ok, "{}", c.message());
    assert!(archive[..n] == expected);
    let mut there = stream.alloc_zeros::<u8>(capacity).unwrap();
    let place = room(&mut there, &stream);
    assert_eq!(c.compress(at, place, capacity, &mut n), Status::Ok, "{}", c.message());
    assert!(stream.clone_dtoh(&there).unwrap()[..n] == expected);
    // And back, from both, on a stream of the caller's.
    let wanted = residuum::decompress::<f32>(&expected).unwrap().0;
    for from in [expected.as_ptr().cast(), place.cast_const()] {
        let mut restored = stream.alloc_zeros::<f32>(values.len() + 1).unwrap();
        let (to, s) = (room(&mut restored, &stream), stream.cu_stream().cast());
        let status = unsafe { residuum_decompress_device(c.0, from, n, 0, F32, to, values.len() + 1, s) };
        assert_eq!(status, Status::Ok, "{}", c.message());
        let restored = stream.clone_dtoh(&restored).unwrap();
        assert!(restored[..values.len()].iter().zip(&wanted).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert_eq!(restored[values.len()], 0.0);
        let status = unsafe { residuum_decompress_device(c.0, from, n, 0, F32, to, values.len() - 1, s) };
        assert_eq!(status, Status::BufferTooSmall, "{}", c.message());
        for (variable, kind) in [(1, F32), (0, ElementType::F64 as i32), (0, 4)] {
            let status = unsafe { residuum_decompress_device(c.0, from, n, variable, kind, to, 1 << 20, s) };
            assert_eq!(status, Status::Usage, "{}", c.message());
        }
        let status = unsafe { residuum_decompress_device(c.0, from, n - 1, 0, F32, to, values.len(), s) };
        assert_eq!(status, Status::Corrupt, "{}", c.message());
    }
    // Too little room is said, with what there must be.
    for to in [archive.as_mut_ptr().cast(), place] {
        n = 0;
        assert_eq!(c.compress(at, to, expected.len() - 1, &mut n), Status::BufferTooSmall);
        assert_eq!(n, expected.len());
        assert_eq!(c.compress(at, to, expected.len(), &mut n), Status::Ok);
    }
    // A batch.
    let (first, second) = archive.split_at_mut(capacity / 2);
    let places = [first.as_mut_ptr().cast::<c_void>(), second.as_mut_ptr().cast()];
    let mut sizes = [0; 2];
    let status = unsafe {
        let (fields, shape, each) = ([at, at], SHAPE.as_ptr(), capacity / 2);
        let (f, p) = (fields.as_ptr(), places.as_ptr());
        residuum_compress_device_batch(c.0, F32, 2, f, 2, shape, p, each, sizes.as_mut_ptr(), null_mut())
    };
    assert_eq!((status, sizes), (Status::Ok, [expected.len(); 2]), "{}", c.message());
    assert!(first[..expected.len()] == expected && second[..expected.len()] == expected);
}

#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn wrong_calls() {
    let (stream, values, expected) = start();
    let on_device = stream.clone_htod(&values).unwrap();
    let at = address(&on_device, &stream);
    let c = Handle::new();
    let (mut n, mut archive) = (0, vec![0u8; 1 << 16]);
    let to = archive.as_mut_ptr().cast::<c_void>();
    let odd = unsafe { at.cast::<u8>().add(2) }.cast();
    for (values, to, what) in [
        (null(), to, "null values"),
        (values.as_ptr().cast(), to, "values of the host"),
        (odd, to, "values not aligned"),
        (at, null_mut(), "null archive"),
    ] {
        assert_eq!(c.compress(values, to, 1 << 16, &mut n), Status::Usage, "{what}");
        assert!(!c.message().is_empty());
    }
    unsafe {
        let (s, e) = (SHAPE.as_ptr(), expected.as_ptr().cast());
        let status = residuum_compress_device(c.0, F32, at, 2, s, to, 1 << 16, null_mut(), null_mut());
        assert_eq!(status, Status::Usage, "null size");
        let status = residuum_decompress_device(c.0, e, expected.len(), 0, F32, to, values.len(), null_mut());
        assert_eq!(status, Status::Usage, "values of the host: {}", c.message());
        assert_eq!(residuum_reserve_device(c.0, 3, F32, 2, s), Status::Device);
        assert_eq!(residuum_reserve_device(c.0, -1, F32, 2, s), Status::Usage);
        // After errors another effort gives the CPU's bytes too.
        assert_eq!(residuum_set_effort(c.0, EffortLevel::Balanced as i32), Status::Ok);
        assert_eq!(c.compress(at, to, 1 << 16, &mut n), Status::Ok, "{}", c.message());
        let field = Field::new(&values, &SHAPE).unwrap().with_fill(FILL as f32);
        assert!(archive[..n] == residuum::compress(&field, &Config::new(Bound::rel(1e-3))).unwrap());
        assert_eq!(residuum_set_effort(c.0, EffortLevel::Fast as i32), Status::Ok);
    }
    assert_eq!(c.compress(at, to, 1 << 16, &mut n), Status::Ok, "{}", c.message());
    assert!(archive[..n] == expected);
}

/// Every fault is a status, leaves nothing behind, and the context works again.
#[test]
#[ignore = "needs the software driver: main.rs runs it"]
fn faults() {
    let (stream, values, expected) = start();
    let on_device = stream.clone_htod(&values).unwrap();
    let mut there = stream.alloc_zeros::<u8>(1 << 16).unwrap();
    let mut restored = stream.alloc_zeros::<f32>(values.len()).unwrap();
    let (at, place, back) = (address(&on_device, &stream), room(&mut there, &stream), room(&mut restored, &stream));
    let life = |c: &Handle| -> Status {
        let mut n = 0;
        let mut status = c.compress(at, place, 1 << 16, &mut n);
        if status == Status::Ok {
            let n_values = values.len();
            status = unsafe { residuum_decompress_device(c.0, place, n, 0, F32, back, n_values, null_mut()) };
        }
        status
    };
    let counters = super::counters;
    assert_eq!(life(&Handle::new()), Status::Ok);
    for kind in ["alloc", "launch", "module", "copy", "sync", "lost"] {
        let mut n_failed = 0;
        for n in 1.. {
            // SAFETY: one thread but for those of rayon, which read no environment by now.
            unsafe { std::env::set_var("CUEMU_FAIL", format!("{kind}:{n}")) };
            super::profiler_start().unwrap();
            let c = Handle::new();
            let status = life(&c);
            // Stops the fault.
            counters();
            if status == Status::Ok && !(kind == "module" && n == 1) {
                break;
            }
            assert!(matches!(status, Status::Device | Status::Ok), "{kind} {n}: {}", c.message());
            assert_eq!(life(&c), Status::Ok, "{kind} {n}: {}", c.message());
            drop(c);
            super::profiler_start().unwrap();
            // The test's own three.
            assert_eq!(counters()["live"], 3, "{kind} {n}");
            n_failed += 1;
        }
        println!("{kind}: {n_failed} faults");
        assert!(n_failed >= 1, "{kind}");
    }
    assert!(stream.clone_dtoh(&there).unwrap()[..expected.len()] == expected);
}
