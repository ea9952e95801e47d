//! VAEformer at full size: seconds and peak memory of encoding and decoding, phase by phase.
//!
//! `cargo bench --bench vaeformer -- WEIGHTS [VALUES]`: weights as `residuum weights import` makes them (random ones do), and a raw f32 image in
//! normalised units; without it a smooth one is made up. With a third argument, a folder, y, z and every sixteenth channel of the output go there as raw f32.

use residuum::forecast::vaeformer::{Image, VaeFormer};
use residuum::forecast::{Options, Weights};
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let Some(path) = args.first() else {
        println!("skipped: name a file of weights");
        return Ok(());
    };
    let start = Instant::now();
    let mut last = 0.0;
    let mut lap = |what: &str| {
        let now = start.elapsed().as_secs_f64();
        println!("{what}: {:.2} s", now - last);
        last = now;
    };
    let weights = Weights::open(Path::new(path))?;
    let model = VaeFormer::new(&weights, &Options::default())?;
    lap("weights");
    let config = model.config();
    let shape = [config.in_chans, config.img_size[0], config.img_size[1]];
    let n: usize = shape.iter().product();
    let data: Vec<f32> = match args.get(1) {
        Some(values) => {
            std::fs::read(values)?.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
        }
        None => (0..n).map(|i| ((i % shape[2]) as f32 / 57.0).sin() + ((i / shape[2]) as f32 / 31.0).cos()).collect(),
    };
    let x = Image { shape, data };
    lap("image");
    let (y, z) = model.analyse(&x)?;
    drop(x);
    lap("encode: g_a, h_a");
    let symbols = model.quantise(&y, &z)?;
    lap("encode: h_s, symbols");
    let bin = model.compress(&symbols)?;
    lap("encode: .bin");
    println!("{} bytes", bin.y.len() + bin.z.len());
    let symbols = model.decompress(&bin)?;
    lap("decode: .bin");
    let y_hat = model.dequantise(&symbols)?;
    lap("decode: h_s");
    let x_hat = model.synthesise(&y_hat)?;
    lap("decode: g_s");
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        status.lines().filter(|l| l.starts_with("VmHWM")).for_each(|l| println!("{l}"));
    }
    if let Some(folder) = args.get(2) {
        let raw = |name: &str, values: &mut dyn Iterator<Item = &f32>| {
            std::fs::write(Path::new(folder).join(name), values.flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
        };
        raw("y.f32", &mut y.data.iter())?;
        raw("z.f32", &mut z.data.iter())?;
        let plane = x_hat.shape[1] * x_hat.shape[2];
        raw("xh16.f32", &mut x_hat.data.chunks_exact(plane).step_by(16).flatten())?;
    }
    Ok(())
}
