//! A conversation as the text that a model was trained on: the Jinja template of its directory, or a
//! plain one.
//!
//! Where Hugging Face's tools look, in this order: `chat_template.jinja`, then the key `chat_template`
//! of `tokenizer_config.json`, a text or a list of named ones of which `default` is taken. Templates
//! are rendered as `transformers` does it: blocks trimmed, Python's string methods, `raise_exception`,
//! `bos_token` and `eos_token`. A template comes from a stranger's directory: its steps are limited,
//! and it reads no file.

mod answers;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The file of a template, beside a model.
pub const TEMPLATE: &str = "chat_template.jinja";
const CONFIG: &str = "tokenizer_config.json";
/// The template of models that have none, as others read one. Whoever reads it here is given [`ChatTemplate::plain`].
const PLAIN: &str = "{% for message in messages %}{% if message.role in ['system', 'developer'] %}{% set name = '' %}\
    {% elif message.role == 'user' %}{% set name = 'User: ' %}\
    {% elif message.role == 'assistant' %}{% set name = 'Assistant: ' %}\
    {% else %}{{ raise_exception('the role ' + message.role + ' is not known: it must be system, user or assistant') }}\
    {% endif %}{{ ('' if loop.first else '\\n\\n') + name + message.content.strip() }}{% endfor %}\
    {% if add_generation_prompt %}{{ ('\\n\\n' if messages else '') + 'Assistant:' }}{% endif %}";
/// Around what the model says, in a text with marks; no conversation holds them.
const BEGINS: char = '\u{fdd0}';
const ENDS: char = '\u{fdd1}';
/// Instructions that a template may take; the usual ones take some dozens a message.
const FUEL: u64 = 20_000_000;

/// One thing that was said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it: `system`, `user` or `assistant`, and what else a template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of this role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// A conversation cannot be written as a text.
#[derive(Debug, thiserror::Error)]
pub enum ChatTemplateError {
    /// A file of the model's directory cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("the chat template in {} cannot be used: {reason}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, with the line.
        reason: String,
    },
    /// The template refuses this conversation, or fails with it.
    #[error("the model's chat template refuses these messages: {0}")]
    Refused(String),
    /// A conversation to learn from in which nobody answers.
    #[error("no message of the role assistant: there is nothing to learn to say")]
    NoAnswer,
    /// The message of this number, from 0, has a character that means something here.
    #[error("messages[{0}].content has a character from U+FDD0 to U+FDD2, which are no text")]
    NoCharacter(usize),
    /// The template does not leave a conversation as it was when it goes on: the number of a message, from 0.
    #[error(
        "messages[{0}]: where the chat template writes this answer cannot be told, for it writes a \
         conversation in another way once it goes on; one with {{% generation %}} around answers says it"
    )]
    Placeless(usize),
    /// The plain template has no name for the role of the message of this number, from 0.
    #[error("messages[{0}].role = {1:?} is not known: it must be system, user or assistant")]
    UnknownRole(usize, String),
}

/// How a model's conversations are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatTemplate {
    /// `None` is the plain one.
    jinja: Option<Jinja>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Jinja {
    /// As it was written.
    text: String,
    /// The same without the tags that mark for training.
    source: String,
    /// The same with marks written around what a model says, if it marks that.
    marked: Option<String>,
    bos: String,
    eos: String,
}

/// What is read of `tokenizer_config.json`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenizerConfig {
    chat_template: Value,
    bos_token: Value,
    eos_token: Value,
}

impl TokenizerConfig {
    /// That of a model's directory; of one that has none, with nothing in it.
    fn of(dir: &Path) -> Result<Self, ChatTemplateError> {
        let path = dir.join(CONFIG);
        let Some(text) = read(&path)? else {
            return Ok(Self::default());
        };
        serde_json::from_str(&text).map_err(|error| broken(&path, error))
    }

    /// The tokens that begin and end a text.
    fn tokens(&self) -> [String; 2] {
        [&self.bos_token, &self.eos_token].map(token_text)
    }
}

impl ChatTemplate {
    /// Who is named before each message, each in a paragraph of its own:
    ///
    /// ```
    /// use infinity_model::chat_template::{ChatTemplate, Message};
    /// let text = ChatTemplate::plain().render(&[Message::new("user", "Hello")], false)?;
    /// assert_eq!(text, "User: Hello\n\nAssistant:");
    /// # Ok::<(), infinity_model::chat_template::ChatTemplateError>(())
    /// ```
    pub fn plain() -> Self {
        Self { jinja: None }
    }

