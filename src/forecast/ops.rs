//! What the models compute per row, written so that one core does it at the speed of memory; the cores share the rows ([`Workers`]).
//!
//! candle's own functions of this kind use one core and the scalar functions of the mathematics library, or a pool of threads that spin and that one
//! caller has at a time (sums of tensors). Ours are used for f32 on the CPU, candle's elsewhere. Every function's result for a row depends on that row only, so that no result depends on how rows are shared out.

use crate::error::{Error, Result};
use candle_core::{
    CpuStorage, CustomOp2, DType, Device, InplaceOp1, InplaceOp2, InplaceOp3, Layout, Shape, Storage, Tensor,
};
use multiversion::multiversion;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Threads that take pieces of work from a common list. Inside a piece everything runs on one thread, matrix products too, so that what a piece
/// gives does not depend on the number of threads.
pub(crate) struct Workers {
    pools: Vec<rayon::ThreadPool>,
}

impl Workers {
    /// As many as the global pool has threads. On a device the caller's thread does all: the device has its own, and candle's stream may be another one
    /// on another thread.
    ///
    /// # Errors
    /// `Io` if the system refuses threads.
    pub fn new(device: &Device) -> Result<Self> {
        let n = if device.is_cpu() { rayon::current_num_threads() } else { 0 };
        // A pool of one thread each: matrix products ask the pool that they are called from for help.
        let pool = |_| rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let pools = (0..n).map(pool).collect::<std::result::Result<Vec<_>, _>>();
        Ok(Self { pools: pools.map_err(|e| Error::new(crate::error::Kind::Io, format!("threads: {e}")))? })
    }

    /// `f` of 0, 1, … n − 1, in order.
    ///
    /// # Errors
    /// One of those that `f` gives.
    pub fn map<T: Send>(&self, n: usize, f: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
        let next = AtomicUsize::new(0);
        let done: Mutex<Vec<(usize, Result<T>)>> = Mutex::new(Vec::with_capacity(n));
        let work = || {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= n {
                    break;
                }
                let result = f(i);
                if result.is_err() {
                    next.store(n, Ordering::Relaxed);
                }
                done.lock().unwrap_or_else(|e| e.into_inner()).push((i, result));
            }
        };
        if self.pools.is_empty() {
            work();
        }
        std::thread::scope(|scope| {
            for pool in self.pools.iter().take(n) {
                scope.spawn(|| pool.install(work));
            }
        });
        let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
        done.sort_by_key(|d| d.0);
        done.into_iter().map(|d| d.1).collect()
    }
}

/// Runs `f` on the values of a contiguous f32 tensor on the CPU, without a copy.
pub(crate) fn with_values<T>(x: &Tensor, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = x.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(values), Some((start, end))) => Ok(f(&values.as_slice::<f32>()?[start..end])),
        _ => {
            drop(storage);
            Ok(f(&x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?))
        }
    }
}

