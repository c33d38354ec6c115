// The way to the server: JSON calls, event streams that survive a break, and whether it answers.

const SILENCE = 40_000; // milliseconds without a byte after which a stream counts as broken
const ENDS = new Set(["done", "error", "cancelled"]);

/** The server answered, and said no. */
export class Refused extends Error {
  constructor(status, body) {
    const error = body?.error ?? {};
    super(error.message ?? (typeof body?.detail === "string" ? body.detail : `HTTP ${status}`));
    this.status = status;
    this.param = error.param ?? null;
  }
}

/** Nobody answered. */
export class Away extends Error {}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

class Connection extends EventTarget {
  state = "connecting"; // ready, loading, away or locked
  key = sessionStorage.getItem("key") ?? "";
  #watching = null;

  /** The JSON that a route answers; throws Refused or Away. */
  async call(path, { method = "GET", body } = {}) {
    const headers = body === undefined ? {} : { "Content-Type": "application/json" };
    const response = await this.#fetch(path, { method, headers, body: JSON.stringify(body) });
    return response.status === 204 ? null : response.json();
  }

  /** The events of a job, {id, name, data}, from the first to the last, across broken streams. */
  async *events(job, signal) {
    let last = -1;
    for (;;) {
      try {
        const headers = last < 0 ? {} : { "Last-Event-ID": String(last) };
        const response = await this.#fetch(`v1/jobs/${job}/events`, { headers, signal });
        for await (const event of parsed(response.body)) {
          if (event.id <= last) continue;
          last = event.id;
          yield event;
          if (ENDS.has(event.name)) return;
        }
      } catch (error) {
        if (signal.aborted || error instanceof Refused) throw error;
      }
      await pause(500);
      await this.ready();
    }
  }

  /** Resolves when the server answers; asks it again and again until then. */
  ready() {
    this.#watching ??= this.#watch().finally(() => (this.#watching = null));
    return this.#watching;
  }

  unlock(key) {
    this.key = key;
    sessionStorage.setItem("key", key);
  }

  async #watch() {
    for (let wait = 1000; ; wait = Math.min(10_000, wait * 1.5)) {
      try {
        const response = await fetch("ready", {
          cache: "no-store",
          signal: AbortSignal.timeout(8000),
        });
        if (response.ok) return this.#become("ready");
        this.#become(response.status === 503 ? "loading" : "away");
      } catch {
        this.#become("away");
      }
      await Promise.race([pause(wait), new Promise((resolve) => (this.hurry = resolve))]);
    }
  }

  async #fetch(path, options) {
    const headers = { ...options.headers };
    if (this.key) headers.Authorization = `Bearer ${this.key}`;
    let response;
    try {
      response = await fetch(path, { ...options, headers, cache: "no-store" });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      this.#become("away");
      this.ready();
      throw new Away("The server does not answer");
    }
    if (response.status === 401) this.#become("locked");
    if (response.ok) return response;
    const body = await response.json().catch(() => null);
    if (!body && response.status >= 502) {
      this.ready();
      throw new Away("The server does not answer");
    }
    throw new Refused(response.status, body);
  }

  #become(state) {
    if (state === this.state) return;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}

export const connection = new Connection();

/** The events of a server-sent stream. */
async function* parsed(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let [text, count] = ["", 0];
  try {
    for (;;) {
      const { value, done } = await Promise.race([reader.read(), broken()]);
      if (done) return;
      text += value;
      const blocks = text.split(/\r?\n\r?\n/);
      text = blocks.pop();
      for (const block of blocks) {
        const fields = { data: "" };
        for (const line of block.split(/\r?\n/)) {
          const [, name, content] = /^(\w*): ?(.*)$/.exec(line) ?? [];
          if (name) fields[name] = name === "data" ? fields.data + content : content;
        }
        if (!fields.event) continue; // a comment keeps the stream awake
        yield {
          id: Number(fields.id ?? count),
          name: fields.event,
          data: JSON.parse(fields.data || "{}"),
        };
        count += 1;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function broken() {
  await pause(SILENCE);
  return { done: true };
}
