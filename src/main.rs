//! The `hookstream` program. The library contains all of its logic.

/// Events are allocated on one thread and freed on another, which causes lock contention in the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    hookstream::cli::main()
}
