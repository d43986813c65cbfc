//! Jinja templates as Hugging Face's libraries render them, and the values they read.

use crate::{Error, Result};
pub use minijinja::value::{Value, ValueKind};
use minijinja::{
    Environment, ErrorKind, State, UndefinedBehavior,
    syntax::SyntaxConfig,
    value::{Kwargs, Serde},
};
use std::collections::{BTreeMap, BTreeSet};

/// A compiled template: Jinja with loop controls, Python's string methods, `tojson` as Python writes it, `raise_exception`
/// and `{% generation %}` blocks. It reads no clock and no file.
pub struct Template {
    environment: Environment<'static>,
    /// What messages call it.
    name: String,
}

impl Template {
    /// Compiles a template of a person's own: a variable that is not given raises, and whitespace stays as it is written.
    ///
    /// # Errors
    /// If it is not Jinja; `name` is what messages call it.
    pub fn strict(name: &str, source: &str) -> Result<Self> {
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        Self::compile(name, source, UndefinedBehavior::SemiStrict, syntax)
    }

    /// Compiles a template of a checkpoint as `transformers` does: what is not given is empty; blocks are trimmed, and so is
    /// a newline at the end.
    pub(crate) fn of_checkpoint(name: &str, source: &str) -> Result<Self> {
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        Self::compile(name, source, UndefinedBehavior::Lenient, syntax)
    }

    fn compile(
        name: &str,
        source: &str,
        undefined: UndefinedBehavior,
        syntax: std::result::Result<SyntaxConfig, minijinja::Error>,
    ) -> Result<Self> {
        let fault = |error: minijinja::Error| describe(name, &error);
        let mut environment = Environment::new();
        environment.set_syntax(syntax.map_err(fault)?);
        environment.set_undefined_behavior(undefined);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", crate::python::to_json);
        environment.add_function("raise_exception", raise);
        environment.add_function("strftime_now", refuse_clock);
        environment.add_template_owned("", without_generation_tags(source)).map_err(fault)?;
        Ok(Self { environment, name: name.into() })
    }

    /// The text that the template makes of `variables`, a map.
    ///
    /// # Errors
    /// With the template's own message where it raises, and the line where it fails otherwise.
    pub fn render(&self, variables: Value) -> Result<String> {
        let fault = |error: minijinja::Error| describe(&self.name, &error);
        self.environment.get_template("").and_then(|template| template.render(variables)).map_err(fault)
    }

    /// A map as variables.
    pub(crate) fn arguments(&self, args: &impl serde::Serialize) -> Result<BTreeMap<String, Value>> {
        let args = Value::from(Serde(args));
        let fault = |error: minijinja::Error| describe(&self.name, &error);
        let names = args.try_iter().map_err(fault)?;
        names.map(|name| Ok((name.to_string(), args.get_item(&name).map_err(fault)?))).collect()
    }

    /// The variables that it may read, without the functions that every template has.
    pub fn variables(&self) -> BTreeSet<String> {
        let Ok(template) = self.environment.get_template("") else { return BTreeSet::new() };
        let functions: BTreeSet<&str> = self.environment.globals().map(|(name, _)| name).collect();
        template.undeclared_variables(false).into_iter().filter(|name| !functions.contains(name.as_str())).collect()
    }
}

/// What a template says by `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise(message: String) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

fn refuse_clock(_: &State, _: Value, _: Kwargs) -> std::result::Result<Value, minijinja::Error> {
    let message = "the template asks for today's date by `strftime_now`, and a run must be repeatable: give what it is to \
                   return as the template argument `strftime_now`, for example \"26 Jul 2024\"";
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

fn describe(name: &str, error: &minijinja::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(found) = cause {
        if let Some(Raised(message)) = found.downcast_ref() {
            return Error::Template { name: name.into(), reason: format!("it raises: {message}") };
        }
        cause = found.source();
    }
    let line = error.line().map_or(String::new(), |line| format!("line {line}: "));
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    Error::Template { name: name.into(), reason: format!("{line}{what}") }
}

/// `{% generation %}` marks the assistant's part for training masks; to the text it is nothing. A condition that always
/// holds stands in its place, so that the whitespace around it is cut as before.
fn without_generation_tags(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        let length = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(length);
        text += before;
        let inner = tag.trim_start_matches("{%").trim_end_matches("%}");
        let sign = |found: Option<char>| found.filter(|c| matches!(c, '-' | '+')).map_or(String::new(), String::from);
        let (left, right) = (sign(inner.chars().next()), sign(inner.chars().next_back()));
        match inner.trim_matches(['-', '+']).trim() {
            "generation" => text += &format!("{{%{left} if true {right}%}}"),
            "endgeneration" => text += &format!("{{%{left} endif {right}%}}"),
            _ => text += tag,
        }
        rest = after;
    }
    text + rest
}
