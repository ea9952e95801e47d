//! The `residuum` command; everything is in [`residuum::cli`].

fn main() -> std::process::ExitCode {
    residuum::cli::main()
}
