//! Changes of objects that the proxy performs with the user's kubeconfig, because the worker never changes a spec.
//!
//! Each one is a form of a page of the worker, with the proxy's key, and is confirmed on a page that names the tool that may
//! revert it.

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::gate::RandomKey;
use super::pages::{escape, message, page, see_other};
use crate::api::{RECONCILE_REQUESTED_AT, RESUME};
use crate::cli::failure::Failure;
use crate::cli::objects::{ObjectOwner, ObjectReference, OpenObject, find_owner, is_suspended};
use crate::cli::service::ServiceCluster;
use crate::cluster::ResourceKind;
use crate::console::with_done;
use crate::core::names::is_namespace;
use crate::core::time::Millis;

/// The path of the actions.
pub const ACTION_PATH: &str = "/console/-/";
/// The largest form in bytes.
pub const MAX_FORM_BYTES: usize = 16 << 10;

/// Performs the actions.
pub struct ConsoleActions {
    /// None: the worker is at a URL, so there are no objects to change.
    cluster: Option<ServiceCluster>,
    /// The key that forms must have.
    form_key: RandomKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Pause,
    Resume,
    ResumeAfterFailure,
    Reconcile,
}

/// A valid form.
#[derive(Debug)]
struct ActionForm {
    action: Action,
    namespace: String,
    object: ObjectReference,
    /// The page to return to.
    back: String,
    is_confirmed: bool,
}

impl ConsoleActions {
    pub fn new(cluster: Option<ServiceCluster>, form_key: RandomKey) -> Self {
        ConsoleActions { cluster, form_key }
    }

    /// Answers a form that was sent to `/console/-/{name}`.
    pub async fn perform(&self, name: &str, form: &[u8]) -> Response {
        let rejected = |sentence: &str| message(StatusCode::BAD_REQUEST, "Not possible", sentence);
        let Some(cluster) = &self.cluster else {
            return rejected(
                "hookstream console reaches this worker by a URL, so it has no cluster to change",
            );
        };
        let form = match self.parse(name, form) {
            Ok(form) => form,
            Err(FormError::ForeignForm) => {
                let sentence = "The form is of an earlier hookstream console: load its page again";
                return message(StatusCode::FORBIDDEN, "Not possible", sentence);
            }
            Err(FormError::Invalid(sentence)) => return rejected(sentence),
        };
        let object = OpenObject::new(cluster.clone(), &form.namespace, &form.object);
        let result = match form.is_confirmed {
            false => self.confirm(&form, &object).await,
            true => apply(&form, &object).await,
        };
        result.unwrap_or_else(|failure| message(StatusCode::BAD_GATEWAY, "Not changed", &failure.message))
    }

    fn parse(&self, name: &str, form: &[u8]) -> Result<ActionForm, FormError> {
        let fields: Vec<_> = url::form_urlencoded::parse(form).collect();
        let field = |name: &str| {
            fields.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value.as_ref())
        };
        if !self.form_key.matches(field("proxy_token")) {
            return Err(FormError::ForeignForm);
        }
        let action = match (name, field("after_failure")) {
            ("pause", _) => Action::Pause,
            ("resume", "true") => Action::ResumeAfterFailure,
            ("resume", _) => Action::Resume,
            ("reconcile", _) => Action::Reconcile,
            _ => return Err(FormError::Invalid("There is no such action")),
        };
        let namespace = field("namespace").to_owned();
        if !is_namespace(&namespace) {
            return Err(FormError::Invalid("The namespace is not valid"));
        }
        let object = format!("{}/{}", field("kind"), field("name")).parse::<ObjectReference>();
        let object =
            object.map_err(|_| FormError::Invalid("The kind or the name of the object is not valid"))?;
        let is_possible = match action {
            Action::Pause | Action::Resume => object.kind == ResourceKind::EventHook,
            Action::ResumeAfterFailure => {
                matches!(object.kind, ResourceKind::EventHook | ResourceKind::EventStream)
            }
            Action::Reconcile => true,
        };
        if !is_possible {
            return Err(FormError::Invalid("Objects of this kind have no such action"));
        }
        let back = Some(field("return")).filter(|path| is_page(path)).unwrap_or("/console/").to_owned();
        Ok(ActionForm { action, namespace, object, back, is_confirmed: field("confirm") == "yes" })
    }

    async fn confirm(&self, form: &ActionForm, object: &OpenObject) -> Result<Response, Failure> {
        let current = object.read().await?;
        if form.action == Action::Reconcile && is_suspended(&current) {
            return Err(Failure::new(format!(
                "{} is suspended, so nothing reconciles it: `hookstream resume {} -n {}` first",
                object.title, form.object, form.namespace
            )));
        }
        let warning = match find_owner(&current).filter(|_| form.action.changes_spec()) {
            Some(ObjectOwner { tool, remedy }) => format!(
                "<p role=\"alert\"><strong>{} manages this object and may revert the change: {}.</strong></p>\n",
                escape(&tool),
                escape(remedy)
            ),
            None if form.action.changes_spec() => {
                "<p>If a GitOps tool applies this object from a repository, it may revert the change: change it there too.</p>\n"
                    .to_owned()
            }
            None => String::new(),
        };
        let kind: &str = (&form.object.kind).into();
        let mut fields = String::new();
        for (name, value) in [
            ("proxy_token", self.form_key.expose()),
            ("kind", kind),
            ("namespace", &form.namespace),
            ("name", &form.object.name),
            ("return", &form.back),
            ("after_failure", if form.action == Action::ResumeAfterFailure { "true" } else { "" }),
            ("confirm", "yes"),
        ] {
            let value = escape(value);
            fields.push_str(&format!("<input type=\"hidden\" name=\"{name}\" value=\"{value}\">\n"));
        }
        let (verb, path) = form.action.words();
        let content = format!(
            "<p>With your kubeconfig, hookstream console sets <code>{patch}</code> of {title}.</p>\n{warning}\
             <form method=\"post\" action=\"{ACTION_PATH}{path}\">\n{fields}<button type=\"submit\">{verb}</button>\n\
             <a href=\"{back}\">Cancel</a>\n</form>",
            patch = escape(&form.action.patch("now").to_string()),
            title = escape(&object.title),
            back = escape(&form.back),
        );
        Ok(page(StatusCode::OK, &format!("{verb} {}?", object.title), &content))
    }
}

