//! Headers and body of a `webhookCustom` request: literal texts or templates, compiled once with the hook and rendered
//! for each event.

use std::fmt;

use serde_json::Value;

use super::InvalidSpec;
use crate::api::TextFormat;
use crate::core::event::Event;
use crate::core::template::{self, Diagnostic, Template};

/// A literal text or a template.
#[derive(Clone)]
pub enum Text {
    Raw(String),
    /// A template that only substitutes fields. Rendered in this process, without Lua.
    Fields(Template),
    /// A template that needs Lua. Rendered in the sandbox.
    Script(String),
}

impl Text {
    fn compile(text: &str, format: TextFormat, field: impl Fn() -> String) -> Result<Self, InvalidSpec> {
        if format == TextFormat::Raw {
            return Ok(Text::Raw(text.to_owned()));
        }
        let template =
            Template::check(text).map_err(|at| InvalidSpec::InvalidTemplate { field: field(), at })?;
        Ok(if template.only_fields() { Text::Fields(template) } else { Text::Script(text.to_owned()) })
    }

    fn script(&self) -> Option<&str> {
        match self {
            Text::Script(text) => Some(text),
            Text::Raw(_) | Text::Fields(_) => None,
        }
    }

    /// Renders the text. `rendered` yields the sandbox's results for the scripts, in order.
    fn render(
        &self,
        context: &Value,
        rendered: &mut impl Iterator<Item = String>,
    ) -> Result<String, Diagnostic> {
        match self {
            Text::Raw(text) => Ok(text.clone()),
            Text::Fields(template) => template.render_fields(context),
            Text::Script(_) => Ok(rendered.next().unwrap_or_default()),
        }
    }
}

/// A payload with compiled texts.
#[derive(Clone)]
enum Node {
    Text(Text),
    Plain(Value),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Compiles the texts of a payload. Keys are literal, because the receiver's schema defines them.
    fn compile(value: &Value, format: TextFormat, path: &str) -> Result<Self, InvalidSpec> {
        Ok(match value {
            Value::String(text) => Node::Text(Text::compile(text, format, || path.to_owned())?),
            Value::Array(list) => Node::List(
                list.iter()
                    .enumerate()
                    .map(|(i, value)| Node::compile(value, format, &format!("{path}[{i}]")))
                    .collect::<Result<_, _>>()?,
            ),
            Value::Object(map) => Node::Map(
                map.iter()
                    .map(|(key, value)| {
                        Ok((key.clone(), Node::compile(value, format, &format!("{path}.{key}"))?))
                    })
                    .collect::<Result<_, InvalidSpec>>()?,
            ),
            plain => Node::Plain(plain.clone()),
        })
    }

    fn collect_texts<'a>(&'a self, texts: &mut Vec<&'a Text>) {
        match self {
            Node::Text(text) => texts.push(text),
            Node::Plain(_) => {}
            Node::List(list) => list.iter().for_each(|node| node.collect_texts(texts)),
            Node::Map(map) => map.iter().for_each(|(_, node)| node.collect_texts(texts)),
        }
    }

    fn render(
        &self,
        context: &Value,
        rendered: &mut impl Iterator<Item = String>,
    ) -> Result<Value, Diagnostic> {
        Ok(match self {
            Node::Text(text) => Value::String(text.render(context, rendered)?),
            Node::Plain(value) => value.clone(),
            Node::List(list) => {
                list.iter().map(|node| node.render(context, rendered)).collect::<Result<Vec<_>, _>>()?.into()
            }
            Node::Map(map) => map
                .iter()
                .map(|(key, node)| Ok((key.clone(), node.render(context, rendered)?)))
                .collect::<Result<serde_json::Map<_, _>, Diagnostic>>()?
                .into(),
        })
    }
}

/// The compiled body of a request.
#[derive(Clone)]
enum Body {
    Text(Text),
    Payload(Node),
}

/// The compiled headers and body of a `webhookCustom`.
#[derive(Clone)]
pub struct RequestContent {
    headers: Vec<(String, Text)>,
    body: Option<Body>,
}

