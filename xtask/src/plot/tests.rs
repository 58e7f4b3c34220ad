//! Pictures of a small file of each kind.

use super::*;

const FILE: &str = include_str!("example.json");

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// The name of a line in the legend, and its points.
type Named<'a> = (&'a str, &'a [(f64, f64)]);

/// The lines of every panel.
fn lines<'a>(chart: &'a Chart) -> Vec<Vec<Named<'a>>> {
    let named = |panel: &'a Panel| {
        let names = chart.legend.iter().map(|(name, _)| name.as_str());
        names
            .zip(panel.lines.iter().map(|line| line.points.as_slice()))
            .collect()
    };
    chart.rows[0].1.iter().map(named).collect()
}

mod pictures {
    use super::*;

    /// The coordinates of every line of the picture.
    fn polylines(svg: &str) -> Vec<Vec<[f64; 2]>> {
        let number = |text: &str| text.parse::<f64>().expect("a coordinate");
        svg.split("<polyline points=\"")
            .skip(1)
            .map(|rest| {
                let points = rest.split('"').next().expect("a closing quote");
                let pairs = points
                    .split(' ')
                    .map(|pair| pair.split_once(',').expect("x,y"));
                pairs.map(|(x, y)| [number(x), number(y)]).collect()
            })
            .collect()
    }

    #[test]
    fn larger_values_stand_further_right_and_higher() {
        let chart = measurements(&json(FILE)).expect("a file of the bench");
        let svg = chart.svg();
        let (_, height) = svg.split_once(" height=\"").expect("a height");
        let (height, _) = height.split_once('"').expect("a closing quote");
        let height: f64 = height.parse().expect("a number");
        let lines = polylines(&svg);
        let lengths: Vec<usize> = lines.iter().map(Vec::len).collect();
        assert_eq!(lengths, [2, 2, 3, 2, 3, 2], "two of the legend first");
        for line in &lines {
            assert!(
                line.windows(2).all(|pair| pair[0][0] < pair[1][0]),
                "{line:?}"
            );
            for [x, y] in line {
                assert!(
                    (0.0..chart.width).contains(x) && (0.0..height).contains(y),
                    "{line:?}"
                );
            }
        }
        let [infinity, softmax] = [&lines[2], &lines[3]];
        assert!(
            softmax[1][1] < softmax[0][1],
            "slower is higher on the page"
        );
        assert!(
            infinity[1][1] > softmax[1][1],
            "at one length, softmax is above"
        );
        assert_eq!(
            infinity[1][0], softmax[1][0],
            "at one length, both stand above each other"
        );
        let far = (infinity[2][0] - infinity[1][0]) - (infinity[1][0] - infinity[0][0]);
        assert!(
            far.abs() < 0.2,
            "equal ratios of lengths are equally far apart: {lines:?}"
        );
    }

    #[test]
    fn the_picture_is_well_formed_and_says_what_was_left_out() {
        let svg = measurements(&json(FILE))
            .expect("a file of the bench")
            .svg();
        let closed = svg.matches("/>").count() + svg.matches("</").count();
        assert_eq!(svg.matches('<').count() - svg.matches("</").count(), closed);
        assert!(svg.contains("softmax stops at 4,096"), "{svg}");
        assert!(
            svg.contains("A&amp;B processor"),
            "special characters are escaped: {svg}"
        );
    }

    #[test]
    fn colours_are_legible_on_white_and_on_a_dark_page() {
        let channel = |hex: &str| {
            let value = f64::from(u8::from_str_radix(hex, 16).expect("two hexadecimal digits"));
            let value = value / 255.0;
            if value <= 0.04045 {
                value / 12.92
            } else {
                ((value + 0.055) / 1.055).powf(2.4)
            }
        };
        // WCAG's relative luminance and contrast.
        let luminance = |colour: &str| {
            let [r, g, b] = [1, 3, 5].map(|at| channel(&colour[at..at + 2]));
            0.2126 * r + 0.7152 * g + 0.0722 * b
        };
        let contrast = |a: &str, b: &str| {
            let (a, b) = (luminance(a) + 0.05, luminance(b) + 0.05);
            a.max(b) / a.min(b)
        };
        for (colour, _) in STYLES {
            for page in ["#ffffff", "#0d1117"] {
                let found = contrast(colour, page);
                assert!(found >= 4.0, "{colour} on {page}: {found:.2}");
            }
        }
        assert!(
            contrast("#ffffff", "#ffff00") < 4.0,
            "yellow on white must be refused"
        );
    }
}

mod lengths {
    use super::*;

    #[test]
    fn lines_are_read_by_mixer_in_ascending_length() {
        let chart = measurements(&json(FILE)).expect("a file of the bench");
        let [time, memory] = &lines(&chart)[..] else {
            panic!("two panels")
        };
        let infinity = [(1024.0, 90.0), (4096.0, 91.5), (16384.0, 95.0)];
        assert_eq!(time[0], ("infinity", &infinity[..]));
        assert_eq!(time[1].0, "softmax");
        assert_eq!(memory[1].1, [(1024.0, 3.0), (4096.0, 11.5)]);
    }

