//! The stack of the parser, and the threads that have it.

use std::cell::Cell;
use std::io;
use std::thread;

/// Stack size of the parser in bytes. The parser recurses over sums and member chains, which its own limit does not count:
/// 2,000 links overflow 2 MiB, but fit into 16 MiB even in unoptimised builds. Unused stack costs only address space.
const PARSER_STACK: usize = 64 * 1024 * 1024;

thread_local! {
    static HAS_PARSER_STACK: Cell<bool> = const { Cell::new(false) };
}

/// Runs a function on a thread with the parser's stack, and waits for its end. The filters that it compiles need no thread of
/// their own, and share what the parser prepares for each thread. The inner error: the function panicked.
pub fn run_with_parser_stack<T: Send>(run: impl FnOnce() -> T + Send) -> io::Result<thread::Result<T>> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("filter".into()).stack_size(PARSER_STACK).spawn_scoped(
            scope,
            || {
                HAS_PARSER_STACK.set(true);
                run()
            },
        )?;
        Ok(thread.join())
    })
}

/// Returns true on a thread with the parser's stack.
pub(super) fn has_parser_stack() -> bool {
    HAS_PARSER_STACK.get()
}
