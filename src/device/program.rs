//! The kernels: their source, compiled by NVRTC at first use and kept in the user's cache.

use crate::error::{Error, Result};
use cudarc::nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts};
use std::path::PathBuf;

/// All files, in the order in which they make one program; `#include` of each other are left out.
const FILES: &[(&str, &str)] = &[
    ("common/common.cuh", include_str!("../../kernels/common/common.cuh")),
    ("common/block.cuh", include_str!("../../kernels/common/block.cuh")),
    ("common/number.cuh", include_str!("../../kernels/common/number.cuh")),
    ("common/state.cuh", include_str!("../../kernels/common/state.cuh")),
    ("common/xxh3.cuh", include_str!("../../kernels/common/xxh3.cuh")),
    ("common/varint.cuh", include_str!("../../kernels/common/varint.cuh")),
    ("common/token.cuh", include_str!("../../kernels/common/token.cuh")),
    ("common/cost.cuh", include_str!("../../kernels/common/cost.cuh")),
    ("common/walk.cuh", include_str!("../../kernels/common/walk.cuh")),
    ("common/predict.cuh", include_str!("../../kernels/common/predict.cuh")),
    ("common/rans.cuh", include_str!("../../kernels/common/rans.cuh")),
    ("common/fit.cuh", include_str!("../../kernels/common/fit.cuh")),
    ("common/fitted.cuh", include_str!("../../kernels/common/fitted.cuh")),
    ("range.cu", include_str!("../../kernels/range.cu")),
    ("setup.cu", include_str!("../../kernels/setup.cu")),
    ("special.cu", include_str!("../../kernels/special.cu")),
    ("log.cu", include_str!("../../kernels/log.cu")),
    ("choose.cu", include_str!("../../kernels/choose.cu")),
    ("predict_direct.cu", include_str!("../../kernels/predict_direct.cu")),
    ("predict_interp.cu", include_str!("../../kernels/predict_interp.cu")),
    ("check.cu", include_str!("../../kernels/check.cu")),
    ("compact.cu", include_str!("../../kernels/compact.cu")),
    ("lists.cu", include_str!("../../kernels/lists.cu")),
    ("tile.cu", include_str!("../../kernels/tile.cu")),
    ("huffman_count.cu", include_str!("../../kernels/huffman_count.cu")),
    ("huffman_book.cu", include_str!("../../kernels/huffman_book.cu")),
    ("huffman_encode.cu", include_str!("../../kernels/huffman_encode.cu")),
    ("checksum.cu", include_str!("../../kernels/checksum.cu")),
    ("huffman_decode.cu", include_str!("../../kernels/huffman_decode.cu")),
    ("rans_family.cu", include_str!("../../kernels/rans_family.cu")),
    ("rans_encode.cu", include_str!("../../kernels/rans_encode.cu")),
    ("fitted_learn.cu", include_str!("../../kernels/fitted_learn.cu")),
    ("fitted_encode.cu", include_str!("../../kernels/fitted_encode.cu")),
    ("fitted_choose.cu", include_str!("../../kernels/fitted_choose.cu")),
    ("fitted_decode.cu", include_str!("../../kernels/fitted_decode.cu")),
    ("forecast.cu", include_str!("../../kernels/forecast.cu")),
];

/// The program as one text, which is what NVRTC compiles and CI's `nvcc` too.
pub fn source() -> String {
    let mut text = String::new();
    for (name, file) in FILES {
        text.push_str(&format!("#line 1 \"{name}\"\n"));
        for line in file.lines() {
            // The shim of the software driver is behind an `#ifdef` of its own.
            let is_ours = line.starts_with("#include \"common/") || line.starts_with("#pragma once");
            let is_sibling = line.starts_with("#include \"") && !line.contains("cuemu.h");
            text.push_str(if is_ours || is_sibling { "" } else { line });
            text.push('\n');
        }
    }
    text
}

/// Options of every compilation: no contraction, no flush to zero, exact division and root, so that a GPU computes what the CPU does.
fn options(arch: &str) -> CompileOptions {
    CompileOptions {
        ftz: Some(false),
        prec_sqrt: Some(true),
        prec_div: Some(true),
        fmad: Some(false),
        options: vec!["--std=c++17".into(), format!("--gpu-architecture={arch}")],
        name: Some("residuum.cu".into()),
        ..CompileOptions::default()
    }
}

/// Where compiled kernels are kept: `RESIDUUM_CACHE_DIR`, or `residuum/kernels` in the user's cache folder.
fn cache_folder() -> Option<PathBuf> {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = var("XDG_CACHE_HOME").or_else(|| var("LOCALAPPDATA")).or_else(|| Some(var("HOME")?.join(".cache")));
    var("RESIDUUM_CACHE_DIR").or_else(|| Some(base?.join("residuum").join("kernels")))
}

/// The program for an architecture such as `compute_90`: from the cache, or compiled.
pub(super) struct Program {
    text: String,
    arch: String,
    cached: Option<PathBuf>,
}

impl Program {
    pub fn new(capability: (i32, i32), driver: i32) -> Self {
        let text = source();
        let arch = format!("compute_{}{}", capability.0, capability.1);
        let hash = xxhash_rust::xxh3::xxh3_128(text.as_bytes());
        let name = format!("{hash:032x}-{arch}-{driver}.ptx");
        Self { text, arch, cached: cache_folder().map(|f| f.join(name)) }
    }

    /// What a former run compiled, if it is there.
    pub fn cached(&self) -> Option<Ptx> {
        let text = std::fs::read_to_string(self.cached.as_ref()?).ok()?;
        // A NUL would end the text early, and nothing compiled has one.
        (!text.is_empty() && !text.contains('\0')).then(|| Ptx::from_src(text))
    }

    /// Compiles, and keeps the result for later runs. That it can not be kept is no error.
    ///
    /// # Errors
    /// `Device` if there is no NVRTC or it refuses.
    pub fn compile(&self) -> Result<Ptx> {
        check_compiler()?;
        let ptx = compile_ptx_with_opts(&self.text, options(&self.arch))
            .map_err(|e| Error::device(format!("the kernels do not compile for {}: {e}", self.arch)))?;
        if let Some(path) = &self.cached {
            let _ = keep(path, &ptx.to_src());
        }
        Ok(ptx)
    }
}

/// With candle's CUDA the compiler is linked: where it is missing the program does not start.
#[cfg(feature = "candle-cuda")]
fn check_compiler() -> Result<()> {
    Ok(())
}

#[cfg(not(feature = "candle-cuda"))]
#[allow(unsafe_code)]
fn check_compiler() -> Result<()> {
    // SAFETY: only looks whether the library can be loaded.
    if unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        return Ok(());
    }
    let install = "install libnvrtc of a CUDA toolkit (12 or later)";
    Err(Error::device(format!("NVRTC, which compiles the kernels, is not there; {install}")))
}

/// Writes under another name first, so that nobody ever reads half a file.
fn keep(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut file, text.as_bytes())?;
    file.persist(path)?;
    Ok(())
}
