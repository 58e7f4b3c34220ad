//! Where in the text of a conversation its assistant speaks: what a model is to learn of it.
//!
//! A template says it itself, by `{% generation %}` around answers, or it is found by rendering parts of the
//! conversation. An answer is what follows the text that the model is given when it is to answer, up to the end of its
//! message, without white space behind that: with most templates the conversation so far begins the whole one. Some
//! write earlier messages in another way once later ones follow, Qwen3's without their thoughts; there the place of the
//! content is looked for, between the text that asks for an answer and the end that the template gives to one.

use super::{BEGINS, ChatTemplate, ChatTemplateError, ENDS, Message};
use std::ops::Range;

/// Stands for an answer while its place is looked for.
const PLACE: &str = "\u{fdd2}";

/// Messages that follow no others and ask for no answer.
const ALONE: [bool; 2] = [false, false];

/// The role whose messages are answers.
const ASSISTANT: &str = "assistant";

impl ChatTemplate {
    /// The text of a conversation as a document to learn from, and the places in it, in bytes, that its assistant says.
    ///
    /// ```
    /// # use infinity_model::chat_template::{ChatTemplate, Message};
    /// let said = [Message::new("user", "One?"), Message::new("assistant", "Two.")];
    /// let (text, answers) = ChatTemplate::plain().answers(&said)?;
    /// assert_eq!(text, "User: One?\n\nAssistant: Two.");
    /// assert_eq!(&text[answers[0].clone()], " Two.");
    /// # Ok::<(), infinity_model::chat_template::ChatTemplateError>(())
    /// ```
    ///
    /// # Errors
    /// What [`render`](Self::render) refuses; nobody answers; or an answer whose place cannot be told.
    pub fn answers(
        &self,
        messages: &[Message],
    ) -> Result<(String, Vec<Range<usize>>), ChatTemplateError> {
        let own = |c: char| [BEGINS, ENDS].contains(&c) || PLACE.contains(c);
        if let Some(index) = messages.iter().position(|m| m.content.contains(own)) {
            return Err(ChatTemplateError::NoCharacter(index));
        }
        let answers = messages.iter().enumerate();
        let answers = answers.filter(|(_, message)| message.role == ASSISTANT);
        let answers: Vec<usize> = answers.map(|(index, _)| index).collect();
        if answers.is_empty() {
            return Err(ChatTemplateError::NoAnswer);
        }
        let text = self.written(messages, ALONE)?;
        if let Some(marked) = self.marked(messages)? {
            let ranges = marks(&text, &marked);
            let ranges = ranges.ok_or(ChatTemplateError::Placeless(answers[0]))?;
            return Ok((text, ranges));
        }
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for index in answers {
            let found = self.place(messages, index, &text)?;
            let after = ranges.last().map_or(0, |range| range.end);
            match found.filter(|range| range.start >= after) {
                Some(range) => ranges.push(range),
                None => return Err(ChatTemplateError::Placeless(index)),
            }
        }
        Ok((text, ranges))
    }

    /// The place of answer `index` in the `text` of all messages.
    fn place(
        &self,
        messages: &[Message],
        index: usize,
        text: &str,
    ) -> Result<Option<Range<usize>>, ChatTemplateError> {
        let asked = self.written(&messages[..index], [false, true])?;
        let answered = match index + 1 == messages.len() {
            true => text.to_owned(),
            false => self.written(&messages[..=index], ALONE)?,
        };
        if text.starts_with(&answered) && answered.starts_with(&asked) {
            let end = answered.trim_end().len().max(asked.len());
            return Ok(Some(asked.len()..end));
        }
        let mut placed = messages.to_vec();
        placed[index].content = PLACE.to_owned();
        let all = self.written(&placed, ALONE)?;
        let last = self.written(&placed[..=index], ALONE)?;
        let (Some((before, after)), Some((_, end))) =
            (all.split_once(PLACE), last.split_once(PLACE))
        else {
            return Ok(None);
        };
        let once = !after.contains(PLACE) && !end.contains(PLACE);
        let fits = text.len() >= before.len() + after.len();
        if !once || !fits || !text.starts_with(before) || !text.ends_with(after) {
            return Ok(None);
        }
        let end = end.trim_end();
        if !after.starts_with(end) {
            return Ok(None);
        }
        // What asks for an answer stands before it, maybe with something that the model says first.
        let silent = self.written(&messages[..index], ALONE)?;
        let asks = asked.strip_prefix(&silent).unwrap_or_default();
        let start = before
            .rfind(asks)
            .map_or(before.len(), |at| at + asks.len());
        Ok(Some(start..text.len() - after.len() + end.len()))
    }
}

