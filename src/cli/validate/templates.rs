//! Finds mistakes in templates that are no errors of the template language.

use serde_json::Value;

use super::finding::{FindingContext, Severity};
use crate::api::TextFormat;
use crate::core::hook::WebhookCustom;
use crate::core::template::Template;

const FIELD: &str = "spec.handler.webhookCustom";

/// Checks the templates of a request.
pub fn check_templates(custom: &WebhookCustom, context: &mut FindingContext<'_>) {
    for (field, text) in template_texts(custom) {
        let Ok(template) = Template::parse(text) else { continue };
        for tag in template.unclosed_tags() {
            let message = format!(
                "{} is not closed by {}, so it is sent as text: close it, or write \\{}",
                tag.open, tag.close, tag.open
            );
            context.in_text(Severity::Warning, (&field, tag.line, tag.column), "UnclosedTag", &message);
        }
    }
    check_escapes(custom, context);
}

/// Returns the texts that are templates, each with its field.
fn template_texts(custom: &WebhookCustom) -> Vec<(String, &str)> {
    let is_template = |format: TextFormat| matches!(format, TextFormat::Template);
    let mut texts = Vec::new();
    if is_template(custom.headers_format) {
        texts.extend(
            custom.headers.iter().map(|(name, text)| (format!("{FIELD}.headers.{name}"), text.as_str())),
        );
    }
    if is_template(custom.payload_format) {
        for (name, value) in custom.payload.iter().flatten() {
            collect_texts(value, format!("{FIELD}.payload.{name}"), &mut texts);
        }
    }
    if is_template(custom.body_format) {
        texts.extend(custom.body.iter().map(|text| (format!("{FIELD}.body"), text.as_str())));
    }
    texts
}

fn collect_texts<'v>(value: &'v Value, field: String, texts: &mut Vec<(String, &'v str)>) {
    match value {
        Value::String(text) => texts.push((field, text)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, item)| collect_texts(item, format!("{field}[{n}]"), texts))
        }
        Value::Object(members) => {
            members.iter().for_each(|(name, value)| collect_texts(value, format!("{field}.{name}"), texts))
        }
        _ => {}
    }
}

/// Warns of `{{ }}` in JSON bodies. It escapes for HTML: a quote in the value becomes `&quot;`, and a line end makes the JSON
/// invalid.
fn check_escapes(custom: &WebhookCustom, context: &mut FindingContext<'_>) {
    let is_json_template = matches!(custom.body_format, TextFormat::Template) && custom.sends_json_text();
    let Some(body) = custom.body.as_ref().filter(|_| is_json_template) else { return };
    let Ok(template) = Template::parse(body) else { return };
    for tag in template.html_escaped_tags() {
        let code = tag.code.trim();
        let message = format!(
            "{{{{ {code} }}}} escapes for HTML, not for JSON: write {{* json({code}) *}} without quotes around it"
        );
        let place = (&*format!("{FIELD}.body"), tag.line, tag.column);
        context.in_text(Severity::Warning, place, "HtmlInJson", &message);
    }
}