/// Headers and body rendered for one event.
#[derive(Clone, Debug, PartialEq)]
pub struct RenderedContent {
    pub headers: Vec<(String, String)>,
    pub body: RenderedBody,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RenderedBody {
    None,
    Text(String),
    /// Sent as JSON, or as a form if the content type says so.
    Payload(Value),
}

impl RequestContent {
    /// Compiles the members of a handler. The error names the field, line and column.
    pub(super) fn compile(custom: &crate::api::WebhookCustom) -> Result<Self, InvalidSpec> {
        const FIELD: &str = "handler.webhookCustom";
        let format = |format: Option<TextFormat>| format.unwrap_or(TextFormat::Template);
        let headers = custom.headers.iter().flatten();
        let headers = headers.map(|(name, value)| {
            let field = || format!("{FIELD}.headers.{name}");
            let text = Text::compile(value, custom.headers_format.unwrap_or(TextFormat::Raw), field)?;
            Ok((name.clone(), text))
        });
        let payload = custom.payload.as_ref().map(|payload| {
            let path = format!("{FIELD}.payload");
            Node::compile(&Value::Object(payload.clone()), format(custom.payload_format), &path)
                .map(Body::Payload)
        });
        let body = custom.body.as_ref().map(|body| {
            Text::compile(body, format(custom.body_format), || format!("{FIELD}.body")).map(Body::Text)
        });
        Ok(RequestContent {
            headers: headers.collect::<Result<_, InvalidSpec>>()?,
            body: payload.or(body).transpose()?,
        })
    }

    fn texts(&self) -> Vec<&Text> {
        let mut texts: Vec<&Text> = self.headers.iter().map(|(_, text)| text).collect();
        match &self.body {
            Some(Body::Text(text)) => texts.push(text),
            Some(Body::Payload(node)) => node.collect_texts(&mut texts),
            None => {}
        }
        texts
    }

    /// Returns true if rendering needs the event.
    pub fn has_templates(&self) -> bool {
        self.texts().iter().any(|text| !matches!(text, Text::Raw(_)))
    }

    /// Returns the templates that need Lua, in the order in which [`RequestContent::render`] expects their results.
    pub fn scripts(&self) -> Vec<&str> {
        self.texts().into_iter().filter_map(Text::script).collect()
    }

    /// Renders headers and body for an event. `rendered` holds the sandbox's results for `scripts`, in order.
    pub fn render(&self, context: &Value, rendered: Vec<String>) -> Result<RenderedContent, Diagnostic> {
        let mut rendered = rendered.into_iter();
        let headers = self
            .headers
            .iter()
            .map(|(name, text)| Ok((name.clone(), text.render(context, &mut rendered)?)))
            .collect::<Result<_, Diagnostic>>()?;
        let body = match &self.body {
            None => RenderedBody::None,
            Some(Body::Text(text)) => RenderedBody::Text(text.render(context, &mut rendered)?),
            Some(Body::Payload(node)) => RenderedBody::Payload(node.render(context, &mut rendered)?),
        };
        Ok(RenderedContent { headers, body })
    }
}

/// Prints no members: the `Debug` output of the handler already shows the source texts.
impl fmt::Debug for RequestContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestContent")
    }
}

/// Always equal: the content is derived from the other members of the handler, which are compared too.
impl PartialEq for RequestContent {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Returns the variables that templates can use for an event.
pub fn context(event: &Event) -> Value {
    template::context(
        &serde_json::from_str(event.data.get()).unwrap_or_default(),
        &event.source,
        &event.event,
    )
}

/// Encodes a payload as a form. Nested maps become dotted names, lists repeat the name, null is omitted.
pub fn form_encode(payload: &Value) -> String {
    let mut pairs = url::form_urlencoded::Serializer::new(String::new());
    append_pairs(&mut pairs, "", payload);
    pairs.finish()
}

fn append_pairs(pairs: &mut url::form_urlencoded::Serializer<'_, String>, name: &str, value: &Value) {
    match value {
        Value::Null => {}
        Value::Object(map) => map.iter().for_each(|(key, value)| match name {
            "" => append_pairs(pairs, key, value),
            _ => append_pairs(pairs, &format!("{name}.{key}"), value),
        }),
        Value::Array(list) => list.iter().for_each(|value| append_pairs(pairs, name, value)),
        Value::String(text) => drop(pairs.append_pair(name, text)),
        other => drop(pairs.append_pair(name, &other.to_string())),
    }
}
