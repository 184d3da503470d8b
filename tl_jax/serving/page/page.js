// Sends a picture to the network on this machine, and shows what it says; text is only ever text.
"use strict";

const byId = (id) => document.getElementById(id);
let network = null; // What network.json says.
let picture = null; // The file that is asked about.
let asking = null; // Cancels the question that is under way.

function make(tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

function describe({ name, classes }) {
  if (!classes.length) return `${name} (a number)`;
  return `${name} (${classes.length > 6 ? `${classes.length.toLocaleString("en")} classes` : classes.join(", ")})`;
}

function say(text, isWrong = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("wrong", isWrong);
}

// An option's value is the place of a task and, unless the predicted one is meant, of its class.
function fillOptions() {
  for (const method of network.methods) byId("method").append(new Option(method.title, method.name));
  byId("method").value = network.method;
  network.tasks.forEach((task, place) => {
    const group = document.createElement("optgroup");
    group.label = task.name;
    group.append(new Option(task.classes.length ? "what is predicted" : task.name, `${place}:`));
    task.classes.forEach((name, index) => group.append(new Option(name, `${place}:${index}`)));
    byId("target").append(group);
  });
}

function show(file) {
  if (!network) return;
  if (!file) return say("That is no file; save the picture and drop the file.", true);
  const [mib, most] = [file.size, network.max_bytes].map((bytes) => Math.round(bytes / 2 ** 20));
  if (file.size > network.max_bytes) {
    return say(`The picture has ${mib} MiB; expected at most ${most} MiB: make it smaller.`, true);
  }
  picture = file;
  ask();
}

async function ask() {
  if (!picture) return;
  if (asking) asking.abort();
  const mine = (asking = new AbortController());
  const [task, target] = byId("target").value.split(":");
  const options = { method: byId("method").value, task: network.tasks[task].name, name: picture.name };
  if (target) options.target = target;
  byId("answer").setAttribute("aria-busy", "true");
  say("Computing ...");
  const slow = setTimeout(
    () => say("Computing; the first use of a method is compiled, which takes a while ..."), 1500);
  try {
    const reply = await fetch(`/answer?${new URLSearchParams(options)}`, {
      method: "POST", body: picture, signal: mine.signal,
    });
    const said = await reply.json();
    if (mine !== asking) return;
    if (!reply.ok) throw new Error(said.error);
    await draw(said);
    say("");
  } catch (error) {
    if (mine !== asking) return;
    byId("answer").hidden = true;
    const isGone = error instanceof TypeError || error instanceof SyntaxError;
    say(isGone ? "The server does not answer; is the command still running?" : error.message, true);
  } finally {
    clearTimeout(slow);
    if (mine === asking) byId("answer").setAttribute("aria-busy", "false");
  }
}

async function draw(said) {
  await Promise.all([paint("image", said.image), paint("overlay", said.overlay)]);
  const { text, method, reading } = said.explained;
  byId("reading").textContent = `${method}, ${text}: ${reading}.`;
  byId("tasks").replaceChildren(...said.tasks.map((task, place) => section(task, place, said)));
  byId("answer").hidden = false;
}

async function paint(id, base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const canvas = byId(id);
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
}

function section(task, place, said) {
  const element = make("section", "task", "");
  element.append(make("h2", "", task.name), make("p", "result", task.result));
  for (const row of task.rows) {
    const { task: explained, target } = said.explained;
    element.append(button(row, place, task.name === explained && row.name === target));
  }
  if (task.note) element.append(make("p", "note", task.note));
  return element;
}

function button(row, place, isExplained) {
  const element = make("button", row.is_predicted ? "row predicted" : "row", "");
  element.type = "button";
  element.title = `Explain ${row.name}`;
  element.setAttribute("aria-pressed", isExplained);
  const fill = make("span", "fill", "");
  fill.style.width = `${100 * row.probability}%`;
  element.append(fill);
  if (row.threshold !== null) {
    const line = make("span", "threshold", "");
    line.style.width = `${100 * row.threshold}%`;
    line.title = `threshold ${(100 * row.threshold).toFixed(1)}%`;
    element.append(line);
  }
  element.append(make("span", "name", row.name));
  element.append(make("span", "share", `${(100 * row.probability).toFixed(1)}%`));
  element.addEventListener("click", () => {
    byId("target").value = `${place}:${row.index}`;
    ask();
  });
  return element;
}

async function start() {
  network = await (await fetch("/network.json")).json();
  document.title = `${network.name}: tl_jax demo`;
  byId("name").textContent = network.name;
  byId("tells").textContent = `What it tells: ${network.tasks.map(describe).join("; ")}.`;
  fillOptions();
  for (const id of ["method", "target"]) byId(id).addEventListener("change", ask);
  byId("file").addEventListener("change", (event) => {
    if (event.target.files.length) show(event.target.files[0]);
    event.target.value = ""; // So that the same file may be chosen again.
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) show(event.clipboardData.files[0]);
  });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault(); // Else the browser leaves the page for the file.
      document.body.classList.toggle("dragging", kind === "dragenter" || kind === "dragover");
    });
  }
  document.addEventListener("drop", (event) => show(event.dataTransfer.files[0]));
}

start().catch(() => say("The server does not answer; is the command still running?", true));
