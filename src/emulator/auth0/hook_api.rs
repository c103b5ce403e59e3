//! `/api/v2/hooks` and the routes under it.

use axum::http::{Method, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use super::api::{EmulatedRequest, Query};
use super::context::{Auth0, TenantState};
use super::error::{ApiError, json_response, no_content};
use super::hook::{self, Hook, TRIGGERS};
use super::options::MAX_OBJECTS;
use crate::core::time::Millis;

impl Auth0 {
    pub fn route_hooks(&self, call: &EmulatedRequest<'_>, segments: &[&str]) -> Result<Response, ApiError> {
        if let Some(status) = self.options.hooks_gone {
            return Err(hooks_gone_error(status));
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

    fn list_hooks(&self, call: &EmulatedRequest<'_>) -> Result<Response, ApiError> {
        let query = call.query();
        let page = query.number("page", 0, 100_000)?.unwrap_or(0);
        let per_page = query.number("per_page", 0, 100)?.unwrap_or(50);
        let enabled = query.boolean("enabled")?;
        let trigger = query.get("triggerId");
        if let Some(other) = trigger.filter(|trigger| !TRIGGERS.contains(trigger)) {
            return Err(ApiError::query(&format!("No enum match for: {other}"), "triggerId", ""));
        }
        let (fields, include) = parse_fields(&query)?;
        let matches = |hook: &&Hook| {
            hook.is_visible()
                && enabled.is_none_or(|enabled| hook.fields.enabled == enabled)
                && trigger.is_none_or(|trigger| hook.fields.trigger_id == trigger)
        };
        let (total, hooks) = self.store.read(|state| {
            let matching: Vec<&Hook> = state.hooks.values().filter(matches).collect();
            let page = matching.iter().skip(page * per_page).take(per_page);
            let representation = page.map(|hook| hook::select_fields(hook.to_list_json(), fields, include));
            (matching.len(), representation.collect::<Vec<Value>>())
        });
        let body = match query.boolean("include_totals")? {
            Some(true) => {
                json!({"total": total, "start": page * per_page, "limit": per_page, "hooks": hooks})
            }
            _ => Value::Array(hooks),
        };
        Ok(json_response(StatusCode::OK, &body))
    }

    fn create_hook(&self, call: &EmulatedRequest<'_>) -> Result<Response, ApiError> {
        let mut fields = hook::parse_create(call.json()?)?;
        let visible_at = call.visible_at();
        let representation = self.store.update(|state| {
            if state.hooks.values().any(|hook| hook.fields.name == fields.name) {
                return Err(ApiError::conflict("A hook with this name already exists"));
            }
            if state.hooks.len() >= MAX_OBJECTS {
                return Err(ApiError::conflict("The maximum number of hooks is reached"));
            }
            // A trigger has one enabled hook: further ones are created disabled.
            fields.enabled &= !has_enabled_hook(state, &fields.trigger_id, "");
            let id = hook::new_id(Millis::now());
            let hook = Hook { id, fields, secrets: Default::default(), visible_at };
            let representation = hook.to_json();
            state.next += 1;
            state.hooks.insert(state.next, hook);
            Ok(representation)
        })?;
        Ok(json_response(StatusCode::CREATED, &representation.into()))
    }

    fn read_hook(&self, call: &EmulatedRequest<'_>, id: &str) -> Result<Response, ApiError> {
        let query = call.query();
        let (fields, include) = parse_fields(&query)?;
        let representation =
            self.store.read(|state| state.hook(id).filter(|hook| hook.is_visible()).map(Hook::to_json));
        let representation = representation.ok_or_else(ApiError::hook_not_found)?;
        Ok(json_response(StatusCode::OK, &hook::select_fields(representation, fields, include)))
    }

    fn patch_hook(&self, call: &EmulatedRequest<'_>, id: &str) -> Result<Response, ApiError> {
        let body = call.json()?;
        let representation = self.store.update(|state| {
            let old = &state.hook(id).ok_or_else(ApiError::hook_not_found)?.fields;
            let new = hook::parse_patch(body, old)?;
            if state.hooks.values().any(|hook| hook.fields.name == new.name && hook.id != id) {
                return Err(ApiError::conflict("A hook with this name already exists"));
            }
            // Auth0's response is not recorded; the vendor's deploy tool reports 409 itself.
            if new.enabled && !old.enabled && has_enabled_hook(state, &new.trigger_id, id) {
                return Err(ApiError::conflict("Another hook of this trigger is enabled"));
            }
            let hook = state.hook_mut(id).ok_or_else(ApiError::hook_not_found)?;
            hook.fields = new;
            Ok(hook.to_json())
        })?;
        Ok(json_response(StatusCode::OK, &representation.into()))
    }

    fn delete_hook(&self, id: &str) -> Result<Response, ApiError> {
        self.store.update(|state| {
            let before = state.hooks.len();
            state.hooks.retain(|_, hook| hook.id != id);
            if state.hooks.len() == before { Err(ApiError::hook_not_found()) } else { Ok(()) }
        })?;
        Ok(no_content())
    }

    fn secrets(&self, call: &EmulatedRequest<'_>, id: &str) -> Result<Response, ApiError> {
        let change = |change: fn(&mut Hook, Value) -> Result<(), ApiError>| {
            let body = call.json()?;
            self.store.update(|state| change(state.hook_mut(id).ok_or_else(ApiError::hook_not_found)?, body))
        };
        match *call.method() {
            Method::GET => {
                let names = self
                    .store
                    .read(|state| state.hook(id).filter(|hook| hook.is_visible()).map(Hook::secrets_to_json));
                Ok(json_response(StatusCode::OK, &names.ok_or_else(ApiError::hook_not_found)?))
            }
            // 201 was recorded for both.
            Method::POST => {
                change(Hook::add_secrets).map(|()| json_response(StatusCode::CREATED, &json!({})))
            }
            Method::PATCH => {
                change(Hook::update_secrets).map(|()| json_response(StatusCode::CREATED, &json!({})))
            }
            Method::DELETE => change(Hook::remove_secrets).map(|()| no_content()),
            _ => Err(ApiError::not_found()),
        }
    }
}

/// Whether a trigger has an enabled hook other than `except`.
fn has_enabled_hook(state: &TenantState, trigger: &str, except: &str) -> bool {
    state
        .hooks
        .values()
        .any(|hook| hook.fields.enabled && hook.fields.trigger_id == trigger && hook.id != except)
}

/// Parses `fields`, and whether they are to be included or excluded.
fn parse_fields(query: &Query) -> Result<(Option<&str>, bool), ApiError> {
    Ok((query.get("fields"), query.boolean("include_fields")?.unwrap_or(true)))
}

/// Returns the response of all endpoints after the end of life of hooks. The real one was never observed.
fn hooks_gone_error(status: StatusCode) -> ApiError {
    match status {
        StatusCode::FORBIDDEN => ApiError::new(status, "This endpoint is disabled for your tenant."),
        other => ApiError::new(other, other.canonical_reason().unwrap_or_default()),
    }
}
