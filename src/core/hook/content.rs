//! What a request of the user's making holds: texts as they are or templates, compiled once with their hook, and how
//! they are filled for an event.

use std::fmt;

use serde_json::Value;

use super::InvalidSpec;
use super::handler::WebhookCustom;
use crate::api::TextFormat;
use crate::core::event::Event;
use crate::core::template::{self, Diagnostic, Template};

/// A text that is sent as it is, or as a template.
#[derive(Clone)]
pub enum Text {
    Raw(String),
    /// It only names fields: rendered here, without Lua.
    Fields(Template),
    /// It runs in the sandbox.
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

    /// `rendered`: what the sandbox made of the scripts, in order.
    fn fill(
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

/// A payload, its texts compiled.
#[derive(Clone)]
enum Node {
    Text(Text),
    Plain(Value),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Keys are no templates: a receiver's schema names them.
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

    fn texts<'a>(&'a self, found: &mut Vec<&'a Text>) {
        match self {
            Node::Text(text) => found.push(text),
            Node::Plain(_) => {}
            Node::List(list) => list.iter().for_each(|node| node.texts(found)),
            Node::Map(map) => map.iter().for_each(|(_, node)| node.texts(found)),
        }
    }

    fn fill(
        &self,
        context: &Value,
        rendered: &mut impl Iterator<Item = String>,
    ) -> Result<Value, Diagnostic> {
        Ok(match self {
            Node::Text(text) => Value::String(text.fill(context, rendered)?),
            Node::Plain(value) => value.clone(),
            Node::List(list) => {
                list.iter().map(|node| node.fill(context, rendered)).collect::<Result<Vec<_>, _>>()?.into()
            }
            Node::Map(map) => map
                .iter()
                .map(|(key, node)| Ok((key.clone(), node.fill(context, rendered)?)))
                .collect::<Result<serde_json::Map<_, _>, Diagnostic>>()?
                .into(),
        })
    }
}

#[derive(Clone)]
enum Body {
    Text(Text),
    Payload(Node),
}

/// Headers and body of a `webhookCustom`, compiled.
#[derive(Clone)]
pub struct Content {
    headers: Vec<(String, Text)>,
    body: Option<Body>,
}

/// The same for one event.
#[derive(Clone, Debug, PartialEq)]
pub struct Filled {
    pub headers: Vec<(String, String)>,
    pub body: FilledBody,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FilledBody {
    None,
    Text(String),
    /// Sent as JSON, or as a form.
    Payload(Value),
}

impl Content {
    /// Of the raw members of a handler.
    pub(super) fn compile(custom: &crate::api::WebhookCustom) -> Result<Self, InvalidSpec> {
        const AT: &str = "handler.webhookCustom";
        let format = |format: Option<TextFormat>| format.unwrap_or(TextFormat::Template);
        let headers = custom.headers.iter().flatten();
        let headers = headers.map(|(name, value)| {
            let field = || format!("{AT}.headers.{name}");
            let text = Text::compile(value, custom.headers_format.unwrap_or(TextFormat::Raw), field)?;
            Ok((name.clone(), text))
        });
        let payload = custom.payload.as_ref().map(|payload| {
            let path = format!("{AT}.payload");
            Node::compile(&Value::Object(payload.clone()), format(custom.payload_format), &path)
                .map(Body::Payload)
        });
        let body = custom.body.as_ref().map(|body| {
            Text::compile(body, format(custom.body_format), || format!("{AT}.body")).map(Body::Text)
        });
        Ok(Content {
            headers: headers.collect::<Result<_, InvalidSpec>>()?,
            body: payload.or(body).transpose()?,
        })
    }

    fn texts(&self) -> Vec<&Text> {
        let mut found: Vec<&Text> = self.headers.iter().map(|(_, text)| text).collect();
        match &self.body {
            Some(Body::Text(text)) => found.push(text),
            Some(Body::Payload(node)) => node.texts(&mut found),
            None => {}
        }
        found
    }

    /// True where it takes an event's data to fill it.
    pub fn has_templates(&self) -> bool {
        self.texts().iter().any(|text| !matches!(text, Text::Raw(_)))
    }

    /// The templates that need Lua, in order.
    pub fn scripts(&self) -> Vec<&str> {
        self.texts().into_iter().filter_map(Text::script).collect()
    }

    /// Fills it for an event. `rendered`: what became of `scripts`, in order.
    pub fn fill(&self, context: &Value, rendered: Vec<String>) -> Result<Filled, Diagnostic> {
        let mut rendered = rendered.into_iter();
        let headers = self
            .headers
            .iter()
            .map(|(name, text)| Ok((name.clone(), text.fill(context, &mut rendered)?)))
            .collect::<Result<_, Diagnostic>>()?;
        let body = match &self.body {
            None => FilledBody::None,
            Some(Body::Text(text)) => FilledBody::Text(text.fill(context, &mut rendered)?),
            Some(Body::Payload(node)) => FilledBody::Payload(node.fill(context, &mut rendered)?),
        };
        Ok(Filled { headers, body })
    }
}

/// Its source, the raw members of the handler, is shown beside it.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Content")
    }
}

/// Made from the other members of its handler, and so equal where they are.
impl PartialEq for Content {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What templates see of an event.
pub fn context(event: &Event) -> Value {
    template::context(
        &serde_json::from_str(event.data.get()).unwrap_or_default(),
        &event.source,
        &event.event,
    )
}

/// A payload as a form: nested maps by dotted names, lists by a repeated name, null left out.
pub fn form(payload: &Value) -> String {
    let mut pairs = url::form_urlencoded::Serializer::new(String::new());
    add(&mut pairs, "", payload);
    pairs.finish()
}

fn add(pairs: &mut url::form_urlencoded::Serializer<'_, String>, name: &str, value: &Value) {
    match value {
        Value::Null => {}
        Value::Object(map) => map.iter().for_each(|(key, value)| match name {
            "" => add(pairs, key, value),
            _ => add(pairs, &format!("{name}.{key}"), value),
        }),
        Value::Array(list) => list.iter().for_each(|value| add(pairs, name, value)),
        Value::String(text) => drop(pairs.append_pair(name, text)),
        other => drop(pairs.append_pair(name, &other.to_string())),
    }
}

impl WebhookCustom {
    /// True where the body that is sent may be JSON made from a text.
    pub fn sends_json_text(&self) -> bool {
        let content_type = self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let says_json = content_type.is_some_and(|(_, value)| value.to_ascii_lowercase().contains("json"));
        self.body.as_ref().is_some_and(|body| says_json || body.trim_start().starts_with(['{', '[']))
    }
}
