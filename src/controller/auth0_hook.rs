//! Hook: what Auth0 has to be told for an extensibility Hook. Auth0 ended them, which every object is told.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::reflector::Store;

use super::context::Context;
use super::problem::Problem;
use super::reconcile::{self, Preview, Synced, Wanted, shared_members};
use super::status;
use crate::admin::Access;
use crate::admin::auth0::{HookBody, HookClient};
use crate::api::{ConnectionSpec, Hook};
use crate::cluster::{Guarded, Key, MissingSecret, View, secret_text};
use crate::core::auth0_hook::{self, END_OF_LIFE, Script, Source, script_text};
use crate::core::conditions::{Note, condition};
use crate::core::time::Millis;

/// The condition that warns.
const ENDED: &str = "EndOfLife";

impl Synced for Hook {
    type Client = HookClient;
    const WHAT: &'static str = "hook at Auth0";
    const VENDOR: &'static str = "Auth0";

    shared_members!();

    fn is_vendor(connection: &ConnectionSpec) -> bool {
        connection.auth0.is_some()
    }

    fn client(access: &Access) -> Option<HookClient> {
        Some(HookClient::new(access.auth0()?.clone()))
    }

    fn all(view: &View) -> &Store<Guarded<Hook>> {
        &view.auth0_hooks
    }
}

/// The pipeline.
pub async fn reconcile(object: Arc<Hook>, context: Arc<Context>) -> Result<Duration, Problem> {
    if object.metadata.deletion_timestamp.is_some() {
        return Box::pin(reconcile::cleanup(&*object, &context)).await;
    }
    if object.policies().suspend {
        return Ok(reconcile::suspended());
    }
    let script = auth0_hook::validate(&object)?;
    let vendor = reconcile::vendor::<Hook>(&context, &object, &script.connection).await?;
    let wanted = wanted(&script, &context).await?;
    let outcome = Box::pin(reconcile::sync(&context, &*object, &vendor, &wanted)).await?;

    let mut status = object.status.clone().unwrap_or_default();
    if let Some(note) = warn(&mut status.conditions, object.metadata.generation, Millis::now()) {
        status::tell(&context, &*object, true, &note).await;
    }
    let said =
        if script.enabled { "Auth0 has the hook" } else { "Auth0 has the hook, disabled as the spec says" };
    reconcile::finish(&context, &*object, &vendor, &wanted, outcome, status, Note::new("Synced", said)).await
}

/// What a sync would change.
pub async fn preview(object: &Hook, context: &Context) -> Result<Preview, Problem> {
    let script = auth0_hook::validate(object)?;
    let vendor = reconcile::vendor::<Hook>(context, object, &script.connection).await?;
    let wanted = wanted(&script, context).await?;
    reconcile::preview(context, object, &vendor, &wanted, None).await
}

/// The hook that Auth0 should have, and what it refers to, read.
async fn wanted(script: &Script, context: &Context) -> Result<Wanted<HookBody>, Problem> {
    let text = match &script.source {
        Source::Inline(text) => text.clone(),
        Source::ConfigMap(reference) => {
            let (name, key) = (&reference.name, &reference.key);
            let data = context.cluster.config_map(&Key::new(&script.namespace, name)).await?;
            let data = data.ok_or_else(|| MissingSecret::ConfigMapMissing(name.clone()))?;
            let missing =
                || MissingSecret::ConfigMapKeyMissing { config_map: name.clone(), key: key.clone() };
            let bytes = data.get(key).ok_or_else(missing)?;
            let text = std::str::from_utf8(bytes).map_err(|_| "is no text").and_then(script_text);
            let text =
                text.map_err(|why| Problem::SecretUnusable(format!("key {key} of ConfigMap {name} {why}")));
            text?.to_owned()
        }
    };
    let mut secrets = std::collections::BTreeMap::new();
    for secret in &script.secrets {
        let value = secret_text(&*context.cluster, &script.namespace, &secret.secret_ref).await?;
        secrets.insert(secret.name.clone(), value);
    }
    let trigger: &str = script.trigger.into();
    let desired = HookBody {
        name: script.name.clone(),
        trigger: trigger.to_owned(),
        script: text,
        dependencies: script.dependencies.clone(),
        enabled: script.enabled,
        secrets,
    };
    let whole = desired.whole();
    let paths = desired.secret_paths();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    Ok(Wanted::new(desired, whole, &paths, Some(script.name.clone())))
}

/// Puts the warning in; a note where nobody was told yet.
fn warn(conditions: &mut Vec<Condition>, generation: Option<i64>, now: Millis) -> Option<Note> {
    let before = conditions.iter().position(|c| c.type_ == ENDED).map(|at| conditions.remove(at));
    let verb = if now >= END_OF_LIFE { "ended" } else { "ends" };
    let message = format!(
        "Auth0 {verb} Hooks on 18 November 2026 and may stop serving them at any time: move the script to an Action"
    );
    let told = ("HooksEnded", message.as_str());
    conditions.push(condition(before.as_ref(), ENDED, "True", told, generation, now));
    before.is_none().then(|| Note::new("HooksEnded", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_warned_once() {
        let mut all = Vec::new();
        let note = warn(&mut all, Some(1), END_OF_LIFE).unwrap();
        assert!(note.message.contains("ended Hooks on 18 November 2026"), "{}", note.message);
        assert!(warn(&mut all, Some(2), Millis(END_OF_LIFE.0 + 1)).is_none());
        assert_eq!((all.len(), all[0].status.as_str(), all[0].observed_generation), (1, "True", Some(2)));
        assert!(warn(&mut Vec::new(), None, Millis(0)).unwrap().message.contains("Auth0 ends Hooks"));
    }
}