/// Whether our functions do the work, on one thread: f32 on the CPU.
pub(crate) fn is_plain(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The type that sums and normalisations of values of a type run in: f32, and f64 for f64.
pub(crate) fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// Row number that [`gather_rows`] gives zeros for.
pub(crate) const NO_ROW: u32 = u32::MAX;

/// The rows of a matrix that `rows` names; zeros for [`NO_ROW`].
pub(crate) fn gather_rows(x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let width = x.dim(1)?;
    if !is_plain(x) {
        let zeros = Tensor::zeros((1, width), x.dtype(), x.device())?;
        let n = x.dim(0)? as u32;
        let padded = if rows.contains(&NO_ROW) { Tensor::cat(&[x, &zeros], 0)? } else { x.clone() };
        let rows: Vec<u32> = rows.iter().map(|&r| r.min(n)).collect();
        let count = rows.len();
        return Ok(padded.index_select(&Tensor::from_vec(rows, count, x.device())?, 0)?);
    }
    let out = with_values(x, |values| {
        let mut out = Vec::with_capacity(rows.len() * width);
        for &row in rows {
            match row {
                NO_ROW => out.resize(out.len() + width, 0.0),
                row => out.extend_from_slice(&values[row as usize * width..][..width]),
            }
        }
        out
    })?;
    Ok(Tensor::from_vec(out, (rows.len(), width), x.device())?)
}

/// The rows that `rows` names of matrices put on top of each other, all but the last of which have the same number of rows.
pub(crate) fn gather_from(parts: &[Tensor], rows: &[u32], workers: &Workers) -> Result<Tensor> {
    let Some(first) = parts.first() else { return Err(Error::input("no rows to gather from")) };
    if !is_plain(first) {
        return gather_rows(&Tensor::cat(parts, 0)?, rows);
    }
    let (height, width) = first.dims2()?;
    let mut out = vec![0f32; rows.len() * width];
    // Pieces of the output, each written by one thread.
    const PIECE_ROWS: usize = 4096;
    let pieces: Vec<_> = out.chunks_mut(PIECE_ROWS * width).zip(rows.chunks(PIECE_ROWS)).map(Mutex::new).collect();
    workers.map(pieces.len(), |i| {
        let mut piece = pieces[i].lock().unwrap_or_else(|e| e.into_inner());
        let (out, rows) = &mut *piece;
        let guards: Vec<_> = parts.iter().map(|p| p.storage_and_layout()).collect();
        let slices = guards
            .iter()
            .map(|(storage, layout)| match (&**storage, layout.contiguous_offsets()) {
                (Storage::Cpu(values), Some((start, end))) => Ok(&values.as_slice::<f32>()?[start..end]),
                _ => Err(Error::input("rows to gather are not contiguous")),
            })
            .collect::<Result<Vec<_>>>()?;
        for (to, &row) in out.chunks_exact_mut(width).zip(rows.iter()) {
            let (part, row) = (row as usize / height, row as usize % height);
            to.copy_from_slice(&slices[part][row * width..][..width]);
        }
        Ok(())
    })?;
    drop(pieces);
    Ok(Tensor::from_vec(out, (rows.len(), width), first.device())?)
}

/// y + x, in the place of `y`, which nobody else may hold. Shapes are the same, or x is repeated along the leading dimensions of y.
pub(crate) fn add(y: Tensor, x: &Tensor) -> Result<Tensor> {
    add_groups(y, x, 1)
}

/// y + x, in the place of `y`, which nobody else may hold: each row of x goes to `group` rows of y, one after the other, and the rows of x are repeated until y ends.
pub(crate) fn add_groups(y: Tensor, x: &Tensor, group: usize) -> Result<Tensor> {
    if is_plain(&y) && y.is_contiguous() {
        y.inplace_op2(&x.contiguous()?, &Add { group })?;
        return Ok(y);
    }
    if group == 1 {
        return Ok(y.broadcast_add(x)?);
    }
    let width = x.dim(x.rank() - 1)?;
    let sum = y.reshape(((), group, width))?.broadcast_add(&x.reshape(((), 1, width))?)?;
    Ok(sum.reshape(y.shape())?)
}

/// x Φ(x), the exact Gaussian error linear unit, in the place of `x`, which nobody else may hold.
pub(crate) fn gelu(x: Tensor) -> Result<Tensor> {
    if !is_plain(&x) {
        return Ok(x.gelu_erf()?);
    }
    let x = x.contiguous()?;
    x.inplace_op1(&Gelu)?;
    Ok(x)
}

/// (x − mean) / √(variance + eps) · weight + bias over the last dimension.
pub(crate) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    layer_norm_of(if is_plain(x) { x.copy()? } else { x.clone() }, weight, bias, eps)
}

/// The same in the place of `x`, which nobody else may hold.
pub(crate) fn layer_norm_of(x: Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let x = x.contiguous()?;
    if !is_plain(&x) {
        // candle's fast one does not know f64 on the CPU.
        let slow = x.device().is_cpu();
        let norm = if slow { candle_nn::ops::layer_norm_slow } else { candle_nn::ops::layer_norm };
        return Ok(norm(&x, weight, bias, eps as f32)?);
    }
    x.inplace_op3(&weight.contiguous()?, &bias.contiguous()?, &LayerNorm { eps: eps as f32 })?;
    Ok(x)
}

