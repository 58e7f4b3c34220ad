//! The table at the end.

use anyhow::ensure;

use super::criteria::{Row, Verdict};

/// Rows below each other, the reason of what was not measured last.
pub(crate) fn table(rows: &[Row], settings: &[String]) -> String {
    let widest = rows.iter().map(|row| row.name.chars().count()).max();
    let width = widest.unwrap_or(0);
    let mut text = String::new();
    for setting in settings {
        text += &format!("{setting}\n");
    }
    text += &format!(
        "{:width$}  {:8}  {:12}  figure\n",
        "criterion", "limit", "verdict"
    );
    for row in rows {
        let verdict = match row.verdict {
            Verdict::Met => "met",
            Verdict::NotMet => "NOT MET",
            Verdict::NotMeasured => "not measured",
        };
        let separator = match row.verdict {
            Verdict::NotMeasured => ": ",
            _ => "  ",
        };
        let (name, limit, figure) = (&row.name, &row.limit, &row.figure);
        text += &format!("{name:width$}  {limit:8}  {verdict:12}{separator}{figure}\n");
    }
    let count = |verdict| rows.iter().filter(|row| row.verdict == verdict).count();
    text + &format!(
        "{} criteria: {} met, {} not met, {} not measured\n",
        rows.len(),
        count(Verdict::Met),
        count(Verdict::NotMet),
        count(Verdict::NotMeasured)
    )
}

/// An error unless all is met: what was not measured is not.
pub(crate) fn verdict(rows: &[Row]) -> anyhow::Result<()> {
    let open = rows.iter().filter(|row| row.verdict != Verdict::Met);
    let open = open.count();
    ensure!(open == 0, "{open} of {} criteria are not met", rows.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(verdict: Verdict, figure: &str) -> Row {
        Row {
            name: "forward: faster than on tensors".to_owned(),
            limit: ">= 5 x".to_owned(),
            verdict,
            figure: figure.to_owned(),
        }
    }

    #[test]
    fn what_was_not_measured_says_why_and_is_not_met() {
        let rows = [
            row(Verdict::Met, "6.00 x"),
            row(Verdict::NotMeasured, "Python finds no torch"),
        ];
        let text = table(&rows, &["torch 2".to_owned()]);
        assert!(text.starts_with("torch 2\n"), "{text}");
        assert!(
            text.contains("not measured: Python finds no torch"),
            "{text}"
        );
        assert!(
            text.contains("2 criteria: 1 met, 0 not met, 1 not measured"),
            "{text}"
        );
        assert!(verdict(&rows).is_err());
        assert!(verdict(&rows[..1]).is_ok());
    }
}
