//! Headers and body of a `webhookCustom` request: literal texts or templates, compiled once with the hook and rendered
//! for each event.
//!
//! The body is rendered straight into the bytes that are sent: each text is encoded for JSON or a form while it is
//! rendered. Headers and body share one `OutputBudget`.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::InvalidSpec;
use crate::api::TextFormat;
use crate::core::event::data::{Data, Object, UnreadableData};
use crate::core::event::{DataForm, Event};
use crate::core::output::{Encoding, Output, OutputBudget, OutputError};
use crate::core::template::{self, Diagnostic, RenderError, Template};

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

    /// Appends the rendered text. `rendered` yields the sandbox's results for the scripts, in order.
    fn render(
        &self,
        context: &Data<'_>,
        rendered: &mut impl Iterator<Item = String>,
        out: &mut Output<'_, '_>,
    ) -> Result<(), RenderError> {
        match self {
            Text::Raw(text) => Ok(out.push(text)?),
            Text::Fields(template) => template.render_fields_into(context, out),
            Text::Script(text) => {
                let rendered = rendered.next().ok_or_else(|| {
                    Diagnostic::at(text, 0, "the sandbox has not rendered this template".to_owned())
                })?;
                Ok(out.push_owned(rendered)?)
            }
        }
    }

    /// Returns the length of its source, by which the length of the rendered text is estimated.
    fn source_len(&self) -> usize {
        match self {
            Text::Raw(text) | Text::Script(text) => text.len(),
            Text::Fields(template) => template.source_len(),
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

    /// Appends the rendered payload as JSON.
    fn render_json(
        &self,
        context: &Data<'_>,
        rendered: &mut impl Iterator<Item = String>,
        out: &mut Output<'_, '_>,
    ) -> Result<(), RenderError> {
        match self {
            Node::Text(text) => {
                out.push("\"")?;
                out.set_encoding(Encoding::Json);
                text.render(context, rendered, out)?;
                out.set_encoding(Encoding::Plain);
                out.push("\"")?;
            }
            Node::Plain(value) => out.push_scalar(value)?,
            Node::List(list) => {
                out.push("[")?;
                for (i, node) in list.iter().enumerate() {
                    out.push(if i > 0 { "," } else { "" })?;
                    node.render_json(context, rendered, out)?;
                }
                out.push("]")?;
            }
            Node::Map(map) => {
                out.push("{")?;
                for (i, (key, node)) in map.iter().enumerate() {
                    out.push(if i > 0 { "," } else { "" })?;
                    out.push_json_string(key)?;
                    out.push(":")?;
                    node.render_json(context, rendered, out)?;
                }
                out.push("}")?;
            }
        }
        Ok(())
    }

    /// Appends the rendered payload as a form. Nested maps become dotted names, lists repeat the name, null is omitted.
    /// `name`: the name of this node, to which the names of its members are appended meanwhile.
    fn render_form(
        &self,
        name: &mut String,
        is_first: &mut bool,
        context: &Data<'_>,
        rendered: &mut impl Iterator<Item = String>,
        out: &mut Output<'_, '_>,
    ) -> Result<(), RenderError> {
        match self {
            Node::Plain(Value::Null) => out.skip()?,
            Node::Plain(value) => {
                push_form_name(name, is_first, out)?;
                out.push_scalar(value)?;
            }
            Node::Text(text) => {
                push_form_name(name, is_first, out)?;
                text.render(context, rendered, out)?;
            }
            Node::List(list) => {
                for node in list {
                    node.render_form(name, is_first, context, rendered, out)?;
                }
            }
            Node::Map(map) => {
                let length = name.len();
                for (key, node) in map {
                    if length > 0 {
                        name.push('.');
                    }
                    name.push_str(key);
                    node.render_form(name, is_first, context, rendered, out)?;
                    name.truncate(length);
                }
            }
        }
        Ok(())
    }
}

/// Appends the name of a form's pair and leaves `out` ready for the value.
fn push_form_name(name: &str, is_first: &mut bool, out: &mut Output<'_, '_>) -> Result<(), OutputError> {
    out.set_encoding(Encoding::Plain);
    out.push(if *is_first { "" } else { "&" })?;
    *is_first = false;
    out.set_encoding(Encoding::Form);
    out.push(name)?;
    out.set_encoding(Encoding::Plain);
    out.push("=")?;
    out.set_encoding(Encoding::Form);
    Ok(())
}

/// The compiled body of a request.
#[derive(Clone)]
enum Body {
    Text(Text),
    Payload(Node),
}

/// The compiled headers and body of a `webhookCustom`. Cheap to clone, so that another thread can render it.
#[derive(Clone)]
pub struct RequestContent {
    compiled: Arc<Compiled>,
}

struct Compiled {
    headers: Vec<(String, Text)>,
    body: Option<Body>,
    /// The bytes of all texts.
    source_bytes: usize,
    /// The number of fields in templates without Lua.
    fields: usize,
    has_templates: bool,
}

/// Headers and body rendered for one event.
#[derive(Clone, Debug, PartialEq)]
pub struct RenderedContent {
    pub headers: Vec<(String, String)>,
    pub body: RenderedBody,
}

impl RenderedContent {
    /// Returns the bytes of headers and body.
    pub fn byte_count(&self) -> usize {
        let headers = self.headers.iter().map(|(_, value)| value.len()).sum::<usize>();
        let body = match &self.body {
            RenderedBody::None => 0,
            RenderedBody::Text(text) | RenderedBody::Json(text) | RenderedBody::Form(text) => text.len(),
        };
        headers + body
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum RenderedBody {
    None,
    Text(String),
    /// A payload as JSON.
    Json(String),
    /// A payload as a form, because the content type says so.
    Form(String),
}

/// The media type of forms.
const FORM: &str = "application/x-www-form-urlencoded";

fn is_form(content_type: &str) -> bool {
    content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(FORM)
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
        let compiled =
            Compiled::new(headers.collect::<Result<_, InvalidSpec>>()?, payload.or(body).transpose()?);
        Ok(RequestContent { compiled: Arc::new(compiled) })
    }

    /// Returns true if rendering needs the event.
    pub fn has_templates(&self) -> bool {
        self.compiled.has_templates
    }

    /// Returns the templates that need Lua, in the order in which [`RequestContent::render`] expects their results.
    pub fn scripts(&self) -> Vec<&str> {
        self.compiled.texts().into_iter().filter_map(Text::script).collect()
    }

    /// Returns the most work of rendering for an event of this length, in bytes: each field may insert the whole event.
    /// Callers use it to decide whether rendering may block their thread.
    pub fn max_work(&self, event_bytes: usize) -> usize {
        let Compiled { source_bytes, fields, .. } = *self.compiled;
        source_bytes.saturating_add(fields.saturating_add(1).saturating_mul(event_bytes))
    }

    /// Renders headers and body for an event, within the budget. `rendered` holds the sandbox's results for `scripts`, in
    /// order. `content_type`: the value of a header that a Secret defines, which replaces the one of the spec.
    pub fn render(
        &self,
        context: &Data<'_>,
        rendered: Vec<String>,
        content_type: Option<&str>,
        budget: &mut OutputBudget<'_>,
    ) -> Result<RenderedContent, RenderError> {
        let mut rendered = rendered.into_iter();
        let mut headers = Vec::with_capacity(self.compiled.headers.len());
        for (name, text) in &self.compiled.headers {
            let mut out = Output::new(budget, text.source_len());
            text.render(context, &mut rendered, &mut out)?;
            headers.push((name.clone(), out.into_text()));
        }
        let of_spec = headers.iter().rfind(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        let content_type = content_type.or(of_spec.map(|(_, value)| value.as_str()));
        let mut out = Output::new(budget, self.compiled.source_bytes);
        let body = match &self.compiled.body {
            None => RenderedBody::None,
            Some(Body::Text(text)) => {
                text.render(context, &mut rendered, &mut out)?;
                RenderedBody::Text(out.into_text())
            }
            Some(Body::Payload(node)) if content_type.is_some_and(is_form) => {
                node.render_form(&mut String::new(), &mut true, context, &mut rendered, &mut out)?;
                RenderedBody::Form(out.into_text())
            }
            Some(Body::Payload(node)) => {
                node.render_json(context, &mut rendered, &mut out)?;
                RenderedBody::Json(out.into_text())
            }
        };
        Ok(RenderedContent { headers, body })
    }
}

impl Compiled {
    fn new(headers: Vec<(String, Text)>, body: Option<Body>) -> Self {
        let mut compiled = Compiled { headers, body, source_bytes: 0, fields: 0, has_templates: false };
        let texts = compiled.texts();
        let source_bytes: usize = texts.iter().map(|text| text.source_len()).sum();
        let has_templates = texts.iter().any(|text| !matches!(text, Text::Raw(_)));
        let fields = texts.iter().map(|text| match text {
            Text::Fields(template) => template.field_count(),
            Text::Raw(_) | Text::Script(_) => 0,
        });
        let fields: usize = fields.sum();
        (compiled.source_bytes, compiled.fields, compiled.has_templates) =
            (source_bytes, fields, has_templates);
        compiled
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
pub fn context(event: &Event) -> Result<Data<'static>, UnreadableData> {
    let mut data = Data::parse(event.data.get())?;
    match event.data.form() {
        DataForm::Absent => data = Data::Object(Object::default()),
        // Text and bytes are a string, which needs its content type to be read.
        _ if !event.has_json_data() => {
            let attributes = Data::from(Value::Object(event.content_attributes()));
            data = Data::Object(Object::new(vec![("data".into(), data), ("attributes".into(), attributes)]));
        }
        _ => {}
    }
    Ok(template::context(data, &event.source, &event.event).into_owned())
}
