//! The `hookstream` program: all it does is in the library.

/// Events are allocated on one thread and freed on another, which the system's allocator pays for with locks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    hookstream::cli::main()
}
