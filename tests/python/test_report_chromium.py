#!/usr/bin/env python3
"""The report of `residuum evaluate` renders in headless Chromium: no console messages, nothing wider than the page, every picture there,
text that can be read, in light and dark, on a desk and on a telephone, and on paper.

    python tests/python/test_report_chromium.py [REPORT.html]

Without a file it makes a report of samples/. Needs `chromium` (Debian package) on the path; says so and leaves where there is none, unless
REQUIRE_CHROMIUM is set. Needs `residuum` on the path (or in $RESIDUUM) to make a report.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

RESIDUUM = os.environ.get("RESIDUUM", "residuum")
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")

SUITE = """
name = "samples, small"
bounds = ["rel:1e-2", "rel:1e-3"]
[[dataset]]
name = "era5"
paths = ["{sample}"]
ranges = {{ time = "0:2" }}
[[method]]
name = "fast"
residuum = ["--effort", "fast"]
[[method]]
name = "balanced"
residuum = []
[[method]]
name = "a failure"
command.compress = ["false"]
command.decompress = ["false"]
"""

# Appended to a copy of the page, which itself has no scripts.
PROBE = """
<script>
window.onload = () => {
  const wide = [...document.querySelectorAll("body *")].filter(e => {
    if (e.closest("svg") && e.tagName !== "svg") return false;
    if (e.closest(".wide")) return false;
    return e.getBoundingClientRect().right > document.documentElement.clientWidth + 1;
  }).map(e => e.tagName + "." + e.className);
  const brightness = c => c.match(/[\\d.]+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) / 765;
  const style = getComputedStyle(document.body);
  const svgText = document.querySelector("svg text");
  const pictures = [...document.images];
  const report = {
    wide, scroll: document.documentElement.scrollWidth, client: document.documentElement.clientWidth,
    text: brightness(style.color), page: brightness(style.backgroundColor),
    svgText: brightness(getComputedStyle(svgText).fill),
    svgs: [...document.querySelectorAll("svg")].filter(s => s.getBoundingClientRect().height > 50).length,
    lines: document.querySelectorAll("svg polyline, svg path, svg rect").length,
    pictures: pictures.length, broken: pictures.filter(i => !i.complete || i.naturalWidth === 0).length,
    rows: document.querySelectorAll("tr").length, cut: [...document.querySelectorAll("svg text")].filter(t => {
      const s = t.ownerSVGElement.getBoundingClientRect(), r = t.getBoundingClientRect();
      return r.left < s.left - 1 || r.right > s.right + 1 || r.top < s.top - 2 || r.bottom > s.bottom + 2;
    }).map(t => t.textContent),
  };
  document.body.innerHTML = "<pre>PROBE" + JSON.stringify(report).replace(/</g, "") + "ENDPROBE</pre>";
};
</script>
"""


def chromium(*arguments: str) -> subprocess.CompletedProcess:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as profile:
        base = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"]
        base += [f"--user-data-dir={profile}", "--disable-background-networking", "--no-first-run", "--hide-scrollbars"]
        return subprocess.run([*base, *arguments], capture_output=True, text=True, timeout=120)


def console(stderr: str) -> list:
    return [line for line in stderr.splitlines() if "CONSOLE" in line]


def probe(page: str, folder: str, dark: bool, width: int) -> dict:
    """The page with the probe, as Chromium lays it out."""
    path = os.path.join(folder, "probe.html")
    with open(path, "w") as f:
        f.write(page.replace("</body>", PROBE + "</body>"))
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    done = chromium(scheme, f"--window-size={width},1400", "--dump-dom", f"file://{path}")
    assert not console(done.stderr), console(done.stderr)
    found = re.search("PROBE(.*)ENDPROBE", done.stdout, re.S)
    assert found, done.stderr[-2000:]
    return json.loads(found[1].replace("&gt;", ">").replace("&amp;", "&"))


def check(page: str, folder: str) -> None:
    for dark in (False, True):
        for width in (1280, 500):
            found = probe(page, folder, dark, width)
            where = f"{'dark' if dark else 'light'}, {width} px: {found}"
            assert not found["wide"] and found["scroll"] <= found["client"] + 1, where
            assert found["broken"] == 0 and found["pictures"] >= 4, where
            assert found["svgs"] >= 4 and found["lines"] > 20 and found["rows"] > 10, where
            assert not found["cut"], where
            light_text = found["text"] > 0.8 and found["svgText"] > 0.8 and found["page"] < 0.2
            dark_text = found["text"] < 0.2 and found["svgText"] < 0.2 and found["page"] > 0.8
            assert light_text if dark else dark_text, where
    path, pdf = os.path.join(folder, "page.html"), os.path.join(folder, "page.pdf")
    with open(path, "w") as f:
        f.write(page)
    done = chromium(f"--print-to-pdf={pdf}", f"file://{path}")
    assert not console(done.stderr), console(done.stderr)
    with open(pdf, "rb") as f:
        content = f.read()
    assert content.startswith(b"%PDF") and len(content) > 10_000


def main() -> None:
    if not (shutil.which("chromium") or shutil.which("chromium-browser")):
        assert not os.environ.get("REQUIRE_CHROMIUM"), "chromium is not there"
        print("skipped: no chromium on the path")
        return
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) > 1:
            report = sys.argv[1]
        else:
            sample = os.path.abspath(os.path.join(ROOT, "samples", "era5_1deg.nc"))
            suite = os.path.join(folder, "suite.toml")
            with open(suite, "w") as f:
                f.write(SUITE.format(sample=sample))
            subprocess.run([RESIDUUM, "evaluate", suite, "-o", os.path.join(folder, "out")], check=True, stderr=subprocess.DEVNULL)
            report = os.path.join(folder, "out", "report.html")
        with open(report) as f:
            page = f.read()
        check(page, folder)
        # What is checked can fail: a table that is too wide, a script with an error, a picture that is none.
        faults = ['<div style="width: 3000px">x</div>', "<script>undefined_name()</script>", '<img src="data:image/png;base64,AAAA">']
        for fault in faults:
            try:
                check(page.replace("</h1>", "</h1>" + fault, 1), folder)
            except AssertionError:
                continue
            raise AssertionError(f"not noticed: {fault}")
        print("the report renders in light and dark, wide and narrow, and prints")


if __name__ == "__main__":
    main()
