//! What a person types in a chat: text, or a command that begins with a slash.

use infinity_files::nearest;
use infinity_model::GenerationConfig;
use infinity_model::generate::DEFAULT_MAX_NEW_TOKENS;
use serde_json::Value;

/// The commands: a line each with its name, what follows it (in brackets where it may), and what it does. Then what
/// else can be done.
pub(super) const HELP: &str = "\
/help                show this
/save FILE           keep the conversation in a state file, whose size does not depend on its length
/load FILE           go on from a state file: a conversation, or a text that `infinity stream` read
/fork NAME           go on in a copy called NAME; the conversation as it is stays where it was
/switch NAME         go to another copy; the first is called main
/undo                take the last message and its answer back
/reset               begin anew
/system [TEXT]       begin anew with instructions for the model; without any: show them
/set [NAME VALUE]    a setting of generation; without any: show them
/stats               show what is remembered, and what it takes
/exit                leave; so does Ctrl-D
Ctrl-C stops an answer. A line that ends with \\ goes on in the next. // begins a text with /.";

/// Other words, and what they stand for.
const SHORT: [(&str, &str); 6] = [
    ("?", "help"),
    ("clear", "reset"),
    ("quit", "exit"),
    ("temperature", "set temperature"),
    ("topk", "set top_k"),
    ("topp", "set top_p"),
];

/// The commands' names, and what follows each.
fn commands() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = HELP.lines().filter_map(|line| line.strip_prefix('/'));
    let commands = lines.filter_map(|line| line.split_once("  "));
    commands.map(|(command, _)| name_and_value(command))
}

/// What was typed: text, which may be empty, or a command's name and what follows it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    Text(String),
    Command(&'static str, String),
}

/// Reads a line, or says what is wrong with it. Two slashes stand for one that begins a text.
pub(super) fn parse(line: &str) -> Result<Said, String> {
    let line = line.trim();
    let Some(typed) = line.strip_prefix('/') else {
        return Ok(Said::Text(line.to_owned()));
    };
    if typed.starts_with('/') {
        return Ok(Said::Text(typed.to_owned()));
    }
    let (word, rest) = name_and_value(typed);
    let long = SHORT.iter().find(|(short, _)| *short == word);
    let line = format!("{} {rest}", long.map_or(word, |(_, long)| long));
    let (typed, rest) = name_and_value(&line);
    let Some((name, what)) = commands().find(|(name, _)| *name == typed) else {
        let meant = nearest(typed, commands().map(|(name, _)| name));
        let meant = meant.map_or(";".to_owned(), |name| format!("; did you mean /{name}?"));
        return Err(format!(
            "there is no /{typed}{meant} /help shows what there is, // begins a text with /"
        ));
    };
    match (what, rest) {
        ("", rest) if !rest.is_empty() => Err(format!("/{name} takes nothing, and got {rest:?}")),
        ("FILE" | "NAME", "") => Err(format!("/{name} needs a {what}")),
        _ => Ok(Said::Command(name, rest.to_owned())),
    }
}

