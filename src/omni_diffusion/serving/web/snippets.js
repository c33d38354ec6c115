// A request as a command or a program that does the same. Media of the Python programs are the files
// that the page saves: picture.png, mask.png and sound.EXTENSION.

const quoted = (text) => JSON.stringify(text);
const literal = (value) => (typeof value === "string" ? quoted(value) : String(value));
const words = (pairs) => Object.entries(pairs).map(([name, value]) => `, ${name}=${literal(value)}`).join("");

/** The name under which the page saves a medium of a request. */
export function fileName(kind, uri) {
  if (kind !== "audio") return `${kind === "mask" ? "mask" : "picture"}.png`;
  const type = /^data:audio\/(?:x-)?(\w+)/.exec(uri)?.[1] ?? "wav";
  return `sound.${{ mpeg: "mp3", wave: "wav" }[type] ?? type}`;
}

function overrides(request) {
  const { seed, params } = request;
  return { ...(seed === undefined ? {} : { seed }), ...params };
}

/** A POST of the request, and then the stream of its events. */
export function curl(request, base, key) {
  const guard = key ? " -H 'Authorization: Bearer YOUR_KEY'" : "";
  const body = JSON.stringify(request, null, 1).replaceAll("\n", "").replaceAll("'", "\\u0027");
  return `id=$(curl -sS ${base}v1/jobs${guard} -H 'Content-Type: application/json' -d @- <<'JSON' |
${body}
JSON
  sed -E 's/.*"id": ?"([^"]+)".*/\\1/')
curl -sSN${guard} ${base}v1/jobs/$id/events\n`;
}

/** The request with the library itself. */
export function python(request) {
  const inputs = [];
  const [lines, names] = [[], ["Engine", "Inputs", "OmniModel", "ask"]];
  if (request.text !== undefined) inputs.push(quoted(request.text));
  if (request.image) inputs.push(`image=Path("picture.png")`);
  if (request.audio) inputs.push(`speech=Path("${fileName("audio", request.audio)}")`);
  if (request.mask) inputs.push(`mask="mask.png"`);
  if (request.image || request.audio) lines.push("from pathlib import Path", "");
  const build = request.image || request.audio ? "Inputs.read" : "Inputs";
  return [
    ...lines,
    `from omni_diffusion import ${names.join(", ")}`,
    "",
    "engine = Engine(OmniModel.open())",
    `request = ask("${request.task}", ${build}(${inputs.join(", ")})${words(overrides(request))})`,
    "(result,) = engine.run([request])",
    "print(result.error or result.parts)",
    "",
  ].join("\n");
}

const TEXT = "print(answer.choices[0].message.content)";

function message(request) {
  const parts = [];
  if (request.text !== undefined) parts.push(`{"type": "text", "text": ${quoted(request.text)}}`);
  if (request.image) parts.push(`{"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64("picture.png")}}`);
  if (request.audio) {
    const name = fileName("audio", request.audio);
    parts.push(`{"type": "input_audio", "input_audio": {"data": base64("${name}"), "format": "${name.split(".")[1]}"}}`);
  }
  return `[\n    {"role": "user", "content": [\n        ${parts.join(",\n        ")},\n    ]},\n]`;
}

/** The calls of the SDK by task: [imports and helpers, the call]. */
function calls(request, model, extra) {
  const text = quoted(request.text ?? "");
  const save = (name, data) => `Path("${name}").write_bytes(${data})`;
  const chat = (more, tail) => `answer = client.chat.completions.create(model=${quoted(model)}${more}${extra}, messages=${message(request)})\n${tail}`;
  const aloud = `${TEXT.replace("content", "audio.transcript")}\n${save("answer.wav", "b64decode(answer.choices[0].message.audio.data)")}`;
  const speech = `, modalities=["text", "audio"], audio={"voice": "default", "format": "wav"}`;
  const image = save("answer.png", "b64decode(answer.data[0].b64_json)");
  return {
    chat: () => chat("", TEXT),
    vqa: () => chat("", TEXT),
    caption: () => chat("", TEXT),
    sqa: () => chat(speech, aloud),
    svqa: () => chat(speech, aloud),
    asr: () => `answer = client.audio.transcriptions.create(model=${quoted(model)}, file=Path("${fileName("audio", request.audio)}")${extra})\nprint(answer.text)`,
    tts: () => `answer = client.audio.speech.create(model=${quoted(model)}, voice="default", input=${text}, response_format="wav"${extra})\nanswer.write_to_file("answer.wav")`,
    t2i: () => `answer = client.images.generate(model=${quoted(model)}, prompt=${text}${extra})\n${image}`,
  }[request.task];
}

/** The request with OpenAI's SDK; null for a task that its API cannot say. */
export function openai(request, model, base, key) {
  const { steps, guidance, ...rest } = overrides(request);
  const body = { ...(steps ? { num_inference_steps: steps } : {}),
    ...(guidance === undefined ? {} : { guidance_scale: guidance }), ...rest };
  const extra = Object.keys(body).length ? `, extra_body=${JSON.stringify(body)}` : "";
  const call = calls(request, model, extra)?.();
  if (!call) return null;
  const helpers = call.includes("base64(") ? ["", "def base64(name):",
    "    return b64encode(Path(name).read_bytes()).decode()", ""] : [""];
  const used = ["b64decode", "b64encode"].filter((name) => (call + helpers.join()).includes(name));
  return [
    ...(used.length ? [`from base64 import ${used.join(", ")}`] : []),
    ...(/Path\(/.test(call + helpers.join()) ? ["from pathlib import Path", ""] : []),
    "from openai import OpenAI",
    ...helpers,
    `client = OpenAI(base_url="${base}v1", api_key=${key ? '"YOUR_KEY"' : '"none"'})`,
    call,
    "",
  ].join("\n");
}
