//! The `hookstream` program: all it does is in the library.

fn main() -> std::process::ExitCode {
    hookstream::cli::main()
}
