//! Colours and the style sheet.

use plotters::style::RGBColor;

/// Colours of methods and stages; told apart in light and dark, and by people who see colours differently (Okabe and Ito).
pub const COLORS: [RGBColor; 9] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(140, 140, 140),
    RGBColor(148, 103, 60),
    RGBColor(195, 195, 195),
];

/// Colour `i` as CSS has it.
pub fn css(i: usize) -> String {
    css_of(COLORS[i % COLORS.len()])
}

/// A colour as CSS has it.
pub fn css_of(RGBColor(r, g, b): RGBColor) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// Of the page.
pub const SHEET: &str = "
:root { color-scheme: light dark; --page: #ffffff; --text: #1c1e21; --soft: #5d6470; --line: #d9dce1; --band: #f5f6f8; }
* { box-sizing: border-box; }
body { font: 15px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--text); }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 0.3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 0.6rem; padding-top: 0.6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 0.4rem; }
p, figcaption { max-width: 48rem; }
p { margin: 0.5rem 0; }
.soft, figcaption { color: var(--soft); font-size: 0.85rem; }
nav a { color: inherit; margin-right: 0.9rem; }
table { border-collapse: collapse; font-size: 0.82rem; font-variant-numeric: tabular-nums; margin: 0.6rem 0; }
th, td { padding: 0.2rem 0.55rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th { font-weight: 600; vertical-align: bottom; }
th.name, td.name { text-align: left; white-space: nowrap; }
td.best { font-weight: 700; }
tr.first td { border-top: 2px solid var(--line); }
tbody tr:hover { background: var(--band); }
svg { display: block; width: 100%; height: auto; }
figure { margin: 0.6rem 0; }
.wide { overflow-x: auto; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 0.5rem 1.5rem; align-items: start; }
.maps { display: grid; grid-template-columns: repeat(auto-fill, minmax(14rem, 1fr)); gap: 0.8rem 1rem; }
.maps figure { margin: 0; }
.maps img { display: block; width: 100%; height: auto; image-rendering: pixelated; border: 1px solid var(--line); }
.maps figcaption { margin-top: 0.2rem; line-height: 1.35; }
.scale { display: inline-block; width: 9rem; height: 0.7rem; vertical-align: -0.05rem; margin-right: 0.5rem; border: 1px solid var(--line); }
.signed { background: linear-gradient(to right, #2166ac, #67a9cf, #d1e5f0, #f7f7f7, #fddbc7, #ef8a62, #b2182b); }
.amount { background: linear-gradient(to right, #440154, #414487, #2a788e, #22a884, #7ad151, #fde725); }
@media (max-width: 40rem) { .two { grid-template-columns: 1fr; } }
@media (prefers-color-scheme: dark) { :root { --page: #15171b; --text: #e6e8eb; --soft: #a0a7b4; --line: #343943; --band: #1d2026; } }
@media print {
  :root { color-scheme: light; --page: #fff; --text: #000; --soft: #444; --line: #bbb; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  section { break-inside: auto; } figure, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
  .wide { overflow: visible; } table { font-size: 6.5pt; } th, td { padding: 0.1rem 0.25rem; }
  .two { grid-template-columns: 1fr 1fr; } .maps { grid-template-columns: repeat(4, 1fr); } figcaption { font-size: 7.5pt; }
  img, svg, .scale, rect { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
";

/// Of a figure in a file of its own: text is black or white.
pub const FIGURE: &str = "<style>svg{color:#1c1e21}@media(prefers-color-scheme:dark){svg{color:#e6e8eb}}</style>";
