//! The validation rules of the resources against the real API server: one table of accepted and rejected manifests.
//!
//! A row is a small manifest, a change to it, and the expected answer of the server: the field and the text.
//! `every_rule_has_a_row` walks the generated schemas, so that no rule or bound can be added without a row.

mod connections;
mod coverage;
mod hooks;
mod layout;
mod manifests;
mod scripts;
mod shared;
mod streams;
mod table;
mod updates;

use std::collections::BTreeMap;
use std::path::Path;

use futures::{StreamExt, stream};
use hookstream::cluster::ObjectStore;
use hookstream::cluster::files::{FileCluster, FileClusterOptions};
use hookstream::core::hook::check_not_rejected;
use hookstream::core::schema::Schemas;
use kube::{Client, Resource, ResourceExt};
use serde_json::Value;

use crate::harness::{Process, control_plane, watchdog};
use layout::Layout;
use table::{Expect, Row, Table};

fn all_rows() -> Vec<Row> {
    let mut table = Table::default();
    hooks::rows(&mut table);
    connections::rows(&mut table);
    streams::rows(&mut table);
    scripts::rows(&mut table);
    shared::rows(&mut table);
    table.rows
}

#[tokio::test(flavor = "multi_thread")]
async fn server_agrees_with_table() {
    let namespace = control_plane().namespace("rules").await;
    let client = namespace.client().await;
    let check = |row: Row| {
        let (client, namespace) = (client.clone(), namespace.name.clone());
        async move {
            let answer = send(&client, http::Method::POST, &namespace, "?dryRun=All&", &row.manifest).await;
            verdict(&row.expect, answer).err().map(|error| format!("{}: {error}", row.name))
        }
    };
    let failures: Vec<String> =
        stream::iter(all_rows()).map(check).buffer_unordered(16).filter_map(|f| async { f }).collect().await;
    assert!(failures.is_empty(), "{} rows failed:\n{}", failures.len(), failures.join("\n"));
}

/// Without an API server, `validate` and `standalone` reject the same manifests with the same messages.
/// `standalone` reads from its files.
#[tokio::test]
async fn file_validation_agrees_with_table() {
    let folder = watchdog::unique_path("rules");
    let (manifests, data) = (folder.join("manifests"), folder.join("data"));
    std::fs::create_dir_all(&manifests).unwrap();
    let rows = all_rows();
    let schemas = Schemas::from_crds(&hookstream::api::crds());
    let mut failures = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let faults = schemas.check(&row.manifest);
        let rejection: Rejection = faults.into_iter().map(|fault| (fault.field, fault.problem)).collect();
        let answer = if rejection.is_empty() { Ok(Value::Null) } else { Err(rejection) };
        failures.extend(verdict(&row.expect, answer).err().map(|error| format!("{}: {error}", row.name)));
        std::fs::write(manifests.join(format!("{number}.yaml")), layout(row, number).text).unwrap();
    }
    failures.extend(validate_differences(&rows, &manifests).await);
    let options = FileClusterOptions { manifests: vec![manifests], data, prune: false, token: None };
    let view = FileCluster::open(options).unwrap().view().await;
    let mut rejections = BTreeMap::new();
    collect_rejections(&view.hooks, &mut rejections);
    collect_rejections(&view.connections, &mut rejections);
    collect_rejections(&view.streams, &mut rejections);
    collect_rejections(&view.auth0_hooks, &mut rejections);
    assert_eq!(rejections.len(), rows.len(), "every row has an object, rejected or not");
    for (number, row) in rows.iter().enumerate() {
        let rejection = rejections[&format!("row-{number}")].as_deref();
        let is_expected = match (&row.expect, rejection) {
            (Expect::Accept, rejection) => rejection.is_none(),
            (Expect::Refuse { field, text }, Some(rejection)) => {
                rejection.contains(&format!("{field}: ")) && rejection.contains(text.as_str())
            }
            (Expect::Refuse { .. }, None) => false,
        };
        if !is_expected {
            failures.push(format!("{}: from a file: {rejection:?}", row.name));
        }
    }
    assert!(failures.is_empty(), "{} rows failed:\n{}", failures.len(), failures.join("\n"));
}

/// Returns the file of a row. Its object has a name of its own.
fn layout(row: &Row, number: usize) -> Layout {
    let mut manifest = row.manifest.clone();
    manifest["metadata"]["name"] = format!("row-{number}").into();
    Layout::of(&manifest)
}

/// Accepted URLs to which no request can be sent. The API server's rules cannot tell, so the controller reports `InvalidSpec`.
const UNUSABLE_URLS: [&str; 3] = [":99999/", "[fe80::1%25en0]", "1.2.3.4.5"];

