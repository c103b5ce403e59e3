//! The health script for Argo CD, run in the Lua that Argo CD's is a dialect of.

use mlua::Lua;
use serde_json::Value;

use super::root;

#[test]
fn argo_cd_is_told_how_an_object_is() {
    let text = std::fs::read_to_string(root().join("deploy/gitops/argocd/argocd-cm.yaml")).unwrap();
    let config: Value = serde_saphyr::from_str(&text).unwrap();
    let data = config["data"].as_object().unwrap();
    let ready = |status: &str, reason: &str| {
        format!("{{type = 'Ready', status = '{status}', reason = '{reason}', message = 'm'}}")
    };
    let stalled = |status: &str| format!("{{type = 'Stalled', status = '{status}', message = 'why'}}");
    let cases = [
        ("nil".to_owned(), "Progressing"),
        ("{observedGeneration = 1}".to_owned(), "Progressing"),
        (format!("{{observedGeneration = 1, conditions = {{{}}}}}", ready("True", "Synced")), "Progressing"),
        (
            format!(
                "{{observedGeneration = 2, conditions = {{{}, {}}}}}",
                ready("True", "Synced"),
                stalled("False")
            ),
            "Healthy",
        ),
        (
            format!(
                "{{observedGeneration = 2, conditions = {{{}, {}}}}}",
                ready("False", "Rejected"),
                stalled("True")
            ),
            "Degraded",
        ),
        (
            format!(
                "{{observedGeneration = 2, conditions = {{{}, {}}}}}",
                ready("False", "Unreachable"),
                stalled("False")
            ),
            "Progressing",
        ),
        (
            format!("{{observedGeneration = 2, conditions = {{{}}}}}", ready("False", "Suspended")),
            "Suspended",
        ),
    ];
    for crd in hookstream::api::crds() {
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        let script = data[&format!("resource.customizations.health.hookstream.dev_{kind}")].as_str().unwrap();
        assert!(
            data.contains_key(&format!(
                "resource.customizations.ignoreResourceUpdates.hookstream.dev_{kind}"
            )),
            "{kind}"
        );
        for (status, want) in &cases {
            let lua = Lua::new();
            lua.load(format!("obj = {{metadata = {{generation = 2}}, status = {status}}}")).exec().unwrap();
            let health: mlua::Table = lua.load(script).eval().unwrap();
            assert_eq!(health.get::<String>("status").unwrap(), *want, "{kind}: {status}");
        }
    }
}
