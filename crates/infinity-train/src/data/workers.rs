//! Threads that prepare batches ahead of the step that needs them.
//!
//! Thread `w` of `n` makes the batches whose number is `w` modulo `n`, and the loop takes them in
//! order: how many threads there are changes when a batch is ready, never what is in it.

use super::error::DataError;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

/// Batches that one thread has ready before it waits.
const AHEAD: usize = 2;

type Made<T> = Result<T, DataError>;

/// Batches, or whatever is made of a number, in order.
pub struct Workers<T> {
    workers: Vec<Worker<T>>,
    next: u64,
}

struct Worker<T> {
    batches: Receiver<Made<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Workers<T> {
    /// `count` threads, at least one, that `make` the batches from number `first` on.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub fn start(
        make: impl Fn(u64) -> Made<T> + Clone + Send + 'static,
        first: u64,
        count: usize,
    ) -> Result<Self, DataError> {
        let count = count.max(1);
        let start = |i: usize| {
            let (sender, batches) = sync_channel(AHEAD);
            let (make, from) = (make.clone(), first + i as u64);
            let thread = Builder::new()
                .name(format!("batches-{i}"))
                .spawn(move || work(make, (from..).step_by(count), &sender));
            let thread = thread.map_err(|source| DataError::NoThread {
                number: i + 1,
                count,
                source,
            })?;
            Ok(Worker {
                batches,
                thread: Some(thread),
            })
        };
        Ok(Workers {
            workers: (0..count).map(start).collect::<Result<_, DataError>>()?,
            next: 0,
        })
    }

    /// The next batch.
    ///
    /// # Errors
    /// The source's, or [`DataError::Worker`] if the thread that should have made it has died.
    pub fn take(&mut self) -> Made<T> {
        let index = (self.next % self.workers.len() as u64) as usize;
        self.next += 1;
        let worker = &mut self.workers[index];
        match worker.batches.recv() {
            Ok(made) => made,
            Err(_) => Err(worker.died()),
        }
    }
}

impl<T> Worker<T> {
    /// Why there will be no more batches.
    fn died(&mut self) -> DataError {
        let panic = self.thread.take().and_then(|thread| thread.join().err());
        let text = panic.and_then(|panic| {
            let literal = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            literal.or_else(|| panic.downcast_ref::<String>().cloned())
        });
        DataError::Worker {
            reason: text.unwrap_or_else(|| "it ended without saying why".to_owned()),
        }
    }
}

/// Makes the batches of `numbers` until nobody takes them, or one cannot be made.
fn work<T>(
    make: impl Fn(u64) -> Made<T>,
    numbers: impl Iterator<Item = u64>,
    sender: &SyncSender<Made<T>>,
) {
    for number in numbers {
        let made = make(number);
        let over = made.is_err();
        if sender.send(made).is_err() || over {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers, of which one cannot be made and one kills its thread.
    fn numbers(fails_at: u64, dies_at: u64) -> impl Fn(u64) -> Made<u64> + Clone {
        move |step| {
            assert!(step != dies_at, "the disk of batch {step} is gone");
            if step == fails_at {
                return Err(DataError::NoSuchBatch { step, batches: 0 });
            }
            Ok(step)
        }
    }

    const NEVER: u64 = u64::MAX;

    fn take(workers: &mut Workers<u64>, n: usize) -> Vec<u64> {
        (0..n).map(|_| workers.take().unwrap()).collect()
    }

    #[test]
    fn any_number_of_threads_gives_the_same_batches() {
        for count in [1, 2, 5] {
            let mut workers = Workers::start(numbers(NEVER, NEVER), 7, count).unwrap();
            assert_eq!(
                take(&mut workers, 20),
                (7..27).collect::<Vec<_>>(),
                "{count}"
            );
        }
    }

    #[test]
    fn an_id_that_no_token_has_is_an_error() {
        use crate::data::{BatchSource, DataConfig, Packing, TokenStore, TrainSource};
        let store = TokenStore::from_documents(&[vec![1, 2, 300, 4, 5, 6, 7, 8, 9]]);
        let config = DataConfig {
            max_seq_length: 8,
            packing: Packing::Shuffled,
            ..DataConfig::default()
        };
        let source = TrainSource::new(store, &config, 1, 0).unwrap();
        let make = |size: usize| source.batch(0).and_then(|batch| batch.within(size));
        make(301).unwrap();
        let error = make(300).unwrap_err().to_string();
        assert!(
            error.contains("300") && error.contains("data.cache_dir"),
            "{error}"
        );
    }

    #[test]
    fn an_error_arrives_with_its_batch_and_a_dead_thread_is_said() {
        let mut workers = Workers::start(numbers(4, NEVER), 0, 2).unwrap();
        take(&mut workers, 4);
        let error = workers.take().unwrap_err();
        assert!(
            matches!(error, DataError::NoSuchBatch { step: 4, .. }),
            "{error}"
        );

        let mut workers = Workers::start(numbers(NEVER, 3), 0, 2).unwrap();
        take(&mut workers, 3);
        let error = workers.take().unwrap_err().to_string();
        assert!(
            error.contains("data.num_workers") && error.contains("batch 3"),
            "{error}"
        );
    }
}
