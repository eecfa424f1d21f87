"""The page's look: one column, the reader's own fonts, light or dark as the system says, wide tables that scroll."""

CSS = """
:root { color-scheme: light dark; --paper: #ffffff; --panel: #f5f6f8; --ink: #1f2328; --soft: #59616b;
  --line: #d9dde2; --accent: #0072b2; --mark: #fff4d6; --mark-line: #d9a300; }
@media (prefers-color-scheme: dark) { :root { --paper: #1b1f24; --panel: #242a31; --ink: #e6e8eb; --soft: #a3abb5;
  --line: #3a4048; --accent: #6cbff0; --mark: #3a3115; --mark-line: #b88a00; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  overflow-wrap: break-word; -webkit-text-size-adjust: 100%; }
main { max-width: 46rem; margin: 0 auto; padding: 1.5rem 1.1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .2rem 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.8rem 0 .4rem; }
p { margin: .5rem 0; }
.soft, figcaption, caption { color: var(--soft); font-size: .9rem; }
.generated { display: block; margin: 0 0 1.2rem; padding: .55rem .8rem; background: var(--mark);
  border-left: .3rem solid var(--mark-line); border-radius: .25rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem; margin: 1.2rem 0;
  padding: 0; list-style: none; }
.tiles li { background: var(--panel); border-radius: .4rem; padding: .7rem .8rem; }
.tiles b { display: block; font-size: 1.45rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .2rem 0 .4rem; }
th, td { text-align: right; padding: .38rem .55rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { font-weight: 600; }
thead th { vertical-align: bottom; color: var(--soft); font-size: .85rem; }
tbody th { font-weight: 400; }
td { white-space: nowrap; }
.long th, .long td { text-align: left; }
.long td:last-child { white-space: normal; overflow-wrap: anywhere; }
tr.best > * { font-weight: 600; }
td small { color: var(--soft); font-weight: 400; white-space: nowrap; }
.scroll { max-height: 26rem; overflow: auto; }
figure { margin: 1.2rem 0; }
figure img { display: block; width: 100%; max-width: 40rem; height: auto; border: 1px solid var(--line);
  border-radius: .4rem; }
figcaption { margin-top: .4rem; }
code, pre { font: .88rem/1.5 ui-monospace, "Cascadia Mono", Menlo, Consolas, monospace; }
pre { background: var(--panel); border-radius: .4rem; padding: .6rem .8rem; overflow-x: auto; white-space: pre-wrap; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .25rem 1rem; margin: .6rem 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.example { background: var(--panel); border-radius: .4rem; padding: .8rem 1rem; margin: .9rem 0; }
.example blockquote { margin: 0 0 .4rem; font-size: 1.08rem; }
.example ol { margin: .4rem 0 0; padding-left: 1.4rem; }
.example ul { margin: .1rem 0 .4rem; padding-left: 1.1rem; color: var(--soft); font-size: .9rem; }
.tag { border: 1px solid var(--line); border-radius: 1rem; padding: 0 .5rem; font-size: .78rem; color: var(--soft);
  white-space: nowrap; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--accent); }
@media (max-width: 30rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .4rem; }
  table { font-size: .82rem; } thead th { font-size: .76rem; } th, td { padding: .35rem .25rem; }
  td small { display: block; } }
@media print { main { max-width: none; } .scroll { max-height: none; } }
"""
