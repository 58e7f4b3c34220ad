//! What a person types in a chat: text, or a command that begins with a slash.

use infinity_files::nearest;
use infinity_model::GenerationConfig;

/// What there is: a line for each command with what follows it, and what else can be done.
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

/// Every command and what follows it.
fn commands() -> impl Iterator<Item = (&'static str, &'static str)> {
    let commands = HELP
        .lines()
        .filter_map(|line| line.strip_prefix('/')?.split_once("  "));
    commands.map(|(command, _)| command.split_once(' ').unwrap_or((command, "")))
}

/// What was typed.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    Nothing,
    Text(String),
    Help,
    Save(String),
    Load(String),
    Fork(String),
    Switch(String),
    Undo,
    Reset,
    System(String),
    Set(String, String),
    Stats,
    Exit,
}

/// Reads a line, or says what is wrong with it. Two slashes stand for one that begins a text.
pub(super) fn parse(line: &str) -> Result<Said, String> {
    let line = line.trim();
    let Some(command) = line.strip_prefix('/') else {
        return Ok(match line {
            "" => Said::Nothing,
            text => Said::Text(text.to_owned()),
        });
    };
    if command.starts_with('/') {
        return Ok(Said::Text(command.to_owned()));
    }
    let (name, rest) = command
        .split_once(char::is_whitespace)
        .unwrap_or((command, ""));
    let rest = rest.trim();
    let one = || match rest {
        "" => {
            let what = commands().find(|(known, _)| *known == name);
            Err(format!(
                "/{name} needs a {}",
                what.map_or("", |(_, what)| what)
            ))
        }
        rest => Ok(rest.to_owned()),
    };
    let none = |said| match rest {
        "" => Ok(said),
        rest => Err(format!("/{name} takes nothing, and got {rest:?}")),
    };
    let set = |name: &str| Ok(Said::Set(name.to_owned(), one()?));
    match name {
        "help" | "?" => none(Said::Help),
        "save" => one().map(Said::Save),
        "load" => one().map(Said::Load),
        "fork" => one().map(Said::Fork),
        "switch" => one().map(Said::Switch),
        "undo" => none(Said::Undo),
        "reset" | "clear" => none(Said::Reset),
        "system" => Ok(Said::System(rest.to_owned())),
        "set" => {
            let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            Ok(Said::Set(name.replace('-', "_"), value.trim().to_owned()))
        }
        "temperature" => set("temperature"),
        "topk" => set("top_k"),
        "topp" => set("top_p"),
        "stats" => none(Said::Stats),
        "exit" | "quit" => none(Said::Exit),
        unknown => {
            let meant = nearest(unknown, commands().map(|(name, _)| name));
            let meant = meant.map_or(String::new(), |name| format!("; did you mean /{name}?"));
            Err(format!(
                "there is no /{unknown}{meant} /help shows what there is, // begins a text with /"
            ))
        }
    }
}

/// The settings that can be changed in a chat, with their values.
pub(super) fn settings(config: &GenerationConfig) -> Vec<(&'static str, String)> {
    let seed = config.seed.map(|seed| seed.to_string());
    vec![
        ("temperature", config.temperature.to_string()),
        ("top_k", config.top_k.to_string()),
        ("top_p", config.top_p.to_string()),
        ("min_p", config.min_p.to_string()),
        ("repetition_penalty", config.repetition_penalty.to_string()),
        (
            "max_new_tokens",
            config.max_new_tokens.unwrap_or(256).to_string(),
        ),
        ("seed", seed.unwrap_or_else(|| "random".to_owned())),
    ]
}

/// `config` with another value of one setting, or what is wrong with that.
pub(super) fn with_setting(
    config: &GenerationConfig,
    name: &str,
    value: &str,
) -> Result<GenerationConfig, String> {
    fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
        let read = value.parse();
        read.map_err(|_| format!("{name}: {value:?} is not a number that it can be"))
    }
    let mut config = config.clone();
    match name {
        "temperature" => {
            config.temperature = number(name, value)?;
            config.do_sample = config.temperature != 0.0;
        }
        "top_k" => config.top_k = number(name, value)?,
        "top_p" => config.top_p = number(name, value)?,
        "min_p" => config.min_p = number(name, value)?,
        "repetition_penalty" => config.repetition_penalty = number(name, value)?,
        "max_new_tokens" => {
            config.max_new_tokens = Some(number(name, value)?);
            config.max_length = None;
        }
        "seed" if value == "random" => config.seed = None,
        "seed" => config.seed = Some(number(name, value)?),
        unknown => {
            let known = settings(&config);
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            let meant = nearest(unknown, names.iter().copied());
            let meant = meant.map_or(String::new(), |name| format!("; did you mean {name}?"));
            return Err(format!(
                "there is no setting {unknown:?}, only {}{meant}",
                names.join(", ")
            ));
        }
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
            ("", Said::Nothing),
            ("  hello ", Said::Text("hello".into())),
            ("//etc is a path", Said::Text("/etc is a path".into())),
            ("/save a b.state", Said::Save("a b.state".into())),
            ("/system", Said::System(String::new())),
            ("/clear", Said::Reset),
            ("/topk 5", Said::Set("top_k".into(), "5".into())),
            (
                "/set max-new-tokens 9",
                Said::Set("max_new_tokens".into(), "9".into()),
            ),
            ("/set", Said::Set(String::new(), String::new())),
            ("/quit", Said::Exit),
        ] {
            assert_eq!(parse(line), Ok(said), "{line}");
        }
        for (line, words) in [
            ("/sav x", "did you mean /save?"),
            ("/load", "/load needs a FILE"),
            ("/undo 3", "takes nothing"),
            ("/temperature", "needs a"),
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
            let typed = format!("/{name} {}", if what.is_empty() { "" } else { "a b" });
            assert!(parse(&typed).is_ok(), "{typed}");
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
        let cold = with_setting(&config, "temperature", "0").unwrap();
        assert!(cold.is_greedy());
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
        ] {
            let message = with_setting(&config, name, value).unwrap_err();
            assert!(message.contains(words), "{message}");
        }
    }
}
