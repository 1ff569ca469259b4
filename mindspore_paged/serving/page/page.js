// The page of the server: a chat over the OpenAI API, and the picture of the pool over /pool/events. No other host is
// asked for anything. Whatever comes from the server is put into the page as text.

const $ = (id) => document.getElementById(id);
const messages = []; // {role, content}, as the API takes them
const own = new Set(); // ids of the requests that this page has made
let key = ""; // in this variable alone
let writing = null; // the AbortController of the answer under way

// Codes of cells, as the server's event_log.py has them; above 0 they are requests.
const FREE = 0, CACHED = -1, PINNED = -2, WITHHELD = -3, NULL = -4, SHARED = -5;
const KINDS = {
  [FREE]: "free",
  [CACHED]: "cached: nobody holds it, a later prompt may use it",
  [PINNED]: "pinned: a preloaded prefix",
  [WITHHELD]: "withheld while the load is low",
  [NULL]: "the null block, which is never handed out",
  [SHARED]: "shared by several requests",
};

// ---- Asking the server

function headers(more = {}) {
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

async function errorOf(response) {
  try {
    const body = await response.json();
    return body.error?.message ?? body.detail ?? response.statusText;
  } catch {
    return `${response.status} ${response.statusText}`;
  }
}

// The data of each server-sent event of a response.
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split(/\r?\n\r?\n/);
    text = parts.pop();
    for (const part of parts) {
      const data = part.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length) yield data.join("\n");
    }
  }
}

async function loadModels() {
  let response;
  try {
    response = await fetch("v1/models", { headers: headers() });
  } catch {
    setTimeout(loadModels, 3000);
    return;
  }
  if (response.status === 401) {
    askForKey(key ? "The server does not know this key." : "The server wants an API key.");
    return;
  }
  if (!response.ok) {
    setTimeout(loadModels, 3000);
    return;
  }
  const models = (await response.json()).data.map((model) => model.id);
  $("model").replaceChildren(...models.map((id) => new Option(id, id)));
  $("model").disabled = models.length < 2;
  $("key-note").textContent = "";
  document.title = `${models[0]} · mindspore_paged`;
  $("message").placeholder = models.length > 1 ? "Message" : `Message ${models[0]}`;
  watchPool();
}

function askForKey(why) {
  $("key-field").hidden = false;
  $("key-note").textContent = why;
  showSettings(true);
  $("key").focus();
  showState("lost", "Needs an API key");
}

// ---- The chat

async function send(text) {
  if (writing || !text.trim()) return;
  $("welcome").hidden = true;
  messages.push({ role: "user", content: text });
  addMessage("user", text);
  const answer = addMessage("assistant", "");
  const controller = setWriting(new AbortController());
  const begun = performance.now();
  const state = { text: "", thoughts: "", error: "", chunks: 0, first: 0, reason: "", usage: null };
  const show = painter(() => {
    answer.thoughts.textContent = state.thoughts;
    answer.text.textContent = state.text || state.error;
    answer.meta.textContent = metaOf(state, begun);
    follow();
  });
  answer.item.classList.add("writing");
  $("spoken").textContent = "The model is answering.";
  try {
    const id = `page-${Math.random().toString(36).slice(2)}`;
    own.add(id);
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: headers({ "Content-Type": "application/json", "X-Request-Id": id }),
      body: JSON.stringify(bodyOf()),
      signal: controller.signal,
    });
    if (response.status === 401) askForKey("The server does not know this key.");
    if (!response.ok) throw new Error(await errorOf(response));
    for await (const data of eventsOf(response)) {
      if (data === "[DONE]") break;
      takeChunk(JSON.parse(data), state);
      show();
    }
  } catch (error) {
    if (error.name === "AbortError") state.reason = "stopped";
    else state.error = error instanceof TypeError ? "The server cannot be reached." : error.message;
  }
  setWriting(null);
  answer.item.classList.remove("writing");
  if (state.text) {
    messages.push({ role: "assistant", content: state.text });
    if (state.error) state.reason = `broken off: ${state.error}`;
  } else if (state.error) {
    messages.pop(); // the question was not answered, and may be asked again
    answer.item.classList.add("error");
  } else if (state.reason !== "stopped") {
    state.error = "(an empty answer)";
  }
  show.now();
  $("spoken").textContent = state.reason === "stopped" ? "The answer was stopped." : answer.text.textContent;
}

