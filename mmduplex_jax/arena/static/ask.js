// Asks the server; where it wants a token, the voter is asked for it. What went wrong is shown.

const $ = (id) => document.getElementById(id);
let token = takeToken();

// The token is in the part of the address that is never sent; it is kept for this tab and taken off the address.
function takeToken() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found) {
    sessionStorage.setItem("token", found);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token");
}

function askToken() {
  return new Promise((resolve) => {
    const dialog = $("ask-token");
    dialog.addEventListener("close", () => resolve($("token").value.trim()), { once: true });
    dialog.showModal();
  });
}

// The answer's JSON; an Error with `status` and `answer` where the server refuses.
export async function ask(path, body) {
  for (;;) {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const request = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
    const response = await fetch(path, { ...request, cache: "no-store" });
    const answer = await response.json();
    if (response.ok) return answer;
    if (response.status !== 401) {
      throw Object.assign(new Error(answer.error ?? response.statusText), { status: response.status, answer });
    }
    token = await askToken();
    sessionStorage.setItem("token", token);
  }
}

export function say(problem) {
  const paragraph = document.createElement("p");
  paragraph.className = "problem";
  paragraph.textContent = problem;
  $("problems").replaceChildren(...(problem ? [paragraph] : []));
}
