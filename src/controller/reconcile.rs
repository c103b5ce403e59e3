//! The pipeline, generic over kinds: observe, plan, apply.

use kube::ResourceExt;
use serde_json::Value;

use super::context::Context;
use super::problem::Problem;
use super::status::Managed;
use crate::admin::ExternalClient;
use crate::api::FINALIZER;
use crate::cluster::{ClusterError, Target};
use crate::core::plan::{Plan, plan};

/// What an object wants to exist at the vendor.
pub struct Wanted<C: ExternalClient> {
    pub client: C,
    /// The id under which it is made.
    pub id: String,
    pub desired: C::Desired,
    /// What is compared with what is there.
    pub compared: Value,
}

/// What was done at the vendor.
#[derive(Debug, PartialEq, Eq)]
pub enum Done {
    Created,
    /// The fields that differed.
    Updated(Vec<String>),
    Nothing,
}

/// Makes the vendor's object what is wanted.
pub async fn apply<K, C>(context: &Context, object: &K, wanted: &Wanted<C>) -> Result<Done, Problem>
where
    K: Managed,
    C: ExternalClient<Observed = Value>,
{
    context.backoff.may_call(&object.uid().unwrap_or_default())?;
    let there = wanted.client.observe(&wanted.id).await?;
    let plan = plan(&wanted.compared, there.as_ref());
    if plan != Plan::Nothing {
        tracing::debug!(name = object.name_any(), ?plan, "the vendor differs from the spec");
    }
    // Before the first external write: a crash between the two must leave something that cleans up.
    hold(context, object).await?;
    match plan {
        Plan::Create => wanted.client.create(&wanted.id, &wanted.desired).await.map(|_| Done::Created),
        Plan::Update(fields) => {
            wanted.client.update(&wanted.id, &wanted.desired).await.map(|_| Done::Updated(fields))
        }
        Plan::Nothing => Ok(Done::Nothing),
    }
    .map_err(Problem::from)
}

/// Puts our finalizer on the object.
pub async fn hold<K: Managed>(context: &Context, object: &K) -> Result<(), ClusterError> {
    let mut finalizers = object.finalizers().to_vec();
    if finalizers.iter().any(|f| f == FINALIZER) {
        return Ok(());
    }
    finalizers.push(FINALIZER.to_owned());
    context.cluster.write_finalizers(&Target::of(K::KIND, object), finalizers).await
}

/// Takes our finalizer off the object. One that is gone has none.
pub async fn release<K: Managed>(context: &Context, object: &K) -> Result<(), ClusterError> {
    let finalizers: Vec<String> = object.finalizers().iter().filter(|f| *f != FINALIZER).cloned().collect();
    if finalizers.len() == object.finalizers().len() {
        return Ok(());
    }
    match context.cluster.write_finalizers(&Target::of(K::KIND, object), finalizers).await {
        Err(ClusterError::Gone) => Ok(()),
        other => other,
    }
}
