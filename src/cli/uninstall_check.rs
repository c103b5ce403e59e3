//! `hookstream uninstall-check`: checks that no object has a finalizer left.

use std::process::ExitCode;

use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};

use super::failure::{CommandResult, Failure};
use super::flags::SelectionArgs;
use super::kubeconfig::{ApiServer, create_client, load_config};
use super::output::print_line;
use crate::api::{self, FINALIZER, GROUP};

/// The maximum number of objects that the message names; it counts the others.
const MAX_NAMES: usize = 10;

/// Check that no custom resource still has an external object. An uninstall would orphan these objects, and a deletion
/// of their custom resources would never finish. Exit code 1: a custom resource still has one.
///
/// Example: hookstream uninstall-check --namespace shop
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// A namespace to check; may be repeated. Default: all.
    #[arg(long, value_delimiter = ',', env = "HOOKSTREAM_NAMESPACE")]
    namespace: Vec<String>,
    #[command(flatten)]
    selection: SelectionArgs,
}

pub async fn run(args: Args) -> CommandResult {
    let config = load_config().await?;
    let server = ApiServer::of(&config);
    let client = create_client(config)?;
    let selector = args.selection.label_selector();
    let mut finalized = Vec::new();
    for kind in kinds() {
        for api in apis(&client, &kind, &args.namespace) {
            finalized.extend(list_finalized(&kind, &api, &selector, &server).await?);
        }
    }
    if finalized.is_empty() {
        print_line("no custom resource has an external object: the uninstall can proceed");
        return Ok(ExitCode::SUCCESS);
    }
    let mut names = finalized.iter().take(MAX_NAMES).cloned().collect::<Vec<_>>().join(", ");
    if let Some(more) = finalized.len().checked_sub(MAX_NAMES).filter(|more| *more > 0) {
        names.push_str(&format!(" and {more} more"));
    }
    let message = format!(
        "these custom resources still have external objects: {names}. Delete them while the controller runs, or orphan their \
         external objects with `hookstream release --all`; then uninstall again"
    );
    Err(Failure { code: 1, message })
}

/// Returns our kinds as the CRDs define them.
fn kinds() -> Vec<ApiResource> {
    let resource = |crd: serde_json::Value| {
        let text = |path: &str| crd.pointer(path).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        let kind = GroupVersionKind::gvk(GROUP, &text("/spec/versions/0/name"), &text("/spec/names/kind"));
        ApiResource::from_gvk_with_plural(&kind, &text("/spec/names/plural"))
    };
    api::crds().into_iter().map(resource).collect()
}

fn apis(client: &Client, kind: &ApiResource, namespaces: &[String]) -> Vec<Api<DynamicObject>> {
    if namespaces.is_empty() {
        return vec![Api::all_with(client.clone(), kind)];
    }
    namespaces.iter().map(|namespace| Api::namespaced_with(client.clone(), namespace, kind)).collect()
}

/// Lists the objects of a kind that have our finalizer, by kind, namespace and name.
async fn list_finalized(
    kind: &ApiResource,
    api: &Api<DynamicObject>,
    selector: &str,
    server: &ApiServer,
) -> Result<Vec<String>, Failure> {
    let mut finalized = Vec::new();
    let mut params = ListParams::default().labels(selector).limit(500);
    loop {
        let page = match api.list_metadata(&params).await {
            Ok(page) => page,
            // The CRD is not installed, so there are no objects.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(finalized),
            Err(error) => {
                return Err(Failure::new(format!("listing {}: {}", kind.plural, server.describe(&error))));
            }
        };
        let ours = page.items.iter().filter(|object| object.finalizers().iter().any(|f| f == FINALIZER));
        finalized.extend(ours.map(|object| {
            let namespace = object.namespace().unwrap_or_default();
            format!("{} {namespace}/{}", kind.kind.to_lowercase(), object.name_any())
        }));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(finalized),
        }
    }
}