    /// The template in a model's directory; the plain one if it has none.
    ///
    /// # Errors
    /// [`ChatTemplateError::Read`] and [`ChatTemplateError::Broken`].
    pub fn from_model_dir(dir: &Path) -> Result<Self, ChatTemplateError> {
        let (path, file) = (dir.join(CONFIG), dir.join(TEMPLATE));
        let config = TokenizerConfig::of(dir)?;
        let tokens = config.tokens();
        let (path, source) = match (read(&file)?, config.chat_template) {
            (Some(source), _) => (file, source),
            (None, Value::Null) => return Ok(Self::plain()),
            (None, Value::String(source)) => (path, source),
            (None, Value::Array(named)) => match default_of(&named) {
                Some(source) => (path, source),
                None => return Err(broken(&path, "none of them is named \"default\"")),
            },
            (None, _) => return Err(broken(&path, "chat_template is neither a text nor a list")),
        };
        Self::of(&source, tokens).map_err(|error| broken(&path, error))
    }

    /// The template in a file of its own, with the tokens that the model's directory names.
    ///
    /// # Errors
    /// As [`from_model_dir`](Self::from_model_dir); there is no such file.
    pub fn from_file(path: &Path, dir: &Path) -> Result<Self, ChatTemplateError> {
        let tokens = TokenizerConfig::of(dir)?.tokens();
        let source = fs::read_to_string(path).map_err(|source| unread(path, source))?;
        Self::of(&source, tokens).map_err(|error| broken(path, error))
    }

    fn of(text: &str, [bos, eos]: [String; 2]) -> Result<Self, minijinja::Error> {
        if text.trim_end() == PLAIN {
            return Ok(Self::plain());
        }
        let marked = generations(text, ["filter generation", "endfilter"]);
        let source = generations(text, ["if true", "endif"]);
        let jinja = Jinja {
            text: text.to_owned(),
            marked: (marked != source).then_some(marked),
            source,
            bos,
            eos,
        };
        for text in [&jinja.source].into_iter().chain(&jinja.marked) {
            environment(text)?;
        }
        Ok(Self { jinja: Some(jinja) })
    }

    /// A template's text, with the tokens that begin and end a text.
    ///
    /// # Errors
    /// [`ChatTemplateError::Refused`]: it is no Jinja.
    pub fn from_jinja(source: &str, bos: &str, eos: &str) -> Result<Self, ChatTemplateError> {
        Self::of(source, [bos, eos].map(str::to_owned)).map_err(refused)
    }

    /// Its text, for [`TEMPLATE`].
    pub fn text(&self) -> &str {
        self.jinja.as_ref().map_or(PLAIN, |jinja| &jinja.text)
    }

    /// Whether it is the plain one.
    pub fn is_plain(&self) -> bool {
        self.jinja.is_none()
    }

    /// The text of these messages, up to where the answer begins. If it `follows` other text (that of
    /// a session), the token that begins a text is left out, and the plain template begins a paragraph.
    ///
    /// # Errors
    /// [`ChatTemplateError::Refused`] and [`ChatTemplateError::UnknownRole`].
    pub fn render(&self, messages: &[Message], follows: bool) -> Result<String, ChatTemplateError> {
        self.written(messages, [follows, true])
    }

    /// The text of these messages, which may follow others, and what asks for an answer after them if it `asks`.
    fn written(
        &self,
        messages: &[Message],
        [follows, asks]: [bool; 2],
    ) -> Result<String, ChatTemplateError> {
        match &self.jinja {
            Some(jinja) => jinja.render(&jinja.source, messages, [follows, asks]),
            None => plain(messages, follows, asks),
        }
    }

    /// The same with marks around what the model says, if the template marks that.
    fn marked(&self, messages: &[Message]) -> Result<Option<String>, ChatTemplateError> {
        let text = self.jinja.as_ref().and_then(|jinja| {
            let marked = jinja.marked.as_ref()?;
            Some(jinja.render(marked, messages, [false, false]))
        });
        text.transpose()
    }

