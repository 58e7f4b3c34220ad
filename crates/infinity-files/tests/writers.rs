//! Every writer under injected failures: the old content or the new is there in full, and nothing else.

use infinity_files::faults::{Fault, inject};
use infinity_files::{PartialDirectory, remove_directory, write};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn write_directory(target: &Path, text: &str) -> std::io::Result<()> {
    let partial = PartialDirectory::create(target)?;
    write(&partial.path().join("a"), text.as_bytes())?;
    write(&partial.path().join("b"), text.as_bytes())?;
    partial.rename_to(target)
}

/// What a writer's target holds, which must be one of the texts in full.
fn read_directory(target: &Path) -> Option<String> {
    if !target.exists() {
        return None;
    }
    assert_eq!(names(target), ["a", "b"]);
    let text = fs::read_to_string(target.join("a")).unwrap();
    assert_eq!(fs::read_to_string(target.join("b")).unwrap(), text);
    Some(text)
}

type Write = fn(&Path, &str) -> std::io::Result<()>;
type Read = fn(&Path) -> Option<String>;

const WRITERS: [(Write, Read); 2] = [
    (
        |path, text| write(path, text.as_bytes()),
        |path| fs::read_to_string(path).ok(),
    ),
    (write_directory, read_directory),
];

#[test]
fn a_failure_anywhere_leaves_the_old_or_the_new() {
    for (write, read) in WRITERS {
        for fault in [
            Fault::Error(ErrorKind::StorageFull),
            Fault::Error(ErrorKind::PermissionDenied),
            Fault::Kill,
        ] {
            for old in [None, Some("old")] {
                let mut failures = 0;
                for n in 0.. {
                    let folder = tempfile::tempdir().unwrap();
                    let target = folder.path().join("target");
                    if let Some(old) = old {
                        write(&target, old).unwrap();
                    }
                    let plan = inject(folder.path(), n, fault);
                    let written = write(&target, "new");
                    let happened = plan.happened();
                    drop(plan);
                    let found = read(&target);
                    match &written {
                        Ok(()) => assert_eq!(found.as_deref(), Some("new"), "{n}"),
                        Err(_) => assert!(
                            found.as_deref() == old || found.as_deref() == Some("new"),
                            "{n}: {found:?}"
                        ),
                    }
                    // Whatever is left beside is removed by the next writer.
                    write(&target, "next").unwrap();
                    assert_eq!(read(&target).as_deref(), Some("next"));
                    if fault == Fault::Kill || written.is_ok() {
                        assert_eq!(names(folder.path()), ["target"], "{fault:?} {n}");
                    }
                    failures += usize::from(written.is_err());
                    if !happened {
                        break;
                    }
                }
                assert!(failures >= 4, "{failures} failures were reached");
            }
        }
    }
}

#[test]
fn a_directory_is_removed_whole_or_stands_whole() {
    for n in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        write_directory(&target, "old").unwrap();
        let plan = inject(folder.path(), n, Fault::Kill);
        let removed = remove_directory(&target);
        let happened = plan.happened();
        drop(plan);
        assert!(removed.is_err() || !target.exists());
        read_directory(&target);
        remove_directory(&target).unwrap();
        drop(PartialDirectory::create(&target).unwrap());
        assert!(names(folder.path()).is_empty(), "{n}");
        if !happened {
            break;
        }
    }
}

#[test]
fn directories_replace_directories_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("made");
    for text in ["one", "two"] {
        write_directory(&target, text).unwrap();
        assert_eq!(read_directory(&target).as_deref(), Some(text));
        assert_eq!(names(folder.path()), ["made"]);
    }
    drop(PartialDirectory::create(&target).unwrap());
    assert_eq!(names(folder.path()), ["made"]);
}

#[test]
fn a_name_that_is_taken_or_not_there_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    assert!(write(&folder.path().join("folder"), b"x").is_err());
    fs::write(folder.path().join("file"), "x").unwrap();
    assert!(write(&folder.path().join("file/inside"), b"x").is_err());
    assert!(PartialDirectory::create(&folder.path().join("file/inside")).is_err());
    assert_eq!(names(folder.path()), ["file", "folder"]);
    // As long as a name may be.
    let long = folder.path().join("ß".repeat(127));
    write(&long, b"x").unwrap();
    assert_eq!(fs::read(&long).unwrap(), b"x");
}

#[test]
fn what_nobody_makes_any_more_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("made");
    let abandoned = folder.path().join(".made.partial-1-0");
    let foreign = folder.path().join(".notes.partial-draft");
    for path in [&abandoned, &foreign] {
        fs::create_dir(path).unwrap();
        fs::write(path.join("a.txt"), "").unwrap();
    }
    fs::write(folder.path().join(".made.partial-1-0.lock"), "").unwrap();
    fs::write(folder.path().join(".a.partial-1-1"), "").unwrap();
    let first = PartialDirectory::create(&target).unwrap();
    let second = PartialDirectory::create(&folder.path().join("other")).unwrap();
    assert!(!abandoned.exists(), "nobody holds its lock");
    assert!(foreign.exists(), "not made here");
    assert!(first.path().exists() && second.path().exists());
    drop((first, second));
    write(&folder.path().join("z"), b"").unwrap();
    assert_eq!(names(folder.path()), [".notes.partial-draft", "z"]);
}

#[cfg(unix)]
#[test]
fn permissions_and_links_are_those_of_a_plain_write() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = tempfile::tempdir().unwrap();
    let mode = |name: &str| {
        let path = folder.path().join(name);
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    fs::write(folder.path().join("plain"), "x").unwrap();
    write(&folder.path().join("new"), b"x").unwrap();
    assert_eq!(mode("new"), mode("plain"));
    let secret = fs::Permissions::from_mode(0o600);
    fs::set_permissions(folder.path().join("new"), secret).unwrap();
    write(&folder.path().join("new"), b"y").unwrap();
    assert_eq!(mode("new"), 0o600);
    symlink("new", folder.path().join("link")).unwrap();
    write(&folder.path().join("link"), b"z").unwrap();
    assert!(folder.path().join("link").is_symlink());
    assert_eq!(fs::read(folder.path().join("new")).unwrap(), b"z");
}

/// Runs itself again as a user who may not write, where `setpriv` and its rights are at hand.
#[cfg(target_os = "linux")]
#[test]
fn a_user_without_permission_gets_an_error_and_changes_nothing() {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;
    const FOLDER: &str = "INFINITY_FILES_TEST_FOLDER";
    if let Some(folder) = std::env::var_os(FOLDER) {
        let target = Path::new(&folder).join("target");
        for (write, _) in WRITERS {
            let error = write(&target, "new").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        }
        return;
    }
    let (folder, programs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for path in [folder.path(), programs.path()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(folder.path().join("target"), "old").unwrap();
    let program = programs.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let run = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&program)
        .args([
            "--exact",
            "a_user_without_permission_gets_an_error_and_changes_nothing",
        ])
        .env(FOLDER, folder.path())
        .output();
    match run {
        Ok(run) if run.status.code() != Some(127) && !run.stdout.is_empty() => {
            let said = String::from_utf8_lossy(&run.stdout);
            assert!(run.status.success(), "{said}");
        }
        // No `setpriv`, or no right to become somebody else: the injected failures stand for it.
        _ => return,
    }
    assert_eq!(fs::read(folder.path().join("target")).unwrap(), b"old");
    assert_eq!(names(folder.path()), ["target"]);
}
