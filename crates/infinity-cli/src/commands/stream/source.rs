//! Where the bytes of a stream come from, and where in them a state was kept.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::Context as _;
use infinity_files::Fingerprint;
use serde::{Deserialize, Serialize};

use super::input::Place;
use crate::model_dir::note_in;
use crate::terminal::refuse;

/// Where a state was kept, as an entry of its file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Before the piece that is being read.
    #[serde(flatten)]
    pub(super) place: Place,
    /// Tokens of that piece which the state has read, and their losses in bits.
    pub(super) read: usize,
    pub(super) bits: f64,
    /// Fingerprint of the bytes right before it, for a file.
    #[serde(default)]
    pub(super) before: Option<String>,
}

pub(super) const KEPT: &str = "stream";
/// Bytes before a place that a file is recognised by.
const RECOGNISED: u64 = 4096;

pub(super) fn kept_in(path: &Path) -> anyhow::Result<Kept> {
    match note_in(path, KEPT)? {
        Some(kept) => Ok(kept),
        None => refuse!(
            "{} was not kept by `infinity stream`: --resume does not know where in its text to go on; \
             --state-in goes on from it with any text",
            path.display()
        ),
    }
}

pub(super) enum Source {
    /// A file that can be read from any place.
    File(PathBuf, File, u64),
    /// A pipe, or standard input.
    Pipe(Box<dyn Read + Send>),
}

impl Source {
    /// The file or pipe at `path`; `-` is standard input.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Source::Pipe(Box::new(io::stdin())));
        }
        let shown = path.display();
        let opened = File::open(path).and_then(|file| file.metadata().map(|data| (file, data)));
        let (file, data) = match opened {
            Ok(opened) => opened,
            Err(error) => refuse!("cannot read {shown}: {error}"),
        };
        if data.is_dir() {
            refuse!("{shown} is a directory; a stream is one text");
        }
        Ok(match data.is_file() {
            true => Source::File(path.into(), file, data.len()),
            false => Source::Pipe(Box::new(file)),
        })
    }

    /// Whether what is left can be read later.
    pub(super) fn seekable(&self) -> bool {
        matches!(self, Source::File(..))
    }

    /// The place of the input to go on at, if this is the input that was left there. A pipe goes on where
    /// it is.
    pub(super) fn place(&self, kept: &Kept) -> anyhow::Result<Place> {
        let Source::File(path, _, bytes) = self else {
            return Ok(kept.place);
        };
        let (shown, offset) = (path.display(), kept.place.offset);
        if offset > *bytes {
            refuse!(
                "{shown} has {bytes} bytes, and the state was kept after {offset}: it is another file, \
                 or was cut"
            );
        }
        match &kept.before {
            Some(before) if *before != before_of(path, offset)? => refuse!(
                "{shown} is not the file that was left at byte {offset}: what stands before it has \
                 changed"
            ),
            _ => Ok(kept.place),
        }
    }

    /// Reads on a thread of its own, so that Ctrl-C is noticed while nothing comes.
    pub(super) fn chunks(self, offset: u64) -> anyhow::Result<Receiver<io::Result<Vec<u8>>>> {
        let mut reader = match self {
            Source::Pipe(reader) => reader,
            Source::File(path, mut file, _) => {
                file.seek(SeekFrom::Start(offset))
                    .with_context(|| format!("cannot read {}", path.display()))?;
                Box::new(file)
            }
        };
        let (sender, receiver) = sync_channel(2);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            loop {
                let read = match reader.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(n) => Ok(buffer[..n].to_vec()),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let failed = read.is_err();
                if sender.send(read).is_err() || failed {
                    return;
                }
            }
        });
        Ok(receiver)
    }
}

/// Fingerprint of the bytes before `offset` of a file.
pub(super) fn before_of(path: &Path, offset: u64) -> anyhow::Result<String> {
    let read = || -> io::Result<Vec<u8>> {
        let from = offset.saturating_sub(RECOGNISED);
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(offset - from).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Fingerprint::default().field(bytes).hex())
}
