//! The examples in C, C++ and Fortran, compiled with warnings as errors, linked both ways, and run.

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder where cargo put the library that this test was built with.
fn library_folder() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_owned()
}

/// Whether a tool is there, on a system whose linker these tests know.
fn is_there(tool: &str) -> bool {
    let is_there = Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success());
    if !is_there || cfg!(not(target_os = "linux")) {
        eprintln!("skipped: {}", if is_there { "for Linux only".into() } else { format!("no {tool} here") });
        return false;
    }
    true
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout.into_owned()
}

/// Links `command` with the library, shared or static, and runs the program.
fn link_and_run(mut command: Command, is_static: bool) -> String {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    let library = library_folder();
    if is_static {
        // What `include/residuum.pc.in` names: `rustc --print native-static-libs` on Linux, and the C++ library for a decoder of Zarr's.
        command.arg(library.join("libresiduum.a")).args(["-lstdc++", "-lgcc_s", "-lutil", "-lrt", "-lpthread", "-ldl"]);
    } else {
        command.arg(library.join("libresiduum.so")).arg(format!("-Wl,-rpath,{}", library.display()));
    }
    run(command.args(["-lm", "-o"]).arg(&program).current_dir(folder.path()));
    run(&mut Command::new(&program))
}

fn c_example(compiler: &str, flags: &[&str], is_static: bool) {
    if !is_there(compiler) {
        return;
    }
    let mut command = Command::new(compiler);
    command.args(flags).args(["-O1", "-Wall", "-Wextra", "-Werror", "-pedantic", "-I"]).arg(root().join("include"));
    command.arg(root().join("examples/c/simulation.c"));
    if compiler.ends_with("++") {
        command.args(["-x", "none"]);
    }
    let printed = link_and_run(command, is_static);
    assert!(printed.contains("20 steps") && printed.contains("bound 0.01 K"), "{printed}");
}

#[test]
fn the_c_example_runs_with_the_shared_library() {
    c_example("cc", &["-std=c99", "-Wconversion"], false);
}

#[test]
fn the_c_example_runs_with_the_static_library() {
    c_example("cc", &["-std=c99"], true);
}

#[test]
fn the_c_example_is_cpp_too() {
    c_example("c++", &["-x", "c++", "-std=c++11"], false);
    c_example("c++", &["-x", "c++", "-std=c++17"], false);
}

#[test]
fn the_fortran_example_runs() {
    if !is_there("gfortran") {
        return;
    }
    let mut command = Command::new("gfortran");
    command.args(["-std=f2018", "-O1", "-fcheck=all", "-Wall", "-Wextra", "-Werror"]);
    command.args([root().join("fortran/residuum.f90"), root().join("examples/fortran/simulation.f90")]);
    let printed = link_and_run(command, false);
    assert!(printed.contains("20 steps") && printed.contains("bound  1.000E-02 K"), "{printed}");
}

/// A shared library shows its interface and nothing else: no symbol of what it is built from meets one of the program's.
#[test]
fn the_shared_library_exports_the_interface_only() {
    if !is_there("nm") {
        return;
    }
    let library = library_folder().join("libresiduum.so");
    let listed = run(Command::new("nm").args(["-D", "--defined-only"]).arg(library));
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().last()).collect();
    let others: Vec<_> = names.iter().filter(|n| !n.starts_with("residuum_")).collect();
    assert!(others.is_empty() && names.contains(&"residuum_compress"), "{others:?}");
}
