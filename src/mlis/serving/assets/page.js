// The page's behaviour. It talks to the API of its own server only; text from outside becomes
// text nodes, never markup.
"use strict";

const SHOWN = 500; // classes of the list; searching looks at all
const AT_ONCE = 2; // pictures that are sent at the same time
const TRIES = 6; // of a request that the server is too busy for
const UNREADABLE = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and JPEG 2000 are read.";

const $ = (id) => document.getElementById(id);
const { changes, explains, maxMib } = document.body.dataset;
const state = { pictures: [], classes: [], round: 0, points: [], constant: null };

// --- small helpers -------------------------------------------------------------------------------

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children); // strings become text nodes
  return element;
}

function note(kind, title, text) {
  const element = make("div", `note ${kind}`, make("b", "", title), text);
  element.setAttribute("role", kind === "wrong" ? "alert" : "status");
  return element;
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

// The answer's JSON; throws an Error whose message is for the visitor.
async function ask(method, path, body) {
  const headers = {};
  if (body && !(body instanceof FormData)) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(body);
  }
  if (method !== "GET" && $("token")?.value) headers.Authorization = `Bearer ${$("token").value}`;
  for (let left = TRIES; ; left--) {
    let answer;
    try {
      answer = await fetch(path, { method, headers, body });
    } catch {
      throw new Error("The server does not answer.");
    }
    if ((answer.status === 429 || answer.status === 503) && left > 1 && path.startsWith("predict")) {
      await pause(Math.min(5, Number(answer.headers.get("Retry-After")) || 1));
      continue;
    }
    if (answer.status === 204) return null;
    const found = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(sentence(found.detail || `The server answered ${answer.status}.`));
    return found;
  }
}

// --- classes -------------------------------------------------------------------------------------

function tags(known, seen) {
  if (known?.added) return make("span", "tag added", "added here");
  return seen ? make("span", "tag seen", "seen") : make("span", "tag unseen", "never seen");
}

// What people read in place of a class name.
function shown(name) {
  return state.classes.find((each) => each.name === name)?.display_name ?? name;
}

function classLine(each) {
  const line = make("div", "line", make("span", "name", shown(each.name)), tags(each, each.seen));
  if (changes !== undefined) {
    const rename = make("button", "", "Rename");
    const remove = make("button", "", "Remove");
    rename.type = remove.type = "button";
    rename.addEventListener("click", () => renameClass(each.name));
    remove.addEventListener("click", () => removeClass(each.name));
    line.append(make("span", "spring"), rename, remove);
  }
  const item = make("li", "", line);
  if (each.description) item.append(make("p", "said", each.description));
  return item;
}

function showClasses() {
  const wanted = $("filter").value.trim().toLowerCase();
  const names = (each) => `${each.name}\n${each.display_name ?? ""}`.toLowerCase();
  const found = state.classes.filter((each) => names(each).includes(wanted));
  found.sort((one, other) => other.added - one.added);
  const lines = found.slice(0, SHOWN).map(classLine);
  if (found.length > SHOWN) lines.push(make("li", "", `… and ${found.length - SHOWN} more`));
  if (!found.length) lines.push(make("li", "", "No class has such a name."));
  $("known").replaceChildren(...lines);
}

async function loadClasses() {
  try {
    state.classes = (await ask("GET", "classes")).classes;
  } catch (error) {
    $("about").textContent = error.message;
    return;
  }
  const count = state.classes.length.toLocaleString("en");
  const unseen = state.classes.filter((each) => !each.seen).length;
  $("about").textContent = unseen
    ? `The model tells ${count} classes apart; ${unseen.toLocaleString("en")} of them had no ` +
      "picture in training."
    : `The model tells ${count} classes apart.`;
  showClasses();
}

const pathOf = (name) => `classes/${encodeURIComponent(name)}`;

async function change(place, title, good, request) {
  try {
    const found = await request();
    const text = found?.new === false ? `${found.name} has learnt from the photographs` : good;
    const warnings = (found?.warnings ?? []).map((each) => note("warning", "Please check", sentence(each)));
    place.replaceChildren(note("good", text, "It is so until the server stops."), ...warnings);
  } catch (error) {
    place.replaceChildren(note("wrong", title, error.message));
    return;
  }
  await loadClasses();
  await recogniseAll();
}

async function renameClass(name) {
  const wanted = prompt(`New name of "${name}"`, name)?.trim();
  if (!wanted || wanted === name) return;
  const request = () => ask("PATCH", pathOf(name), { name: wanted });
  await change($("changed"), "The class was not renamed", `${name} is called ${wanted} now`, request);
}

async function removeClass(name) {
  if (!confirm(`Remove the class "${name}"?`)) return;
  const request = () => ask("DELETE", pathOf(name));
  await change($("changed"), "The class was not removed", `${name} was removed`, request);
}

