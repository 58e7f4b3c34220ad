//! Sessions: what is acknowledged is there, once, whatever happens.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use infinity_files::faults::{Fault, inject};
use infinity_model::config::Mixer;
use infinity_model::{FinishReason, Tokenizer};
use infinity_serve::{Engine, EngineConfig, EngineError, EngineHandle, Request, SessionId, Start};

use crate::support::{block_on, engine, model_of, prompt, run, sampling, until_token};

fn kept_in(folder: &Path) -> EngineConfig {
    EngineConfig {
        state_dir: Some(folder.to_owned()),
        ..EngineConfig::default()
    }
}

fn go_on(id: &SessionId, tokens: &[u32], max_tokens: usize) -> Request {
    Request {
        start: Start::Session(id.clone()),
        prompt: tokens.to_vec(),
        sampling: sampling(4),
        max_tokens,
        ..Request::default()
    }
}

fn create(engine: &EngineHandle) -> SessionId {
    block_on(engine.create_session("a".into())).unwrap().id
}

/// What identifies a session's state: the header of its file, which holds a checksum of all of it. The
/// order of the header's entries is any.
fn print(engine: &EngineHandle, id: &SessionId) -> Vec<(String, String)> {
    let bytes = block_on(engine.export_state(id)).unwrap();
    infinity_model::state_file::notes(&bytes).unwrap()
}

fn append(
    engine: &EngineHandle,
    id: &SessionId,
    tokens: &[u32],
    key: &str,
) -> Result<u64, EngineError> {
    let appended = block_on(engine.append(id, tokens.to_vec(), Some(key.to_owned())));
    appended.map(|usage| usage.position)
}

#[test]
fn a_session_goes_on_where_it_was_with_the_same_bits_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (prompt(1, 700), prompt(2, 90));
    let expected = {
        let engine = engine(EngineConfig::default());
        let id = create(&engine);
        append(&engine, &id, &a, "a").unwrap();
        run(&engine, go_on(&id, &b, 9)).unwrap();
        let made = run(&engine, go_on(&id, &[], 20)).unwrap();
        (made, print(&engine, &id))
    };
    let (id, fork) = {
        let engine = engine(kept_in(folder.path()));
        let id = create(&engine);
        assert_eq!(append(&engine, &id, &a, "a").unwrap(), 700);
        let fork = block_on(engine.fork_session(&id, Some("fork".into()))).unwrap();
        assert_eq!((fork.position, fork.parent), (700, Some(id.clone())));
        let again = Engine::start(
            model_of(Mixer::Infinity, 1),
            Tokenizer::bytes(),
            kept_in(folder.path()),
        );
        assert!(again.unwrap_err().to_string().contains("another server"));
        block_on(engine.stop(Duration::ZERO));
        (id, fork.id)
    };
    let engine = engine(kept_in(folder.path()));
    for id in [&fork, &id] {
        let made = run(&engine, go_on(id, &b, 9)).unwrap();
        assert_eq!(made.usage.position, 799);
        assert_eq!(run(&engine, go_on(id, &[], 20)).unwrap(), expected.0);
        assert!(print(&engine, id) == expected.1);
    }
    // A request beside the session leaves it as it is.
    let beside = Request {
        start: Start::Fork(id.clone()),
        ..go_on(&id, &b, 5)
    };
    run(&engine, beside).unwrap();
    assert!(print(&engine, &id) == expected.1);
    let info = block_on(engine.session(&id)).unwrap();
    assert_eq!((info.position, &*info.name, info.in_use), (819, "a", false));
    let changed = block_on(engine.rename_session(&id, Some("b".into()), Some("note".into())));
    let changed = changed.unwrap();
    assert_eq!(
        (&*changed.name, &*changed.note, changed.position),
        ("b", "note", 819)
    );
    // The comparison sees one more token.
    append(&engine, &id, &[1], "x").unwrap();
    assert!(print(&engine, &id) != expected.1);
    block_on(engine.delete_session(&id)).unwrap();
    let gone = append(&engine, &id, &[1], "y").unwrap_err();
    assert!(matches!(gone, EngineError::UnknownSession(_)), "{gone}");
    let names: Vec<_> = block_on(engine.sessions())
        .unwrap()
        .into_iter()
        .map(|s| s.name)
        .collect();
    assert_eq!(names, ["fork"]);
}

