//! From a row's fields to the prompt that is asked.

use super::{
    Prompt, Record,
    fields::{Fields, find, name, names, unexpected},
};
use crate::{
    config::{Keys, PromptsSection},
    error::{CommandError, Result},
};
use model::{
    ChatTemplate,
    template::{Template, Value, ValueKind},
};
use std::collections::{BTreeMap, BTreeSet};

/// Makes prompts of rows.
pub(super) struct Asker<'a> {
    keys: &'a Keys,
    template: Option<Template>,
    chat: Option<&'a ChatTemplate>,
    /// Whether a text becomes a message.
    texts_are_chats: bool,
    system: Option<&'a str>,
    chat_args: BTreeMap<&'a str, Value>,
}

impl<'a> Asker<'a> {
    pub fn new(key: &str, section: &'a PromptsSection, chat: Option<&'a ChatTemplate>) -> Result<Self> {
        // An eval set that inherits a template or a system message turns it off with an empty one.
        let template = section.template.as_deref().filter(|source| !source.is_empty());
        let template = template.map(|source| Template::strict(&format!("{key}.template"), source));
        Ok(Self {
            keys: &section.keys,
            template: template.transpose()?,
            chat,
            texts_are_chats: section.chat,
            system: section.system.as_deref().filter(|system| !system.is_empty()),
            chat_args: section.chat_template_args.iter().map(|(name, value)| (name.as_str(), of_toml(value))).collect(),
        })
    }

    /// The columns that it may read: a key's, or what stands before its first dot, and the template's variables.
    pub fn wanted(&self) -> BTreeSet<String> {
        let Keys { prompt, answer, data_source, teacher_id } = self.keys;
        let mut keys = vec![("answer", answer), ("data_source", data_source), ("teacher_id", teacher_id)];
        if self.template.is_none() {
            keys.push(("prompt", prompt));
        }
        let mut wanted = self.template.as_ref().map_or(BTreeSet::new(), Template::variables);
        for name in keys.into_iter().map(name) {
            wanted.extend([name, name.split('.').next().unwrap_or_default()].map(str::to_owned));
        }
        wanted
    }

    /// The prompt of a row. `columns` are all fields that there are, where the row does not hold them all.
    pub fn prompt(&self, record: &Record, columns: Option<&[String]>) -> Result<Prompt> {
        let fields = Fields { values: &record.fields, columns };
        let Keys { answer, data_source, teacher_id, .. } = self.keys;
        let (text, chat) = self.text(self.asked(&fields)?)?;
        Ok(Prompt {
            text,
            chat,
            answer: fields.text(("answer", answer), true)?,
            data_source: fields.text(("data_source", data_source), false)?.unwrap_or_default(),
            teacher_id: fields.text(("teacher_id", teacher_id), false)?,
            line: record.line,
        })
    }

    /// What a row asks: the template's text, or its own text or messages.
    fn asked(&self, fields: &Fields) -> Result<Value> {
        let key = ("prompt", &self.keys.prompt);
        match &self.template {
            Some(template) => template.render(fields.values.clone()).map(Value::from).map_err(|error| {
                let (error, read) = (CommandError::from(error), Vec::from_iter(template.variables()).join("`, `"));
                if read.is_empty() {
                    return error;
                }
                error.hint(format!("the template reads `{read}`; there is {}", fields.listed()))
            }),
            None => fields.get(key)?.ok_or_else(|| {
                let hint = "keys = { prompt = \"...\" } names the field that holds it, template makes it of several";
                fields.missing(key).hint(hint)
            }),
        }
    }

    /// The text that the student is given, and whether a chat template made it.
    fn text(&self, asked: Value) -> Result<(String, bool)> {
        let key = name(("prompt", &self.keys.prompt));
        let text = match (asked.kind(), asked.as_str()) {
            (ValueKind::Seq, _) => return Ok((self.render(messages(key, &asked)?)?, true)),
            (_, Some(text)) => text,
            (found, None) => return Err(unexpected(key, found, "a text or a list of messages")),
        };
        if text.trim().is_empty() {
            return Err(CommandError::new("the prompt is empty"));
        }
        match (self.texts_are_chats, self.system) {
            (true, _) => Ok((self.render(vec![message("user", text)])?, true)),
            (false, None) => Ok((text.to_owned(), false)),
            (false, Some(_)) => {
                let what = "there is a system message for it, but the prompt is a text and chat is false";
                Err(CommandError::new(what).hint("set chat = true, or take system away"))
            }
        }
    }

    fn render(&self, mut messages: Vec<Value>) -> Result<String> {
        let Some(chat) = self.chat else {
            let what = "the prompt is a chat, but the student has no chat template";
            return Err(CommandError::new(what).hint(
                "put chat_template.jinja into student.model, or `chat_template` into its tokenizer_config.json; or ask plain \
                 text: chat = false",
            ));
        };
        let begins_with_system = messages.first().is_some_and(|first| role(first).as_deref() == Some("system"));
        if let Some(system) = self.system.filter(|_| !begins_with_system) {
            messages.insert(0, message("system", system));
        }
        Ok(chat.render(&messages, &self.chat_args, true)?)
    }
}

/// Messages that end with something to answer.
fn messages(key: &str, list: &Value) -> Result<Vec<Value>> {
    let fault =
        |what: String| CommandError::new(what).hint("a message is like {\"role\": \"user\", \"content\": \"...\"}");
    let messages: Vec<Value> = list.try_iter().map_or(Vec::new(), Iterator::collect);
    let mut empty = true;
    for (i, message) in messages.iter().enumerate() {
        let name = format!("`{key}[{i}]`");
        if message.kind() != ValueKind::Map {
            return Err(fault(format!("{name} is a {}, expected a message", message.kind())));
        }
        if role(message).is_none_or(|role| role.is_empty()) {
            return Err(fault(format!("{name} has no `role`; it has `{}`", names(message).join("`, `"))));
        }
        match find(message, "content").filter(|content| !content.is_none()) {
            Some(content) => {
                let text = content
                    .as_str()
                    .ok_or_else(|| fault(format!("{name}: `content` is a {}, expected a text", content.kind())))?;
                empty &= text.trim().is_empty();
            }
            None if find(message, "tool_calls").is_some_and(|calls| calls.is_true()) => {}
            None if find(message, "content").is_some() => return Err(fault(format!("{name}: `content` is null"))),
            None => return Err(fault(format!("{name} has no `content`; it has `{}`", names(message).join("`, `")))),
        }
    }
    if empty {
        return Err(CommandError::new("the prompt is empty"));
    }
    if messages.last().and_then(role).as_deref() == Some("assistant") {
        let what = format!("`{key}` ends with the assistant's message, and there is nothing to answer");
        return Err(CommandError::new(what).hint("a prompt ends before the answer; leave the last message away"));
    }
    Ok(messages)
}

fn message(role: &str, content: &str) -> Value {
    Value::from_pairs([("role", role), ("content", content)])
}

fn role(message: &Value) -> Option<String> {
    find(message, "role")?.as_str().map(str::to_owned)
}

/// A value as it stands in the pipeline; a date is its text.
fn of_toml(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(truth) => (*truth).into(),
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(items) => items.iter().map(of_toml).collect::<Vec<Value>>().into(),
        toml::Value::Table(table) => Value::from_pairs(table.iter().map(|(key, value)| (key.as_str(), of_toml(value)))),
    }
}
