"use strict";
// A picture is chosen, dropped or a sample's; a point or box is drawn or written; each student is asked by itself.
const byId = (id) => document.getElementById(id);
const trial = byId("trial"), stage = byId("stage"), frame = byId("frame"), photo = byId("photo"), mark = byId("mark");
const kind = byId("kind"), words = byId("words"), message = byId("message"), go = byId("go");
const corners = ["x0", "y0", "x1", "y1"].map(byId);
const students = [...document.querySelectorAll(".student")];
let picture = null; // { id, width, height, sample }
let start = null; // where a box that is being drawn began
let pending = 0;

function say(text) {
  message.textContent = text;
  message.hidden = !text;
}

const tool = () => document.querySelector("input[name=tool]:checked").value;
const numbers = () => corners.slice(0, tool() === "box" ? 4 : 2).map((field) => (field.value === "" ? NaN : Number(field.value)));

async function reply(response) {
  if ((response.headers.get("content-type") ?? "").startsWith("application/json")) return response.json();
  return { message: (await response.text()).slice(0, 400) };
}

async function send(address, body, type) {
  try {
    const response = await fetch(address, { method: "POST", headers: { "Content-Type": type }, body });
    return { ok: response.ok, ...(await reply(response)) };
  } catch {
    return { ok: false, message: "the server doesn't answer; is `sailloft view` still running?" };
  }
}

function show(shown, address) {
  picture = shown;
  photo.src = address;
  frame.hidden = false;
  byId("empty").hidden = true;
  byId("region").disabled = false;
  byId("size").textContent = `${shown.width} x ${shown.height} px`;
  byId("size").hidden = false;
  ready();
}

function ready() {
  go.disabled = picture === null || pending > 0;
}

async function take(file) {
  if (!file) return;
  const limit = Number(trial.dataset.maxBytes), mib = (bytes) => (bytes / 2 ** 20).toFixed(1);
  if (file.size > limit) {
    say(`${file.name}: expected a file of at most ${mib(limit)} MiB, got ${mib(file.size)} MiB; save it smaller`);
    return;
  }
  say("");
  const taken = await send("/checkpoint/pictures", file, "application/octet-stream");
  if (!taken.ok) {
    say(`${file.name}: ${taken.message}`);
    return;
  }
  byId("truth")?.remove();
  kind.querySelector("[value=sample]")?.remove();
  document.querySelector("input[name=tool][value='']").checked = true;
  pointed();
  show({ id: taken.picture, width: taken.width_px, height: taken.height_px, sample: "" }, `/checkpoint/pictures/${taken.picture}.jpg`);
}

function draw() {
  const [x0, y0, x1, y1] = numbers(), how = tool();
  const isWhole = how !== "" && numbers().every(Number.isFinite);
  mark.hidden = !isWhole;
  if (!isWhole) return;
  const percent = (value, whole) => `${(100 * value) / whole}%`;
  mark.className = `mark ${how}`;
  mark.style.left = percent(x0, picture.width);
  mark.style.top = percent(y0, picture.height);
  mark.style.width = how === "box" ? percent(x1 - x0, picture.width) : "";
  mark.style.height = how === "box" ? percent(y1 - y0, picture.height) : "";
}

function pointed() {
  const how = tool();
  byId("numbers").hidden = how === "";
  for (const part of document.querySelectorAll(".of-box")) part.hidden = how !== "box";
  frame.classList.toggle("pointing", how !== "");
  for (const field of corners) field.value = "";
  if (how !== "" && ["find", "sample"].includes(kind.value)) kind.value = "describe";
  if (how === "" && ["describe", "name"].includes(kind.value)) kind.value = "find";
  mark.hidden = true;
  chosen();
}

// A region is described or named without words of one's own.
function chosen() {
  words.disabled = ["describe", "name"].includes(kind.value);
}

function place(event) {
  const box = photo.getBoundingClientRect();
  const within = (share, whole) => Math.round(10 * Math.min(Math.max(share, 0), 1) * whole) / 10;
  return [within((event.clientX - box.left) / box.width, picture.width), within((event.clientY - box.top) / box.height, picture.height)];
}

function write(values) {
  values.forEach((value, index) => { corners[index].value = value; });
  draw();
}