/// Softmax over the last dimension of `scale` · x + mask, x of shape (groups · heads, n, n), in the place of `x`, which nobody else may hold.
///
/// `ids` has one number for each of groups · n tokens: where two differ, −100 is added.
pub(crate) fn softmax(x: Tensor, scale: f32, ids: Option<&[u8]>) -> Result<Tensor> {
    if is_plain(&x) {
        let x = x.contiguous()?;
        x.inplace_op1(&Softmax { scale, ids })?;
        return Ok(x);
    }
    let mut logits = (&x * f64::from(scale))?;
    if let Some(ids) = ids {
        let (b, n, _) = logits.dims3()?;
        let groups = ids.len() / n;
        let mask: Vec<f32> = ids
            .chunks_exact(n)
            .flat_map(|g| g.iter().flat_map(|a| g.iter().map(move |c| if a == c { 0.0 } else { MASKED })))
            .collect();
        let mask = Tensor::from_vec(mask, (groups, 1, n, n), x.device())?.to_dtype(x.dtype())?;
        logits = logits.reshape((groups, b / groups, n, n))?.broadcast_add(&mask)?.reshape((b, n, n))?;
    }
    Ok(candle_nn::ops::softmax_last_dim(&logits)?)
}

/// Attention of a few queries to a few tokens, many times: `q` of shape (n or 1, queries, width), keys and values side by side in `kv` of shape
/// (n, tokens, 2 width), features of the heads one after the other. Gives (n, queries, width).
pub(crate) fn cross_attention(q: &Tensor, kv: &Tensor, heads: usize) -> Result<Tensor> {
    let (n, tokens, _) = kv.dims3()?;
    let (m, queries, width) = q.dims3()?;
    let d = width / heads;
    if is_plain(q) {
        return Ok(q.contiguous()?.apply_op2_no_bwd(&kv.contiguous()?, &CrossAttention { heads })?);
    }
    let q = q.reshape((m, queries, heads, d))?.transpose(1, 2)?;
    let q = q.broadcast_as((n, heads, queries, d))?.contiguous()?;
    let part = |start| kv.narrow(2, start, width)?.reshape((n, tokens, heads, d))?.transpose(1, 2)?.contiguous();
    let (k, v) = (part(0)?, part(width)?);
    let logits = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? * (1.0 / (d as f64).sqrt()))?;
    let out = candle_nn::ops::softmax_last_dim(&logits)?.matmul(&v)?;
    Ok(out.transpose(1, 2)?.reshape((n, queries, width))?)
}

struct CrossAttention {
    heads: usize,
}

impl CustomOp2 for CrossAttention {
    fn name(&self) -> &'static str {
        "cross-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        kv: &CpuStorage,
        kv_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (q, kv) = (contiguous(q, q_layout)?, contiguous(kv, kv_layout)?);
        let (m, queries, width) = q_layout.shape().dims3()?;
        let (n, tokens, both) = kv_layout.shape().dims3()?;
        if both != 2 * width || (m != 1 && m != n) || !width.is_multiple_of(self.heads) {
            candle_core::bail!("queries {:?} of {:?} with {} heads", q_layout.dims(), kv_layout.dims(), self.heads);
        }
        let mut out = vec![0f32; n * queries * width];
        let shape = (queries, tokens, width, self.heads);
        for (i, out) in out.chunks_exact_mut(queries * width).enumerate() {
            let q = if m == 1 { q } else { &q[i * queries * width..][..queries * width] };
            attend(out, q, &kv[i * tokens * both..][..tokens * both], shape);
        }
        Ok((CpuStorage::F32(out), (n, queries, width).into()))
    }
}