/// Applies a confirmed change.
async fn apply(form: &ActionForm, object: &OpenObject) -> Result<Response, Failure> {
    object.patch(&form.action.patch(&Millis::wall().rfc3339())).await?;
    eprintln!("hookstream: {}: {}", object.title, form.action.words().1);
    Ok(see_other(&with_done(&form.back, form.action.done()).to_string()))
}

impl Action {
    /// Returns the label of the button, and the last part of the path.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Action::Pause => ("Pause", "pause"),
            Action::Resume | Action::ResumeAfterFailure => ("Resume", "resume"),
            Action::Reconcile => ("Reconcile", "reconcile"),
        }
    }

    /// Returns the word by which the page reports the change.
    fn done(self) -> &'static str {
        match self {
            Action::Pause => "paused",
            Action::Resume | Action::ResumeAfterFailure => "resumed",
            Action::Reconcile => "reconciled",
        }
    }

    /// Annotations are requests to the controller, which GitOps tools leave alone.
    fn changes_spec(self) -> bool {
        matches!(self, Action::Pause | Action::Resume)
    }

    /// Returns the merge patch. `token`: a value that no earlier request had.
    fn patch(self, token: &str) -> Value {
        match self {
            Action::Pause => json!({"spec": {"delivery": {"paused": true}}}),
            // Null removes the field, as the manifest of an object that was never paused has none.
            Action::Resume => json!({"spec": {"delivery": {"paused": null}}}),
            Action::ResumeAfterFailure => json!({"metadata": {"annotations": {RESUME: token}}}),
            Action::Reconcile => json!({"metadata": {"annotations": {RECONCILE_REQUESTED_AT: token}}}),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum FormError {
    /// The form has not the proxy's key.
    ForeignForm,
    Invalid(&'static str),
}

/// Returns true for the path of a page of the console. Anything else would make the redirect lead elsewhere.
fn is_page(path: &str) -> bool {
    path.starts_with("/console/")
        && !path.starts_with(ACTION_PATH)
        && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, fields: &[(&str, &str)]) -> Result<ActionForm, FormError> {
        let actions = ConsoleActions::new(None, RandomKey::generate().unwrap());
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("proxy_token", actions.form_key.expose());
        form.extend_pairs(fields);
        actions.parse(name, form.finish().as_bytes())
    }

    #[test]
    fn form_needs_the_key_and_a_possible_action() {
        let actions = ConsoleActions::new(None, RandomKey::generate().unwrap());
        for form in ["", "proxy_token=", "proxy_token=x", "kind=EventHook&namespace=shop&name=orders"] {
            assert_eq!(
                actions.parse("pause", form.as_bytes()).unwrap_err(),
                FormError::ForeignForm,
                "{form}"
            );
        }
        let object = |kind| [("kind", kind), ("namespace", "shop"), ("name", "orders")];
        let paused = parse("pause", &object("EventHook")).unwrap();
        assert_eq!((paused.action, paused.is_confirmed), (Action::Pause, false));
        assert_eq!(paused.object.to_string(), "eventhook/orders");
        assert!(parse("pause", &object("Connection")).is_err());
        assert!(parse("delete", &object("EventHook")).is_err());
        assert_eq!(parse("reconcile", &object("Connection")).unwrap().action, Action::Reconcile);
        let after = [("kind", "EventStream"), ("namespace", "a"), ("name", "b"), ("after_failure", "true")];
        assert_eq!(parse("resume", &after).unwrap().action, Action::ResumeAfterFailure);
        for wrong in [
            [("kind", "Secret"), ("namespace", "shop"), ("name", "orders")],
            [("kind", "EventHook"), ("namespace", "../x"), ("name", "orders")],
            [("kind", "EventHook"), ("namespace", "shop"), ("name", "../../secrets/x")],
        ] {
            assert!(parse("pause", &wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn returns_to_pages_of_the_console_only() {
        for (path, is_valid) in [
            ("/console/hooks?namespace=a%20b", true),
            ("/console/-/pause", false),
            ("//evil.example/console/", false),
            ("https://evil.example/", false),
            ("/console/\r\nset-cookie: a", false),
            ("/console/\\evil", false),
        ] {
            assert_eq!(is_page(path), is_valid, "{path}");
        }
    }
}