    /// Texts that end an answer besides the model's own end: the plain template has no other.
    pub fn stops(&self) -> &'static [&'static str] {
        match self.is_plain() {
            true => &["\nUser:"],
            false => &[],
        }
    }
}

fn environment(source: &str) -> Result<Environment<'_>, minijinja::Error> {
    let mut environment = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    environment.set_syntax(syntax.build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    let raise = |reason: String| -> Result<minijinja::Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, reason))
    };
    environment.add_function("raise_exception", raise);
    environment.add_filter("generation", |said: String| format!("{BEGINS}{said}{ENDS}"));
    environment.add_template("chat", source)?;
    Ok(environment)
}

impl Jinja {
    fn render(
        &self,
        source: &str,
        messages: &[Message],
        [follows, asks]: [bool; 2],
    ) -> Result<String, ChatTemplateError> {
        let environment = environment(source).map_err(refused)?;
        let template = environment.get_template("chat").map_err(refused)?;
        let bos = if follows { "" } else { &self.bos };
        let values = context! {
            messages => minijinja::value::Serde(messages),
            bos_token => bos,
            eos_token => &self.eos,
            add_generation_prompt => asks,
            // Given to every template by others, so that one may ask whether they are none.
            tools => (),
            documents => (),
        };
        template.render(values).map_err(refused)
    }
}

fn plain(messages: &[Message], follows: bool, asks: bool) -> Result<String, ChatTemplateError> {
    let mut text = String::new();
    let mut separator = if follows { "\n\n" } else { "" };
    for (index, message) in messages.iter().enumerate() {
        let name = match message.role.as_str() {
            "system" | "developer" => "",
            "user" => "User: ",
            "assistant" => "Assistant: ",
            role => return Err(ChatTemplateError::UnknownRole(index, role.to_owned())),
        };
        let _ = write!(text, "{separator}{name}{}", message.content.trim());
        separator = "\n\n";
    }
    if asks {
        let _ = write!(text, "{separator}Assistant:");
    }
    Ok(text)
}

/// A file's text; `None` if there is no such file.
fn read(path: &Path) -> Result<Option<String>, ChatTemplateError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(unread(path, source)),
    }
}

fn unread(path: &Path, source: io::Error) -> ChatTemplateError {
    ChatTemplateError::Read {
        path: path.into(),
        source,
    }
}

/// A special token in `tokenizer_config.json`: its text, or an object that has it.
fn token_text(value: &Value) -> String {
    let text = value.as_str().or_else(|| value.get("content")?.as_str());
    text.unwrap_or_default().to_owned()
}

/// A template with other tags for those that mark for training what a model says.
fn generations(source: &str, [begins, ends]: [&str; 2]) -> String {
    let mut parts = source.split("{%");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let tag = part.split("%}").next().unwrap_or_default();
        let word = tag.trim_matches(['-', '+', ' ', '\t', '\n', '\r']);
        let part = match word {
            "generation" => part.replacen(word, begins, 1),
            "endgeneration" => part.replacen(word, ends, 1),
            _ => part.to_owned(),
        };
        text.extend(["{%", &part]);
    }
    text
}

fn default_of(named: &[Value]) -> Option<String> {
    let default = named.iter().find(|entry| entry["name"] == "default")?;
    default["template"].as_str().map(str::to_owned)
}

fn broken(path: &Path, reason: impl ToString) -> ChatTemplateError {
    ChatTemplateError::Broken {
        path: path.into(),
        reason: reason.to_string(),
    }
}

