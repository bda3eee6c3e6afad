// Moves a line over the timeline, lights up words as they are said, announces them to screen readers, and jumps to the
// time that is pressed. The page shows the same without it.
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
