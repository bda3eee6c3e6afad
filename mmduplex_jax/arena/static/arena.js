// One video, two commentaries beside each other, each word at the time at which it was said; then the vote.

import { ask, say } from "./ask.js";

const $ = (id) => document.getElementById(id);
const SIDES = ["left", "right"];
// A silence this long begins a new line.
const PAUSE_S = 1.5;
// How far a video may run ahead of what was shown, before it is taken back: nobody may skip.
const SKIP_S = 0.5;
const video = $("video");

// What is on: the server's ballot, how much of each side is shown, how far it was seen; null before and after.
let ballot = null;
// After the video's end the clock goes on for last words: when that was, by the page's clock; null before.
let endedAtMs = null;
let seenS = 0;
let seenAtMs = 0;
let seen = false;

const state = (text) => ($("state").textContent = text);

function nowS() {
  return endedAtMs === null ? video.currentTime : video.duration + (performance.now() - endedAtMs) / 1000;
}

async function begin() {
  say("");
  $("next").hidden = true;
  try {
    ballot = await ask("v1/ballots", {});
  } catch (error) {
    ballot = null;
    state("There is nothing to compare now.");
    $("next").hidden = false;
    return say(error.message);
  }
  if (ballot.done) {
    ballot = null;
    $("play").disabled = true;
    video.removeAttribute("src");
    return state("You have judged everything there is. Thank you!");
  }
  seen = false;
  fromTheStart();
  document.querySelector('input[name="reason"][value=""]').checked = true;
  $("left-title").textContent = "Left";
  $("right-title").textContent = "Right";
  openChoices(false);
  showVote(true);
  video.src = ballot.video;
  $("play").disabled = false;
  $("does").textContent = "Play";
  state("Play the video to its end, then vote.");
}

// From the last vote to the next video: on a small screen the video is above, and the button that was pressed is gone.
async function next() {
  await begin();
  ($("play").disabled ? $("vote") : $("play")).focus({ preventScroll: true });
  scrollTo(0, 0);
}

function fromTheStart() {
  endedAtMs = null;
  seenS = 0;
  for (const side of SIDES) {
    ballot[`${side}Shown`] = 0;
    $(side).replaceChildren();
  }
}

function play() {
  if (!ballot || $("play").disabled) return;
  if (!video.paused) return video.pause();
  if (endedAtMs !== null || video.ended) {
    fromTheStart();
    video.currentTime = 0;
  }
  video.play().catch((error) => say(`The video does not play: ${error.message}`));
}

// Shows the words whose time has come, and no other.
function show() {
  if (!ballot) return;
  const t = nowS();
  for (const side of SIDES) {
    const words = ballot[side];
    while (ballot[`${side}Shown`] < words.length && words[ballot[`${side}Shown`]][0] <= t) {
      write(side, words, ballot[`${side}Shown`]++);
    }
  }
  $("progress").value = Math.min(1, t / ballot.shown_s);
  const left = Math.max(0, Math.ceil(ballot.shown_s - t));
  $("left-over").textContent = `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")} left`;
  // The video's own end counts where it is a picture shorter than its file says.
  if (!seen && endedAtMs !== null && t >= Math.max(video.duration, ballot.shown_s - SKIP_S)) {
    seen = true;
    openChoices(true);
    state("Both were shown to the end. Which is better?");
    $("choices").scrollIntoView({ block: "nearest" });
  }
}

function write(side, words, index) {
  const [t, text] = words[index];
  const box = $(side);
  if (index === 0 || t - words[index - 1][0] >= PAUSE_S) box.append(document.createElement("p"));
  const word = document.createElement("span");
  word.textContent = text;
  word.dataset.t = t;
  const line = box.lastElementChild;
  line.append(line.childElementCount ? " " : "", word);
  box.scrollTop = box.scrollHeight;
}

// What is asked makes room for what comes next, and comes back with it.
function showVote(shown) {
  $("reasons").hidden = $("choices").hidden = !shown;
  $("next").hidden = shown;
}

function openChoices(open) {
  for (const button of document.querySelectorAll("[data-choice]")) button.disabled = !open;
}

async function vote(choice) {
  if (!ballot || !seen) return;
  const reason = document.querySelector('input[name="reason"]:checked').value;
  openChoices(false);
  video.pause();
  try {
    const names = await ask(`v1/ballots/${ballot.ballot}/vote`, { choice, reason });
    ballot = null;
    $("left-title").textContent = `Left: ${names.left}`;
    $("right-title").textContent = `Right: ${names.right}`;
    $("play").disabled = true;
    const yours = { left: "the left", right: "the right", tie: "a tie", both_bad: "both bad" }[choice];
    state(`Thank you. The left was ${names.left}, the right ${names.right}. Your vote: ${yours}.`);
  } catch (error) {
    // What the server holds for over is over; all else may be tried again.
    const over = [403, 404, 409].includes(error.status);
    say(`Your vote was not taken: ${error.message}`);
    if (!over) return openChoices(true);
    ballot = null;
  }
  showVote(false);
  $("next").focus();
}

async function unplayable() {
  if (!ballot) return;
  say("This browser cannot play the video; another one is next.");
  try {
    await ask(`v1/ballots/${ballot.ballot}/unplayable`, {});
  } catch (error) {
    say(error.message);
  }
  ballot = null;
  $("play").disabled = true;
  $("next").hidden = false;
}

video.addEventListener("play", () => {
  seenAtMs = performance.now();
  $("does").textContent = "Pause";
});
video.addEventListener("pause", () => ($("does").textContent = video.ended ? "Watch again" : "Play"));
video.addEventListener("ended", () => {
  endedAtMs = performance.now();
  $("does").textContent = "Watch again";
});
video.addEventListener("error", unplayable);
video.addEventListener("timeupdate", () => {
  const sinceS = (performance.now() - seenAtMs) / 1000;
  if (!video.seeking) seenS = Math.max(seenS, Math.min(video.currentTime, seenS + sinceS + SKIP_S));
  seenAtMs = performance.now();
});
// Media keys and other programs may skip, or change the speed: what was not seen is seen first, at its own pace.
video.addEventListener("seeking", () => {
  if (video.currentTime > seenS + SKIP_S) video.currentTime = seenS;
});
video.addEventListener("ratechange", () => {
  if (video.playbackRate !== 1) video.playbackRate = 1;
});
$("play").addEventListener("click", play);
$("next").addEventListener("click", next);
$("sound").addEventListener("change", () => (video.muted = !$("sound").checked));
for (const button of document.querySelectorAll("[data-choice]")) {
  button.addEventListener("click", () => vote(button.dataset.choice));
}
document.addEventListener("keydown", (event) => {
  if (!$("keys").checked || event.ctrlKey || event.altKey || event.metaKey || $("ask-token").open) return;
  const choice = { 1: "left", 2: "right", 3: "tie", 4: "both_bad" }[event.key];
  if (choice) vote(choice);
  else if (event.key === "p") play();
  else if (event.key === "n" && !$("next").hidden) next();
});
// (Timers run where pictures are not drawn, as in a tab behind others.)
setInterval(show, 40);
begin();