/// Runs `hookstream validate` on the files of all rows. Returns the rows on which it differs from the table, or reports the
/// field at another place of the file.
async fn validate_differences(rows: &[Row], folder: &Path) -> Vec<String> {
    let mut command = Process::command(["validate", folder.to_str().unwrap(), "-o", "json"], &[]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut errors: BTreeMap<String, Rejection> = BTreeMap::new();
    let mut places: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for finding in report["findings"].as_array().unwrap() {
        let text = |name: &str| finding[name].as_str().unwrap().to_owned();
        if text("severity") == "error" {
            let place = ["line", "column"].map(|name| finding[name].as_u64().unwrap());
            places.insert((text("file"), text("field")), place.into());
            errors.entry(text("file")).or_default().push((text("field"), text("message")));
        }
    }
    let difference = |(number, row): (usize, &Row)| {
        let file = folder.join(format!("{number}.yaml")).display().to_string();
        let answer = errors.get(&file).map_or(Ok(Value::Null), |errors| Err(errors.clone()));
        let is_unusable = UNUSABLE_URLS.iter().any(|part| row.name.contains(part));
        let verdict = match is_unusable {
            true if answer.is_err() => Ok(()),
            true => Err("accepted, but no request can be sent".to_owned()),
            false => verdict(&row.expect, answer),
        };
        let wrong_place = || {
            let Expect::Refuse { field, .. } = &row.expect else { return None };
            let reported = places.get(&(file.clone(), field.clone()));
            let (line, column) = layout(row, number).place(field);
            let place = (line as u64, column as u64);
            (reported != Some(&place))
                .then(|| format!("{field} is at {place:?}, but reported at {reported:?}"))
        };
        let error = verdict.err().or_else(wrong_place)?;
        Some(format!("{}: by validate: {error}", row.name))
    };
    rows.iter().enumerate().filter_map(difference).collect()
}

/// Adds the rejection of every object of a view, by name.
fn collect_rejections<K>(store: &ObjectStore<K>, rejections: &mut BTreeMap<String, Option<String>>)
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    for object in store.all() {
        let rejection = match &object.0 {
            Ok(typed) => check_not_rejected(typed.meta()).err().map(|invalid| invalid.to_string()),
            Err(invalid) => Some(invalid.error.clone()),
        };
        rejections.insert(object.name_any(), rejection);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn server_rejects_immutable_changes() {
    let namespace = control_plane().namespace("updates").await;
    let client = namespace.client().await;
    let mut failures = Vec::new();
    for (number, update) in updates::rows().into_iter().enumerate() {
        let mut before = update.before.clone();
        let name = format!("update-{number}");
        before["metadata"]["name"] = name.clone().into();
        let created = send(&client, http::Method::POST, &namespace.name, "?", &before).await;
        let created = created.unwrap_or_else(|error| {
            panic!("{}: the API server rejects the object before: {error:?}", update.name)
        });
        let mut after = update.after.clone();
        after["metadata"] = created["metadata"].clone();
        let answer = send(&client, http::Method::PUT, &namespace.name, &format!("/{name}?"), &after).await;
        failures
            .extend(verdict(&update.expect, answer).err().map(|error| format!("{}: {error}", update.name)));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_apply_names_unknown_field() {
    let namespace = control_plane().namespace("strict").await;
    let manifest = format!("{}  retries: 3\n", manifests::HOOK.yaml("strict"));
    let rejection = namespace.apply(&manifest).await.unwrap_err();
    assert!(rejection.contains(r#"unknown field "spec.retries""#), "{rejection}");
}

/// Tools that render manifests write `webhook: null` for a handler that was not chosen.
#[tokio::test(flavor = "multi_thread")]
async fn explicit_null_counts_as_absent() {
    let namespace = control_plane().namespace("nulls").await;
    let manifest = manifests::HOOK.yaml("nulls").replace("{log: {}}", "{webhook: null, log: {}}");
    let manifest = manifest.replace("source: crud", "source: crud\n  deliverBy: null\n  groupBy: null");
    namespace.apply(&manifest).await.unwrap();
    let stored = namespace.kubectl(&["get", "evh", "nulls", "-o", "jsonpath={.spec}"]).await.unwrap();
    assert_eq!(stored, r#"{"handler":{"log":{}},"source":"crud"}"#);
}

/// A rejection by the server: field and text of each error.
type Rejection = Vec<(String, String)>;

/// Sends an object with strict validation; otherwise a row with a misspelled field would be accepted without that field.
async fn send(
    client: &Client,
    method: http::Method,
    namespace: &str,
    tail: &str,
    manifest: &Value,
) -> Result<Value, Rejection> {
    let plural = format!("{}s", manifest["kind"].as_str().expect("a kind").to_lowercase());
    let (name, query) = tail.split_once('?').unwrap_or((tail, ""));
    let url = format!(
        "/apis/hookstream.dev/v1alpha1/namespaces/{namespace}/{plural}{name}?{query}fieldValidation=Strict"
    );
    let request = http::Request::builder().method(method).uri(url).header("content-type", "application/json");
    let request = request.body(manifest.to_string().into_bytes()).expect("a request");
    match client.request::<Value>(request).await {
        Ok(object) => Ok(object),
        Err(kube::Error::Api(status)) => {
            let causes = status.details.map(|details| details.causes).unwrap_or_default();
            let mut rejection: Rejection = causes.into_iter().map(|c| (c.field, c.message)).collect();
            if rejection.is_empty() {
                rejection.push((String::new(), status.message));
            }
            Err(rejection)
        }
        Err(error) => panic!("the API server did not answer: {error}"),
    }
}

fn verdict(expect: &Expect, answer: Result<Value, Rejection>) -> Result<(), String> {
    match (expect, answer) {
        (Expect::Accept, Ok(_)) => Ok(()),
        (Expect::Accept, Err(rejection)) => Err(format!("rejected: {rejection:?}")),
        (Expect::Refuse { field, text }, Ok(_)) => Err(format!("accepted, but {field} should give: {text}")),
        (Expect::Refuse { field, text }, Err(rejection)) => {
            let is_reported =
                rejection.iter().any(|(at, message)| at == field && message.contains(text.as_str()));
            if is_reported {
                Ok(())
            } else {
                Err(format!("{field} should give {text:?}, but got {rejection:?}"))
            }
        }
    }
}
