//! The event types of Auth0, and samples of their data.

use serde_json::{Value, json};

/// Auth0's event types as of July 2026.
pub const KNOWN_TYPES: [&str; 25] = [
    "connection.created",
    "connection.deleted",
    "connection.updated",
    "group.created",
    "group.deleted",
    "group.member.added",
    "group.member.deleted",
    "group.role.assigned",
    "group.role.deleted",
    "group.updated",
    "organization.connection.added",
    "organization.connection.removed",
    "organization.connection.updated",
    "organization.created",
    "organization.deleted",
    "organization.group.role.assigned",
    "organization.group.role.deleted",
    "organization.member.added",
    "organization.member.deleted",
    "organization.member.role.assigned",
    "organization.member.role.deleted",
    "organization.updated",
    "user.created",
    "user.deleted",
    "user.updated",
];

/// Makes sample data for an event type, with at least the members that the catalogue of events requires.
pub fn sample_data(kind: &str) -> Value {
    let time = "2026-01-02T03:04:05.000Z";
    let user_id = "auth0|6500000000000000000000a1";
    let user = json!({ "user_id": user_id });
    let organization = json!({"id": "org_A1b2C3d4E5f6G7h8", "name": "acme"});
    let group =
        json!({"id": "grp_A1b2C3d4E5f6G7h8", "name": "staff", "type": "organization", "created_at": time});
    let role = json!({"id": "rol_A1b2C3d4E5f6G7h8", "name": "reader"});
    let parts: Vec<&str> = kind.split('.').collect();
    let object = match parts.as_slice() {
        ["user", what] => {
            let mut object = json!({
                "user_id": user_id,
                "email": "jane@example.com",
                "email_verified": true,
                "name": "Jane Example",
                "created_at": time,
                "updated_at": time,
                "identities": [{"connection": "Username-Password-Authentication", "provider": "auth0",
                    "user_id": "6500000000000000000000a1", "isSocial": false}],
            });
            if let ("deleted", Some(object)) = (*what, object.as_object_mut()) {
                object.insert("deleted_at".into(), time.into());
            }
            object
        }
        ["organization", "member", "role", _] => {
            json!({"organization": organization, "user": user, "role": role})
        }
        ["organization", "member", _] => json!({"organization": organization, "user": user}),
        ["organization", "group", "role", _] => {
            json!({"organization": organization, "group": group, "role": role})
        }
        ["organization", "connection", _] => {
            json!({"organization": organization, "connection": {"id": "con_A1b2C3d4E5f6G7h8"}})
        }
        ["organization", _] => organization,
        ["group", "member", _] => json!({"group": group, "member": {"id": user_id}}),
        ["group", "role", _] => json!({"group": group, "role": role}),
        ["group", _] => group,
        _ => json!({"id": "A1b2C3d4E5f6G7h8"}),
    };
    json!({ "object": object })
}
