//! `hookstream uninstall-check`: whether anything at a vendor still hangs on an object.

use std::process::ExitCode;

use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};

use super::{Failure, OrFail, Outcome, say};
use crate::api::{self, FINALIZER, GROUP};

/// How many objects are named; the others are counted.
const NAMED: usize = 10;

/// Tell whether something at a vendor still hangs on an object: an uninstall would leave it there, and the object in the
/// middle of its deletion for ever. Exit code 1: there is something.
///
/// Example: hookstream uninstall-check --namespace shop
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// A namespace to look in; may be given several times. Default: all.
    #[arg(long, value_delimiter = ',', env = "HOOKSTREAM_NAMESPACE")]
    namespace: Vec<String>,
}

pub async fn run(args: Args) -> Outcome {
    let config = super::cluster::config().await?;
    let client = Client::try_from(config).or_fail(|| "the cluster's configuration".into())?;
    let mut held = Vec::new();
    for kind in kinds() {
        for api in apis(&client, &kind, &args.namespace) {
            held.extend(with_finalizers(&kind, &api).await?);
        }
    }
    if held.is_empty() {
        say("nothing at a vendor hangs on an object: the uninstall may go on");
        return Ok(ExitCode::SUCCESS);
    }
    let mut names = held.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if let Some(more) = held.len().checked_sub(NAMED).filter(|more| *more > 0) {
        names.push_str(&format!(" and {more} more"));
    }
    let message = format!(
        "something at a vendor hangs on {names}. Delete these objects while the controller runs, or let go of what they \
         made by `hookstream release --all`; then uninstall again"
    );
    Err(Failure { code: 1, message })
}

/// Our kinds, as their definitions name them.
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

async fn with_finalizers(kind: &ApiResource, api: &Api<DynamicObject>) -> Result<Vec<String>, Failure> {
    let mut held = Vec::new();
    let mut params = ListParams::default().limit(500);
    loop {
        let page = match api.list_metadata(&params).await {
            Ok(page) => page,
            // Without a definition there are no objects.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(held),
            Err(error) => return Err(Failure::new(format!("listing {}: {error}", kind.plural))),
        };
        let ours = page.items.iter().filter(|object| object.finalizers().iter().any(|f| f == FINALIZER));
        held.extend(ours.map(|object| {
            let namespace = object.namespace().unwrap_or_default();
            format!("{} {namespace}/{}", kind.kind.to_lowercase(), object.name_any())
        }));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(held),
        }
    }
}
