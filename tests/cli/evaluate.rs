//! `residuum evaluate`: every cell once, failures recorded, runs that are cut off resumed, a report without anything from elsewhere.

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
residuum = ["--effort", "fast"]
[[method]]
name = "copy"
command.compress = ["cp", "{input}", "{archive}"]
command.decompress = ["cp", "{archive}", "{output}"]
[[method]]
name = "broken"
command.compress = ["false"]
command.decompress = ["false"]
"#;

fn lines(folder: &Folder, out: &str) -> Vec<Value> {
    let text = String::from_utf8(folder.bytes(&format!("{out}/results.jsonl"))).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// All that must not differ between two runs.
fn without_timings(mut lines: Vec<Value>) -> Vec<Value> {
    for l in &mut lines {
        if let Some(result) = l.get_mut("result") {
            assert!(result["timings"]["compress"]["seconds"].as_f64().unwrap() > 0.0);
            result["timings"] = Value::Null;
        }
    }
    lines
}

#[cfg(unix)]
#[test]
fn a_suite_is_run_recorded_and_resumed() {
    let folder = Folder::new();
    let t = netcdf(&folder.path("a.nc"));
    folder.put("suite.toml", SUITE);
    let said = folder.works("evaluate suite.toml -o out");
    assert!(said.contains("4 cells done, 2 failed, 0 known"), "{said}");
    let first = lines(&folder, "out");
    assert_eq!(first.len(), 6);
    let of = |method: &str| first.iter().find(|l| l["method"] == method && l["bound"] == "abs:0.1").unwrap();
    let fast = &of("fast")["result"];
    assert_eq!((&fast["violations"], &fast["n_values"]), (&0.into(), &(4 * 200).into()));
    assert_eq!(fast["latitude_weighted"], true);
    // Images of 10 rows have no room for a window of 11.
    assert!(fast["ssim"].is_null());
    assert!(fast["max_error_over_bound"].as_f64().unwrap() <= 1.0 && fast["ratio"].as_f64().unwrap() > 1.0);
    // Codes of our own archives, their bits, and what the process took.
    assert_eq!((&fast["structure"]["of"], &fast["structure"]["n"]), (&"codes".into(), &(4 * 200).into()));
    assert_eq!(fast["bits"]["by_band"].as_array().unwrap().len(), 10);
    let timing = &fast["timings"]["compress"];
    assert!(timing["peak_bytes"].as_u64().unwrap() > 1 << 20 && timing["stages"]["predict"].as_f64().unwrap() > 0.0);
    let copy = &of("copy")["result"];
    assert_eq!((copy["ratio"].as_f64(), copy["max_error"].as_f64()), (Some(1.0), Some(0.0)));
    assert!(copy["structure"].is_null() && copy["error_structure"]["entropy"] == 0.0);
    assert!(of("broken")["error"].as_str().unwrap().contains("exit status: 1"));
    assert!(t[200..1000].iter().any(|v| v.is_nan()), "a special value is among those measured");

    let html = String::from_utf8(folder.bytes("out/report.html")).unwrap();
    assert!(html.contains("<svg") && html.contains("failed"));
    let inside = html.replace("<img src=\"data:image/png;base64,", "");
    assert_ne!(html, inside, "maps are in the page");
    for outside in ["http-equiv", "<script", "<link", "<img", "src=", "@import", "url("] {
        assert!(!inside.contains(outside), "{outside}");
    }
    let addresses = html.matches("http://").count() + html.matches("https://").count();
    assert_eq!(addresses, html.matches("http://www.w3.org/2000/svg").count(), "only the name of SVG");

    // Cut short in the fourth line: three are known, three are run again and say the same but for times.
    let text = String::from_utf8(folder.bytes("out/results.jsonl")).unwrap();
    let cut = text.match_indices('\n').nth(2).unwrap().0 + 20;
    folder.put("out/results.jsonl", &text[..cut]);
    let said = folder.works("evaluate suite.toml -o out");
    assert!(said.contains("3 known before"), "{said}");
    assert_eq!(without_timings(lines(&folder, "out")), without_timings(first));
}

/// A cell that failed is left alone until asked for; then what succeeds takes its place.
#[cfg(unix)]
#[test]
fn what_failed_is_tried_again_when_asked() {
    let folder = Folder::new();
    netcdf(&folder.path("a.nc"));
    let tool = folder.path("tool");
    let with = |from: &str, to: &str| format!("[{tool:?}, \"{{{from}}}\", \"{{{to}}}\"]");
    let suite = SUITE.replacen("[\"false\"]", &with("input", "archive"), 1);
    folder.put("suite.toml", suite.replacen("[\"false\"]", &with("archive", "output"), 1));
    folder.works("evaluate suite.toml -o out");
    let first = lines(&folder, "out");
    assert_eq!(first.iter().filter(|l| l["error"].is_string()).count(), 2);
    std::os::unix::fs::symlink("/bin/cp", tool).unwrap();
    assert!(folder.works("evaluate suite.toml -o out").contains("0 cells done, 0 failed, 6 known"));
    assert_eq!(lines(&folder, "out"), first);
    let said = folder.works("evaluate suite.toml -o out --retry-failed");
    assert!(said.contains("2 cells done, 0 failed, 4 known"), "{said}");
    let second = lines(&folder, "out");
    assert_eq!(second[..4], first.iter().filter(|l| l["error"].is_null()).cloned().collect::<Vec<_>>());
    assert!(second[4..].iter().all(|l| l["method"] == "broken" && l["result"]["max_error"] == 0.0), "{second:?}");
}

/// Killed again and again, as soon as there is another line: in the end all is as if nothing had happened.
#[cfg(unix)]
#[test]
fn a_killed_run_goes_on_where_it_was() {
    let folder = Folder::new();
    netcdf(&folder.path("a.nc"));
    folder.put(
        "suite.toml",
        SUITE.replace("abs:0.1", "abs:0.1\", \"abs:0.5").replace("fast\"]", "fast\", \"--threads\", \"1\"]"),
    );
    folder.works("evaluate suite.toml -o whole");
    let n_lines = |folder: &Folder| match std::fs::read_to_string(folder.path("cut/results.jsonl")) {
        Ok(text) => text.matches('\n').count(),
        Err(_) => 0,
    };
    let mut n_kills = 0;
    for wanted in [1, 4, 6] {
        let mut command = folder.residuum();
        command.args(["evaluate", "suite.toml", "-o", "cut"]).stdout(std::process::Stdio::null());
        let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        while n_lines(&folder) < wanted && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child.kill().unwrap();
        n_kills += usize::from(!child.wait().unwrap().success());
    }
    assert!(n_kills > 0 && n_lines(&folder) < 9, "{n_kills} kills, {} lines", n_lines(&folder));
    let said = folder.works("evaluate suite.toml -o cut");
    assert!(!said.contains(" 0 known"), "{said}");
    assert_eq!(without_timings(lines(&folder, "cut")), without_timings(lines(&folder, "whole")));
    // Maps of the mapped bound, the same ones.
    let maps = |out: &str| {
        let mut names: Vec<_> =
            std::fs::read_dir(folder.path(format!("{out}/maps"))).unwrap().map(|e| e.unwrap()).collect();
        names.sort_by_key(|e| e.file_name());
        names.iter().map(|e| (e.file_name(), std::fs::read(e.path()).unwrap())).collect::<Vec<_>>()
    };
    assert!(!maps("whole").is_empty() && maps("whole") == maps("cut"));
}

#[test]
fn suites_that_are_not_understood_are_refused() {
    let folder = Folder::new();
    folder.put("a.toml", SUITE.replace("--effort", "--efort"));
    folder.fails("evaluate a.toml -o out", 2, "--efort");
    folder.put("a.toml", SUITE.replace("\"--effort\"", "\"other.nc\", \"--effort\""));
    folder.fails("evaluate a.toml -o out", 2, "options only");
    folder.put("a.toml", SUITE.replace("residuum = ", "residium = "));
    folder.fails("evaluate a.toml -o out", 2, "unknown field");
    folder.fails("evaluate b.toml -o out", 6, "b.toml");
    // Data that are not there fail cell by cell.
    folder.put("c.toml", SUITE);
    folder.fails("evaluate c.toml -o out", 1, "a.nc: No such file");
}

/// Variables that are compressed together share an archive: one that is cut off among their lines is made again, and says the same.
#[cfg(all(unix, feature = "forecast"))]
#[test]
fn variables_compressed_together_are_resumed_too() {
    let folder = Folder::new();
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/samples/gcm_t31_6h.nc"), folder.path("a.nc")).unwrap();
    folder.put(
        "suite.toml",
        r#"
name = "together"
bounds = ["rel:1e-2"]
[[dataset]]
name = "a"
paths = ["a.nc"]
ranges = { time = "0:3" }
[[method]]
name = "advection"
residuum = ["--effort", "fast", "--forecast", "advection", "--predictor", "forecast"]
"#,
    );
    let said = folder.works("evaluate suite.toml -o out --threads 1");
    assert!(said.contains("6 cells done, 0 failed"), "{said}");
    let first = lines(&folder, "out");
    assert!(first.iter().all(|l| l["result"]["violations"] == 0 && l["result"]["structure"]["of"] == "codes"));
    let text = String::from_utf8(folder.bytes("out/results.jsonl")).unwrap();
    let cut = text.match_indices('\n').nth(1).unwrap().0 + 20;
    folder.put("out/results.jsonl", &text[..cut]);
    let said = folder.works("evaluate suite.toml -o out --threads 1");
    assert!(said.contains("4 cells done, 0 failed, 2 known"), "{said}");
    assert_eq!(without_timings(lines(&folder, "out")), without_timings(first.clone()));

    // Nor does the number of threads change anything but times.
    folder.works("evaluate suite.toml -o other --threads 2");
    let without_host = |mut lines: Vec<Value>| {
        lines.iter_mut().for_each(|l| l["host"]["threads"] = Value::Null);
        without_timings(lines)
    };
    assert_eq!(without_host(lines(&folder, "other")), without_host(first));
}
