"""How report.html looks, on a screen and on paper."""

STYLE = """
:root { --ink: #1b1f24; --soft: #57606a; --line: #d8dee4; --tint: #f6f8fa; --blue: #0072b2; --warn: #d55e00; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 62rem; color: var(--ink); background: #fff;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: .6rem 0 .2rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .5rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .5rem 0; } .soft, figcaption, caption { color: var(--soft); font-size: .875rem; }
.notice { display: inline-block; padding: .15rem .6rem; border: 2px solid var(--warn); color: #a34700;
  font-weight: 600; letter-spacing: .03em; }
.summary { background: var(--tint); border-left: 4px solid var(--blue); padding: .8rem 1.2rem; margin: 1.2rem 0; }
.summary li, .doubts li { margin: .35rem 0; } .summary ul, .doubts { padding-left: 1.1rem; }
.tiles { display: grid; grid-template-columns: repeat(4, 1fr); gap: .8rem; margin: 1.2rem 0; }
.tiles div { border: 1px solid var(--line); border-top: 4px solid var(--blue); padding: .6rem .8rem; }
.tiles b { font-size: 1.6rem; line-height: 1.15; font-variant-numeric: tabular-nums; }
.tiles small { font-size: .8rem; font-weight: 400; color: var(--soft); }
.tiles span { display: block; margin-top: .3rem; font-size: .85rem; line-height: 1.35; }
table { border-collapse: collapse; width: 100%; margin: .8rem 0; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .32rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
th:first-child, td:first-child, td.words { text-align: left; } thead th { border-bottom: 2px solid var(--ink); }
td small { color: var(--soft); white-space: nowrap; }
table.even { table-layout: fixed; } td.why { color: var(--soft); font-style: italic; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; display: block; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
.gallery figure { margin: 0; break-inside: avoid; } .gallery img { width: 100%; background: #000; }
.far { color: #a34700; font-weight: 600; }
code { font-size: .85em; overflow-wrap: anywhere; }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; } h2 { break-after: avoid; }
  figure, table, .summary, .tiles { break-inside: avoid; } .gallery { grid-template-columns: repeat(3, 1fr); } }
"""
