"use strict";
// The item page by keyboard. Texts of drafts and people reach the page as text alone (textContent), never as HTML.

const desk = document.getElementById("desk");
const form = document.getElementById("texts");
const message = document.getElementById("message");
const findings = document.getElementById("findings");
const clean = document.getElementById("clean");
const layers = document.getElementById("layers");
const help = document.getElementById("help");

let despite = false; // the next accept insists on what the checks object to
let busy = false;
let checking = 0;

function texts() {
  const own = {};
  const fields = new FormData(form);
  for (const name of ["caption", "question", "answer"]) {
    if (fields.has(name)) own[name] = fields.get(name);
  }
  if (form.dataset.task === "mcq") {
    own.options = fields.getAll("options");
    own.right = Number(fields.get("right") ?? -1);
  }
  return own;
}

function say(text, isBad) {
  message.textContent = text;
  message.classList.toggle("bad", Boolean(isBad));
  message.hidden = text === "";
}

function show(list) {
  findings.replaceChildren(...list.map((finding) => {
    const line = document.createElement("li");
    const code = document.createElement("b");
    const detail = document.createElement("span");
    line.className = finding.is_note ? "note" : "objection";
    code.textContent = finding.code;
    detail.textContent = finding.detail;
    line.append(code, " ", detail);
    return line;
  }));
  clean.hidden = list.length > 0;
}

async function post(path, body) {
  try {
    const answer = await fetch(path, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    });
    if (answer.status === 403) {
      return { ok: false, message: "The server was started again: open the address that it printed. Nothing that it confirmed is lost." };
    }
    const isJson = (answer.headers.get("Content-Type") || "").startsWith("application/json");
    const value = isJson ? await answer.json() : { message: `The server failed (${answer.status}).` };
    return { ok: answer.ok, ...value };
  } catch (error) {
    return { ok: false, message: "The server can't be reached: this decision is not kept. Start it again, and open the address that it prints." };
  }
}

async function decide(body) {
  if (busy) return;
  busy = true;
  const answer = await post(`${desk.dataset.item}/decision`, body);
  busy = false;
  if (answer.ok) {
    location.assign(answer.next);
    return;
  }
  if (answer.findings) show(answer.findings);
  despite = Boolean(answer.can_insist);
  say(answer.message, true);
}

async function undo() {
  if (busy) return;
  busy = true;
  const answer = await post("/review/undo", {});
  busy = false;
  if (answer.ok) location.assign(answer.next);
  else say(answer.message, true);
}

function fit() {
  // As large as the column and the window allow, small pictures enlarged; the sizes are those of the file.
  const photo = document.getElementById("photo");
  const ratio = photo.getAttribute("width") / photo.getAttribute("height");
  const room = document.querySelector(".picture").clientWidth;
  photo.style.width = `${Math.floor(Math.min(room, 0.72 * window.innerHeight * ratio))}px`;
}

function toggleMasks() {
  const isBare = layers.classList.toggle("bare");
  document.getElementById("toggle").setAttribute("aria-pressed", String(!isBare));
}

function toggleZoom() {
  const button = document.getElementById("zoom");
  const isOn = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(isOn));
  if (!isOn) {
    layers.style.transform = "";
    return;
  }
  const photo = document.getElementById("photo");
  const share = photo.clientWidth / photo.naturalWidth;
  const [x0, y0, x1, y1] = desk.dataset.box.split(",").map((value) => Number(value) * share);
  const width = photo.clientWidth, height = photo.clientHeight;
  const factor = Math.min(Math.max(0.6 * Math.min(width / (x1 - x0), height / (y1 - y0)), 1), 8);
  const left = Math.min(Math.max((x0 + x1) / 2 - width / (2 * factor), 0), width - width / factor);
  const top = Math.min(Math.max((y0 + y1) / 2 - height / (2 * factor), 0), height - height / factor);
  layers.style.transform = `scale(${factor}) translate(${-left}px, ${-top}px)`;
}

function edit() {
  const field = form.querySelector("textarea");
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
}

const acts = {
  accept: () => decide({ verdict: "accept", texts: texts(), despite }),
  reject: () => decide({ verdict: "reject", reason: form.elements.reason.value }),
  edit,
  undo,
  masks: toggleMasks,
  zoom: toggleZoom,
  help: () => (help.open ? help.close() : help.showModal()),
  next: () => location.assign(desk.dataset.next),
  previous: () => location.assign(desk.dataset.previous),
  open: () => location.assign("/review/open"),
  overview: () => location.assign("/review/"),
};
const keys = {
  a: "accept", e: "edit", r: "reject", u: "undo", m: "masks", z: "zoom", "?": "help", n: "next", p: "previous",
  o: "open", h: "overview", ArrowRight: "next", ArrowLeft: "previous",
};

function isWriting(target) {
  return target instanceof HTMLTextAreaElement || (target instanceof HTMLInputElement && target.type === "text");
}

document.addEventListener("keydown", (event) => {
  if (isWriting(event.target)) {
    if (event.key === "Escape") event.target.blur();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      acts.accept();
    }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isRadio = event.target instanceof HTMLInputElement;
  if (isRadio && event.key.startsWith("Arrow")) return; // moves among the options
  const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (act === undefined || (help.open && act !== "help")) return;
  event.preventDefault();
  acts[act]();
});

window.addEventListener("resize", fit);
fit();

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  if (button !== null) acts[button.dataset.act]();
});

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", (event) => {
  if (event.target.id === "reason") return;
  despite = false;
  say("");
  clearTimeout(checking);
  checking = setTimeout(async () => {
    const answer = await post(`${desk.dataset.item}/check`, texts());
    if (answer.ok) show(answer.findings);
    else say(answer.message, true);
  }, 350);
});
