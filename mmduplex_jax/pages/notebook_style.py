"""How the notebook's pages look and move, on top of `inspect_style.py`.

The script is a convenience: it moves a line over the timeline, lights words as they are said, tells them to screen
readers, and jumps where a time is pressed. Without it the page shows and says the same.
"""

STYLE = """
html, body { background: transparent; }
main { max-width: none; padding: 4px; }
article h2 { font-size: 1.1rem; margin: 0 0 4px; overflow-wrap: anywhere; }
article { padding: 16px; }
.watched { display: grid; gap: 18px; grid-template-columns: minmax(0, 1fr); margin: 8px 0 14px; }
@media (min-width: 760px) { .watched { grid-template-columns: minmax(280px, 420px) minmax(0, 1fr); } }
video { display: block; width: 100%; height: auto; border-radius: 6px; background: #181818; }
caption { text-align: left; color: var(--soft); padding: 0 0 6px; }
.phrases { max-height: 470px; overflow: auto; }
.phrases td, .phrases th { padding: 5px 10px 5px 0; }
.phrases td:not(:last-child) { white-space: nowrap; font-variant-numeric: tabular-nums; }
button { font: inherit; color: inherit; background: var(--chip); border: 1px solid var(--line); border-radius: 5px;
  padding: 1px 9px; cursor: pointer; font-variant-numeric: tabular-nums; }
button:hover { border-color: var(--anchor); }
button:focus-visible, .scroll:focus-visible, video:focus-visible, summary:focus-visible, .phrases:focus-visible {
  outline: 3px solid var(--anchor); outline-offset: 2px; }
.error { border-left: 4px solid #d03b3b; padding-left: 10px; }
.timeline { padding-bottom: 4px; }
.words .word { pointer-events: none; }
.playing .unsaid { opacity: .3; }
.now { position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px; background: var(--mark); display: none; }
.playing .now { display: block; }
.tokens .second { fill: none; stroke: var(--ink); stroke-width: 1.5; }
.tokens .cap { stroke: var(--soft); stroke-dasharray: 5 4; }
.tokens text { fill: var(--soft); font-size: 11px; }
.key.second { height: 2px; vertical-align: 3px; background: var(--ink); }
.key.cap { height: 0; vertical-align: 3px; border-top: 2px dashed var(--soft); }
.heard { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.pieces { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); }
.moments { display: grid; gap: 4px; grid-template-columns: repeat(4, minmax(0, 1fr)); }
.moments img { display: block; width: 100%; border-radius: 4px; }
.moments img:only-child { grid-column: span 2; }
.pieces figcaption b { color: var(--ink); font-size: .95rem; font-weight: 600; }
ul.happened { columns: 220px; margin: 6px 0; padding-left: 18px; }
"""

SCRIPT = """
for (const card of document.querySelectorAll("article")) {
  const video = card.querySelector("video");
  if (!video) continue;
  const now = card.querySelector(".now"), heard = card.querySelector(".heard");
  const second = Number(card.dataset.secondPx), words = card.querySelectorAll("[data-said]");
  const rows = [...card.querySelectorAll("tr[data-end]")];
  const draw = () => {
    now.style.left = video.currentTime * second + "px";
    for (const word of words) word.classList.toggle("unsaid", word.dataset.said > video.currentTime + 0.001);
  };
  const tell = () => {
    const said = rows.filter((row) => row.dataset.end <= video.currentTime).at(-1);
    const text = said ? said.dataset.text : "";
    if (heard.textContent !== text) heard.textContent = text;
  };
  const follow = () => { draw(); if (!video.paused && !video.ended) requestAnimationFrame(follow); };
  video.addEventListener("play", () => { card.classList.add("playing"); follow(); });
  video.addEventListener("seeked", () => { card.classList.add("playing"); draw(); });
  video.addEventListener("timeupdate", tell);
  const jump = (seconds) => { video.currentTime = seconds; card.classList.add("playing"); };
  for (const button of card.querySelectorAll("button")) {
    button.addEventListener("click", () => { jump(Number(button.dataset.seek)); video.play(); });
  }
  const timeline = card.querySelector(".timeline");
  timeline.addEventListener("click", (event) =>
    jump((event.clientX - timeline.getBoundingClientRect().left) / second));
}
const frame = window.frameElement;
if (frame) {
  new ResizeObserver(() => { frame.style.height = document.documentElement.offsetHeight + "px"; })
    .observe(document.documentElement);
}
"""