function bodyOf() {
  const system = $("system").value.trim();
  const body = {
    model: $("model").value,
    messages: system ? [{ role: "system", content: system }, ...messages] : messages,
    stream: true,
    stream_options: { include_usage: true },
    temperature: Number($("temperature").value),
    top_p: Number($("top-p").value),
  };
  if ($("max-tokens").value) body.max_tokens = Number($("max-tokens").value);
  if ($("seed").value) body.seed = Number($("seed").value);
  return body;
}

function takeChunk(chunk, state) {
  if (chunk.error) throw new Error(chunk.error.message);
  if (chunk.usage) state.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const { content, reasoning_content: thoughts } = choice.delta ?? {};
  if (content || thoughts) {
    state.first ||= performance.now();
    state.last = performance.now();
    state.chunks += 1;
    state.text += content ?? "";
    state.thoughts += thoughts ?? "";
  }
  if (choice.finish_reason) state.reason = choice.finish_reason;
}

function metaOf(state, begun) {
  if (!state.first) return state.reason;
  const count = state.usage?.completion_tokens ?? state.chunks;
  const seconds = (state.last - state.first) / 1000;
  const parts = [`${state.usage ? "" : "≈ "}${count} token${count === 1 ? "" : "s"}`];
  if (count > 1 && seconds > 0) parts.push(`${((count - 1) / seconds).toFixed(1)} tokens/s`);
  parts.push(`first after ${duration(state.first - begun)}`);
  const cached = state.usage?.prompt_tokens_details?.cached_tokens;
  if (state.usage) parts.push(`prompt ${state.usage.prompt_tokens}${cached ? `, ${cached} cached` : ""}`);
  if (state.reason) parts.push(state.reason === "length" ? "cut at max tokens" : state.reason);
  return parts.join(" · ");
}

