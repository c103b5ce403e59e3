//! Generated files are current. `make charts` writes them.

mod reference;
mod rights;
mod values;

use std::path::{Path, PathBuf};

fn path(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(of)
}

fn read(of: &str) -> String {
    std::fs::read_to_string(path(of)).unwrap_or_else(|e| panic!("{of}: {e}"))
}

/// Compares a file with the wanted text; with `HOOKSTREAM_WRITE=1` writes it.
fn assert_current(of: &str, expected: &str) {
    if std::env::var_os("HOOKSTREAM_WRITE").is_some() {
        std::fs::create_dir_all(path(of).parent().unwrap()).unwrap();
        std::fs::write(path(of), expected).unwrap();
        return;
    }
    let current = std::fs::read_to_string(path(of)).unwrap_or_default();
    let line = current.lines().zip(expected.lines()).position(|(a, b)| a != b).map_or(0, |line| line + 1);
    assert!(current == expected, "{of} is out of date (line {line}): run `make charts`");
}

/// Returns `text` with the part between the markers replaced.
fn between(text: &str, marker: &str, middle: &str) -> String {
    let end = format!("<!-- /{marker} -->");
    let start = text.find(&format!("<!-- {marker}: ")).unwrap_or_else(|| panic!("no marker {marker}"));
    let start = start + text[start..].find("-->\n").unwrap() + 4;
    let stop = text.find(&end).unwrap_or_else(|| panic!("no {end}"));
    format!("{}{middle}{}", &text[..start], &text[stop..])
}

/// The OpenAPI document of the API port.
#[test]
fn openapi_document_is_current() {
    assert_current("docs/openapi.json", hookstream::worker::openapi_document());
}

#[test]
fn charts_ship_repository_files() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path("crds")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert_current(&format!("charts/hookstream-crds/files/{name}"), &read(&format!("crds/{name}")));
        names.push(name);
    }
    let shipped = std::fs::read_dir(path("charts/hookstream-crds/files")).unwrap().count();
    assert_eq!(shipped, names.len(), "charts/hookstream-crds/files holds a file of no kind");
    for (file, source) in [
        ("rbac.yaml", "deploy/base/rbac.yaml"),
        ("alerts.yaml", "deploy/observability/alerts.yaml"),
        ("dashboard.json", "deploy/observability/dashboard.json"),
    ] {
        assert_current(&format!("charts/hookstream/files/{file}"), &read(source));
    }
}

/// The workloads of the kustomization are those of the chart with its default values.
#[tokio::test(flavor = "multi_thread")]
async fn base_equals_chart_with_defaults() {
    let home = "hookstream-system";
    let rendered =
        crate::harness::helm::template(crate::harness::control_plane(), home, &serde_json::json!({})).await;
    let mut text = "# Made by `make charts` from the chart `hookstream` with its default values. Change that, or patch this in an overlay.\n".to_owned();
    for mut object in rendered {
        let kind = object["kind"].as_str().unwrap();
        if !["Deployment", "StatefulSet", "Service", "PodDisruptionBudget"].contains(&kind) {
            continue;
        }
        let labels = object["metadata"]["labels"].as_object_mut().unwrap();
        labels.retain(|name, _| name != "helm.sh/chart" && name != "app.kubernetes.io/managed-by");
        text.push_str("---\n");
        text.push_str(&hookstream::api::to_yaml(&object).unwrap());
    }
    assert_current("deploy/base/workloads.yaml", &text);
}
