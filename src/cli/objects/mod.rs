//! `hookstream reconcile`, `suspend` and `resume`: request an action of the controller on one object of a cluster.

mod owner;
mod reference;
mod wait;

use std::process::ExitCode;
use std::time::Duration;

use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use super::failure::{CommandResult, Failure};
use super::output::print_line;
use super::service::ServiceCluster;
use super::target::ClusterTargetArgs;
use super::worker_args::NamespaceArg;
use crate::api::{RECONCILE_REQUESTED_AT, RESUME};
use crate::cluster::ResourceKind;
use crate::cluster::kubernetes::api_resource;
use crate::core::duration;
use crate::core::time::Millis;
pub use owner::{ObjectOwner, find_owner};
pub use reference::ObjectReference;
use wait::{Goal, wait_for};

/// The field manager of these commands.
const MANAGER: &str = "hookstream-cli";

/// Flags that select an object of a cluster.
#[derive(clap::Args)]
struct ObjectArgs {
    /// The object, such as evh/orders: EventHook (evh), EventStream (evs), Hook or Connection (conn).
    #[arg(value_name = "KIND/NAME")]
    object: ObjectReference,
    /// The namespace of the object. Default: that of the profile or of the kubeconfig's context.
    #[arg(short, long, value_name = "NAMESPACE", default_value = "", hide_default_value = true)]
    namespace: NamespaceArg,
    #[command(flatten)]
    target: ClusterTargetArgs,
}

/// Flags that wait for the controller.
#[derive(clap::Args)]
struct WaitArgs {
    /// Wait for the result. Exit code 1: the object is not Ready, or there is no result in time.
    #[arg(long)]
    wait: bool,
    /// How long --wait waits.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration::parse)]
    timeout: Duration,
}

