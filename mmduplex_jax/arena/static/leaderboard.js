// The leaderboard, as the server has written it.

import { ask, say } from "./ask.js";

const board = document.getElementById("board");
try {
  const { html } = await ask("v1/leaderboard");
  board.innerHTML = html; // the server's own, in which names are text
} catch (error) {
  board.replaceChildren();
  say(`The leaderboard cannot be had: ${error.message}`);
}
board.setAttribute("aria-busy", "false");