function duration(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

function addMessage(role, text) {
  const item = document.createElement("li");
  item.className = `message ${role}`;
  const who = document.createElement("span");
  who.className = "visually-hidden";
  who.textContent = role === "user" ? "You: " : "Model: ";
  const body = document.createElement("div");
  body.className = "text";
  body.textContent = text;
  const thoughts = document.createElement("div");
  thoughts.className = "thoughts";
  const meta = document.createElement("p");
  meta.className = "meta";
  item.append(who, thoughts, body);
  if (role === "assistant") item.append(meta);
  $("messages").append(item);
  atEnd = true;
  follow();
  return { item, text: body, thoughts, meta };
}

// Calls `draw` at most once a frame; `now` at once.
function painter(draw) {
  let due = 0;
  const show = () => {
    due ||= requestAnimationFrame(() => { due = 0; draw(); });
  };
  show.now = () => { cancelAnimationFrame(due); due = 0; draw(); };
  return show;
}

// Keeps the end in sight for as long as the reader has not scrolled away from it.
let atEnd = true;

function follow() {
  if (atEnd) $("conversation").scrollTop = $("conversation").scrollHeight;
}

function setWriting(controller) {
  writing = controller;
  $("stop").hidden = !controller;
  $("send").hidden = Boolean(controller);
  $("send").disabled = !$("message").value.trim();
  return controller;
}

function stop() {
  if (!writing) return;
  writing.abort();
  $("message").focus();
}

function grow() {
  const box = $("message");
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight, 200)}px`;
  $("send").disabled = !box.value.trim();
}

function submit(text) {
  $("message").value = "";
  grow();
  send(text);
}

function showSettings(shown) {
  $("settings").hidden = !shown;
  $("settings-button").setAttribute("aria-expanded", String(shown));
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!writing) submit($("message").value);
});
$("conversation").addEventListener("scroll", () => {
  const { scrollHeight, scrollTop, clientHeight } = $("conversation");
  atEnd = scrollHeight - scrollTop - clientHeight < 60;
});
$("message").addEventListener("input", grow);
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!writing && $("message").value.trim()) submit($("message").value);
  }
});
$("stop").addEventListener("click", stop);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});
for (const idea of document.querySelectorAll(".ideas button")) {
  idea.addEventListener("click", () => submit(idea.textContent));
}
$("new-chat").addEventListener("click", () => {
  stop();
  messages.length = 0;
  $("messages").replaceChildren();
  $("welcome").hidden = false;
  $("message").focus();
});
$("settings-button").addEventListener("click", () => showSettings($("settings").hidden));
$("settings").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("key-field").hidden) return;
  key = $("key").value.trim();
  loadModels();
});
for (const slider of document.querySelectorAll("input[type=range]")) {
  slider.addEventListener("input", () => {
    document.querySelector(`output[for=${slider.id}]`).textContent = slider.value;
  });
}
for (const button of document.querySelectorAll("[data-show]")) {
  button.addEventListener("click", () => {
    document.body.dataset.view = button.dataset.show;
    for (const one of document.querySelectorAll("[data-show]")) {
      one.setAttribute("aria-pressed", String(one === button));
    }
    drawAll();
  });
}

// ---- The pool

const pool = { pictures: [], cells: [], views: [], history: [], rates: [], cursor: null };
const HISTORY_SECONDS = 60;
let watching = null;

async function watchPool() {
  watching?.abort();
  const controller = (watching = new AbortController());
  let pause = 1000;
  while (!controller.signal.aborted) {
    try {
      const response = await fetch("pool/events", { headers: headers(), signal: controller.signal });
      if (response.status === 401) return;
      if (!response.ok) throw new Error(await errorOf(response));
      showState("live", "Live");
      for await (const data of eventsOf(response)) {
        pause = 1000;
        takePictures(JSON.parse(data));
      }
    } catch (error) {
      if (controller.signal.aborted) return;
    }
    showState("lost", "Reconnecting");
    await new Promise((done) => setTimeout(done, pause));
    pause = Math.min(2 * pause, 10000);
  }
}

function showState(state, text) {
  $("pool-state").dataset.state = state;
  $("pool-state").textContent = text;
}

function takePictures(pictures) {
  pool.pictures = pictures;
  pool.cells = pictures.map(({ cells }) => cells.flatMap(([length, code]) => Array(length).fill(code)));
  const now = performance.now();
  const sum = (read) => pictures.reduce((total, picture) => total + read(picture), 0);
  const all = sum(({ num_blocks, blocks }) => num_blocks - 1 - blocks.withheld);
  const used = sum(({ blocks }) => blocks.used);
  const cached = sum(({ blocks }) => blocks.cached);
  pool.history.push({ now, used: used / all, cached: cached / all });
  pool.rates.push({ now, tokens: sum(({ counts }) => counts.num_output_tokens) });
  pool.rates = pool.rates.filter((one) => now - one.now < 4000);
  const queried = sum(({ counts }) => counts.num_prefix_query_tokens);
  const hit = sum(({ counts }) => counts.num_prefix_hit_tokens);
  $("figure-running").textContent = sum(({ counts }) => counts.num_running);
  $("figure-waiting").textContent = sum(({ counts }) => counts.num_waiting);
  $("figure-held").textContent = `${Math.round((100 * used) / all)}%`;
  $("figure-hits").textContent = queried ? `${Math.round((100 * hit) / queried)}%` : "–";
  $("figure-preemptions").textContent = sum(({ counts }) => counts.num_preemptions);
  const shared = sum(({ blocks }) => blocks.shared);
  $("pool-summary").textContent =
    `${used} of ${all} pages held${shared ? `, ${shared} shared` : ""}, ${cached} cached`;
  $("pool-title").textContent = `Pool of ${pictures[0].block_size}-token pages`;
  showRate();
  showRequests(pictures);
  drawAll();
}

function showRate() {
  const now = performance.now();
  const [first, last] = [pool.rates[0], pool.rates.at(-1)];
  if (pool.rates.length < 2 && pool.history.length < 2) return;
  const still = !last || now - last.now > 1500;
  const rate = still || last.now === first.now ? 0 : ((last.tokens - first.tokens) * 1000) / (last.now - first.now);
  $("figure-rate").textContent = rate >= 100 ? Math.round(rate) : rate.toFixed(1);
}

function showRequests(pictures) {
  const rows = pictures.flatMap((picture) => picture.requests.map((request) => {
    const row = document.createElement("tr");
    const name = document.createElement("td");
    const swatch = document.createElement("i");
    swatch.className = "swatch";
    swatch.style.background = colourOf(request.number);
    name.append(swatch, nameOf(request));
    if (own.has(request.http_request_id)) {
      const yours = document.createElement("span");
      yours.className = "yours";
      yours.textContent = "yours";
      name.append(yours);
    }
    row.append(name);
    for (const figure of ["num_prompt_tokens", "num_cached_tokens", "num_output_tokens", "num_blocks", "num_shared_blocks"]) {
      const cell = document.createElement("td");
      cell.textContent = request[figure];
      row.append(cell);
    }
    return row;
  }));
  $("requests").replaceChildren(...rows);
  $("no-requests").hidden = rows.length > 0;
}

// The engine's own names are request-0, request-1, …
function nameOf(request) {
  return request.id.replace(/^request-(?=\d+$)/, "#");
}

// ---- Drawing

const style = getComputedStyle(document.documentElement);

function colourOf(code) {
  const token = { [CACHED]: "--cached", [PINNED]: "--pinned", [SHARED]: "--shared" }[code];
  if (token) return style.getPropertyValue(token);
  if (code <= 0) return style.getPropertyValue("--free");
  const hue = (255 + (code - 1) * 137.508) % 360;
  return `oklch(${style.getPropertyValue("--page-lightness")} ${style.getPropertyValue("--page-chroma")} ${hue.toFixed(1)})`;
}

// The canvas's context, in CSS pixels.
function contextOf(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) [canvas.width, canvas.height] = [wide, high];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

function drawAll() {
  while (pool.views.length < pool.pictures.length) addView(pool.views.length);
  pool.views.forEach((view, index) => drawPool(view, index));
  drawHistory();
}

function addView(index) {
  const canvas = document.createElement("canvas");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "img");
  const box = document.createElement("div");
  if (pool.pictures.length > 1) {
    const title = document.createElement("h3");
    title.textContent = `Replica ${index}`;
    box.append(title);
  }
  box.append(canvas);
  $("pools").append(box);
  const view = { canvas, columns: 1, size: 1 };
  pool.views.push(view);
  canvas.addEventListener("pointermove", (event) => point(index, cellAt(view, index, event)));
  canvas.addEventListener("pointerdown", (event) => point(index, cellAt(view, index, event)));
  canvas.addEventListener("pointerleave", () => { if (document.activeElement !== canvas) point(index, null); });
  canvas.addEventListener("blur", () => point(index, null));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: view.columns, ArrowUp: -view.columns }[event.key];
    if (!step) return;
    event.preventDefault();
    const last = pool.cells[index].length - 1;
    const from = pool.cursor?.index === index ? pool.cursor.cell : -step;
    point(index, Math.max(0, Math.min(last, from + step)));
  });
}

// The largest square cells with which all of them fit above the height that is left for them.
function layout(count, width, mostHeight) {
  for (let size = 18; size > 3; size -= 1) {
    const columns = Math.floor(width / size);
    if (Math.ceil(count / columns) * size <= mostHeight) return { size: width / columns, columns };
  }
  return { size: width / Math.floor(width / 3), columns: Math.floor(width / 3) };
}

function drawPool(view, index) {
  const cells = pool.cells[index];
  const width = view.canvas.clientWidth;
  if (!cells || !width) return;
  const { size, columns } = layout(cells.length, width, Math.max(60, 236 / pool.pictures.length));
  Object.assign(view, { size, columns });
  const height = Math.ceil(cells.length / columns) * size;
  view.canvas.style.height = `${height}px`;
  const context = contextOf(view.canvas, width, height);
  const gap = size > 8 ? 2 : size > 4 ? 1 : 0.5;
  const colours = new Map();
  cells.forEach((code, cell) => {
    if (!colours.has(code)) colours.set(code, colourOf(code));
    const [x, y] = [(cell % columns) * size, Math.floor(cell / columns) * size];
    context.fillStyle = colours.get(code);
    context.beginPath();
    context.roundRect(x + gap / 2, y + gap / 2, size - gap, size - gap, Math.min(2.5, 0.15 * size));
    context.fill();
  });
  if (pool.cursor?.index === index) {
    const [x, y] = [(pool.cursor.cell % columns) * size, Math.floor(pool.cursor.cell / columns) * size];
    context.strokeStyle = style.getPropertyValue("--ink");
    context.lineWidth = 1.5;
    context.strokeRect(x + 0.75, y + 0.75, size - 1.5, size - 1.5);
  }
  const { blocks, num_blocks } = pool.pictures[index];
  view.canvas.setAttribute("aria-label", `${num_blocks - 1} pages: ${blocks.used} held, ${blocks.cached} cached, ${blocks.free} free`);
  if (pool.cursor?.index === index) readOut();
}

function cellAt(view, index, event) {
  const box = view.canvas.getBoundingClientRect();
  const column = Math.min(view.columns - 1, Math.floor((event.clientX - box.left) / view.size));
  const cell = Math.floor((event.clientY - box.top) / view.size) * view.columns + column;
  return cell >= 0 && cell < pool.cells[index].length ? cell : null;
}

function point(index, cell) {
  pool.cursor = cell === null ? null : { index, cell };
  readOut();
  drawPool(pool.views[index], index);
}

let readOutText = $("readout").textContent;
const HELP = readOutText;

function readOut() {
  let text = HELP;
  if (pool.cursor) {
    const { index, cell } = pool.cursor;
    const { blocks_per_cell: each, num_blocks: count, requests } = pool.pictures[index];
    const code = pool.cells[index][cell];
    const request = requests.find(({ number }) => number === code);
    const first = cell * each;
    const last = Math.min(count, first + each) - 1;
    const what = code > 0 ? `held by ${request ? nameOf(request) : "a request"}` : KINDS[code];
    text = `${first === last ? `Block ${first}` : `Blocks ${first} to ${last}`}: ${what}`;
  }
  if (text !== readOutText) $("readout").textContent = readOutText = text;
}

function drawHistory() {
  const canvas = $("history");
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!width) return;
  const context = contextOf(canvas, width, height);
  const now = performance.now();
  const oldest = now - HISTORY_SECONDS * 1000;
  while (pool.history.length > 1 && pool.history[1].now < oldest) pool.history.shift();
  const x = (moment) => Math.max(0, width - ((now - moment) / 1000 / HISTORY_SECONDS) * width);
  const area = (height_of, colour) => {
    if (!pool.history.length) return;
    context.beginPath();
    context.moveTo(x(pool.history[0].now), height);
    let before = height;
    for (const one of pool.history) {
      context.lineTo(x(one.now), before);
      before = height - height_of(one) * (height - 2);
      context.lineTo(x(one.now), before);
    }
    context.lineTo(width, before);
    context.lineTo(width, height);
    context.fillStyle = colour;
    context.fill();
  };
  area(({ used, cached }) => used + cached, style.getPropertyValue("--cached"));
  area(({ used }) => used, style.getPropertyValue("--accent"));
}

setInterval(() => {
  if (!document.hidden && pool.pictures.length) {
    showRate();
    drawHistory();
  }
}, 500);
new ResizeObserver(drawAll).observe($("pools"));
new ResizeObserver(follow).observe($("conversation"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { showRequests(pool.pictures); drawAll(); });
document.addEventListener("visibilitychange", () => {
  if (document.hidden) watching?.abort(); // nobody looks, so nothing is computed
  else if (watching) watchPool();
});

grow();
loadModels();