/// A word and what follows it.
pub(super) fn name_and_value(text: &str) -> (&str, &str) {
    let (name, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (name, value.trim())
}

/// The settings that can be changed in a chat.
const SETTINGS: [&str; 7] = [
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "max_new_tokens",
    "seed",
];

pub(super) fn settings(config: &GenerationConfig) -> [(&'static str, String); 7] {
    let values = serde_json::to_value(config).unwrap_or_default();
    SETTINGS.map(|name| match (name, &values[name]) {
        ("seed", Value::Null) => (name, "random".to_owned()),
        (_, Value::Null) => (name, DEFAULT_MAX_NEW_TOKENS.to_string()),
        (_, value) if value.is_u64() => (name, value.to_string()),
        // 1.0 as 1.
        (_, value) => (name, value.as_f64().unwrap_or_default().to_string()),
    })
}

/// `config` with another value of one setting, or what is wrong with that.
pub(super) fn with_setting(
    config: &GenerationConfig,
    name: &str,
    value: &str,
) -> Result<GenerationConfig, String> {
    let name = &*name.replace('-', "_");
    if !SETTINGS.contains(&name) {
        let meant = nearest(name, SETTINGS);
        let meant = meant.map_or(String::new(), |name| format!("; did you mean {name}?"));
        let known = SETTINGS.join(", ");
        return Err(format!("there is no setting {name:?}, only {known}{meant}"));
    }
    let wrong = || format!("{name} needs a number that it can be, and got {value:?}");
    let mut values = serde_json::to_value(config).unwrap_or_default();
    values[name] = match (value.parse::<u64>(), value.parse::<f64>()) {
        _ if name == "seed" && value == "random" => Value::Null,
        (Ok(whole), _) => whole.into(),
        (_, Ok(number)) if number.is_finite() => number.into(),
        (_, Ok(_)) => {
            return Err(format!(
                "generation.{name} = {value} is not a finite number"
            ));
        }
        _ => return Err(wrong()),
    };
    let read = serde_json::from_value(values);
    let mut config: GenerationConfig = read.map_err(|_| wrong())?;
    match name {
        "temperature" => config.do_sample = config.temperature != 0.0,
        "max_new_tokens" => config.max_length = None,
        _ => {}
    }
    config.validate().map_err(|error| error.to_string())?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_text_or_commands() {
        for (line, said) in [
            ("", Said::Text(String::new())),
            ("  hello ", Said::Text("hello".into())),
            ("//etc is a path", Said::Text("/etc is a path".into())),
            ("/save a b.state", Said::Command("save", "a b.state".into())),
            ("/system", Said::Command("system", String::new())),
            ("/clear", Said::Command("reset", String::new())),
            ("/topk 5", Said::Command("set", "top_k 5".into())),
            ("/set seed 9", Said::Command("set", "seed 9".into())),
            ("/set", Said::Command("set", String::new())),
            ("/quit", Said::Command("exit", String::new())),
        ] {
            assert_eq!(parse(line), Ok(said), "{line}");
        }
        for (line, words) in [
            ("/sav x", "did you mean /save?"),
            ("/load", "/load needs a FILE"),
            ("/undo 3", "takes nothing"),
            ("/xyzzy", "there is no /xyzzy; /help shows"),
        ] {
            assert!(
                parse(line).unwrap_err().contains(words),
                "{:?}",
                parse(line)
            );
        }
    }

    #[test]
    fn every_command_is_explained_and_understood() {
        assert_eq!(commands().count(), 11);
        for (name, what) in commands() {
            let rest = if what.is_empty() { "" } else { "a b" };
            let said = Said::Command(name, rest.to_owned());
            assert_eq!(parse(&format!("/{name} {rest}")), Ok(said));
        }
        for (short, long) in SHORT {
            assert_eq!(parse(&format!("/{short}")), parse(&format!("/{long}")));
        }
    }

    #[test]
    fn settings_are_checked() {
        let config = GenerationConfig::default();
        for (name, _) in settings(&config) {
            assert_ne!(
                with_setting(&config, name, "1").map(|c| settings(&c)),
                Err(String::new())
            );
        }
        let listed = settings(&config);
        assert!(listed.contains(&("repetition_penalty", "1".to_owned())));
        let cold = with_setting(&config, "temperature", "0").unwrap();
        assert!(cold.is_greedy());
        let short = with_setting(&config, "max-new-tokens", "9").unwrap();
        assert_eq!(short.max_new_tokens, Some(9));
        assert!(
            !with_setting(&cold, "temperature", "0.5")
                .unwrap()
                .is_greedy()
        );
        for (name, value, words) in [
            ("top_p", "2", "top_p"),
            ("top_k", "many", "many"),
            ("temprature", "1", "did you mean temperature?"),
            ("max_new_tokens", "0", "max_new_tokens"),
            ("max_new_tokens", "nan", "nan"),
            ("seed", "-1", "needs a number"),
            ("temperature", "", "needs a"),
            ("temperature", "inf", "generation.temperature = inf is not"),
        ] {
            let message = with_setting(&config, name, value).unwrap_err();
            assert!(message.contains(words), "{message}");
        }
    }
}