#[test]
fn a_change_with_a_key_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let id = {
        let engine = engine(kept_in(folder.path()));
        let id = create(&engine);
        assert_eq!(append(&engine, &id, &[1, 2, 3], "first").unwrap(), 3);
        assert_eq!(append(&engine, &id, &[4], "second").unwrap(), 4);
        assert_eq!(append(&engine, &id, &[1, 2, 3], "first").unwrap(), 3);
        block_on(engine.stop(Duration::ZERO));
        id
    };
    let engine = engine(kept_in(folder.path()));
    assert_eq!(append(&engine, &id, &[4], "second").unwrap(), 4);
    let other = append(&engine, &id, &[5], "second").unwrap_err();
    assert!(matches!(other, EngineError::KeyReused { .. }), "{other}");
    assert_eq!(block_on(engine.session(&id)).unwrap().position, 4);
    assert_eq!(append(&engine, &id, &[4], "third").unwrap(), 5);
}

#[test]
fn a_full_disk_keeps_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut engine = engine(kept_in(folder.path()));
    let id = create(&engine);
    append(&engine, &id, &prompt(1, 20), "start").unwrap();
    let before = print(&engine, &id);
    let (mut failed, mut unknown, mut position, mut before) = (0, 0, 20, before);
    for change in 0.. {
        let full = inject(
            folder.path(),
            change,
            Fault::Error(std::io::ErrorKind::StorageFull),
        );
        let appended = append(&engine, &id, &[7], &format!("key {change}"));
        let happened = full.happened();
        drop(full);
        // What cannot be cleaned up is no failure.
        match appended {
            Ok(_) => {
                position += 1;
                before = print(&engine, &id);
            }
            Err(error) => {
                failed += 1;
                assert!(matches!(error, EngineError::Disk { .. }), "{error}");
                assert!(error.to_string().contains("cannot be written"), "{error}");
                assert!(print(&engine, &id) == before, "change {change}");
            }
        }
        block_on(engine.stop(Duration::ZERO));
        engine = crate::support::engine(kept_in(folder.path()));
        let there = block_on(engine.session(&id)).unwrap().position;
        if there != position {
            // The commit failed when all of it was there: the change is made, once, and whole.
            (unknown, position) = (unknown + 1, position + 1);
            assert_eq!(there, position);
            let again = append(&engine, &id, &[7], &format!("key {change}"));
            assert_eq!(again.unwrap(), position);
            before = print(&engine, &id);
        }
        assert!(print(&engine, &id) == before, "change {change}, restarted");
        let states = std::fs::read_dir(folder.path()).unwrap().flatten();
        let states = states.filter(|file| file.path().extension().is_some_and(|e| e == "state"));
        assert_eq!(states.count(), 1, "nothing is left of what failed");
        if !happened {
            break;
        }
    }
    assert!(failed >= 5, "{failed} changes of the disk");
    assert_eq!(unknown, 1, "the last change of a save is its commit");
    assert_eq!(append(&engine, &id, &[7], "last").unwrap(), position + 1);
}

#[test]
fn states_of_other_models_and_broken_ones_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = engine(kept_in(folder.path()));
    let id = create(&first);
    append(&first, &id, &[1, 2], "a").unwrap();
    let state = block_on(first.export_state(&id)).unwrap();
    let import = |engine: &EngineHandle, bytes: &[u8]| {
        block_on(engine.import_state(None, Some("in".into()), bytes.to_vec()))
    };
    assert_eq!(import(&first, &state).unwrap().position, 2);
    let mut changed = state.clone();
    *changed.last_mut().unwrap() ^= 1;
    for (bytes, words) in [
        (&changed[..], "changed"),
        (&state[..99], "cut short"),
        (b"", "cut short"),
    ] {
        let error = import(&first, bytes).unwrap_err();
        assert!(
            matches!(error, EngineError::State(_)) && error.to_string().contains(words),
            "{error}"
        );
    }
    let replaced = block_on(first.import_state(Some(&id), None, changed));
    assert!(replaced.is_err());
    assert_eq!(
        append(&first, &id, &[3], "b").unwrap(),
        3,
        "it is as before, and free"
    );
    block_on(first.stop(Duration::ZERO));
    let config = kept_in(folder.path());
    let other = Engine::start(model_of(Mixer::Infinity, 2), Tokenizer::bytes(), config).unwrap();
    for error in [
        import(&other, &state).unwrap_err(),
        append(&other, &id, &[3], "c").unwrap_err(),
        run(&other, go_on(&id, &[3], 2)).unwrap_err(),
    ] {
        assert!(error.to_string().contains("another model"), "{error}");
    }
    assert_eq!(block_on(other.sessions()).unwrap().len(), 2);
}

