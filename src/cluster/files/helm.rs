//! Recognizes Helm templates that were not rendered.

use serde_json::Value;

/// The beginnings of Helm's tags that no other language has.
const HELM: [&str; 8] =
    [".Values", ".Release", ".Chart", ".Capabilities", ".Files", "include \"", "template \"", "tpl "];
/// Tags that a file that is no YAML has in addition.
const HELM_CONTROL: [&str; 9] = ["if ", "else", "end", "range ", "with ", "define ", "toYaml ", "/*", "$"];

pub const NOT_RENDERED: &str =
    "a Helm template that was not rendered: validate the output of `helm template`";

/// Returns the offset of the first tag of Helm in a text that cannot be read.
pub fn find_helm_tag(text: &str) -> Option<usize> {
    tags(text)
        .find(|(_, code)| HELM.iter().chain(&HELM_CONTROL).any(|begin| code.starts_with(begin)))
        .map(|(at, _)| at)
}

/// Returns the offset of the first tag of Helm in a manifest that can be read. Only values count, and not comments.
pub fn find_helm_value(text: &str, content: &Value) -> Option<usize> {
    let is_helm = |code: &str| HELM.iter().any(|begin| code.starts_with(begin));
    contains(content, &is_helm).then(|| tags(text).find(|(_, code)| is_helm(code)).map_or(0, |(at, _)| at))
}

/// Returns true if a text in this value has a tag that `is_helm` accepts.
fn contains(value: &Value, is_helm: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => tags(text).any(|(_, code)| is_helm(code)),
        Value::Array(items) => items.iter().any(|item| contains(item, is_helm)),
        Value::Object(members) => members.values().any(|member| contains(member, is_helm)),
        _ => false,
    }
}

/// Returns the offset of each `{{`, and the code after it.
fn tags(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.match_indices("{{").map(|(at, tag)| {
        let code = text.get(at + tag.len()..).unwrap_or_default();
        (at, code.strip_prefix('-').unwrap_or(code).trim_start())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_helm_tags_in_values() {
        for (text, content, expected) in [
            ("a: '{{ .Values.a }}'", json!({"a": "{{ .Values.a }}"}), Some(4)),
            ("a: x # {{ .Values.a }}", json!({"a": "x"}), None),
            ("a: '{{ entity.name }}'", json!({"a": "{{ entity.name }}"}), None),
            ("a: ['{{- include \"x\" . }}']", json!({"a": ["{{- include \"x\" . }}"]}), Some(5)),
        ] {
            assert_eq!(find_helm_value(text, &content), expected, "{text}");
        }
        assert_eq!(find_helm_tag("{{- if .Values.a }}\na: 1\n{{- end }}"), Some(0));
        assert_eq!(find_helm_tag("a: {{ .Release.Name }}"), Some(3));
        assert_eq!(find_helm_tag("a: {{ x: 1"), None);
    }
}
