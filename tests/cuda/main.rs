//! The kernels, executed on the CPU by the software driver in `tests/cuda-emulator`, byte for byte against the CPU's code.
//!
//! The tests here build that driver with g++ alone and run the tests of `emulated.rs` in child processes, where it is found as `libcuda.so.1`:
//! host code and kernels are those that a GPU would get. Without g++ (or not on x86-64 Linux) they say so and do nothing.
#![cfg(feature = "cuda")]

#[path = "../registry/mod.rs"]
mod registry;

mod emulated;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// How the software driver is built.
#[derive(Clone, Copy, Debug)]
enum Build {
    Plain,
    Address,
    Undefined,
    Thread,
}

impl Build {
    fn name(self) -> &'static str {
        match self {
            Build::Plain => "plain",
            Build::Address => "asan",
            Build::Undefined => "ubsan",
            Build::Thread => "tsan",
        }
    }

    /// The folder with the driver's libraries; `None` if it can not be built here.
    fn folder(self) -> Option<PathBuf> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
        if !cfg!(all(target_os = "linux", target_arch = "x86_64"))
            || Command::new("g++").arg("--version").output().is_err()
        {
            println!("skipped: the software driver needs g++ on x86-64 Linux");
            return None;
        }
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda-emulator");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda-emulator").join(self.name());
        let script = sources.join("build.sh");
        let status = Command::new("bash").arg(script).arg(&folder).arg(self.name()).status().unwrap();
        assert!(status.success(), "the software driver does not build ({})", self.name());
        Some(folder)
    }

    /// Runs a test of `emulated.rs` on the driver.
    fn run(self, test: &str, environment: &[(&str, String)]) {
        let Some(folder) = self.folder() else { return };
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "--nocapture", "--test-threads=1", &format!("emulated::{test}")]);
        command.env("LD_LIBRARY_PATH", &folder).env("RESIDUUM_CACHE_DIR", folder.join("cache"));
        command.env("RAYON_NUM_THREADS", "1").env("CUEMU_THREADS", "2").env("CUEMU_STRICT", "1");
        let sanitizer = match self {
            Build::Address => Some("libasan.so"),
            Build::Thread => Some("libtsan.so"),
            _ => None,
        };
        if let Some(library) = sanitizer {
            let found = Command::new("g++").arg(format!("-print-file-name={library}")).output().unwrap();
            command.env("LD_PRELOAD", String::from_utf8(found.stdout).unwrap().trim());
            command.env("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=0");
            command.env("TSAN_OPTIONS", "halt_on_error=1:report_thread_leaks=0:ignore_noninstrumented_modules=1");
        }
        command.envs(environment.iter().map(|(k, v)| (k, v)));
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{self:?} {environment:?}\n{text}\n{errors}");
        assert!(text.contains("1 passed"), "nothing ran:\n{text}");
    }
}

fn seed(n: u64) -> (&'static str, String) {
    ("CUEMU_SEED", n.to_string())
}

#[test]
fn archives_are_those_of_the_cpu() {
    Build::Plain.run("parity", &[("PARITY_SLICES", "2".into()), ("PARITY_SLICE", "0".into())]);
}

/// Every case under one of eight schedules.
#[test]
fn archives_are_those_of_the_cpu_under_any_schedule() {
    for n in 1..=8 {
        Build::Plain.run("parity", &[seed(n), ("PARITY_SLICES", "8".into()), ("PARITY_SLICE", n.to_string())]);
    }
}

#[test]
fn archives_of_larger_fields_are_those_of_the_cpu() {
    Build::Plain.run("larger_fields", &[]);
    Build::Plain.run("larger_fields", &[seed(9)]);
}

#[test]
fn archives_with_long_lists_are_those_of_the_cpu() {
    Build::Plain.run("lists", &[]);
    Build::Plain.run("lists", &[seed(3)]);
}

#[test]
fn archives_of_several_trials_are_those_of_the_cpu() {
    Build::Plain.run("best", &[]);
    Build::Plain.run("best", &[seed(4)]);
}

#[test]
fn archives_of_two_chains_are_those_of_the_cpu() {
    Build::Plain.run("chains", &[seed(5)]);
}

#[test]
fn golden_archives_are_read() {
    Build::Plain.run("golden", &[]);
}

