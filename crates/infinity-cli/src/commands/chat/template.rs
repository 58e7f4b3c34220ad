//! What a message adds to the text of a conversation, by the chat template of the model.

use infinity_model::chat_template::{ChatTemplate, Message};

/// How a conversation is written, one message after the other.
#[derive(Debug)]
pub(super) struct Template(ChatTemplate);

/// Stands for an answer in a conversation that is rendered to see what comes after one.
const ANSWER: &str = "\u{1}answer\u{1}";

impl Template {
    /// One message after the other by `template`.
    pub(super) fn new(template: ChatTemplate) -> Self {
        Template(template)
    }

    /// Whether it writes the tokens that begin a text itself, where a model has them.
    pub(super) fn begins_texts(&self) -> bool {
        !self.0.is_plain()
    }

    /// For the line that greets.
    pub(super) fn describe(&self) -> &'static str {
        match self.0.is_plain() {
            true => "no chat template: messages as plain text",
            false => "chat template of the model",
        }
    }

    /// Texts that end an answer, where no token does.
    pub(super) fn stops(&self) -> Vec<String> {
        self.0.stops().iter().map(|&stop| stop.to_owned()).collect()
    }

    /// The text of a first message, up to where the answer begins; after other text if it `follows` some.
    ///
    /// # Errors
    /// What the template refuses.
    pub(super) fn first(
        &self,
        system: Option<&str>,
        text: &str,
        follows: bool,
    ) -> anyhow::Result<String> {
        Ok(self
            .0
            .render(&messages(system, &[("user", text)]), follows)?)
    }

    /// The text between an answer and the next one, with a message in it.
    ///
    /// # Errors
    /// What the template refuses; one that leaves earlier answers out.
    pub(super) fn later(&self, system: Option<&str>, text: &str) -> anyhow::Result<String> {
        let turns = [("user", "x"), ("assistant", ANSWER), ("user", text)];
        let rendered = self.0.render(&messages(system, &turns), true)?;
        let after = rendered
            .split_once(ANSWER)
            .map(|(_, after)| after.to_owned());
        after.ok_or_else(|| anyhow::anyhow!("the chat template leaves earlier answers out"))
    }
}

fn messages(system: Option<&str>, turns: &[(&str, &str)]) -> Vec<Message> {
    let system = system.map(|system| Message::new("system", system));
    let turns = turns
        .iter()
        .map(|(role, content)| Message::new(*role, *content));
    system.into_iter().chain(turns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_adds_what_comes_between_two_answers() {
        let chatml = "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\
            {% endfor %}<|assistant|>";
        let jinja = Template(ChatTemplate::from_jinja(chatml, "<s>", "").unwrap());
        let first = jinja.first(Some("be"), "one", false).unwrap();
        assert_eq!(
            first,
            "<s><|system|>be<|end|><|user|>one<|end|><|assistant|>"
        );
        let later = jinja.later(Some("be"), "two").unwrap();
        assert_eq!(later, "<|end|><|user|>two<|end|><|assistant|>");
        let plain = Template(ChatTemplate::plain());
        assert_eq!(
            plain.later(None, "two").unwrap(),
            "\n\nUser: two\n\nAssistant:"
        );
        assert_eq!(plain.stops(), ["\nUser:"]);
        let forgets = "{% for m in messages[-1:] %}{{ m.content }}{% endfor %}";
        let forgets = Template(ChatTemplate::from_jinja(forgets, "", "").unwrap());
        assert!(
            forgets
                .later(None, "two")
                .unwrap_err()
                .to_string()
                .contains("leaves earlier")
        );
    }
}