    #[test]
    fn a_file_that_is_no_json_is_named() {
        let temp = tempfile::tempdir().expect("a folder");
        let path = temp.path().join("torn.json");
        fs::write(&path, "{").expect("written");
        let path = path.display().to_string();
        for args in [
            vec![path.clone(), "x.svg".to_owned()],
            vec!["stream".to_owned(), "x.svg".to_owned(), format!("a={path}")],
        ] {
            let error = format!("{:#}", run(&args).expect_err("broken"));
            assert!(
                error.contains("torn.json") && error.contains("not JSON"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let message = |text: &str| format!("{:#}", measurements(&json(text)).expect_err("broken"));
        assert!(message("{}").contains("`training` is missing"));
        assert!(message("{\"training\": []}").contains("is empty"));
        let renamed = FILE.replace("us_per_token", "ms_per_token");
        assert!(message(&renamed).contains("`us_per_token` is missing"));
        let unknown = FILE.replace("\"length\": 4096", "\"length\": \"long\"");
        assert!(message(&unknown).contains("`length` is not a number"));
        let untold = FILE.replace("\"peak_bytes\": ", "\"peak_bytes\": 0, \"x\": ");
        assert!(message(&untold).contains("did not tell"));
    }
}

mod kernels {
    use super::*;
    use serde_json::json;

    fn file(form: &str) -> Value {
        let row = |operator: &str, form: &str, states: u32, length: u32, seconds: f64| {
            json!({"operator": operator, "form": form, "states": states, "width": 64,
                   "length": length, "both_s": seconds, "both_peak_bytes": 2e6})
        };
        json!({"bench": "kernels", "heads": 4, "machine": "A processor", "date": "2026-01-02", "rows": [
            row("memory_scan", form, 4, 1024, 0.002048),
            row("memory_scan", form, 4, 256, 0.000512),
            row("memory_scan", form, 1, 256, 9.0),
            row("softmax_attention", "native", 1, 256, 0.001),
        ]})
    }

    #[test]
    fn lines_of_one_size_by_ascending_length() {
        let chart = measurements(&file("fused")).expect("a file of the bench");
        let [time, memory] = &lines(&chart)[..] else {
            panic!("two panels")
        };
        let names: Vec<&str> = time.iter().map(|line| line.0).collect();
        assert_eq!(names, ["fused", "softmax"]);
        let [first, second] = [time[0].1[0], time[0].1[1]];
        assert_eq!([first.0, second.0], [256.0, 1024.0]);
        assert!((first.1 - 2.0).abs() < 1e-9 && (second.1 - 2.0).abs() < 1e-9);
        assert_eq!(memory[0].1[0], (256.0, 2.0));
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut without = file("fused");
        without["rows"][0]["both_s"] = Value::Null;
        let error = of_kernels(&without).expect_err("broken");
        assert!(
            format!("{error:#}").contains("fused at 1024: `both_s`"),
            "{error:#}"
        );
        let mut nothing = file("fused");
        nothing["rows"] = json!([]);
        assert!(of_kernels(&nothing).is_err());
    }
}

mod streams {
    use super::*;

    /// A file of four bins with these losses and excesses.
    fn file(tokens: u64, losses: [f64; 4], excess: [f64; 4]) -> Value {
        let width = tokens / 4;
        let bins = (0..4).map(|i| {
            let from = i as u64 * width;
            serde_json::json!({
                "from": from, "to": from + width, "loss": losses[i],
                "compared": if i == 0 { Value::Null } else {
                    serde_json::json!({ "excess": excess[i] })
                },
            })
        });
        let bins: Vec<Value> = bins.collect();
        serde_json::json!({ "tokens": tokens, "context": 4096, "bins": bins })
    }

    fn models() -> Vec<Model> {
        [
            (
                "carried",
                file(1000, [3.0, 3.1, 3.0, 3.2], [0.0, -0.004, 0.001, 0.002]),
            ),
            (
                "softmax",
                file(100, [3.1, 4.0, 9.0, 9.0], [0.0, 0.5, 0.6, 0.7]),
            ),
        ]
        .into_iter()
        .map(|(name, file)| Model::parse(name, &file).expect("a file"))
        .collect()
    }

    #[test]
    fn what_went_far_wrong_stands_on_the_edge_and_is_told_in_numbers() {
        let chart = along_stream(&models());
        let svg = chart.svg();
        let lines = svg.matches("<polyline").count();
        assert_eq!(lines, 6, "two of the legend, two a panel: {svg}");
        assert!(
            svg.contains("carried: worst bin +0.20 %, highest loss 3.20<"),
            "{svg}"
        );
        let told = "softmax: worst bin +70.00 %, highest loss 9.00; read up to 100 tokens";
        assert!(svg.contains(told), "{svg}");
        let numbers = svg.split('"').filter_map(|word| word.parse::<f64>().ok());
        assert!(numbers.clone().count() > 40);
        assert!(
            numbers
                .into_iter()
                .all(|number| (0.0..=chart.width).contains(&number))
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let message = |file: Value| match Model::parse("x", &file) {
            Ok(_) => String::new(),
            Err(error) => format!("{error:#}"),
        };
        assert!(message(json("{}")).contains("`bins`"));
        let whole = file(8, [1.0; 4], [0.0; 4]);
        let renamed = whole.to_string().replace("\"loss\"", "\"lost\"");
        assert!(message(json(&renamed)).contains("`loss` is missing"));
        assert_eq!(message(whole), "");
        assert!(streams(&["no-file".to_owned()]).is_err());
    }
}
