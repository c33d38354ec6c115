// Which tasks fit what a person gives, and which of them is meant.

/** What the model will do, in a word or two; a task that is not here goes by its title. */
const VERBS = {
  chat: "answer",
  asr: "write it down",
  tts: "say it",
  t2i: "draw it",
  caption: "describe it",
  vqa: "answer",
  s2i: "draw it",
  svqa: "answer aloud",
  sqa: "answer aloud",
  inpaint: "repaint it",
  infill: "fill the gaps",
};
const WORDS = { text: "text", image: "a picture", audio: "a sound", mask: "a mask" };
const ASKS = /\?\s*$|^\s*(what|who|where|when|why|how|which|is|are|was|were|do|does|can|could)\b/i;
const SAYS = /^\s*(say|speak|read|pronounce)\b/i;
const LIKELIEST = ["inpaint", "infill", "svqa", "vqa", "caption", "sqa", "asr", "s2i"];

export const verb = (task) => VERBS[task.name] ?? task.title;

/** The kinds that are given: of text, image, audio and mask. */
export function kindsOf(given) {
  return Object.keys(WORDS).filter((kind) => given[kind]?.trim?.() ?? given[kind]);
}

/** The tasks whose inputs are all given, and no others. */
export function fitting(tasks, given) {
  const kinds = kindsOf(given);
  return tasks.filter((task) => {
    const gaps = given.text?.includes("_") && !(given.image && given.audio);
    if (task.name === "infill" && !gaps) return false;
    const optional = task.optional ?? [];
    const takes = (kind) => task.inputs.includes(kind) || optional.includes(kind);
    const has = (kind) => kinds.includes(kind) || optional.includes(kind);
    return task.inputs.every(has) && kinds.every(takes);
  });
}

/** The task that is most likely meant among those that fit; undefined where none does. */
export function inferred(fits, given) {
  const likely = LIKELIEST.map((name) => fits.find((task) => task.name === name)).find(Boolean);
  if (likely) return likely;
  const text = given.text ?? "";
  const name = SAYS.test(text) ? "tts" : ASKS.test(text) ? "chat" : "t2i";
  return fits.find((task) => task.name === name) ?? fits[0];
}

/** Why no task fits. */
export function misfit(given) {
  const words = kindsOf(given).map((kind) => WORDS[kind]);
  const last = words.pop();
  const all = words.length ? `${words.join(", ")} and ${last}` : last;
  return `No task takes ${all}${words.length ? " together. Remove one." : " alone. Add to it."}`;
}
