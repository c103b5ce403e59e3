//! Who else has an object of the vendor's: what one object of the cluster has, no other takes.

use std::collections::HashMap;

use kube::{Resource, ResourceExt};
use parking_lot::Mutex;

use super::kind::Synced;
use crate::api::External;
use crate::controller::context::Context;

/// What was taken in this process and no status may say yet: two objects that look at the same time must not both take
/// what nobody has.
#[derive(Default)]
pub struct Claims(Mutex<HashMap<String, String>>);

impl Claims {
    /// Claims a place for a uid; who has it already.
    fn claim(&self, place: String, uid: &str, still_there: impl Fn(&str) -> bool) -> Option<String> {
        let mut claims = self.0.lock();
        match claims.get(&place) {
            Some(holder) if holder != uid && still_there(holder) => Some(holder.clone()),
            _ => {
                claims.insert(place, uid.to_owned());
                None
            }
        }
    }

    pub fn forget(&self, uid: &str) {
        self.0.lock().retain(|_, holder| holder != uid);
    }

    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

fn same_place(a: &External, b: &External) -> bool {
    (&a.id, &a.endpoint, &a.workspace) == (&b.id, &b.endpoint, &b.workspace)
}

/// The name of another object that has this one, if there is one.
pub fn held_elsewhere<K: Synced>(context: &Context, object: &K, place: &External) -> Option<String> {
    let uid = object.uid().unwrap_or_default();
    let known = context.memory.holder(|external| same_place(external, place));
    let connection = (object.namespace(), Some(place.connection.as_str()));
    let has = |uid: &str, other: Option<&K>| {
        let by_status = other.and_then(K::external).is_some_and(|external| same_place(external, place));
        // One that is just being made, or that cannot be read.
        let by_id = K::own_id(uid).as_ref() == Some(&place.id)
            && other.is_none_or(|o| (o.namespace(), o.policies().connection) == connection);
        by_status || by_id || known.iter().any(|held| held == uid)
    };
    let holder = K::all(&context.view).find(|other| {
        let other_uid = other.uid().unwrap_or_default();
        other_uid != uid && has(&other_uid, other.0.as_ref().ok())
    });
    holder.map(|other| format!("{}/{}", other.meta().namespace.clone().unwrap_or_default(), other.name_any()))
}

/// Takes an object of the vendor's, unless another object of the cluster has it: its name.
pub fn take<K: Synced>(context: &Context, object: &K, place: &External) -> Result<(), String> {
    if let Some(holder) = held_elsewhere(context, object, place) {
        return Err(holder);
    }
    let uid = object.uid().unwrap_or_default();
    let name_of = |uid: &str| {
        let found = K::all(&context.view).find(|other| other.meta().uid.as_deref() == Some(uid));
        found.map(|other| format!("{}/{}", other.namespace().unwrap_or_default(), other.name_any()))
    };
    let key = format!("{} {:?} {}", place.endpoint, place.workspace, place.id);
    match context.claims.claim(key, &uid, |uid| name_of(uid).is_some()) {
        Some(holder) => Err(name_of(&holder).unwrap_or(holder)),
        None => Ok(()),
    }
}
