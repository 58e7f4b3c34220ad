//! What a message adds to the text: the chat template of the tokenizer, or names and colons.

use std::path::Path;

use infinity_model::Tokenizer;

/// How a conversation is written.
#[derive(Debug)]
pub(super) struct Template;

/// Stands for an answer in a conversation that is rendered to see what comes after one.
const ANSWER: &str = "\u{1}answer\u{1}";

type Message<'a> = (&'a str, &'a str);

impl Template {
    /// That of the model in `directory`.
    ///
    /// # Errors
    /// A template that cannot be read.
    pub(super) fn of(_directory: Option<&Path>, _tokenizer: &Tokenizer) -> anyhow::Result<Self> {
        Ok(Template)
    }

    /// For the line that greets.
    pub(super) fn describe(&self) -> &'static str {
        "no chat template: plain text"
    }

    /// Text that ends an answer, where no token does.
    pub(super) fn stops(&self) -> Vec<String> {
        vec!["\nUser:".to_owned()]
    }

    /// The text of a first message, up to where the answer begins.
    ///
    /// # Errors
    /// What the template refuses.
    pub(super) fn first(&self, system: Option<&str>, text: &str) -> anyhow::Result<String> {
        let system = system.map(|system| ("system", system));
        let messages: Vec<Message<'_>> = system.into_iter().chain([("user", text)]).collect();
        self.render(&messages)
    }

    /// The text between an answer and the next one, with a message in it.
    ///
    /// # Errors
    /// What the template refuses; one that does not write an answer as it is.
    pub(super) fn later(&self, system: Option<&str>, text: &str) -> anyhow::Result<String> {
        let system = system.map(|system| ("system", system));
        let turns = [("user", "x"), ("assistant", ANSWER), ("user", text)];
        let messages: Vec<Message<'_>> = system.into_iter().chain(turns).collect();
        let rendered = self.render(&messages)?;
        let (_, after) = rendered
            .split_once(ANSWER)
            .ok_or_else(|| anyhow::anyhow!("the chat template leaves earlier answers out"))?;
        Ok(after.to_owned())
    }

    fn render(&self, messages: &[Message<'_>]) -> anyhow::Result<String> {
        let mut text = String::new();
        for (role, content) in messages {
            text.push_str(&match *role {
                "system" => format!("{content}\n"),
                "user" => format!("User: {content}\n"),
                _ => format!("Assistant: {content}\n"),
            });
        }
        text.push_str("Assistant:");
        Ok(text)
    }
}