/// Time series beside forecasts, from fits to salvage.
#[test]
#[cfg(feature = "forecast")]
fn archives_beside_forecasts_are_those_of_the_cpu() {
    Build::Plain.run("forecasts::small", &[seed(6)]);
    Build::Plain.run("forecasts::large", &[seed(2)]);
    Build::Plain.run("forecasts::salvage", &[("CUEMU_GUARD", "4".into())]);
    Build::Plain.run("forecasts::earlier", &[("CUEMU_GUARD", "4".into())]);
    let report = Path::new(env!("CARGO_TARGET_TMPDIR")).join("beside-forecasts.txt");
    let report = ("CUEMU_REPORT", report.display().to_string());
    Build::Plain.run("forecasts::damage", &[report.clone(), ("CUEMU_GUARD", "4".into())]);
    Build::Plain.run("forecasts::memory", &[report]);
    Build::Plain.run("forecasts::contents", &[seed(8)]);
    for build in [Build::Address, Build::Undefined, Build::Thread] {
        build.run("forecasts::few", &[]);
    }
    let report = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults-beside-forecasts.txt");
    Build::Plain.run("forecasts::faults", &[("CUEMU_REPORT", report.display().to_string())]);
}

#[test]
fn no_access_is_out_of_bounds() {
    Build::Plain
        .run("parity", &[("CUEMU_GUARD", "4".into()), ("PARITY_SLICES", "24".into()), ("PARITY_SLICE", "5".into())]);
    Build::Address.run("few", &[]);
}

#[test]
fn nothing_is_undefined() {
    Build::Undefined.run("parity", &[("PARITY_SLICES", "24".into()), ("PARITY_SLICE", "7".into())]);
}

#[test]
fn no_two_threads_race() {
    Build::Thread.run("few", &[("FEWER", "1".into())]);
}

#[test]
fn values_stay_on_the_device() {
    let report = Path::new(env!("CARGO_TARGET_TMPDIR")).join("residency.txt");
    Build::Plain.run("residency", &[("CUEMU_REPORT", report.display().to_string())]);
}

#[test]
fn many_fields_streams_and_places() {
    let report = Path::new(env!("CARGO_TARGET_TMPDIR")).join("many.txt");
    let report = ("CUEMU_REPORT", report.display().to_string());
    Build::Plain.run("fields_of_many", &[report.clone(), ("CUEMU_GUARD", "4".into())]);
    for test in ["c::calls", "c::wrong_calls", "c::faults"] {
        Build::Plain.run(test, std::slice::from_ref(&report));
    }
}

#[test]
fn every_fault_is_an_error_and_leaks_nothing() {
    let report = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faults.txt");
    Build::Plain.run("faults", &[("CUEMU_REPORT", report.display().to_string())]);
}

#[test]
fn damaged_archives_are_errors() {
    Build::Plain.run("damage", &[("CUEMU_GUARD", "4".into())]);
}