#[test]
fn idle_sessions_leave_memory_and_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(EngineConfig {
        session_bytes: 0,
        max_sessions: 3,
        ..kept_in(folder.path())
    });
    let ids: Vec<SessionId> = (0..3).map(|_| create(&engine)).collect();
    let full = block_on(engine.create_session("d".into())).unwrap_err();
    assert!(
        matches!(full, EngineError::TooManySessions { limit: 3 }),
        "{full}"
    );
    let full = block_on(engine.fork_session(&ids[0], None)).unwrap_err();
    assert!(
        matches!(full, EngineError::TooManySessions { limit: 3 }),
        "{full}"
    );
    for (i, id) in ids.iter().enumerate() {
        append(&engine, id, &prompt(i as u64, 40), "a").unwrap();
    }
    let all = block_on(engine.sessions()).unwrap();
    assert!(
        all.iter()
            .all(|session| !session.resident && session.state_bytes > 0)
    );
    let made: Vec<_> = ids
        .iter()
        .map(|id| run(&engine, go_on(id, &[9], 8)).unwrap())
        .collect();
    assert_ne!(made[0].tokens, made[1].tokens);
    assert!(engine.metrics().loaded.get() >= 3);
    assert!(
        block_on(engine.sessions())
            .unwrap()
            .iter()
            .all(|session| !session.resident)
    );
    assert_eq!(engine.metrics().session_bytes.get(), 0);
    let memory = crate::support::engine(EngineConfig::default());
    let id = create(&memory);
    append(&memory, &id, &prompt(1, 40), "a").unwrap();
    assert_eq!(
        run(&memory, go_on(&id, &[9], 8)).unwrap().tokens,
        made[1].tokens
    );
}

#[test]
fn one_change_at_a_time_and_a_request_that_is_left_changes_nothing_unless_it_is_to() {
    let engine = engine(EngineConfig::default());
    let id = create(&engine);
    append(&engine, &id, &[1, 2, 3], "a").unwrap();
    for keep_partial in [false, true] {
        let request = Request {
            keep_partial,
            ..go_on(&id, &[4, 5], 1 << 20)
        };
        let mut events = engine.submit(request).unwrap();
        (0..3).for_each(|_| until_token(&mut events));
        let second = append(&engine, &id, &[9], "b").unwrap_err();
        assert!(matches!(second, EngineError::SessionInUse(_)), "{second}");
        drop(events);
        while block_on(engine.session(&id)).unwrap().in_use {
            std::thread::sleep(Duration::from_millis(1));
        }
        let position = block_on(engine.session(&id)).unwrap().position;
        match keep_partial {
            false => assert_eq!(position, 3),
            true => assert!(position >= 8, "{position}"),
        }
    }
}

#[test]
fn a_stop_saves_what_was_generated() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(kept_in(folder.path()));
    let id = create(&engine);
    let mut events = engine.submit(go_on(&id, &[4, 5], 1 << 20)).unwrap();
    until_token(&mut events);
    let reader = std::thread::spawn(move || crate::support::wait(events));
    block_on(engine.stop(Duration::from_millis(20)));
    let made = reader.join().unwrap().unwrap();
    assert_eq!(made.reason, Some(FinishReason::Interrupted));
    assert!(matches!(
        engine.submit(Request::default()),
        Err(EngineError::Stopping)
    ));
    let engine = crate::support::engine(kept_in(folder.path()));
    assert_eq!(
        block_on(engine.session(&id)).unwrap().position,
        made.usage.position
    );
    assert_eq!(made.usage.position as usize, 2 + made.usage.new_tokens);
}

#[test]
fn a_panic_while_a_session_is_kept_is_an_error_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(kept_in(folder.path()));
    let id = create(&engine);
    append(&engine, &id, &[1, 2], "a").unwrap();
    let broken = inject(folder.path(), 2, Fault::Panic);
    let error = append(&engine, &id, &[3], "b").unwrap_err();
    assert!(
        broken.happened() && matches!(error, EngineError::Failed(_)),
        "{error}"
    );
    drop(broken);
    assert_eq!(append(&engine, &id, &[3], "b").unwrap(), 3);
    block_on(engine.stop(Duration::ZERO));
    let engine = crate::support::engine(kept_in(folder.path()));
    assert_eq!(block_on(engine.session(&id)).unwrap().position, 3);
}

