//! 9. A state that is kept as a file goes on in another process with the bits of never having stopped.

use crate::answer::state_values;
use crate::kinds::{KINDS, read_from, tokens};
use crate::on_flex;
use infinity_kernels::testing::Random;
use infinity_model::{InfinityModel, ModelState, Precision};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Where the child finds the states, and leaves what it read on from them.
const FOLDER: &str = "INFINITY_KEPT_FOLDER";

/// One model and one cut of a text.
#[derive(Clone, Copy, Debug)]
struct Setting {
    kind: usize,
    precision: Precision,
    rows: usize,
    /// Tokens before the state is kept, and after.
    lengths: [usize; 2],
}

/// Every kind of model, in every precision, with one row or more, kept in a piece of the scan, at its end,
/// and after a step; read on by a step or by more than a piece.
fn settings() -> Vec<Setting> {
    use Precision::{Bf16Mixed, Bf16True, F16Mixed, F32};
    let mut all = Vec::new();
    for kind in 0..KINDS {
        for (precision, rows, lengths) in [
            (F32, 1, [1, 1]),
            (F32, 2, [64, 70]),
            (F32, 3, [7, 1]),
            (F32, 1, [150, 9]),
            (Bf16Mixed, 2, [20, 66]),
            (F16Mixed, 2, [20, 5]),
            (Bf16True, 1, [65, 30]),
        ] {
            all.push(Setting {
                kind,
                precision,
                rows,
                lengths,
            });
        }
    }
    all
}

impl Setting {
    fn model(&self) -> InfinityModel {
        let (_, model) = on_flex(self.kind, 3);
        model.with_precision(self.precision).unwrap()
    }

    /// The two parts of the text.
    fn texts(&self) -> [Vec<i32>; 2] {
        let random = &mut Random(self.kind as u64 + 1);
        self.lengths.map(|len| tokens(random, self.rows, len))
    }

    /// All bits of reading the second part from `state`: logits and the state after it.
    fn read_on(&self, model: &InfinityModel, state: ModelState) -> Vec<u8> {
        let (logits, state) = read_from(model, &self.texts()[1], state, &[]);
        let values = state_values(&state)
            .into_iter()
            .flat_map(|(_, values)| values);
        let values = logits
            .into_iter()
            .map(f64::from)
            .chain(values)
            .map(f64::to_bits);
        let all = values.chain(state.position.iter().copied());
        all.flat_map(u64::to_le_bytes).collect()
    }
}

#[test]
fn a_kept_state_goes_on_in_another_process_with_the_same_bits() {
    let name = |i: usize, end: &str| format!("{i}.{end}");
    if let Some(folder) = std::env::var_os(FOLDER) {
        let folder = Path::new(&folder);
        for (i, setting) in settings().into_iter().enumerate() {
            let model = setting.model();
            let state = ModelState::load(&folder.join(name(i, "state")), &model).unwrap();
            fs::write(folder.join(name(i, "bits")), setting.read_on(&model, state)).unwrap();
        }
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for (i, setting) in settings().into_iter().enumerate() {
        let model = setting.model();
        let nothing = model.initial_state(setting.rows);
        let (_, state) = read_from(&model, &setting.texts()[0], nothing.clone(), &[]);
        state
            .save(&folder.path().join(name(i, "state")), &model)
            .unwrap();
        expected.push(setting.read_on(&model, state));
        assert!(
            expected[i] != setting.read_on(&model, nothing),
            "a lost state is seen: {setting:?}"
        );
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([
        "--exact",
        "kept::a_kept_state_goes_on_in_another_process_with_the_same_bits",
    ]);
    let output = child.env(FOLDER, folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    for (i, setting) in settings().into_iter().enumerate() {
        let read = fs::read(folder.path().join(name(i, "bits"))).unwrap();
        assert!(read == expected[i], "{setting:?}");
    }
}