// What the form says, as the API takes it; throws an Error that says what is missing.
function described() {
  const text = (kind) => $(`class-${kind}`)?.value ?? "";
  const lines = (kind) => text(kind).split("\n").map((line) => line.trim()).filter(Boolean);
  const found = { name: $("class-name").value.trim() };
  if (lines("sentences").length) found.sentences = lines("sentences");
  const attributes = Object.create(null);
  for (const line of lines("attributes")) {
    const colon = line.lastIndexOf(":");
    if (colon < 1) throw new Error(`Attributes: expected "name: value" in each line, got "${line}".`);
    const value = line.slice(colon + 1).trim();
    if (value) attributes[line.slice(0, colon).trim()] = value;
  }
  if (Object.keys(attributes).length) found.attributes = attributes;
  const words = text("vector").split(/[\s,;[\]()]+/).filter(Boolean);
  const wrong = words.find((word) => !Number.isFinite(Number(word)));
  if (wrong) throw new Error(`Descriptor: expected numbers, got "${wrong}".`);
  if (words.length) found.vector = words.map(Number);
  return found;
}

// The class of the form: by its description, or by photographs that may be described.
async function sendClass() {
  const { name, ...said } = described();
  const photos = [...($("class-photos")?.files ?? [])];
  const empty = !Object.keys(said).length;
  if (!photos.length && empty) throw new Error("Describe the class: every field is empty.");
  if (!photos.length) return ask("POST", "classes", { name, ...said });
  const size = photos.reduce((sum, each) => sum + each.size, 0);
  if (size > Number(maxMib) * 2 ** 20) throw new Error(`Photographs: together they have more than ${maxMib} MiB.`);
  const form = new FormData();
  photos.forEach((each) => form.append("files", each));
  if (!empty) form.append("description", JSON.stringify(said));
  const known = state.classes.some((each) => each.name === name)
    ? undefined
    : state.classes.find((each) => each.display_name === name); // what the page calls it
  return ask("POST", `${pathOf(known?.name ?? name)}/images`, form);
}

async function addClass(event) {
  event.preventDefault();
  const button = $("add-class");
  const name = $("class-name").value.trim();
  button.disabled = true;
  const request = async () => {
    const found = await sendClass();
    $("add").reset(); // before pictures are recognised again, when the form may be in use
    return found;
  };
  await change($("said"), "Nothing was added", `${name} is a class now`, request);
  button.disabled = false;
}

// --- pictures ------------------------------------------------------------------------------------

function best(predictions) {
  const known = new Map(state.classes.map((each) => [each.name, each]));
  const list = make("ol", "best");
  for (const each of predictions) {
    if (each.score === null) { // none of the classes; those that it is most like follow
      list.append(make("li", "unseen", make("div", "line", make("span", "name", each.class))));
      continue;
    }
    const about = known.get(each.class);
    const percent = `${(100 * each.score).toFixed(1)}`;
    const fill = make("i");
    fill.style.width = `${percent}%`;
    const line = make("div", "line", make("span", "name", shown(each.class)), tags(about, each.seen));
    line.append(make("span", "score", `${percent}\u202f%`));
    const kind = about?.added ? "added" : each.seen ? "seen" : "unseen";
    const item = make("li", kind, line, make("div", "bar", fill));
    if (about?.description) item.append(make("p", "said", about.description));
    list.append(item);
  }
  return list;
}

function reasons(why) {
  if (!why) return [];
  const pair = `${shown(why.answer)} against ${shown(why.runner_up)}`;
  const because = why.because && `${pair}: ${why.because}`;
  const resembles = why.resembles && `Most similar photographs of the training: ${why.resembles}`;
  return [because, resembles].filter(Boolean).map((text) => make("p", "said", text));
}

async function recognise(picture) {
  const round = state.round;
  const show = (element) => round === state.round && picture.place.replaceChildren(element);
  picture.predictions = null;
  const name = picture.file.name || "The picture";
  try {
    if (picture.file.size > Number(maxMib) * 2 ** 20) throw new Error(`It has more than ${maxMib} MiB.`);
    const form = new FormData();
    form.append("files", picture.file);
    const reject = $("reject")?.value;
    const chosen = state.constant === null ? "" : `&calibration=${state.constant}`;
    const path = `predict/images?top_k=${$("top-k").value}${chosen}${reject ? `&reject=${reject}` : ""}${explains === undefined ? "" : "&explain=true"}`;
    const [found] = (await ask("POST", path, form)).results;
    if (found.error) {
      const why = `${sentence(found.error)}. ${UNREADABLE}`;
      show(note("wrong", `${name} cannot be read as a picture`, why));
    } else if (round === state.round) {
      picture.predictions = found.predictions;
      show(make("div", "", best(found.predictions), ...reasons(found.explanation)));
    }
  } catch (error) {
    show(note("wrong", `${name} was not recognised`, error.message));
  }
}

