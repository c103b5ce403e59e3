//! The table of rows and the functions that add rows.

use serde_json::{Value, json};

use super::manifests::Base;

#[derive(Clone, Debug)]
pub enum Expect {
    Accept,
    /// The field of the error and a part of its text.
    Refuse {
        field: String,
        text: String,
    },
}

pub struct Row {
    pub name: String,
    pub manifest: Value,
    pub expect: Expect,
}

#[derive(Default)]
pub struct Table {
    pub rows: Vec<Row>,
}

impl Table {
    /// With this value (YAML) at this path of the spec, the server accepts the manifest. An empty path merges into the
    /// spec, where null removes a member.
    pub fn accept(&mut self, base: Base, at: &str, value: impl AsRef<str>) {
        self.push(base, at, value.as_ref(), Expect::Accept);
    }

    /// With this value the server reports an error at this path.
    pub fn refuse(&mut self, base: Base, at: &str, value: impl AsRef<str>, text: &str) {
        self.refuse_at(base, at, value, &format!("spec.{at}"), text);
    }

    /// With this value the server reports an error at another field.
    pub fn refuse_at(&mut self, base: Base, at: &str, value: impl AsRef<str>, field: &str, text: &str) {
        let expect = Expect::Refuse { field: field.to_owned(), text: text.to_owned() };
        self.push(base, at, value.as_ref(), expect);
    }

    /// Adds the last value inside a bound and the first value outside.
    pub fn bound(
        &mut self,
        base: Base,
        at: &str,
        inside: impl AsRef<str>,
        outside: impl AsRef<str>,
        text: &str,
    ) {
        self.accept(base, at, inside);
        self.refuse(base, at, outside, text);
    }

    /// Adds rows for a text of `min` to `max` characters.
    pub fn length(&mut self, base: Base, at: &str, min: usize, max: usize) {
        let text = |n| format!("'{}'", "a".repeat(n));
        if min > 0 {
            let message = format!("should be at least {min} chars long");
            self.bound(base, at, text(min), text(min - 1), &message);
        }
        self.bound(
            base,
            at,
            text(max),
            text(max + 1),
            &format!("Too long: may not be more than {max} bytes"),
        );
    }

    /// The same for a text of 1 to `max` characters that must have valid content: `text` returns one of a length from 4.
    pub fn length_of(&mut self, base: Base, at: &str, max: usize, text: impl Fn(usize) -> String) {
        let quoted = |n| format!("'{}'", text(n));
        self.bound(base, at, quoted(4), "''", "should be at least 1 chars long");
        let too_long = format!("Too long: may not be more than {max} bytes");
        self.bound(base, at, quoted(max), quoted(max + 1), &too_long);
    }

    /// Adds rows for a number from `min` to `max`.
    pub fn range(&mut self, base: Base, at: &str, min: i64, max: i64) {
        let number = |n: i64| n.to_string();
        let below = format!("should be greater than or equal to {min}");
        self.bound(base, at, number(min), number(min - 1), &below);
        self.bound(base, at, number(max), number(max + 1), &format!("should be less than or equal to {max}"));
    }

    /// Adds rows for an enumeration: each of these texts, another text, and one in another case.
    pub fn one_of(&mut self, base: Base, at: &str, values: &[&str]) {
        for value in values {
            self.accept(base, at, value);
        }
        let listed = values.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(", ");
        for wrong in ["Other".to_owned(), values[0].to_lowercase(), values[0].to_uppercase()] {
            if !values.contains(&wrong.as_str()) {
                self.refuse(base, at, wrong, &format!("supported values: {listed}"));
            }
        }
    }

    /// The same for the items of a list.
    pub fn one_of_list(&mut self, base: Base, at: &str, values: &[&str]) {
        for value in values {
            self.accept(base, at, format!("[{value}]"));
        }
        let listed = values.iter().map(|v| format!("{v:?}")).collect::<Vec<_>>().join(", ");
        self.refuse_at(base, at, "[Other]", &format!("spec.{at}[0]"), &format!("supported values: {listed}"));
    }

    /// Without this member the server reports an error.
    pub fn required(&mut self, base: Base, at: &str) {
        self.refuse(base, at, "null", "Required value");
    }

    /// With exactly one of these members the server accepts the object at this path; with none or two it reports an error.
    pub fn exactly_one(&mut self, base: Base, at: &str, members: &[&str], text: &str) {
        let field = format!("spec{}{at}", if at.is_empty() { "" } else { "." });
        let null = |keys: &[&str]| keys.iter().map(|k| format!("{k}: null")).collect::<Vec<_>>().join(", ");
        let name = |member: &str| member.split(':').next().unwrap_or_default().to_owned();
        let names: Vec<String> = members.iter().map(|member| name(member)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.refuse_at(base, &merging_path(at), format!("{{{}}}", null(&names)), &field, text);
        for (i, one) in members.iter().enumerate() {
            let others: Vec<&str> = names.iter().copied().filter(|n| *n != names[i]).collect();
            self.accept(base, &merging_path(at), format!("{{{one}, {}}}", null(&others)));
            for (j, other) in members.iter().enumerate().skip(i + 1) {
                let rest: Vec<&str> =
                    names.iter().copied().filter(|n| *n != names[i] && *n != names[j]).collect();
                self.refuse_at(
                    base,
                    &merging_path(at),
                    format!("{{{one}, {other}, {}}}", null(&rest)),
                    &field,
                    text,
                );
            }
        }
    }

    fn push(&mut self, base: Base, at: &str, value: &str, expect: Expect) {
        let shown: String = value.chars().take(60).collect();
        let name = format!("{} with {at}: {shown}", base.name);
        self.rows.push(Row { manifest: changed(base, at, value), name, expect });
    }
}

/// Marks a path whose value is merged into the existing one instead of replacing it.
fn merging_path(at: &str) -> String {
    if at.is_empty() { String::new() } else { format!("{at}+") }
}

/// Returns the base's manifest with this value at this path of its spec.
pub fn changed(base: Base, at: &str, value: &str) -> Value {
    let mut manifest = base.manifest();
    manifest["metadata"]["name"] = "row".into();
    let value: Value = serde_saphyr::from_str(value).unwrap_or_else(|e| panic!("{value}: {e}"));
    let spec = &mut manifest["spec"];
    match at.strip_suffix('+') {
        Some(at) => merge_into(value_at(spec, at), value),
        None if at.is_empty() => merge_into(spec, value),
        None if value.is_null() => {
            let (parent, last) = at.rsplit_once('.').unwrap_or(("", at));
            let parent = if parent.is_empty() { spec } else { value_at(spec, parent) };
            let removed = parent.as_object_mut().expect(at).remove(last);
            assert!(removed.is_some(), "{}: nothing to remove at {at}", base.name);
        }
        None => *value_at(spec, at) = value,
    }
    manifest
}

/// Returns the value at a path such as `a.b[0].c`, and creates missing parents.
fn value_at<'v>(mut value: &'v mut Value, at: &str) -> &'v mut Value {
    for part in at.split('.') {
        let (name, index) = match part.split_once('[') {
            Some((name, index)) => (name, Some(index.trim_end_matches(']').parse::<usize>().expect(at))),
            None => (part, None),
        };
        value = &mut value[name];
        if let Some(index) = index {
            if value.is_null() {
                *value = json!([null]);
            }
            value = &mut value[index];
        }
    }
    value
}

pub fn merge_into(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let members = target.as_object_mut().expect("an object");
    for (key, value) in patch {
        if value.is_null() {
            members.remove(&key);
        } else {
            merge_into(members.entry(key).or_insert(Value::Null), value);
        }
    }
}