/// Request an immediate comparison of an object with the vendor.
///
/// Sets the annotation hookstream.dev/reconcileRequestedAt. Uses the current context of the kubeconfig. Requires permission
/// to get and patch the object.
///
/// Example: hookstream reconcile evh/orders -n shop --wait
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ReconcileArgs {
    #[command(flatten)]
    object: ObjectArgs,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Suspend the reconciliation of an object with the vendor. Deliveries continue.
///
/// Sets spec.suspend. Warns if a GitOps tool or Helm manages the object, because it may set the field back. Uses the current
/// context of the kubeconfig. Requires permission to get and patch the object.
///
/// Example: hookstream suspend evh/orders -n shop
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct SuspendArgs {
    #[command(flatten)]
    object: ObjectArgs,
}

/// Resume the reconciliation of a suspended object, or deliveries after a failure.
///
/// Clears spec.suspend. With --after-failure: sets the annotation hookstream.dev/resume instead, which releases a hook whose
/// receiver answered 410, and enables a stream that Auth0 disabled. Warns as suspend does. Uses the current context of the
/// kubeconfig. Requires permission to get and patch the object.
///
/// Example: hookstream resume evh/orders -n shop --after-failure --wait
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ResumeArgs {
    #[command(flatten)]
    object: ObjectArgs,
    /// Resume a hook that is held after a response of 410, or a stream that Auth0 disabled.
    #[arg(long)]
    after_failure: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

pub async fn reconcile(args: ReconcileArgs) -> CommandResult {
    let object = OpenObject::open(&args.object).await?;
    let before = object.read().await?;
    if is_suspended(&before) {
        return Err(Failure::new(format!(
            "{} is suspended, so nothing reconciles it: `hookstream resume {}` first",
            object.title, args.object.object
        )));
    }
    let token = Millis::now().rfc3339();
    object.annotate(RECONCILE_REQUESTED_AT, &token).await?;
    object.report("reconcile requested");
    object.finish(&args.wait, &Goal::Reconciled { token }).await
}

pub async fn suspend(args: SuspendArgs) -> CommandResult {
    let object = OpenObject::open(&args.object).await?;
    let before = object.read().await?;
    object.require_suspendable()?;
    if is_suspended(&before) {
        print_line(&format!("{} is suspended already", object.title));
        return Ok(ExitCode::SUCCESS);
    }
    object.warn_of_owner(&before);
    object.patch(&json!({"spec": {"suspend": true}})).await?;
    object.report("suspended");
    Ok(ExitCode::SUCCESS)
}

pub async fn resume(args: ResumeArgs) -> CommandResult {
    let object = OpenObject::open(&args.object).await?;
    let before = object.read().await?;
    object.require_suspendable()?;
    if args.after_failure {
        if object.kind == ResourceKind::Hook {
            return Err(Failure::new("--after-failure: only an EventHook or an EventStream can be resumed"));
        }
        let token = Millis::now().rfc3339();
        object.annotate(RESUME, &token).await?;
        object.report("resume requested");
        return object.finish(&args.wait, &Goal::ResumedAfterFailure { token }).await;
    }
    if !is_suspended(&before) {
        print_line(&format!("{} is not suspended (--after-failure resumes deliveries)", object.title));
        return Ok(ExitCode::SUCCESS);
    }
    object.warn_of_owner(&before);
    object.patch(&json!({"spec": {"suspend": null}})).await?;
    object.report("resumed");
    object.finish(&args.wait, &Goal::Resumed).await
}

/// Returns true if the reconciliation of the object is suspended.
pub fn is_suspended(object: &DynamicObject) -> bool {
    object.data.pointer("/spec/suspend").and_then(Value::as_bool) == Some(true)
}

/// An object of a cluster, with the means to read and patch it.
pub struct OpenObject {
    api: Api<DynamicObject>,
    cluster: ServiceCluster,
    kind: ResourceKind,
    name: String,
    /// Kind, namespace and name, for messages.
    pub title: String,
}

impl OpenObject {
    async fn open(args: &ObjectArgs) -> Result<Self, Failure> {
        let profile = args.target.profile()?;
        let cluster = args.target.cluster(&profile).await?;
        let of_flag = Some(&*args.namespace).filter(|text| !text.is_empty());
        let namespace = of_flag.or(profile.namespace.as_deref()).unwrap_or(&cluster.namespace).to_owned();
        Ok(OpenObject::new(cluster, &namespace, &args.object))
    }

    /// Names the object without reading it.
    pub fn new(cluster: ServiceCluster, namespace: &str, object: &ObjectReference) -> Self {
        let ObjectReference { kind, name } = object;
        let kind_name: &str = kind.into();
        let title = format!("{kind_name} {namespace}/{name}");
        let api = Api::namespaced_with(cluster.client.clone(), namespace, &api_resource(*kind));
        OpenObject { api, kind: *kind, name: name.clone(), title, cluster }
    }

    fn failure(&self, error: &kube::Error) -> Failure {
        match error {
            kube::Error::Api(status) if status.code == 404 => {
                Failure::new(format!("{} does not exist in {}", self.title, self.cluster.server))
            }
            error => Failure::new(format!("{}: {}", self.title, self.cluster.server.describe(error))),
        }
    }

    /// Reads the object.
    pub async fn read(&self) -> Result<DynamicObject, Failure> {
        self.api.get(&self.name).await.map_err(|error| self.failure(&error))
    }

    /// Applies a merge patch with the user's credentials.
    pub async fn patch(&self, change: &Value) -> Result<(), Failure> {
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        let patched = self.api.patch(&self.name, &params, &Patch::Merge(change)).await;
        patched.map(drop).map_err(|error| self.failure(&error))
    }

    /// Sets one annotation.
    pub async fn annotate(&self, annotation: &str, token: &str) -> Result<(), Failure> {
        self.patch(&json!({"metadata": {"annotations": {annotation: token}}})).await
    }

    /// A Connection has no vendor object of its own.
    fn require_suspendable(&self) -> Result<(), Failure> {
        if self.kind == ResourceKind::Connection {
            return Err(Failure::new(
                "a Connection cannot be suspended or resumed: name an object that uses it",
            ));
        }
        Ok(())
    }

    /// Warns before a change of the spec that another tool may revert.
    fn warn_of_owner(&self, object: &DynamicObject) {
        if let Some(ObjectOwner { tool, remedy }) = find_owner(object) {
            eprintln!("hookstream: warning: {tool} manages {} and may revert this: {remedy}", self.title);
        }
    }

    /// Prints the change, and the target on standard error.
    fn report(&self, change: &str) {
        eprintln!("hookstream: target: {}", self.cluster.server);
        print_line(&format!("{}: {change}", self.title));
    }

    async fn finish(&self, args: &WaitArgs, goal: &Goal) -> CommandResult {
        if !args.wait {
            return Ok(ExitCode::SUCCESS);
        }
        let outcome = wait_for(goal, args.timeout, || self.read()).await?;
        print_line(&format!("{}: {}", self.title, outcome.message));
        Ok(ExitCode::from(u8::from(!outcome.is_success)))
    }
}
