//! Rows of Hook.

use super::manifests::{FULL_SCRIPT, SCRIPT};
use super::table::Table;

pub fn rows(t: &mut Table) {
    for base in [SCRIPT, FULL_SCRIPT] {
        t.accept(base, "", "{}");
    }
    for member in ["connectionRef", "name", "triggerId"] {
        t.required(SCRIPT, member);
    }
    t.exactly_one(
        SCRIPT,
        "",
        &["script: a", "scriptConfigMapRef: {name: a, key: k}"],
        "exactly one of script, scriptConfigMapRef must be set",
    );
    t.length(SCRIPT, "name", 1, 128);
    for wrong in ["-a", "'a '", "a_b", "'a.b'"] {
        t.refuse(SCRIPT, "name", wrong, "should match");
    }
    t.one_of(
        SCRIPT,
        "triggerId",
        &[
            "credentials-exchange",
            "pre-user-registration",
            "post-user-registration",
            "post-change-password",
            "send-phone-message",
        ],
    );
    t.length(SCRIPT, "script", 1, 102_400);
    dependencies(t);
    secrets(t);
    t.one_of(SCRIPT, "deletionPolicy", &["Delete", "Orphan"]);
    t.one_of(SCRIPT, "managementPolicy", &["Full", "ObserveOnly"]);
    t.required(FULL_SCRIPT, "adopt.id");
    t.required(FULL_SCRIPT, "adopt.mode");
    t.length(FULL_SCRIPT, "adopt.id", 1, 64);
    t.one_of(FULL_SCRIPT, "adopt.mode", &["Match", "Override"]);
}

fn dependencies(t: &mut Table) {
    let at = "dependencies";
    let many = |n| format!("{{{}}}", (0..n).map(|i| format!("p{i}: '1'")).collect::<Vec<_>>().join(", "));
    t.bound(SCRIPT, at, many(64), many(65), "must have at most 64 items");
    let name = |n| format!("{{{}: '1'}}", "a".repeat(n));
    let text = "a dependency's name must be an npm package, for example lodash or @auth0/node, at most 214";
    t.bound(SCRIPT, at, name(214), name(215), text);
    for wrong in ["Lodash", "a b", "a/b", "@a", ""] {
        t.refuse(SCRIPT, at, format!("{{'{wrong}': '1'}}"), text);
    }
    let version = |n| format!("{{a: '{}'}}", "1".repeat(n));
    t.accept(SCRIPT, at, version(128));
    t.refuse_at(SCRIPT, at, version(129), "spec.dependencies.a", "Too long: may not be more than 128 bytes");
    t.refuse_at(SCRIPT, at, version(0), "spec.dependencies.a", "should be at least 1 chars long");
}

fn secrets(t: &mut Table) {
    let item = |name: &str| format!("{{name: '{name}', secretRef: {{name: s, key: k}}}}");
    let many = |n| format!("[{}]", (0..n).map(|i| item(&format!("S{i}"))).collect::<Vec<_>>().join(", "));
    t.bound(SCRIPT, "secrets", many(1), many(0), "should have at least 1 items");
    t.bound(SCRIPT, "secrets", many(20), many(21), "must have at most 20 items");
    let twice = format!("[{}, {}]", item("A"), item("A"));
    t.refuse_at(SCRIPT, "secrets", twice, "spec.secrets[1]", "Duplicate value");
    t.required(FULL_SCRIPT, "secrets[0].name");
    t.required(FULL_SCRIPT, "secrets[0].secretRef");
    t.length(FULL_SCRIPT, "secrets[0].name", 1, 128);
    t.refuse(FULL_SCRIPT, "secrets[0].name", "'a b'", "should match");
}