/// The places between marks in `marked`, which is `text` but for them.
fn marks(text: &str, marked: &str) -> Option<Vec<Range<usize>>> {
    let (mut ranges, mut rest, mut at, mut begun) = (Vec::new(), marked, 0, None);
    while let Some(place) = rest.find([BEGINS, ENDS]) {
        if text.get(at..at + place)? != &rest[..place] {
            return None;
        }
        at += place;
        match (rest[place..].starts_with(BEGINS), begun.take()) {
            (true, None) => begun = Some(at),
            (false, Some(start)) => ranges.push(start..at),
            _ => return None,
        }
        rest = &rest[place + BEGINS.len_utf8()..];
    }
    (begun.is_none() && text.get(at..)? == rest && !ranges.is_empty()).then_some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(turns: &[(&str, &str)]) -> Vec<Message> {
        let turns = turns.iter();
        turns
            .map(|(role, content)| Message::new(*role, *content))
            .collect()
    }

    /// What is learned, piece by piece, and the whole text.
    fn learned(template: &ChatTemplate, turns: &[(&str, &str)]) -> (Vec<String>, String) {
        let (text, ranges) = template.answers(&said(turns)).unwrap();
        let pieces = ranges.into_iter().map(|range| text[range].to_owned());
        (pieces.collect(), text)
    }

    const TALK: [(&str, &str); 5] = [
        ("system", "Be brief."),
        ("user", "One?"),
        ("assistant", "Two."),
        ("user", "Two."),
        ("assistant", " Three, or Two. "),
    ];

    #[test]
    fn answers_have_their_ends_and_nothing_else() {
        let chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
            {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
        let chatml = ChatTemplate::from_jinja(chatml, "", "").unwrap();
        let (pieces, text) = learned(&chatml, &TALK);
        assert_eq!(pieces, ["Two.<|im_end|>", " Three, or Two. <|im_end|>"]);
        assert!(
            text.ends_with("<|im_end|>\n"),
            "no question after the last answer: {text:?}"
        );
        let llama = "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }} \
            {{ eos_token }}{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}";
        let llama = ChatTemplate::from_jinja(llama, "<s>", "</s>").unwrap();
        let (pieces, _) = learned(&llama, &TALK[1..]);
        assert_eq!(pieces, [" Two. </s>", "  Three, or Two.  </s>"]);
        let (pieces, _) = learned(&ChatTemplate::plain(), &TALK);
        assert_eq!(pieces, [" Two.", " Three, or Two."]);
    }

    /// As Qwen3 does it: thoughts stay in the last answer alone, and are empty there if there are none.
    const THINKS: &str = "{% for m in messages %}{% set said = m.content.split('</think>')[-1].lstrip('\\n') %}\
        <|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n\
        {{ m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') if '</think>' in m.content else '' }}\n\
        </think>\n\n{% endif %}{{ said }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    #[test]
    fn a_template_that_forgets_thoughts_loses_no_answer() {
        let thinks = ChatTemplate::from_jinja(THINKS, "", "").unwrap();
        let (pieces, text) = learned(&thinks, &TALK);
        assert_eq!(text.matches("<think>").count(), 1, "{text}");
        let last = "<think>\n\n</think>\n\n Three, or Two. <|im_end|>";
        assert_eq!(pieces, ["Two.<|im_end|>", last]);
        let mut talk = TALK;
        talk[2].1 = "<think>\nhm\n</think>\n\nTwo.";
        talk[4].1 = "<think>\nso\n</think>\n\nThree.";
        let (pieces, _) = learned(&thinks, &talk);
        let last = "<think>\nso\n</think>\n\nThree.<|im_end|>";
        assert_eq!(pieces, ["Two.<|im_end|>", last]);
        // A question after it, and an answer that is said twice.
        let turns = [TALK[1], TALK[2], TALK[1], TALK[2], TALK[1]];
        let (pieces, _) = learned(&thinks, &turns);
        assert_eq!(pieces, ["Two.<|im_end|>", "Two.<|im_end|>"]);
    }

    #[test]
    fn what_a_template_marks_is_what_is_learned() {
        let marks = "{% for m in messages %}<{{ m.role }}>\n{%- if m.role == 'assistant' %}\n    \
            {% generation %}\n{{ m.content }}<end>{%- endgeneration %}\n{%- else %}{{ m.content }}{% endif %}\n\
            {% endfor %}";
        let marks = ChatTemplate::from_jinja(marks, "", "").unwrap();
        let (pieces, text) = learned(&marks, &TALK);
        assert_eq!(pieces, ["Two.<end>", " Three, or Two. <end>"], "{text:?}");
        assert!(!text.contains([BEGINS, ENDS]));
    }

    #[test]
    fn what_cannot_be_told_is_refused() {
        let told = |template: &str, turns: &[(&str, &str)]| {
            let template = ChatTemplate::from_jinja(template, "", "").unwrap();
            template.answers(&said(turns)).unwrap_err().to_string()
        };
        let backwards = "{% for m in messages|reverse %}{{ m.content|upper }};{% endfor %}";
        assert!(told(backwards, &TALK).contains("messages[4]"));
        let forgets = "{{ messages[-1].content }}";
        assert!(told(forgets, &TALK).contains("cannot be told"));
        assert!(told(forgets, &TALK[..2]).contains("no message of the role assistant"));
        assert!(told(forgets, &[("assistant", "a\u{fdd0}")]).contains("messages[0].content"));
    }
}
