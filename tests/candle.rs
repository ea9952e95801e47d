//! candle's tensors on a GPU, through archives and back. Run by `tests/cuda-emulator/candle.sh` on the software driver.

use candle_core::{Device, Tensor};
use residuum::device::Gpu;
use residuum::{Bound, Config, Effort, Field, Kind};

#[test]
fn tensors_go_through_archives() {
    let device = Device::new_cuda(0).unwrap();
    let mut gpu = Gpu::of_candle(&device).unwrap();
    let values: Vec<f32> = (0..20 * 30 * 41).map(|i| 280.0 + (i as f32 * 0.003).sin() * 9.0).collect();
    let whole = Tensor::from_vec(values.clone(), (20, 30, 41), &device).unwrap();
    let config = Config::new(Bound::abs(0.01)).with_effort(Effort::Fast);
    // A part of a tensor, that starts in the middle of its memory.
    let part = whole.narrow(0, 3, 12).unwrap();
    let expected = &values[3 * 30 * 41..15 * 30 * 41];
    let archive = gpu.compress_tensor(&part, &config).unwrap();
    assert!(archive == residuum::compress(&Field::new(expected, &[12, 30, 41]).unwrap(), &config).unwrap());
    let restored = gpu.decompress_tensor(&archive, &device).unwrap();
    assert_eq!(restored.dims(), [12, 30, 41]);
    let back = restored.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(back.iter().zip(expected).all(|(a, b)| (a - b).abs() <= 0.01));
    assert!(back == residuum::decompress::<f32>(&archive).unwrap().0);
    // What kernels wrote to is the tensor's memory: it is compressed again where it is.
    assert_eq!(gpu.compress_tensor(&restored, &config).unwrap().len(), {
        residuum::compress(&Field::new(&back, &[12, 30, 41]).unwrap(), &config).unwrap().len()
    });
    let doubles: Vec<f64> = values.iter().map(|&v| f64::from(v)).collect();
    let double = Tensor::from_vec(doubles.clone(), (600, 41), &device).unwrap();
    let archive = gpu.compress_tensor(&double, &config).unwrap();
    assert!(archive == residuum::compress(&Field::new(&doubles, &[600, 41]).unwrap(), &config).unwrap());
    assert_eq!(gpu.decompress_tensor(&archive, &device).unwrap().dtype(), candle_core::DType::F64);
    // What can not be done is said.
    let refused = |tensor: &Tensor, gpu: &mut Gpu| gpu.compress_tensor(tensor, &config).unwrap_err().kind();
    assert_eq!(refused(&whole.t().unwrap(), &mut gpu), Kind::Usage);
    assert_eq!(refused(&Tensor::from_vec(vec![1u32, 2], 2, &device).unwrap(), &mut gpu), Kind::Usage);
    assert_eq!(refused(&Tensor::from_vec(vec![1f32, 2.0], 2, &Device::Cpu).unwrap(), &mut gpu), Kind::Usage);
    assert_eq!(Gpu::of_candle(&Device::Cpu).unwrap_err().kind(), Kind::Usage);
}
