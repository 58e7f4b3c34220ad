//! What a message adds to the text of a conversation, by the chat template of the model.

use anyhow::Context;
use infinity_model::chat_template::{ChatTemplate, Message};

/// Stands for an answer in a conversation that is rendered to see what comes after one.
const ANSWER: &str = "\u{1}answer\u{1}";

/// The text between an answer and the next one, with a message in it.
pub(super) fn later(
    template: &ChatTemplate,
    system: Option<&str>,
    text: &str,
) -> anyhow::Result<String> {
    let turns = [("user", "x"), ("assistant", ANSWER), ("user", text)];
    let rendered = template.render(&messages(system, &turns), true)?;
    let after = rendered.split_once(ANSWER);
    let after = after.context("the chat template leaves earlier answers out")?;
    Ok(after.1.to_owned())
}

/// Instructions, if there are some, and what was said.
pub(super) fn messages(system: Option<&str>, turns: &[(&str, &str)]) -> Vec<Message> {
    let system = system.map(|system| ("system", system));
    let all = system.iter().chain(turns);
    all.map(|(role, content)| Message::new(*role, *content))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_adds_what_comes_between_two_answers() {
        let chatml = "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\
            {% endfor %}<|assistant|>";
        let jinja = ChatTemplate::from_jinja(chatml, "<s>", "").unwrap();
        assert_eq!(
            jinja
                .render(&messages(Some("be"), &[("user", "one")]), false)
                .unwrap(),
            "<s><|system|>be<|end|><|user|>one<|end|><|assistant|>"
        );
        assert_eq!(
            later(&jinja, Some("be"), "two").unwrap(),
            "<|end|><|user|>two<|end|><|assistant|>"
        );
        let plain = ChatTemplate::plain();
        assert_eq!(
            later(&plain, None, "two").unwrap(),
            "\n\nUser: two\n\nAssistant:"
        );
        assert_eq!(plain.stops(), ["\nUser:"]);
        let forgets = "{% for m in messages[-1:] %}{{ m.content }}{% endfor %}";
        let forgets = ChatTemplate::from_jinja(forgets, "", "").unwrap();
        let refused = later(&forgets, None, "two").unwrap_err().to_string();
        assert!(refused.contains("leaves earlier"));
    }
}
