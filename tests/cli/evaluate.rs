//! `residuum evaluate`: every cell once, failures recorded, a report without anything from elsewhere.

use crate::support::*;
use serde_json::Value;

const SUITE: &str = r#"
name = "made up"
bounds = ["abs:0.1", "rel:1e-3"]
[[dataset]]
name = "a"
paths = ["a.nc"]
ranges = { time = "1:5" }
variables = ["t"]
[[method]]
name = "fast"
residuum = { effort = "fast" }
[[method]]
name = "copy"
command.compress = ["cp", "{input}", "{archive}"]
command.decompress = ["cp", "{archive}", "{output}"]
[[method]]
name = "broken"
command.compress = ["false"]
command.decompress = ["false"]
"#;

fn lines(folder: &Folder) -> Vec<Value> {
    let text = String::from_utf8(folder.bytes("out/results.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[cfg(unix)]
#[test]
fn a_suite_is_run_recorded_and_resumed() {
    let folder = Folder::new();
    let t = netcdf(&folder.path("a.nc"));
    folder.put("suite.toml", SUITE);
    let said = folder.works("evaluate suite.toml -o out");
    assert!(said.contains("4 cells done, 2 failed, 0 known"), "{said}");
    let first = lines(&folder);
    assert_eq!(first.len(), 6);
    let of = |method: &str| first.iter().find(|l| l["method"] == method && l["bound"] == "abs:0.1").unwrap();
    let fast = &of("fast")["result"];
    assert_eq!((&fast["violations"], &fast["n_values"]), (&0.into(), &(4 * 200).into()));
    assert_eq!(fast["latitude_weighted"], true);
    // Images of 10 rows have no room for a window of 11.
    assert!(fast["ssim"].is_null());
    assert!(fast["max_error_over_bound"].as_f64().unwrap() <= 1.0 && fast["ratio"].as_f64().unwrap() > 1.0);
    let copy = &of("copy")["result"];
    assert_eq!((copy["ratio"].as_f64(), copy["max_error"].as_f64()), (Some(1.0), Some(0.0)));
    assert!(of("broken")["error"].as_str().unwrap().contains("false"));
    assert!(t[200..1000].iter().any(|v| v.is_nan()), "a special value is among those measured");

    // The same archive as the command line makes of the same values has the same size.
    let html = String::from_utf8(folder.bytes("out/report.html")).unwrap();
    assert!(html.contains("<svg") && html.contains("failed"));
    for outside in ["http-equiv", "<script", "<link", "<img", "src=", "@import", "url("] {
        assert!(!html.contains(outside), "{outside}");
    }
    let addresses = html.matches("http://").count() + html.matches("https://").count();
    assert_eq!(addresses, html.matches("http://www.w3.org/2000/svg").count(), "only the name of SVG");

    // Cut short in the fourth line: three are known, three are run again and say the same but for times.
    let text = String::from_utf8(folder.bytes("out/results.jsonl")).unwrap();
    let cut = text.match_indices('\n').nth(2).unwrap().0 + 20;
    folder.put("out/results.jsonl", &text[..cut]);
    let said = folder.works("evaluate suite.toml -o out");
    assert!(said.contains("3 known before"), "{said}");
    let without_times = |mut lines: Vec<Value>| {
        for l in &mut lines {
            if let Some(result) = l.get_mut("result") {
                result["compress_mb_per_s"] = Value::Null;
                result["decompress_mb_per_s"] = Value::Null;
            }
        }
        lines
    };
    assert_eq!(without_times(lines(&folder)), without_times(first));
}

#[test]
fn suites_that_are_not_understood_are_refused() {
    let folder = Folder::new();
    folder.put("a.toml", SUITE.replace("effort", "efort"));
    folder.fails("evaluate a.toml -o out", 2, "unknown field");
    folder.fails("evaluate b.toml -o out", 6, "b.toml");
    // Data that are not there fail cell by cell.
    folder.put("c.toml", SUITE);
    let said = folder.works("evaluate c.toml -o out");
    assert!(said.contains("0 cells done, 6 failed"), "{said}");
}
