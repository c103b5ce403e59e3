//! Shows JSON as a tree and as text.

use maud::{Markup, html};
use serde_json::Value;
use serde_json::value::RawValue;

use super::parts::copy_button;
use super::text::shorten;

/// The most values of a tree. The text has all of them.
const MAX_NODES: usize = 1000;
/// The deepest level of a tree.
const MAX_DEPTH: usize = 24;
/// Levels that are open at first.
const OPEN_DEPTH: usize = 2;
/// The longest text of a value in a tree.
const MAX_TEXT: usize = 400;

/// Shows a value with a tree, its text, and a button that copies it. `id` is unique on the page.
pub fn json_viewer(id: &str, data: &RawValue) -> Markup {
    let parsed: Option<Value> = serde_json::from_str(data.get()).ok();
    let pretty = parsed.as_ref().and_then(|value| serde_json::to_string_pretty(value).ok());
    let text = pretty.unwrap_or_else(|| data.get().to_owned());
    let mut left = MAX_NODES;
    html! {
        div.json {
            @if let Some(value) = &parsed {
                div.tree {
                    (node(None, value, 0, &mut left))
                    @if left == 0 { p.hint { "The tree shows the first " (MAX_NODES) " values. The text below has all." } }
                }
            }
            details.raw {
                summary { "Raw" }
                pre tabindex="0" { code id=(id) { (text) } }
            }
            (copy_button(id, "the data"))
        }
    }
}

fn node(name: Option<&str>, value: &Value, depth: usize, left: &mut usize) -> Markup {
    if *left == 0 {
        return html! {};
    }
    *left -= 1;
    let key =
        html! { @if let Some(name) = name { span.key { (shorten(name, MAX_TEXT)) } span.colon { ": " } } };
    match value {
        Value::Object(members) if !members.is_empty() && depth < MAX_DEPTH => {
            let count = members.len();
            let children = html! {
                @for (name, value) in members { li { (node(Some(name), value, depth + 1, left)) } }
            };
            branch(&key, "{", "}", count, &children, depth)
        }
        Value::Array(items) if !items.is_empty() && depth < MAX_DEPTH => {
            let count = items.len();
            let children = html! {
                @for (at, value) in items.iter().enumerate() {
                    li { (node(Some(&at.to_string()), value, depth + 1, left)) }
                }
            };
            branch(&key, "[", "]", count, &children, depth)
        }
        other => {
            let class = match other {
                Value::String(_) => "string",
                Value::Number(_) => "number",
                Value::Bool(_) | Value::Null => "word",
                Value::Object(_) | Value::Array(_) => "branch",
            };
            html! { (key) span class=(class) { (shorten(&other.to_string(), MAX_TEXT)) } }
        }
    }
}

fn branch(key: &Markup, open: &str, close: &str, count: usize, children: &Markup, depth: usize) -> Markup {
    html! {
        details open[depth < OPEN_DEPTH] {
            summary { (key) span.brace { (open) } span.count { (count) } span.brace { (close) } }
            ul { (children) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        json_viewer("data", &RawValue::from_string(text.to_owned()).unwrap()).into_string()
    }

    #[test]
    fn escapes_names_and_values() {
        let text = shown(r#"{"<script>": ["</script><img src=x onerror=alert(1)>", "&amp;"]}"#);
        assert!(!text.contains("<script") && !text.contains("<img"), "{text}");
        assert!(text.contains("&lt;script&gt;") && text.contains("&amp;amp;"), "{text}");
    }

    #[test]
    fn bounds_tree_and_depth() {
        let wide = shown(&format!("[{}]", vec!["1"; 5000].join(",")));
        assert!(wide.matches("<span class=\"number\">").count() <= MAX_NODES);
        assert!(wide.contains("The tree shows the first"));
        let deep = shown(&format!("{}{}", "[".repeat(100), "]".repeat(100)));
        assert!(deep.matches("<details").count() <= MAX_DEPTH + 2, "{deep}");
        assert!(shown("{}").contains("{}"));
    }
}
