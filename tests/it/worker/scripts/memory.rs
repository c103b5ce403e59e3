//! The memory of inputs and replies is bounded, and a call that gets none is postponed.

use hookstream::core::fair_shares::Owner;
use hookstream::memory::MemoryPool;
use hookstream::metrics::MemoryShareMetrics;

use super::*;

fn pool(bytes: u64) -> Arc<MemoryPool> {
    Arc::new(MemoryPool::new(bytes, MemoryShareMetrics::default()))
}

/// A template with code, and a context from which it renders 3 MiB.
fn large() -> (&'static str, Data<'static>) {
    ("{{ a }}{% %}", Data::from(json!({"a": "y".repeat(3 << 20)})))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_reply_waits_for_memory_and_small_ones_need_none() {
    let replies = pool(8 << 20);
    let scripts = Scripts::start(90, |options| options.reply_memory = replies.clone()).await;
    let (template, context) = large();
    let other = ("other".into(), "hook".into());
    let held = replies.try_reserve(Owner::hook(&other.0, &other.1), 4 << 20).unwrap();
    // Long enough that a busy machine renders within it: the call must wait for memory, and not for the template.
    let short = Duration::from_secs(8);
    let outcome = scripts.render_all(&[template], &context, short).await;
    assert!(matches!(&outcome, Err(ScriptError::SandboxBusy(why)) if why.contains("replies")), "{outcome:?}");
    assert_eq!(scripts.run("hook", "return 7").await, Ok(json!(7)), "the child was replaced");
    let templates = [template];
    tokio::select! {
        rendered = scripts.render_all(&templates, &context, CALL_DEADLINE) => {
            assert_eq!(rendered.map(|texts| texts[0].len()), Ok(3 << 20), "once there is memory");
        }
        () = async {
            // Other calls go on meanwhile.
            for n in 0..20 {
                assert_eq!(scripts.run("small", &format!("return {n}")).await, Ok(json!(n)));
            }
            drop(held);
            std::future::pending::<()>().await;
        } => unreachable!("it never ends"),
    }
    // All of it is returned with the texts.
    assert!(replies.try_reserve(Owner::hook(&other.0, &other.1), 8 << 20).is_ok());
}

#[tokio::test]
async fn large_input_without_memory_is_postponed() {
    let inputs = pool(5 << 20);
    let scripts = Scripts::start(91, |options| options.input_memory = inputs.clone()).await;
    let (template, context) = large();
    let outcome = scripts.render_all(&[template], &context, CALL_DEADLINE).await;
    assert!(matches!(&outcome, Err(ScriptError::SandboxBusy(why)) if why.contains("inputs")), "{outcome:?}");
    assert_eq!(scripts.run("hook", "return 7").await, Ok(json!(7)));
}
