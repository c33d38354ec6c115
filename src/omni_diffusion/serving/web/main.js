// The page: composer, examples, the answers of this session, and how the server is.

import { Card } from "./card.js";
import { Composer } from "./composer.js";
import { connection, Refused } from "./connection.js";
import { Speaker } from "./media.js";

const find = (id) => document.getElementById(id);
const root = document.documentElement;
const speaker = new Speaker();
const session = {
  speaker,
  model: () => model?.id ?? "omni-diffusion",
  aloud: () => composer.aloud,
  announce: (text) => (find("said").textContent = text),
  reuse: async (inputs, task) => {
    await composer.take(inputs, task);
    find("composer").scrollIntoView({
      block: "nearest",
      behavior: Replay.calm ? "auto" : "smooth",
    });
    find("text").focus({ preventScroll: true });
  },
};
let cards = []; // newest first
let model = null;
let loaded = false;
const composer = new Composer(sent);

function sent(request, job) {
  speaker.stop();
  speaker.wake();
  Sound.stopAll();
  for (const card of cards) card.fold();
  add(request, job.id, true).follow();
  find("examples").open = false;
  cards[0].home.scrollIntoView({ block: "nearest", behavior: Replay.calm ? "auto" : "smooth" });
  remember();
}

function add(request, job, live) {
  const task = composer.tasks.find((each) => each.name === request.task) ?? {
    name: request.task,
    title: request.task,
  };
  const card = new Card(request, job, task, session, live);
  cards.unshift(card);
  find("session").prepend(card.home);
  find("forget").hidden = false;
  return card;
}

// ---- the session outlives a reload: requests are kept here, answers come from the server again

function remember() {
  const kept = cards.map(({ request, job }) => ({ request, job }));
  while (kept.length) {
    try {
      return sessionStorage.setItem("session", JSON.stringify(kept));
    } catch {
      kept.pop(); // the oldest, where they are too large together
    }
  }
}

function recall() {
  const kept = JSON.parse(sessionStorage.getItem("session") ?? "[]");
  for (const { request, job } of kept.reverse()) add(request, job, false);
  for (const card of cards.slice(1)) card.fold();
  for (const card of cards) card.follow();
  find("examples").open = !cards.length;
}

find("forget").onclick = () => {
  for (const card of cards) {
    card.stop();
    card.remove();
  }
  cards = [];
  sessionStorage.removeItem("session");
  find("forget").hidden = true;
  find("examples").open = true;
  find("text").focus();
};

// ---- the server

const STATES = {
  connecting: "connecting",
  ready: "ready",
  loading: "loading the model",
  away: "away",
  locked: "locked",
};

function showState() {
  const { state } = connection;
  find("state").dataset.state = state;
  find("state").lastElementChild.textContent =
    state === "ready" && model ? `${model.id} is ready` : STATES[state];
  find("away").hidden = state !== "away";
  if (state === "locked" && !find("lock").open) find("lock").showModal();
  if (state === "ready") load();
}

async function load() {
  if (loaded) return;
  loaded = true;
  try {
    const [tasks, models] = await Promise.all([
      connection.call("v1/tasks"),
      connection.call("v1/models"),
    ]);
    composer.tasks = tasks.data ?? tasks;
    [model] = models.data;
    showState();
    showExamples(composer.tasks);
    composer.show();
    recall();
  } catch (error) {
    loaded = false;
    if (error instanceof Refused && error.status !== 401) composer.complain(error.message);
  }
}

function showExamples(tasks) {
  find("about").textContent = [model.about, "Choose one to see how it is answered."].filter(Boolean).join(" ");
  const shown = tasks.flatMap((task) =>
    [task.example, ...(task.examples ?? [])].filter(Boolean).map((inputs) => example(task, inputs)),
  );
  find("examples").lastElementChild.replaceChildren(...shown);
  find("examples").hidden = !shown.length;
}

function example(task, inputs) {
  const { text, image, audio } = inputs;
  const made = element("button", "example");
  made.type = "button";
  if (image) made.append(Object.assign(element("img"), { src: image, alt: "" }));
  else {
    const sign = made.appendChild(element("i", audio ? "cell speech" : "cell text"));
    if (audio) sign.append(find("sound").querySelector("svg").cloneNode(true));
    else sign.textContent = "Aa";
  }
  const words = made.appendChild(element("span"));
  const what = text ?? (audio && image ? "a spoken question" : audio ? "a recording" : "a picture");
  words.append(element("b", "", task.title), element("small", "", what));
  made.onclick = async () => {
    await composer.take(inputs, task.name);
    await composer.send();
  };
  return made;
}

connection.addEventListener("state", () => {
  showState();
  if (connection.state === "ready") session.announce("The server is there");
});
find("away").querySelector("button").onclick = () => connection.hurry?.();
find("lock").querySelector("form").onsubmit = (event) => {
  connection.unlock(event.target.elements.key.value);
  find("lock").querySelector(".fault").hidden = false; // seen only if it asks again
  connection.state = "connecting";
  connection.ready();
};

// A server that goes away while nothing is asked of it is noticed all the same.
setInterval(() => document.visibilityState === "visible" && connection.ready(), 15_000);
document.addEventListener("visibilitychange", () => !document.hidden && connection.ready());

// ---- the whole window: theme, keys, drops and pastes

find("theme").onclick = () => {
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
};

addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || document.querySelector("dialog[open]"))
    return;
  if (event.key === "Escape") {
    if (composer.escape()) return;
    speaker.stop();
    Sound.stopAll();
    cards.find((card) => card.running)?.stop();
    return;
  }
  if (event.target.closest("input, textarea, summary") || !cards.length) return;
  const { replay } = cards[0];
  const to = { ArrowLeft: replay.at - 1, ArrowRight: replay.at + 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  replay.move(to);
});

const files = (event) => [...((event.dataTransfer ?? event.clipboardData)?.files ?? [])];
let depth = 0; // of the elements that a drag is over

addEventListener("dragenter", (event) => {
  if (![...event.dataTransfer.types].includes("Files")) return;
  depth += 1;
  find("drop").hidden = false;
});
addEventListener("dragleave", () => {
  depth = Math.max(0, depth - 1);
  find("drop").hidden = depth === 0;
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", async (event) => {
  event.preventDefault();
  depth = 0;
  find("drop").hidden = true;
  for (const file of files(event)) await composer.add(file);
});
addEventListener("paste", async (event) => {
  const pasted = files(event);
  if (!pasted.length) return;
  event.preventDefault();
  for (const file of pasted) await composer.add(file);
});

connection.ready();