frame.addEventListener("pointerdown", (event) => {
  if (tool() === "" || event.button !== 0) return;
  event.preventDefault();
  if (tool() === "point") {
    // The last pixel ends where the picture does.
    const [x, y] = place(event);
    write([Math.min(x, picture.width - 0.1), Math.min(y, picture.height - 0.1)]);
    return;
  }
  start = place(event);
  frame.setPointerCapture(event.pointerId);
});
frame.addEventListener("pointermove", (event) => {
  if (start === null) return;
  const end = place(event);
  write([Math.min(start[0], end[0]), Math.min(start[1], end[1]), Math.max(start[0], end[0]), Math.max(start[1], end[1])]);
});
for (const name of ["pointerup", "pointercancel"]) frame.addEventListener(name, () => { start = null; });
for (const field of corners) field.addEventListener("input", draw);
for (const choice of document.querySelectorAll("input[name=tool]")) choice.addEventListener("change", pointed);

kind.addEventListener("change", chosen);

byId("file").addEventListener("change", (event) => take(event.target.files[0]));
for (const name of ["dragenter", "dragover"]) stage.addEventListener(name, (event) => { event.preventDefault(); stage.classList.add("over"); });
for (const name of ["dragleave", "drop"]) stage.addEventListener(name, () => stage.classList.remove("over"));
stage.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });

function line(mask, index, num) {
  const entry = document.createElement("li"), swatch = document.createElement("span"), text = document.createElement("span");
  swatch.className = "swatch";
  swatch.style.background = mask.colour;
  const area = mask.num_px ? `${mask.num_px.toLocaleString("en")} px, ${(100 * mask.share).toFixed(1)} %` : "empty";
  text.textContent = `${num > 1 ? `mask ${index + 1}` : "mask"}: certainty ${mask.score.toFixed(2)}, ${area}`;
  entry.append(swatch, text);
  return entry;
}

async function ask(article, body) {
  const part = (name) => article.querySelector(name);
  const begun = performance.now();
  part(".state").classList.remove("bad");
  const tick = () => { part(".state").textContent = `Asked ${((performance.now() - begun) / 1000).toFixed(0)} s ago, no answer yet.`; };
  tick();
  const timer = setInterval(tick, 1000);
  const answer = await send(`/checkpoint/students/${article.dataset.student}`, JSON.stringify(body), "application/json");
  clearInterval(timer);
  article.dataset.done = String(Number(article.dataset.done ?? 0) + 1);
  if (!answer.ok) {
    part(".state").textContent = answer.message;
    part(".state").classList.add("bad");
    return;
  }
  const waited = answer.waited_s >= 0.05 ? `, after ${answer.waited_s.toFixed(2)} s of waiting for its turn` : "";
  const iou = answer.iou === null ? "" : ` IoU ${answer.iou.toFixed(2)}.`;
  part(".state").textContent = `Answered in ${answer.took_s.toFixed(2)} s${waited}.${iou}`;
  part(".drawn").src = answer.picture;
  part(".drawn").alt = `The picture with ${answer.masks.length === 1 ? "one mask" : `${answer.masks.length} masks`}`;
  part(".drawn").hidden = false;
  part(".said").textContent = answer.text;
  part(".said").hidden = answer.text === "";
  part(".masks").replaceChildren(...answer.masks.map((mask, index) => line(mask, index, answer.masks.length)));
  part(".asked-words").textContent = `asked: ${answer.question}`;
  part(".asked-words").hidden = false;
}

async function askAll() {
  if (go.disabled) return;
  const how = tool(), drawn = numbers();
  if (how !== "" && !drawn.every(Number.isFinite)) {
    say(`Draw a ${how} on the picture, or write its numbers.`);
    return;
  }
  say("");
  const body = {
    picture: picture.id,
    ask: kind.value,
    words: words.value,
    region: how === "" ? null : { kind: how, numbers: drawn },
    sample: kind.value === "sample" ? picture.sample : "",
    turn: kind.value === "sample" ? picture.turn : 0,
    max_new_tokens: Number(byId("tokens").value),
  };
  pending = students.length;
  ready();
  await Promise.all(students.map((article) => ask(article, body)));
  pending = 0;
  ready();
}

byId("ask").addEventListener("submit", (event) => { event.preventDefault(); askAll(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); askAll(); }
});

const given = trial.dataset;
if (given.picture) {
  show({ id: given.picture, width: Number(given.width), height: Number(given.height), sample: given.sample, turn: Number(given.turn) }, given.shown);
}