/// One item of [`cross_attention`]; the shape is (queries, tokens, width, heads).
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn attend(out: &mut [f32], q: &[f32], kv: &[f32], shape: (usize, usize, usize, usize)) {
    let (queries, tokens, width, heads) = shape;
    let d = width / heads;
    let scale = 1.0 / (d as f32).sqrt();
    let mut weights = vec![0f32; tokens];
    for i in 0..queries {
        for h in 0..heads {
            let at = h * d;
            let q = &q[i * width + at..][..d];
            let mut most = f32::NEG_INFINITY;
            for (weight, token) in weights.iter_mut().zip(kv.chunks_exact(2 * width)) {
                *weight = dot(q, &token[at..][..d]) * scale;
                most = if *weight > most { *weight } else { most };
            }
            let mut total = 0.0;
            for weight in &mut weights {
                *weight = exp_of_negative(*weight - most);
                total += *weight;
            }
            let out = &mut out[i * width + at..][..d];
            for (&weight, token) in weights.iter().zip(kv.chunks_exact(2 * width)) {
                let weight = weight / total;
                for (x, &v) in out.iter_mut().zip(&token[width + at..][..d]) {
                    *x += weight * v;
                }
            }
        }
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut parts = [0f32; LANES];
    let mut pairs = a.chunks_exact(LANES).zip(b.chunks_exact(LANES));
    for (x, y) in &mut pairs {
        for ((part, x), y) in parts.iter_mut().zip(x).zip(y) {
            *part += x * y;
        }
    }
    let done = a.len() / LANES * LANES;
    for ((part, x), y) in parts.iter_mut().zip(&a[done..]).zip(&b[done..]) {
        *part += x * y;
    }
    total(parts)
}

/// What is added to the logit of a pair that must not attend.
const MASKED: f32 = -100.0;

struct Add {
    group: usize,
}

impl InplaceOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        y: &mut CpuStorage,
        y_layout: &Layout,
        x: &CpuStorage,
        x_layout: &Layout,
    ) -> candle_core::Result<()> {
        let x = contiguous(x, x_layout)?;
        let width = x_layout.dims().last().copied().unwrap_or(1).max(1);
        let y = contiguous_mut(y, y_layout)?;
        if x.is_empty() || !y.len().is_multiple_of(x.len()) || !x.len().is_multiple_of(width) {
            candle_core::bail!("shapes {:?} and {:?} do not add", y_layout.dims(), x_layout.dims());
        }
        let n = x.len() / width;
        for (i, row) in y.chunks_exact_mut(width).enumerate() {
            let other = &x[i / self.group % n * width..][..width];
            row.iter_mut().zip(other).for_each(|(y, x)| *y += x);
        }
        Ok(())
    }
}

struct Gelu;

impl InplaceOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        gelu_in_place(contiguous_mut(x, layout)?);
        Ok(())
    }
}

struct LayerNorm {
    eps: f32,
}

impl InplaceOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &mut CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> candle_core::Result<()> {
        let x = contiguous_mut(x, x_layout)?;
        let (weight, bias) = (contiguous(weight, weight_layout)?, contiguous(bias, bias_layout)?);
        if weight.len() != bias.len() || weight.is_empty() || !x.len().is_multiple_of(weight.len()) {
            candle_core::bail!("rows of {:?} normalised with {} weights", x_layout.dims(), weight.len());
        }
        layer_norm_in_place(x, weight, bias, self.eps);
        Ok(())
    }
}

struct Softmax<'a> {
    scale: f32,
    ids: Option<&'a [u8]>,
}

impl InplaceOp1 for Softmax<'_> {
    fn name(&self) -> &'static str {
        "softmax"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let x = contiguous_mut(x, layout)?;
        let n = *layout.dims().last().unwrap_or(&1);
        if n == 0 || x.is_empty() {
            return Ok(());
        }
        let Some(ids) = self.ids else {
            softmax_in_place(x, n, self.scale);
            return Ok(());
        };
        let heads = x.len() / n / ids.len();
        for (block, ids) in x.chunks_exact_mut(heads * n * n).zip(ids.chunks_exact(n)) {
            for (i, row) in block.chunks_exact_mut(n).enumerate() {
                let id = ids[i % n];
                for (x, &other) in row.iter_mut().zip(ids) {
                    *x = *x * self.scale + if other == id { 0.0 } else { MASKED };
                }
            }
            softmax_in_place(block, n, 1.0);
        }
        Ok(())
    }
}

fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle_core::bail!("values are not contiguous"),
    }
}

fn contiguous_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> candle_core::Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => candle_core::bail!("values to be changed in place are not contiguous f32"),
    }
}

/// erf(z) = z P(z²) / Q(z²) for |z| ≤ 3.92, where f32 reaches 1; least squares of the relative error, which is below 8e-8. In f64: in f32 the quotient
/// would be off by several ulps, which deep networks amplify.
const ERF_P: [f64; 7] = [
    std::f64::consts::FRAC_2_SQRT_PI,
    0.197_488_245_2,
    0.050_242_937_6,
    0.003_595_877_982,
    0.000_139_192_829_1,
    -1.946_017_116e-6,
    1.995_409_772e-8,
];
const ERF_Q: [f64; 5] = [1.0, 0.508_351_596_9, 0.113_984_063_7, 0.014_140_458_82, 0.000_930_006_867_6];
const ERF_END: f64 = 3.92;

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn gelu_in_place(values: &mut [f32]) {
    for x in values {
        let wide = f64::from(*x);
        let z = (wide * std::f64::consts::FRAC_1_SQRT_2).clamp(-ERF_END, ERF_END);
        let t = z * z;
        let [p0, p1, p2, p3, p4, p5, p6] = ERF_P;
        let [q0, q1, q2, q3, q4] = ERF_Q;
        let p = (((((p6 * t + p5) * t + p4) * t + p3) * t + p2) * t + p1) * t + p0;
        let q = (((q4 * t + q3) * t + q2) * t + q1) * t + q0;
        *x = (0.5 * wide * (1.0 + z * p / q)) as f32;
    }
}

/// 2^r = Σ c_k r^k for |r| ≤ ½, relative error 3e-9 before rounding.
const EXP2: [f32; 7] =
    [1.0, std::f32::consts::LN_2, 0.240_226_5, 0.055_503_27, 0.009_618_025, 0.001_340_043_3, 0.000_154_697_32];

/// e^x for x ≤ 0; 0 below −87, where f32 loses digits.
#[inline(always)]
fn exp_of_negative(x: f32) -> f32 {
    const TO_INTEGER: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to a whole number in the low bits
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let floor = x.max(-87.0);
    let shifted = floor * std::f32::consts::LOG2_E + TO_INTEGER;
    let n = shifted - TO_INTEGER;
    let r = ((floor - n * LN_2_HIGH) - n * LN_2_LOW) * std::f32::consts::LOG2_E;
    let [c0, c1, c2, c3, c4, c5, c6] = EXP2;
    let p = (((((c6 * r + c5) * r + c4) * r + c3) * r + c2) * r + c1) * r + c0;
    let power = f32::from_bits((shifted.to_bits().wrapping_add(127)) << 23);
    if x < -87.0 { 0.0 } else { p * power }
}

/// Sums in this many interleaved parts, then of the parts: vector code, and less rounding than one long sum.
const LANES: usize = 16;

#[inline(always)]
fn sum(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut parts = [0f32; LANES];
    let mut chunks = values.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (part, &x) in parts.iter_mut().zip(chunk) {
            *part += f(x);
        }
    }
    for (part, &x) in parts.iter_mut().zip(chunks.remainder()) {
        *part += f(x);
    }
    total(parts)
}

#[inline(always)]
fn total(mut parts: [f32; LANES]) -> f32 {
    let mut n = LANES;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            parts[i] += parts[i + n];
        }
    }
    parts[0]
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn layer_norm_in_place(values: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let n = weight.len();
    for row in values.chunks_exact_mut(n) {
        let mean = sum(row, |x| x) / n as f32;
        let variance = sum(row, |x| (x - mean) * (x - mean)) / n as f32;
        let scale = 1.0 / (variance + eps).sqrt();
        for ((x, &w), &b) in row.iter_mut().zip(weight).zip(bias) {
            *x = (*x - mean) * scale * w + b;
        }
    }
}

