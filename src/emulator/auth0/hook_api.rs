//! `/api/v2/hooks` and what is under it.

use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use super::api::{Call, Query};
use super::error::{ApiError, answer, no_content};
use super::hook::{self, Hook, TRIGGERS};
use super::{Auth0, MAX_OBJECTS, State};
use crate::core::time::Millis;

impl Auth0 {
    pub fn route_hooks(&self, call: &Call<'_>, segments: &[&str]) -> Result<Response, ApiError> {
        if let Some(status) = self.options.hooks_gone {
            return Err(gone(status));
        }
        let method = call.method();
        match *segments {
            [] if method == Method::GET => self.list_hooks(call),
            [] if method == Method::POST => self.create_hook(call),
            [id] if method == Method::GET => self.read_hook(call, id),
            [id] if method == Method::PATCH => self.patch_hook(call, id),
            [id] if method == Method::DELETE => self.delete_hook(id),
            [id, "secrets"] => self.secrets(call, id),
            _ => Err(ApiError::not_found()),
        }
    }

    fn list_hooks(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        let query = call.query();
        let page = query.number("page", 0, 100_000)?.unwrap_or(0);
        let per_page = query.number("per_page", 0, 100)?.unwrap_or(50);
        let enabled = query.boolean("enabled")?;
        let trigger = query.get("triggerId");
        if let Some(other) = trigger.filter(|trigger| !TRIGGERS.contains(trigger)) {
            return Err(ApiError::query(&format!("No enum match for: {other}"), "triggerId", ""));
        }
        let (fields, include) = fields(&query)?;
        let fits = |hook: &&Hook| {
            hook.visible()
                && enabled.is_none_or(|enabled| hook.fields.enabled == enabled)
                && trigger.is_none_or(|trigger| hook.fields.trigger_id == trigger)
        };
        let (total, hooks) = self.store.read(|state| {
            let fitting: Vec<&Hook> = state.hooks.values().filter(fits).collect();
            let page = fitting.iter().skip(page * per_page).take(per_page);
            let shown = page.map(|hook| hook::choose(hook.listed(), fields, include));
            (fitting.len(), shown.collect::<Vec<Value>>())
        });
        let body = match query.boolean("include_totals")? {
            Some(true) => {
                json!({"total": total, "start": page * per_page, "limit": per_page, "hooks": hooks})
            }
            _ => Value::Array(hooks),
        };
        Ok(answer(StatusCode::OK, &body))
    }

    fn create_hook(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        let mut fields = hook::create(call.json()?)?;
        let visible_at = call.visible_at();
        let shown = self.store.change(|state| {
            if state.hooks.values().any(|hook| hook.fields.name == fields.name) {
                return Err(ApiError::conflict("A hook with this name already exists"));
            }
            if state.hooks.len() >= MAX_OBJECTS {
                return Err(ApiError::conflict("The maximum number of hooks is reached"));
            }
            // The second of a trigger is made, but not switched on.
            fields.enabled &= !has_enabled(state, &fields.trigger_id, "");
            let id = hook::new_id(Millis::now());
            let hook = Hook { id, fields, secrets: Default::default(), visible_at };
            let shown = hook.shown();
            state.next += 1;
            state.hooks.insert(state.next, hook);
            Ok(shown)
        })?;
        Ok(answer(StatusCode::CREATED, &shown.into()))
    }

    fn read_hook(&self, call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
        let query = call.query();
        let (fields, include) = fields(&query)?;
        let shown = self.store.read(|state| state.hook(id).filter(|hook| hook.visible()).map(Hook::shown));
        let shown = shown.ok_or_else(ApiError::no_hook)?;
        Ok(answer(StatusCode::OK, &hook::choose(shown, fields, include)))
    }

    fn patch_hook(&self, call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
        let body = call.json()?;
        let shown = self.store.change(|state| {
            let old = &state.hook(id).ok_or_else(ApiError::no_hook)?.fields;
            let new = hook::patch(body, old)?;
            if state.hooks.values().any(|hook| hook.fields.name == new.name && hook.id != id) {
                return Err(ApiError::conflict("A hook with this name already exists"));
            }
            // What Auth0 answers is not recorded; the vendor's deploy tool says 409 itself.
            if new.enabled && !old.enabled && has_enabled(state, &new.trigger_id, id) {
                return Err(ApiError::conflict("Another hook of this trigger is enabled"));
            }
            let hook = state.hook_mut(id).ok_or_else(ApiError::no_hook)?;
            hook.fields = new;
            Ok(hook.shown())
        })?;
        Ok(answer(StatusCode::OK, &shown.into()))
    }

    fn delete_hook(&self, id: &str) -> Result<Response, ApiError> {
        self.store.change(|state| {
            let before = state.hooks.len();
            state.hooks.retain(|_, hook| hook.id != id);
            if state.hooks.len() == before { Err(ApiError::no_hook()) } else { Ok(()) }
        })?;
        Ok(no_content())
    }

    fn secrets(&self, call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
        let change = |change: fn(&mut Hook, Value) -> Result<(), ApiError>| {
            let body = call.json()?;
            self.store.change(|state| change(state.hook_mut(id).ok_or_else(ApiError::no_hook)?, body))
        };
        match *call.method() {
            Method::GET => {
                let names = self
                    .store
                    .read(|state| state.hook(id).filter(|hook| hook.visible()).map(Hook::secret_names));
                Ok(answer(StatusCode::OK, &names.ok_or_else(ApiError::no_hook)?))
            }
            // 201 was recorded for both.
            Method::POST => change(Hook::add_secrets).map(|()| answer(StatusCode::CREATED, &json!({}))),
            Method::PATCH => change(Hook::change_secrets).map(|()| answer(StatusCode::CREATED, &json!({}))),
            Method::DELETE => change(Hook::remove_secrets).map(|()| no_content()),
            _ => Err(ApiError::not_found()),
        }
    }
}

fn has_enabled(state: &State, trigger: &str, but: &str) -> bool {
    state
        .hooks
        .values()
        .any(|hook| hook.fields.enabled && hook.fields.trigger_id == trigger && hook.id != but)
}

/// `fields`, and whether they are meant or all others.
fn fields(query: &Query) -> Result<(Option<&str>, bool), ApiError> {
    Ok((query.get("fields"), query.boolean("include_fields")?.unwrap_or(true)))
}

/// What the endpoints may answer after the end of life of hooks: nobody could observe it.
fn gone(status: StatusCode) -> ApiError {
    match status {
        StatusCode::FORBIDDEN => ApiError::new(status, "This endpoint is disabled for your tenant."),
        other => ApiError::new(other, other.canonical_reason().unwrap_or_default()),
    }
}
