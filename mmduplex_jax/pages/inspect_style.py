"""How the pages of `launch.inspect` and of the notebook look: by day and by night, on a desk and on a phone."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f6f3; --card: #ffffff; --ink: #1c1c1a; --soft: #62625c; --line: #e2e2dc; --chip: #eef1f6;
  --anchor: #2a78d6; --flow: #e0662f; --bar: #2a78d6; --mark: #a33fb5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #151514; --card: #1f1f1d; --ink: #ecece6; --soft: #a3a39b; --line: #34342f; --chip: #2b2f38;
    --anchor: #4f93e6; --flow: #e8814f; --bar: #4f93e6; --mark: #cf7fdd;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 36px 0 12px; }
h3 { font-size: .95rem; margin: 0 0 8px; overflow-wrap: anywhere; }
header p, figcaption, .legend, .labels { color: var(--soft); margin: 4px 0 0; }
figcaption, .legend, .labels { font-size: .82rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(125px, 1fr)); gap: 10px; margin-top: 18px; }
.tiles div, figure, article, .tables > div, main > .scroll {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
}
.tiles div { padding: 12px 14px; }
.tiles b { display: block; font-size: 1.35rem; font-weight: 650; white-space: nowrap; }
.tiles span { color: var(--soft); font-size: .82rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(260px, 100%), 1fr)); gap: 12px; }
figure { margin: 0; padding: 14px 16px; }
.bars { display: flex; align-items: flex-end; gap: 2px; height: 84px; border-bottom: 1px solid var(--line); }
.bars i { flex: 1; max-width: 64px; background: var(--bar); border-radius: 3px 3px 0 0; min-width: 2px; }
.labels { display: flex; justify-content: space-between; }
.labels.few { gap: 2px; justify-content: flex-start; }
.labels.few span { flex: 1; max-width: 64px; text-align: center; }
figcaption { margin-top: 8px; }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(340px, 100%), 1fr)); gap: 12px;
  margin-top: 12px; align-items: start; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { text-align: left; vertical-align: top; padding: 8px 14px; border-bottom: 1px solid var(--line); }
tr:last-child > * { border-bottom: 0; }
th { font-weight: 600; color: var(--soft); white-space: nowrap; }
.rejected td:first-child { white-space: nowrap; }
.rejected ul { margin: 0; padding-left: 16px; color: var(--soft); overflow-wrap: anywhere; min-width: 220px; }
.rejected code { color: var(--ink); }
.legend { margin: 0 0 12px; }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 2px; vertical-align: -1px; margin: 0 2px; }
.key.anchor { background: var(--anchor); }
.key.flow { background: var(--flow); }
article { padding: 14px 16px 10px; margin-bottom: 14px; }
article p { margin: 0 0 8px; }
.tags span { display: inline-block; font-size: .8rem; color: var(--soft); border: 1px solid var(--line);
  border-radius: 99px; padding: 0 9px; margin: 0 5px 4px 0; }
.timeline { position: relative; }
.timeline img { display: block; border-radius: 4px; }
.ruler { position: relative; height: 18px; font-size: .72rem; color: var(--soft); }
.ruler span { position: absolute; border-left: 1px solid var(--line); padding-left: 3px; line-height: 18px; }
.events { position: relative; height: 12px; }
.events .mark { position: absolute; margin-left: -4px; top: 1px; }
.mark { display: inline-block; width: 8px; height: 8px; background: var(--mark); transform: rotate(45deg); }
.words { position: relative; margin: 2px 0 8px; }
.word { position: absolute; font-size: 13px; line-height: 20px; padding: 0 5px; border-radius: 4px;
  background: var(--chip); border-left: 2px solid var(--anchor); white-space: nowrap; }
.by-line .word, .by-clip .word { border-left-style: dotted; }
.by-clip .word { opacity: .75; }
.unknown { background: repeating-linear-gradient(135deg, var(--line) 0 4px, transparent 4px 9px); }
.words .unknown { position: absolute; top: 0; bottom: 0; left: 0; border-radius: 4px; }
.tokens { display: block; border-bottom: 1px solid var(--line); overflow: visible; }
.tokens .anchor { fill: var(--anchor); }
.tokens .flow { fill: var(--flow); }
details { margin-top: 8px; font-size: .82rem; color: var(--soft); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 6px 0; }
@media (max-width: 560px) {
  main { padding: 16px 12px 40px; }
  .tiles { grid-template-columns: repeat(auto-fit, minmax(96px, 1fr)); gap: 8px; }
  .tiles div { padding: 9px 11px; }
  .tiles b { font-size: 1.1rem; }
}
"""