async function recogniseAll(pictures = state.pictures) {
  const round = ++state.round;
  const waiting = [...new Set([...pictures, ...state.pictures.filter((each) => !each.done)])];
  waiting.forEach((each) => (each.done = false));
  let done = 0;
  const work = async () => {
    while (waiting.length && round === state.round) {
      const picture = waiting.shift();
      await recognise(picture);
      if (round !== state.round) return; // it is asked for again
      picture.done = true;
      done += 1;
      progress(waiting.length ? `${done} recognised, ${waiting.length} to go` : "");
      $("csv").disabled = !state.pictures.some((each) => each.predictions);
    }
  };
  if (waiting.length > 1) progress(`${waiting.length} pictures`);
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}

function progress(text) {
  if ($("progress")) $("progress").textContent = text;
}

function addPictures(files) {
  const pictures = [...files].map((file) => {
    const place = make("div", "", make("p", "hint", "…"));
    const image = make("img");
    image.alt = "";
    image.src = URL.createObjectURL(file);
    image.addEventListener("error", () => image.remove()); // not one that browsers show
    const thumb = make("div", "thumb", image, make("p", "file", file.name));
    return { file, place, image, card: make("div", "card", thumb, place), predictions: null };
  });
  if (!pictures.length) return;
  if (!state.pictures.length) $("results").replaceChildren();
  $("results").prepend(...pictures.map((each) => each.card));
  state.pictures.unshift(...pictures);
  $("clear").disabled = false;
  recogniseAll(pictures);
}

function clearPictures() {
  state.round += 1;
  state.pictures.forEach((each) => URL.revokeObjectURL(each.image.src));
  state.pictures = [];
  $("results").replaceChildren(make("div", "empty", "The likeliest classes appear here."));
  $("csv").disabled = $("clear").disabled = true;
  progress("");
}

function downloadCsv() {
  // a cell that a spreadsheet would run as a formula gets an apostrophe
  const cell = (value) => `"${String(value).replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;
  const seen = new Map([[true, "yes"], [false, "no"], [null, ""]]);
  const rows = [["file", "rank", "class", "score", "seen"]];
  for (const picture of state.pictures.filter((each) => each.predictions)) {
    picture.predictions.forEach((each, i) =>
      rows.push([picture.file.name, i + 1, each.class, each.score ?? "", seen.get(each.seen)]),
    );
  }
  const text = rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = "predictions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// --- the trade-off between seen and unseen classes -----------------------------------------------

async function loadTradeoff() {
  let known;
  try {
    known = await ask("GET", "tradeoff");
  } catch {
    return; // the model's own stays
  }
  const slider = $("tradeoff");
  const distance = (point) => Math.abs(point.constant - known.calibration);
  const own = known.points.reduce((best, point, i, all) => (distance(point) < distance(all[best]) ? i : best), 0);
  const expect = () => {
    const { U, S } = known.points[slider.value];
    $("expected").textContent = `Expected: ${S.toFixed(0)}\u202f% of seen, ${U.toFixed(0)}\u202f% of never seen classes`;
  };
  slider.max = known.points.length - 1;
  slider.value = own;
  slider.disabled = false;
  expect();
  slider.addEventListener("input", expect);
  slider.addEventListener("change", () => {
    state.constant = known.points[slider.value].constant;
    $("own").disabled = false;
    recogniseAll();
  });
  $("own").addEventListener("click", () => {
    state.constant = null;
    slider.value = own;
    $("own").disabled = true;
    expect();
    recogniseAll();
  });
}

// --- start ---------------------------------------------------------------------------------------

function takePictures() {
  const drop = $("picture");
  const input = drop.querySelector("input");
  input.addEventListener("change", () => {
    addPictures(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
  for (const kind of ["dragover", "drop"]) {
    document.addEventListener(kind, (event) => event.preventDefault());
  }
  document.addEventListener("dragover", () => drop.classList.add("over"));
  document.addEventListener("dragleave", () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    drop.classList.remove("over");
    addPictures(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => addPictures(event.clipboardData.files));
  $("top-k").addEventListener("change", () => recogniseAll());
  $("reject")?.addEventListener("change", () => recogniseAll());
  $("csv").addEventListener("click", downloadCsv);
  $("clear").addEventListener("click", clearPictures);
}

if ($("picture")) takePictures();
if ($("tradeoff")) loadTradeoff();
$("add")?.addEventListener("submit", addClass);
$("filter").addEventListener("input", showClasses);
loadClasses();
