//! Renders templates that are plain substitutions. Kong runs Lua in templates; the emulator does not.
//!
//! `{{ a.b }}` is HTML-escaped, `{* a.b *}` is not, `{# ... #}` is a comment. A missing member renders as nothing. Any
//! other syntax is an error, so that a receiver never gets a wrongly rendered text.

use serde_json::Value;

use crate::core::output::{MAX_OUTPUT, Output, OutputBudget, OutputError};

/// Renders a template with the event's members.
pub(super) fn render(template: &str, data: &Value) -> Result<String, String> {
    let mut budget = OutputBudget::new(MAX_OUTPUT, &|| false);
    let mut out = Output::new(&mut budget, template.len());
    let too_large = |error: OutputError| error.to_string();
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        out.push(before).map_err(too_large)?;
        let mut chars = tag.chars().skip(1);
        let close = match chars.next() {
            Some('{') => "}}",
            Some('*') => "*}",
            Some('#') => "#}",
            Some('%') => return Err("the emulator does not run Lua ({% %}) in templates".into()),
            Some('(') | Some('[') => return Err("the emulator does not include files in templates".into()),
            _ => {
                out.push("{").map_err(too_large)?;
                rest = tag.get(1..).unwrap_or_default();
                continue;
            }
        };
        let inner = tag.get(2..).unwrap_or_default();
        let (inside, after) = inner
            .split_once(close)
            .ok_or_else(|| format!("a tag of the template is not closed by {close}"))?;
        match close {
            "}}" => out.push_html(&substitute(inside.trim(), data)?).map_err(too_large)?,
            "*}" => out.push(&substitute(inside.trim(), data)?).map_err(too_large)?,
            _ => {}
        }
        rest = after;
    }
    out.push(rest).map_err(too_large)?;
    Ok(out.into_text())
}

/// Returns the text of the member at a dotted path.
fn substitute(path: &str, data: &Value) -> Result<String, String> {
    let is_name =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !path.split('.').all(is_name) {
        return Err(format!("the emulator substitutes dotted paths only, not `{path}`"));
    }
    let found = path.split('.').try_fold(data, |value, part| value.get(part));
    Ok(match found {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        // Lua would print the address of the table; JSON is more useful.
        Some(other) => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn renders_substitutions_and_rejects_lua() {
        let data = json!({"entity": {"username": "<ada>", "n": 1}, "operation": "create", "gone": null});
        let rendered = |template| render(template, &data);
        assert_eq!(rendered("{{entity.username}} {{ operation }}d").unwrap(), "&lt;ada&gt; created");
        assert_eq!(rendered("{* entity.username *}{# no #}{{gone}}{{missing.too}}").unwrap(), "<ada>");
        assert_eq!(rendered("{\"n\": {{ entity.n }}, \"o\": {}}").unwrap(), "{\"n\": 1, \"o\": {}}");
        assert_eq!(rendered("{").unwrap(), "{");
        for bad in ["{% if x then %}", "{(file)}", "{[x]}", "{{ x", "{{ x .. y }}", "{{ }}", "{{ f() }}"] {
            assert!(rendered(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn rendering_never_panics_or_grows(text in "[{}*#%a. é]{0,40}") {
            let rendered = render(&text, &json!({"a": "x"}));
            prop_assert!(rendered.is_err() || rendered.is_ok_and(|out| out.len() <= text.len()));
        }
    }
}