fn refused(error: minijinja::Error) -> ChatTemplateError {
    let reason = match error.kind() {
        ErrorKind::InvalidOperation => error.detail().unwrap_or("it does not say why").to_owned(),
        _ => error.to_string(),
    };
    ChatTemplateError::Refused(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{%- if not messages or messages[0].role == 'tool' %}\
        {{- raise_exception('Say something first.') }}{%- endif %}\
        {{- bos_token }}\n{% for m in messages %}\n    \
        {{- '<|im_start|>' + m['role'] + '\\n' + m.content.strip() + '<|im_end|>\\n' }}\n\
        {% endfor %}\n{% if add_generation_prompt %}\n{{ '<|im_start|>assistant\\n' }}\n{%- endif %}";

    fn talk() -> Vec<Message> {
        vec![
            Message::new("system", "Be brief."),
            Message::new("user", " Hi {{ 1 }} "),
        ]
    }

    #[test]
    fn a_template_as_transformers_renders_it() {
        let template = ChatTemplate::from_jinja(CHATML, "<s>", "</s>").unwrap();
        // As jinja2 renders it with `trim_blocks` and `lstrip_blocks`.
        let expected = "\n<|im_start|>system\nBe brief.<|im_end|>\n\n<|im_start|>user\nHi {{ 1 }}<|im_end|>\n\n\
            <|im_start|>assistant\n";
        assert_eq!(template.render(&talk(), true).unwrap(), expected);
        assert_eq!(
            template.render(&talk(), false).unwrap(),
            format!("<s>{expected}")
        );
        let error = template.render(&[], false).unwrap_err().to_string();
        assert!(
            error.ends_with("refuses these messages: Say something first."),
            "{error}"
        );
    }

    #[test]
    fn what_others_give_to_every_template_is_given() {
        let source = "{% if tools is none and documents is none %}none {% endif %}\
            {% for m in messages %}{%- generation %}{{ m.content }}{% endgeneration -%} {% endfor %}";
        let template = ChatTemplate::from_jinja(source, "", "").unwrap();
        let said = template.render(&[Message::new("user", "x")], false);
        assert_eq!(said.unwrap(), "none x");
    }

    #[test]
    fn the_plain_template() {
        let plain = ChatTemplate::plain();
        let text = plain.render(&talk(), false).unwrap();
        assert_eq!(text, "Be brief.\n\nUser: Hi {{ 1 }}\n\nAssistant:");
        assert_eq!(
            plain.render(&talk()[1..], true).unwrap(),
            "\n\nUser: Hi {{ 1 }}\n\nAssistant:"
        );
        let of_others = Jinja {
            text: String::new(),
            source: PLAIN.to_owned(),
            marked: None,
            bos: String::new(),
            eos: String::new(),
        };
        let turns = [("developer", "a"), ("user", " b\n"), ("assistant", "c ")];
        let turns = turns.map(|(role, text)| Message::new(role, text));
        for some in 0..=turns.len() {
            for asks in [false, true] {
                let rendered = of_others.render(PLAIN, &turns[..some], [false, asks]);
                let own = plain.written(&turns[..some], [false, asks]).unwrap();
                assert_eq!(rendered.unwrap(), own, "as others read it");
            }
        }
        assert_eq!(
            ChatTemplate::from_jinja(plain.text(), "<s>", "").unwrap(),
            plain
        );
        let error = plain
            .render(&[Message::new("tool", "1")], false)
            .unwrap_err();
        assert!(
            error.to_string().starts_with("messages[0].role = \"tool\""),
            "{error}"
        );
    }

    #[test]
    fn a_template_that_does_not_end_or_is_none() {
        let endless =
            "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}";
        let template = ChatTemplate::from_jinja(endless, "", "").unwrap();
        assert!(template.render(&talk(), false).is_err());
        assert!(ChatTemplate::from_jinja("{% if %}", "", "").is_err());
    }

    #[test]
    fn where_a_directory_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let load = || ChatTemplate::from_model_dir(dir.path());
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let says = || {
            load()
                .unwrap()
                .render(&[Message::new("user", "x")], false)
                .unwrap()
        };
        assert!(load().unwrap().is_plain());

        write(CONFIG, r#"{"eos_token": null}"#);
        assert!(load().unwrap().is_plain());
        write(
            CONFIG,
            r#"{"bos_token": {"content": "B"}, "chat_template": "{{ bos_token }}1"}"#,
        );
        assert_eq!(says(), "B1");
        write(
            CONFIG,
            r#"{"chat_template": [{"name": "tool", "template": "2"}]}"#,
        );
        assert!(
            load()
                .unwrap_err()
                .to_string()
                .contains("named \"default\"")
        );
        write(
            CONFIG,
            r#"{"chat_template": [{"name": "default", "template": "3"}]}"#,
        );
        assert_eq!(says(), "3");
        write(TEMPLATE, "4");
        assert_eq!(says(), "4");
        write(TEMPLATE, "{% nonsense %}");
        assert!(load().unwrap_err().to_string().contains(TEMPLATE));
        write(CONFIG, "{");
        assert!(load().unwrap_err().to_string().contains(CONFIG));
    }
}