/// Whatever a request is doing when the engine stops, it hears why it ends; and who asks for the stop
/// a second time waits as the first does.
#[test]
fn a_stop_tells_everybody_and_whoever_asks_for_it_waits() {
    for pause in 0..4 {
        let folder = tempfile::tempdir().unwrap();
        let config = EngineConfig {
            session_bytes: 0,
            max_rows: 12,
            ..kept_in(folder.path())
        };
        let engine = Engine::start(model_of(Mixer::Infinity, 1), Tokenizer::bytes(), config);
        let engine = engine.unwrap();
        let ids: Vec<SessionId> = (0..16).map(|_| create(&engine)).collect();
        for id in &ids {
            append(&engine, id, &[1, 2, 3], "a").unwrap();
        }
        let saved = engine.metrics().saved.get();
        // On the disk now: they are loaded, then begin with a token drawn, or with a prompt to read.
        let ask = |(i, id)| {
            engine
                .submit(go_on(id, &[9; 600][..600 * (i % 2)], 1 << 20))
                .unwrap()
        };
        let running: Vec<_> = ids.iter().enumerate().map(ask).collect();
        std::thread::sleep(Duration::from_millis(pause));
        let stops: Vec<_> = (0..2)
            .map(|_| {
                let engine = engine.clone();
                std::thread::spawn(move || {
                    block_on(engine.stop(Duration::ZERO));
                    engine.metrics().saved.get()
                })
            })
            .collect();
        let mut interrupted = 0;
        for events in running {
            match crate::support::wait(events) {
                Ok(made) => {
                    assert_eq!(made.reason, Some(FinishReason::Interrupted));
                    interrupted += 1;
                }
                Err(error) => assert!(matches!(error, EngineError::Stopping), "{error}"),
            }
        }
        for stop in stops {
            assert_eq!(
                stop.join().unwrap(),
                saved + interrupted,
                "it returns when all is saved"
            );
        }
        let late = block_on(engine.sessions()).unwrap_err();
        assert!(matches!(late, EngineError::Stopping), "{late}");
    }
}

const CHILD: &str = "INFINITY_SERVE_CHILD";

/// The child of the next test: appends the token `k` with the key `k` for k = 0, 1, …, and says each
/// that is acknowledged.
#[test]
#[allow(clippy::print_stdout, reason = "it talks to its parent")]
fn appends_until_it_is_killed() {
    let Ok(folder) = std::env::var(CHILD) else {
        return;
    };
    let engine = engine(kept_in(Path::new(&folder)));
    let sessions = block_on(engine.sessions()).unwrap();
    let id = sessions
        .first()
        .map_or_else(|| create(&engine), |session| session.id.clone());
    let from = block_on(engine.session(&id)).unwrap().position;
    // The last one again: its answer may have been lost.
    for k in from.saturating_sub(1).. {
        let position = append(&engine, &id, &[k as u32 % 256], &k.to_string()).unwrap();
        assert_eq!(position, k + 1);
        println!("acknowledged {k}");
    }
}

#[test]
fn a_kill_loses_no_acknowledged_append_and_makes_none_twice() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = None;
    let mut next = crate::support::random(5);
    for _ in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "sessions::appends_until_it_is_killed",
                "--exact",
                "--nocapture",
            ])
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut seen, limit) = (0, 3 + next(6));
        for line in lines.map_while(Result::ok) {
            if let Some(k) = line.strip_prefix("acknowledged ") {
                acknowledged = acknowledged.max(Some(k.parse::<u64>().unwrap()));
                seen += 1;
                if seen == limit {
                    std::thread::sleep(Duration::from_micros(next(3000) as u64));
                    child.kill().unwrap();
                }
            }
        }
        assert!(seen >= limit, "the child gave up after {seen}");
        child.wait().unwrap();
        let engine = engine(kept_in(folder.path()));
        let session = block_on(engine.sessions()).unwrap().remove(0);
        let last = acknowledged.unwrap();
        // One more may have been saved and not said.
        let saved = [last + 1, last + 2];
        assert!(
            saved.contains(&session.position),
            "{} after {last}",
            session.position
        );
        block_on(engine.stop(Duration::ZERO));
    }
    let engine = engine(kept_in(folder.path()));
    let session = block_on(engine.sessions()).unwrap().remove(0);
    let found = print(&engine, &session.id);
    // The same appends without any kill give the same state.
    let memory = crate::support::engine(EngineConfig::default());
    let id = create(&memory);
    for k in 0..session.position {
        append(&memory, &id, &[k as u32 % 256], &k.to_string()).unwrap();
    }
    assert!(print(&memory, &id) == found);
}
