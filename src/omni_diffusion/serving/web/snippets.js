// A request as a command or a program that does the same. The Python programs read the files that
// the page saves: picture.png, mask.png and sound.EXTENSION.

const quoted = (text) => JSON.stringify(text);
const listed = (pairs) =>
  Object.entries(pairs).map(([name, value]) => `${name}=${JSON.stringify(value)}`);

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
  return `id=$(curl -sS ${base}v1/jobs${guard} -H 'Content-Type: application/json' -d @- <<'JSON' |
${JSON.stringify(request)}
JSON
  sed -E 's/.*"id": ?"([^"]+)".*/\\1/')
curl -sSN${guard} ${base}v1/jobs/$id/events
`;
}

/** A call of Python over several lines. */
function called(name, args) {
  return `${name}(\n    ${args.join(",\n    ")},\n)`;
}

/** The request with the library itself. */
export function python(request) {
  const { task, text, image, audio, mask } = request;
  const files = image || audio;
  const inputs = [
    ...(text === undefined ? [] : [quoted(text)]),
    ...(image ? ['image=Path("picture.png")'] : []),
    ...(audio ? [`speech=Path("${fileName("audio", audio)}")`] : []),
    ...(mask ? ['mask="mask.png"'] : []),
  ];
  const given = `${files ? "Inputs.read" : "Inputs"}(${inputs.join(", ")})`;
  return [
    ...(files ? ["from pathlib import Path", ""] : []),
    "from omni_diffusion import Engine, Inputs, OmniModel, ask",
    "",
    `request = ${called("ask", [quoted(task), given, ...listed(overrides(request))])}`,
    "(result,) = Engine(OmniModel.open()).run([request])",
    "print(result.error or result.parts)",
    "",
  ].join("\n");
}

/** The user's message of a chat, as an argument. */
function message(request) {
  const parts = [];
  const { text, image, audio } = request;
  if (text !== undefined) parts.push(`{"type": "text", "text": ${quoted(text)}}`);
  if (image) {
    const url = '"data:image/png;base64," + base64("picture.png")';
    parts.push(`{"type": "image_url", "image_url": {"url": ${url}}}`);
  }
  if (audio) {
    const name = fileName("audio", audio);
    const data = `{"data": base64("${name}"), "format": "${name.split(".")[1]}"}`;
    parts.push(`{"type": "input_audio", "input_audio": ${data}}`);
  }
  return `messages=[{"role": "user", "content": [\n        ${parts.join(",\n        ")},\n    ]}]`;
}

/** By task: the SDK's function, its arguments, and what to do with the answer. */
function sdk(request) {
  const chat = ["chat.completions.create", [message(request)]];
  const written = "print(answer.choices[0].message.content)";
  const aloud = [
    "sound = answer.choices[0].message.audio",
    "print(sound.transcript)",
    'Path("answer.wav").write_bytes(b64decode(sound.data))',
  ];
  const voice = ['modalities=["text", "audio"]', 'audio={"voice": "default", "format": "wav"}'];
  const text = quoted(request.text ?? "");
  return {
    chat: [...chat, [written]],
    vqa: [...chat, [written]],
    caption: [...chat, [written]],
    sqa: [chat[0], [...chat[1], ...voice], aloud],
    svqa: [chat[0], [...chat[1], ...voice], aloud],
    asr: [
      "audio.transcriptions.create",
      [`file=Path("${fileName("audio", request.audio ?? "")}")`],
      ["print(answer.text)"],
    ],
    tts: [
      "audio.speech.create",
      ['voice="default"', `input=${text}`, 'response_format="wav"'],
      ['answer.write_to_file("answer.wav")'],
    ],
    t2i: [
      "images.generate",
      [`prompt=${text}`],
      ['Path("answer.png").write_bytes(b64decode(answer.data[0].b64_json))'],
    ],
  }[request.task];
}

/** The request with OpenAI's SDK; null for a task that its API cannot say. */
export function openai(request, model, base, key) {
  const found = sdk(request);
  if (!found) return null;
  const [name, args, tail] = found;
  const { steps, guidance, ...rest } = overrides(request);
  const body = { num_inference_steps: steps, guidance_scale: guidance, ...rest };
  const knobs = JSON.stringify(body) === "{}" ? [] : [`extra_body=${JSON.stringify(body)}`];
  const all = [`model=${quoted(model)}`, ...args, ...knobs];
  const call = `answer = ${called(`client.${name}`, all)}`;
  const helper = call.includes("base64(")
    ? ["", "", "def base64(name):", "    return b64encode(Path(name).read_bytes()).decode()", ""]
    : [];
  const code = [
    ...helper,
    "",
    `client = OpenAI(base_url="${base}v1", api_key="${key ? "YOUR_KEY" : "none"}")`,
    call,
    ...tail,
    "",
  ].join("\n");
  const coders = ["b64decode", "b64encode"].filter((each) => code.includes(each));
  return [
    ...(coders.length ? [`from base64 import ${coders.join(", ")}`] : []),
    ...(code.includes("Path(") ? ["from pathlib import Path"] : []),
    ...(coders.length || code.includes("Path(") ? [""] : []),
    "from openai import OpenAI",
    code,
  ].join("\n");
}