#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
fn softmax_in_place(values: &mut [f32], n: usize, scale: f32) {
    for row in values.chunks_exact_mut(n) {
        let mut most = [f32::NEG_INFINITY; LANES];
        for chunk in row.chunks(LANES) {
            for (m, &x) in most.iter_mut().zip(chunk) {
                let x = x * scale;
                *m = if x > *m { x } else { *m };
            }
        }
        let most = most.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
        for x in row.iter_mut() {
            *x = exp_of_negative(*x * scale - most);
        }
        let total = 1.0 / sum(row, |x| x);
        for x in row.iter_mut() {
            *x *= total;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()
    }

    fn worst(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
    }

    #[test]
    fn functions_equal_candle_s() {
        let values: Vec<f32> = (0..3 * 7 * 7).map(|i| ((i * 37) % 101) as f32 * 0.1 - 5.0).collect();
        let x = tensor(&values, &[3, 7, 7]);
        assert!(worst(&gelu(x.copy().unwrap()).unwrap(), &x.gelu_erf().unwrap()) < 2e-6);
        let soft = softmax(x.copy().unwrap(), 0.7, None).unwrap();
        let theirs = candle_nn::ops::softmax_last_dim(&(&x * 0.7).unwrap()).unwrap();
        assert!(worst(&soft, &theirs) < 1e-6);
        let (w, b) = (tensor(&values[..7], &[7]), tensor(&values[7..14], &[7]));
        let ours = layer_norm(&x, &w, &b, 1e-5).unwrap();
        let theirs = candle_nn::ops::layer_norm_slow(&x, &w, &b, 1e-5).unwrap();
        assert!(worst(&ours, &theirs) < 1e-5);
    }

    #[test]
    fn exponentials_are_exact_to_some_ulps() {
        for i in 0..900_000 {
            let x = -(i as f32) * 1e-4;
            let (ours, theirs) = (exp_of_negative(x), f64::from(x).exp());
            if x > -87.0 {
                assert!((f64::from(ours) / theirs - 1.0).abs() < 5e-7, "{x}: {ours} {theirs}");
            }
        }
        assert_eq!((exp_of_negative(0.0), exp_of_negative(-100.0)), (1.0, 0.0));
    }

    #[test]
    fn tokens_of_different_ids_do_not_attend() {
        let x = tensor(&[1.0; 2 * 2 * 3 * 3], &[4, 3, 3]);
        let ids = [0, 0, 1, 5, 6, 6];
        let p = softmax(x, 1.0, Some(&ids)).unwrap().to_vec3::<f32>().unwrap();
        assert_eq!(p[0][0], [0.5, 0.5, 0.0]);
        assert_eq!(p[1][2], [0.0, 0.0, 1.0]);
        assert_eq!(p[2][0], [1.0, 0.0, 0.0]);
        assert_eq!(p[3][1], [0.0, 0.5, 0.5]);
    }

    #[test]
    fn rows_are_gathered_alike_from_one_matrix_or_several() {
        let x = tensor(&(0..20).map(|i| i as f32).collect::<Vec<_>>(), &[10, 2]);
        let parts: Vec<Tensor> = [(0, 4), (4, 4), (8, 2)].iter().map(|&(s, n)| x.narrow(0, s, n).unwrap()).collect();
        let rows = [9, 0, 4, 3, 8];
        let workers = Workers::new(&Device::Cpu).unwrap();
        let (a, b) = (gather_rows(&x, &rows).unwrap(), gather_from(&parts, &rows, &workers).unwrap());
        assert_eq!(a.to_vec2::<f32>().unwrap(), b.to_vec2::<f32>().unwrap());
        assert_eq!(gather_rows(&x, &[NO_ROW, 1]).unwrap().to_vec2::<f32>().unwrap(), [[0.0, 0.0], [2.0, 3.0]]);
    }

    #[test]
    fn the_first_error_ends_the_work() {
        let workers = Workers::new(&Device::Cpu).unwrap();
        assert_eq!(workers.map(100, |i| Ok(i * i)).unwrap()[99], 9801);
        assert!(workers.map(100, |i| if i == 7 { Err(Error::input("seven")) } else { Ok(i) }).is_err());
    }
}
