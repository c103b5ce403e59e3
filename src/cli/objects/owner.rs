//! Finds the tool that manages an object and would revert a change of its spec.

use kube::ResourceExt;
use kube::api::DynamicObject;

/// A tool that manages an object.
#[derive(Debug, PartialEq, Eq)]
pub struct ObjectOwner {
    pub tool: String,
    /// How the change lasts.
    pub remedy: &'static str,
}

const IN_GIT: &str = "change it in Git too";
const IN_RELEASE: &str = "change it in the release's values too";

/// Field managers that apply what a repository or a release contains.
const MANAGERS: [(&str, &str, &str); 4] = [
    ("kustomize-controller", "Flux", IN_GIT),
    ("helm-controller", "Flux (Helm)", IN_RELEASE),
    ("argocd", "Argo CD", IN_GIT),
    ("helm", "Helm", IN_RELEASE),
];

/// Returns the tool that manages the object, by its labels and the managers of its fields. None: no tool is known.
pub fn find_owner(object: &DynamicObject) -> Option<ObjectOwner> {
    let (labels, annotations) = (object.labels(), object.annotations());
    let owner = |tool: String, remedy| Some(ObjectOwner { tool, remedy });
    if let Some(name) = labels.get("kustomize.toolkit.fluxcd.io/name") {
        return owner(format!("Flux (Kustomization {name})"), IN_GIT);
    }
    if let Some(name) = labels.get("helm.toolkit.fluxcd.io/name") {
        return owner(format!("Flux (HelmRelease {name})"), IN_RELEASE);
    }
    let tracking = annotations.get("argocd.argoproj.io/tracking-id").and_then(|id| id.split(':').next());
    if let Some(name) = labels.get("argocd.argoproj.io/instance").map(String::as_str).or(tracking) {
        return owner(format!("Argo CD (Application {name})"), IN_GIT);
    }
    let managers = object.managed_fields().iter().filter(|entry| {
        // The controller and the worker own only the status and the finalizer.
        entry.fields_v1.as_ref().is_some_and(|fields| fields.0.get("f:spec").is_some())
    });
    for manager in managers.filter_map(|entry| entry.manager.as_deref()) {
        let lower = manager.to_ascii_lowercase();
        if let Some((_, tool, remedy)) = MANAGERS.into_iter().find(|(prefix, ..)| lower.starts_with(prefix)) {
            return owner(tool.to_owned(), remedy);
        }
    }
    let managed_by = labels.get("app.kubernetes.io/managed-by").filter(|by| *by == "Helm")?;
    owner(managed_by.clone(), IN_RELEASE)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn owner(metadata: Value) -> Option<String> {
        let object = json!({"apiVersion": "v1", "kind": "EventHook", "metadata": metadata});
        find_owner(&serde_json::from_value(object).unwrap()).map(|owner| owner.tool)
    }

    #[test]
    fn finds_gitops_tools_by_labels_and_managers() {
        let manager =
            |name: &str, fields: Value| json!({"managedFields": [{"manager": name, "fieldsV1": fields}]});
        let spec = || json!({"f:spec": {"f:source": {}}});
        for (metadata, tool) in [
            (json!({}), None),
            (
                json!({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps"}}),
                Some("Flux (Kustomization apps)"),
            ),
            (json!({"labels": {"argocd.argoproj.io/instance": "shop"}}), Some("Argo CD (Application shop)")),
            (
                json!({"annotations": {"argocd.argoproj.io/tracking-id": "shop:hookstream.dev/EventHook:ns/a"}}),
                Some("Argo CD (Application shop)"),
            ),
            (manager("argocd-controller", spec()), Some("Argo CD")),
            (manager("kustomize-controller", spec()), Some("Flux")),
            (manager("kustomize-controller", json!({"f:status": {}})), None),
            (manager("kubectl-client-side-apply", spec()), None),
            (json!({"labels": {"app.kubernetes.io/managed-by": "Helm"}}), Some("Helm")),
        ] {
            assert_eq!(owner(metadata.clone()).as_deref(), tool, "{metadata}");
        }
    }
}
