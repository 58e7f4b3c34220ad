//! Pictures of a small file of each kind.

use super::*;

const FILE: &str = include_str!("example.json");

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
        let svg = picture(&Measurements::parse(FILE).expect("a file of the bench"));
        let lines = polylines(&svg);
        assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), [3, 2, 3, 2]);
        for line in &lines {
            assert!(
                line.windows(2).all(|pair| pair[0][0] < pair[1][0]),
                "{line:?}"
            );
            for [x, y] in line {
                assert!(
                    (0.0..WIDTH).contains(x) && (0.0..HEIGHT).contains(y),
                    "{line:?}"
                );
            }
        }
        let [infinity, softmax] = [&lines[0], &lines[1]];
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
        let svg = picture(&Measurements::parse(FILE).expect("a file of the bench"));
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
        for colour in [TEXT, LINES[0].1, LINES[1].1, THIRD] {
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

mod measurements {
    use super::*;

    #[test]
    fn lines_are_read_by_mixer_in_ascending_length() {
        let found = Measurements::parse(FILE).expect("a file of the bench");
        let names: Vec<&str> = found.time.iter().map(|line| line.name.as_str()).collect();
        assert_eq!(names, ["infinity", "softmax"]);
        assert_eq!(
            found.time[0].points,
            [(1024.0, 90.0), (4096.0, 91.5), (16384.0, 95.0)]
        );
        assert_eq!(found.memory[1].points, [(1024.0, 3.0), (4096.0, 11.5)]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let message = |text: &str| format!("{:#}", Measurements::parse(text).expect_err("broken"));
        assert!(message("{").contains("not JSON"));
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
        let found = Measurements::parse(&file("fused").to_string()).expect("a file of the bench");
        let names: Vec<&str> = found.time.iter().map(|line| line.name.as_str()).collect();
        assert_eq!(names, ["fused", "softmax"]);
        let [first, second] = [found.time[0].points[0], found.time[0].points[1]];
        assert_eq!([first.0, second.0], [256.0, 1024.0]);
        assert!((first.1 - 2.0).abs() < 1e-9 && (second.1 - 2.0).abs() < 1e-9);
        assert_eq!(found.memory[0].points[0], (256.0, 2.0));
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
    fn file(tokens: u64, losses: [f64; 4], excess: [f64; 4]) -> String {
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
        serde_json::json!({ "tokens": tokens, "context": 4096, "bins": bins }).to_string()
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
        .map(|(name, text)| Model::parse(name, &text).expect("a file"))
        .collect()
    }

    #[test]
    fn what_went_far_wrong_stands_on_the_edge_and_is_told_in_numbers() {
        let svg = stream_picture(&models());
        assert_eq!(svg.matches("<polyline").count(), 4, "{svg}");
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
                .all(|number| (0.0..=WIDTH).contains(&number))
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let message = |text: &str| match Model::parse("x", text) {
            Ok(_) => String::new(),
            Err(error) => format!("{error:#}"),
        };
        assert!(message("{").contains("not JSON"));
        assert!(message("{}").contains("`bins`"));
        let renamed = file(8, [1.0; 4], [0.0; 4]).replace("\"loss\"", "\"lost\"");
        assert!(message(&renamed).contains("`loss` is missing"));
        assert_eq!(message(&file(8, [1.0; 4], [0.0; 4])), "");
        assert!(stream("x.svg", &["no-file".to_owned()]).is_err());
    }
}
