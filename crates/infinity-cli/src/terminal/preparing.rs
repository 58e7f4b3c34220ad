//! A line while a GPU's kernels are compiled: the first step on a GPU may take minutes of nothing else.

use std::sync::Once;
use std::thread;
use std::time::Duration;

use infinity_kernels::accelerator::{Prepared, prepared};

use super::remark;

/// How often somebody looks.
const LOOK: Duration = Duration::from_secs(1);
/// Looks without news after which the next news comes at once again, and news between two lines.
const PATIENCE: u32 = 5;

/// Says how many kernels have been compiled for as long as there are more; `kept` if the next start finds
/// them.
pub(crate) fn watch(kept: bool) {
    static ONCE: Once = Once::new();
    ONCE.call_once(move || {
        let watching = move || {
            let mut news = News::default();
            loop {
                thread::sleep(LOOK);
                if let Some(now) = news.look(prepared()) {
                    remark(&said(now, kept));
                }
            }
        };
        // Without the thread nothing is said, which is no reason to stop.
        let named = thread::Builder::new().name("preparing".to_owned());
        drop(named.spawn(watching));
    });
}

fn said(now: Prepared, kept: bool) -> String {
    let Prepared { compiled, tuned } = now;
    let tuned = match tuned {
        0 => String::new(),
        n => format!(", {n} operations tuned"),
    };
    let how_often = match kept {
        true => "once for this GPU",
        false => "at every start",
    };
    format!("preparing: {compiled} kernels compiled{tuned} so far, {how_often}")
}

/// Decides when there is something to say.
#[derive(Default)]
struct News {
    last: Prepared,
    /// Looks since the last line.
    quiet: u32,
}

impl News {
    /// What is to be said now, if anything.
    fn look(&mut self, now: Prepared) -> Option<Prepared> {
        self.quiet += 1;
        let due = self.last == Prepared::default() || self.quiet >= PATIENCE;
        if now == self.last || !due {
            return None;
        }
        (self.last, self.quiet) = (now, 0);
        Some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_said_at_once_and_the_rest_now_and_then() {
        let mut news = News::default();
        let at = |compiled| Prepared { compiled, tuned: 0 };
        let mut said = Vec::new();
        for second in 0..12 {
            said.extend(news.look(at(second * 10)).map(|now| now.compiled));
        }
        // Nothing at first, for there is nothing.
        assert_eq!(said, [10, 60, 110]);
        assert!((0..20).all(|_| news.look(at(110)).is_none()));
    }

    #[test]
    fn what_is_said() {
        let both = Prepared {
            compiled: 120,
            tuned: 7,
        };
        assert_eq!(
            super::said(both, true),
            "preparing: 120 kernels compiled, 7 operations tuned so far, once for this GPU"
        );
        let none = Prepared { tuned: 0, ..both };
        assert!(super::said(none, false).ends_with("120 kernels compiled so far, at every start"));
    }
}