/// The command itself: the same archive from the GPU, and values from it; a message where the CPU takes over.
#[test]
fn the_command_uses_the_gpu() {
    let Some(driver) = Build::Plain.folder() else { return };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("command");
    std::fs::create_dir_all(&folder).unwrap();
    let values: Vec<u8> = (0..4000).flat_map(|i| (280.0 + (i as f32 * 0.01).sin()).to_le_bytes()).collect();
    std::fs::write(folder.join("t.f32"), &values).unwrap();
    let residuum = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_residuum"));
        command.args(arguments).current_dir(&folder).env("LD_LIBRARY_PATH", &driver);
        command.env("RESIDUUM_CACHE_DIR", driver.join("cache")).output().unwrap()
    };
    let raw = ["compress", "t.f32", "--shape", "40,100", "--dtype", "f32", "--abs", "0.01", "--force", "-o"];
    let with = |output: &str, more: &[&str]| residuum(&[&raw[..], &[output], more].concat());
    assert!(with("cpu.rsd", &["--effort", "fast"]).status.success());
    for device in ["cuda", "cuda:0", "auto"] {
        let output = with("gpu.rsd", &["--effort", "fast", "--device", device]);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        assert!(std::fs::read(folder.join("cpu.rsd")).unwrap() == std::fs::read(folder.join("gpu.rsd")).unwrap());
    }
    for (device, restored) in [("cpu", "cpu.f32"), ("cuda", "gpu.f32")] {
        let output = residuum(&["decompress", "gpu.rsd", "--force", "--device", device, "-o", restored]);
        assert!(output.status.success(), "{output:?}");
    }
    assert!(std::fs::read(folder.join("cpu.f32")).unwrap() == std::fs::read(folder.join("gpu.f32")).unwrap());
    // The default effort, fits and all.
    assert!(with("cpu.rsd", &[]).status.success());
    let output = with("gpu.rsd", &["--device", "cuda"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(std::fs::read(folder.join("cpu.rsd")).unwrap() == std::fs::read(folder.join("gpu.rsd")).unwrap());
    // Several trials.
    let best = |output: &str, device: &str| {
        let shape = ["--shape", "4,20,50", "--effort", "best", "--device", device, "-o", output];
        residuum(&[&["compress", "t.f32", "--dtype", "f32", "--abs", "0.01", "--force"][..], &shape].concat())
    };
    assert!(best("cpu.rsd", "cpu").status.success());
    let output = best("gpu.rsd", "cuda");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(std::fs::read(folder.join("cpu.rsd")).unwrap() == std::fs::read(folder.join("gpu.rsd")).unwrap());
    let output = with("none.rsd", &["--device", "cuda:7"]);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    // The doctor finds the software driver in good health.
    let output = residuum(&["doctor"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("125 of 125 fields"), "{output:?}");
    #[cfg(feature = "forecast")]
    assert!(text.contains("3 of 3 series"), "{output:?}");
}

/// Runs a command that must succeed; gives what it printed.
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{stdout}{stderr}");
    stdout.into_owned()
}

/// Compiles an example, links it with the library and the driver, and runs it.
fn example(mut compiler: Command, driver: &Path) {
    if Command::new(compiler.get_program()).arg("--version").output().is_err() {
        println!("skipped: no {:?} here", compiler.get_program());
        return;
    }
    let library = std::env::current_exe().unwrap().parent().unwrap().join("libresiduum.so");
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    compiler.arg(&library).arg(format!("-Wl,-rpath,{}", library.parent().unwrap().display()));
    compiler.arg(driver.join("libcuda.so")).args(["-lm", "-o"]).arg(&program).current_dir(folder.path());
    printed(&mut compiler);
    let report = folder.path().join("report.txt");
    let mut command = Command::new(&program);
    command.env("LD_LIBRARY_PATH", driver).env("RESIDUUM_CACHE_DIR", driver.join("cache")).env("CUEMU_REPORT", report);
    let text = printed(&mut command);
    assert!(text.contains("8 steps") && text.contains("step 5: largest error"), "{text}");
}

/// The examples in C, C++ and Fortran whose field is on a GPU.
#[test]
fn the_examples_run_on_the_gpu() {
    let Some(driver) = Build::Plain.folder() else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (program, flags) in
        [("cc", &["-std=c99", "-Wconversion", "-pedantic"][..]), ("c++", &["-x", "c++", "-std=c++11", "-pedantic"])]
    {
        let mut compiler = Command::new(program);
        compiler.args(flags).args(["-O1", "-Wall", "-Wextra", "-Werror", "-I"]).arg(root.join("include"));
        compiler.arg("-I").arg(root.join("tests/cuda-emulator/include"));
        compiler.arg(root.join("examples/c/simulation_on_gpu.c"));
        if program == "c++" {
            compiler.args(["-x", "none"]);
        }
        example(compiler, &driver);
    }
    let mut fortran = Command::new("gfortran");
    fortran.args(["-std=f2018", "-O1", "-fcheck=all", "-Wall", "-Wextra", "-Werror"]);
    fortran.args([root.join("fortran/residuum.f90"), root.join("examples/fortran/simulation_on_gpu.f90")]);
    example(fortran, &driver);
}

#[test]
fn without_a_compiler_there_is_a_message() {
    let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join("empty-cache");
    let _ = std::fs::remove_dir_all(&fresh);
    let cache = ("RESIDUUM_CACHE_DIR", fresh.display().to_string());
    Build::Plain.run("no_compiler", &[cache, ("CUEMU_NVRTC_FAIL", "1".into())]);
}

/// Neither a driver nor a compiler: an error, or the CPU with a note, never a panic.
#[test]
fn without_a_driver_there_is_a_message() {
    // Where there is a driver, this test has nothing to say.
    if let Err(e) = residuum::device::Gpu::open(0) {
        assert_eq!(e.kind(), residuum::Kind::Device);
        assert!(residuum::device::open(residuum::device::Choice::Cuda(0)).is_err());
        let (_, note) = residuum::device::open(residuum::device::Choice::Auto).unwrap();
        assert!(note.unwrap().contains("no GPU is used"));
    }
}
