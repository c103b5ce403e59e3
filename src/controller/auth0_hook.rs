//! Hook: reconciles Auth0's extensibility Hooks. Auth0 ended them on 18 November 2026, so every object gets a warning.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::context::Context;
use super::error::SyncError;
use super::reconcile::{self, DesiredObject, Preview, Synced, shared_members};
use super::status;
use crate::admin::AdminAccess;
use crate::admin::auth0::{HookBody, HookClient};
use crate::api::{ConnectionSpec, Hook};
use crate::cluster::{ObjectKey, ObjectStore, ReferenceError, View, read_secret_text};
use crate::core::auth0_hook::{self, END_OF_LIFE, Script, ScriptSource, check_script};
use crate::core::conditions::{ConditionMessage, build_condition};
use crate::core::time::Millis;

/// The type of the condition that holds the warning.
const CONDITION: &str = "EndOfLife";

impl Synced for Hook {
    type Client = HookClient;
    const WHAT: &'static str = "hook at Auth0";
    const VENDOR: &'static str = "Auth0";

    shared_members!();

    fn is_vendor(connection: &ConnectionSpec) -> bool {
        connection.auth0.is_some()
    }

    fn client(access: &AdminAccess) -> Option<HookClient> {
        Some(HookClient::new(access.auth0()?.clone()))
    }

    fn store(view: &View) -> &ObjectStore<Hook> {
        &view.auth0_hooks
    }
}

/// Reconciles a Hook.
pub async fn reconcile(object: Arc<Hook>, context: Arc<Context>) -> Result<Duration, SyncError> {
    if object.metadata.deletion_timestamp.is_some() {
        return Box::pin(reconcile::clean_up(&*object, &context)).await;
    }
    if object.policies().suspend {
        return reconcile::report_suspended(&*object, &context).await;
    }
    let script = auth0_hook::validate(&object)?;
    let vendor = reconcile::vendor_access::<Hook>(&context, &object, &script.connection).await?;
    let desired = desired_hook(&script, &context).await?;
    let result = Box::pin(reconcile::sync(&context, &*object, &vendor, &desired)).await?;

    let mut status = object.status.clone().unwrap_or_default();
    if let Some(warning) = set_condition(&mut status.conditions, object.metadata.generation, Millis::now()) {
        status::publish_event(&context, &*object, true, &warning).await;
    }
    let message =
        if script.enabled { "Auth0 has the hook" } else { "Auth0 has the hook, which the spec disables" };
    reconcile::finish(
        &context,
        &*object,
        &vendor,
        &desired,
        result,
        status,
        ConditionMessage::new("Synced", message),
    )
    .await
}

/// Previews a sync of a Hook.
pub async fn preview(object: &Hook, context: &Context) -> Result<Preview, SyncError> {
    let script = auth0_hook::validate(object)?;
    let vendor = reconcile::vendor_access::<Hook>(context, object, &script.connection).await?;
    let desired = desired_hook(&script, context).await?;
    reconcile::preview(context, object, &vendor, &desired, None).await
}

/// Dereferences the ConfigMap and the Secrets, and returns the hook that Auth0 should have.
async fn desired_hook(script: &Script, context: &Context) -> Result<DesiredObject<HookBody>, SyncError> {
    let text = match &script.source {
        ScriptSource::Inline(text) => text.clone(),
        ScriptSource::ConfigMap(reference) => {
            let (name, key) = (&reference.name, &reference.key);
            let data = context.cluster.config_map(&ObjectKey::new(&script.namespace, name)).await?;
            let data = data.ok_or_else(|| ReferenceError::ConfigMapMissing(name.clone()))?;
            let missing =
                || ReferenceError::ConfigMapKeyMissing { config_map: name.clone(), key: key.clone() };
            let bytes = data.get(key).ok_or_else(missing)?;
            let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8 text").and_then(check_script);
            let text =
                text.map_err(|why| SyncError::SecretUnusable(format!("key {key} of ConfigMap {name} {why}")));
            text?.to_owned()
        }
    };
    let mut secrets = std::collections::BTreeMap::new();
    for secret in &script.secrets {
        let value = read_secret_text(&*context.cluster, &script.namespace, &secret.secret_ref).await?;
        secrets.insert(secret.name.clone(), value);
    }
    let trigger: &str = script.trigger.into();
    let body = HookBody {
        name: script.name.clone(),
        trigger: trigger.to_owned(),
        script: text,
        dependencies: script.dependencies.clone(),
        enabled: script.enabled,
        secrets,
    };
    let object = body.to_value();
    let paths = body.secret_paths();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    Ok(DesiredObject::new(body, object, &paths, Some(script.name.clone())))
}

/// Sets the end-of-life condition. Returns the warning if the object did not have the condition yet.
fn set_condition(
    conditions: &mut Vec<Condition>,
    generation: Option<i64>,
    now: Millis,
) -> Option<ConditionMessage> {
    let before = conditions.iter().position(|c| c.type_ == CONDITION).map(|at| conditions.remove(at));
    let verb = if now >= END_OF_LIFE { "ended" } else { "ends" };
    let message = format!(
        "Auth0 {verb} Hooks on 18 November 2026 and may stop serving them at any time: move the script to an Action"
    );
    let text = ("HooksEnded", message.as_str());
    conditions.push(build_condition(before.as_ref(), CONDITION, "True", text, generation, now));
    before.is_none().then(|| ConditionMessage::new("HooksEnded", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warns_once() {
        let mut all = Vec::new();
        let warning = set_condition(&mut all, Some(1), END_OF_LIFE).unwrap();
        assert!(warning.message.contains("ended Hooks on 18 November 2026"), "{}", warning.message);
        assert!(set_condition(&mut all, Some(2), Millis(END_OF_LIFE.0 + 1)).is_none());
        assert_eq!((all.len(), all[0].status.as_str(), all[0].observed_generation), (1, "True", Some(2)));
        assert!(
            set_condition(&mut Vec::new(), None, Millis(0)).unwrap().message.contains("Auth0 ends Hooks")
        );
    }
}
