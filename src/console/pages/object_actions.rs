//! Changes of objects. The worker never changes specs: `hookstream console` does with the user's kubeconfig; elsewhere the
//! page shows the command to copy.

use maud::{Markup, html};

use crate::console::request::PageRequest;
use crate::console::view::{button, command, csrf_field};

/// A change of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Pause,
    Resume,
    /// Releases a hook that is held after a response of 410, or a stream that the vendor disabled.
    ResumeAfterFailure,
    Reconcile,
}

impl Action {
    fn label(self) -> &'static str {
        match self {
            Action::Pause => "Pause",
            Action::Resume => "Resume",
            Action::ResumeAfterFailure => "Resume after the failure",
            Action::Reconcile => "Reconcile now",
        }
    }

    /// The last part of the proxy's path.
    fn path(self) -> &'static str {
        match self {
            Action::Pause => "pause",
            Action::Resume | Action::ResumeAfterFailure => "resume",
            Action::Reconcile => "reconcile",
        }
    }

    fn changes_spec(self) -> bool {
        matches!(self, Action::Pause | Action::Resume)
    }

    /// Returns the command that does the same.
    fn command(self, kind: &str, namespace: &str, name: &str) -> String {
        let short = match kind {
            "EventHook" => "evh",
            "EventStream" => "evs",
            "Connection" => "conn",
            _ => "hook",
        };
        let patch = |paused: &str| {
            format!(
                "kubectl patch eventhook {name} -n {namespace} --type merge -p '{{\"spec\":{{\"delivery\":{{\"paused\":{paused}}}}}}}'"
            )
        };
        match self {
            Action::Pause => patch("true"),
            Action::Resume => patch("false"),
            Action::ResumeAfterFailure => {
                format!("hookstream resume {short}/{name} -n {namespace} --after-failure")
            }
            Action::Reconcile => format!("hookstream reconcile {short}/{name} -n {namespace}"),
        }
    }
}

/// Shows the changes of an object: as buttons behind `hookstream console`, otherwise as commands.
pub fn actions(request: &PageRequest, kind: &str, name: &str, actions: &[Action]) -> Markup {
    let namespace = request.scope.namespace().unwrap_or_default();
    html! {
        section.card aria-labelledby="actions" {
            h2 #actions { "Change the object" }
            @match &request.proxy_token {
                Some(_) => {
                    p.hint { "With your kubeconfig, by hookstream console." }
                    @for action in actions { (form(request, *action, kind, namespace, name)) }
                },
                None => {
                    p.hint { "The worker changes no objects. Run the command, or open the console with " code { "hookstream console" } "." }
                    @for action in actions {
                        h3 { (action.label()) }
                        (command(&format!("command-{}", action.label().replace(' ', "-")), "the command", &action.command(kind, namespace, name)))
                    }
                },
            }
            @if actions.iter().any(|action| action.changes_spec()) {
                p.hint { "A GitOps tool that manages the object may revert a change of its spec: change it in git instead." }
            }
        }
    }
}

/// The form that the loopback proxy handles.
pub fn form(request: &PageRequest, action: Action, kind: &str, namespace: &str, name: &str) -> Markup {
    let token = request.proxy_token.as_deref().unwrap_or_default();
    html! {
        form.inline method="post" action={ "/console/-/" (action.path()) } {
            (csrf_field(request.csrf()))
            input type="hidden" name="proxy_token" value=(token);
            input type="hidden" name="kind" value=(kind);
            input type="hidden" name="namespace" value=(namespace);
            input type="hidden" name="name" value=(name);
            input type="hidden" name="return" value=(request.address);
            @if action == Action::ResumeAfterFailure { input type="hidden" name="after_failure" value="true"; }
            (button(action.label(), ""))
        }
        " "
    }
}

/// Shows one change of an object of a list.
pub fn short_action(
    request: &PageRequest,
    action: Action,
    kind: &str,
    namespace: &str,
    name: &str,
) -> Markup {
    html! {
        @match &request.proxy_token {
            Some(_) => (form(request, action, kind, namespace, name)),
            None => {
                details { summary { (action.label()) } code { (action.command(kind, namespace, name)) } }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_name_the_object() {
        assert_eq!(Action::Reconcile.command("Connection", "n", "c"), "hookstream reconcile conn/c -n n");
        assert_eq!(
            Action::Pause.command("EventHook", "n", "h"),
            "kubectl patch eventhook h -n n --type merge -p '{\"spec\":{\"delivery\":{\"paused\":true}}}'"
        );
    }
}
