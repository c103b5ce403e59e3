//! Hash maps for the hot paths of the worker, with a hash function that costs a fraction of the standard one.
//!
//! Its seeds are random in each process and map, so no client can prepare keys that collide. It is weaker against a peer that
//! inserts keys and measures the time of single lookups. Use it for keys that the API server or this program makes (uids,
//! sequence numbers), or that an object of the cluster has (namespaces, names, routes); keep the standard map where requests
//! and events insert keys.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;

pub type FastMap<K, V> = HashMap<K, V, RandomState>;
pub type FastSet<K> = HashSet<K, RandomState>;
