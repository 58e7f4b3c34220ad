// The page: sessions at the left, the chosen one's conversation at the right. What was said is kept in
// the session's note on the server, and beside it in this browser while an answer is coming.
"use strict";

const at = (id) => document.getElementById(id);
const PIECE = 256 * 1024; // characters of a file that are read and saved at once
let sessions = [];
let current = null; // the chosen session
let talk = []; // what was said in it: {role, content}
let busy = null; // AbortController of the answer or file that is coming

function say(problem) {
  at("notice").textContent = problem ? String(problem.message || problem) : "";
}

async function call(method, path, body, options = {}) {
  const headers = { ...options.headers };
  const key = sessionStorage.getItem("key");
  if (key) headers.Authorization = "Bearer " + key;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await fetch(path, {
    method, headers, signal: options.signal,
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  if (response.status === 401) {
    const given = await prompted("API key of this server", "", true);
    if (given) {
      sessionStorage.setItem("key", given);
      return call(method, path, body, options);
    }
  }
  const error = new Error(answer?.error?.message || response.status + " " + response.statusText);
  error.code = answer?.error?.code;
  throw error;
}

const json = async (...all) => (await call(...all)).json();
const path = (id, rest = "") => "v1/sessions/" + encodeURIComponent(id) + rest;

// Each value of a stream of server-sent events.
async function* values(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ") || event === "data: [DONE]") continue;
      const parsed = JSON.parse(event.slice(6));
      if (parsed.error) throw new Error(parsed.error.message);
      yield parsed;
    }
  }
}

function prompted(what, value, secret = false) {
  const [dialog, input] = [at("dialog"), at("dialog-text")];
  at("dialog-what").textContent = what;
  input.type = secret ? "password" : "text";
  input.value = value;
  dialog.returnValue = "";
  dialog.showModal();
  input.select();
  return new Promise((done) =>
    dialog.addEventListener("close", () => done(dialog.returnValue === "ok" ? input.value : null), { once: true }));
}

const bytes = (n) => n < 1e3 ? n + " B" : n < 1e6 ? (n / 1e3).toFixed(1) + " kB" : (n / 1e6).toFixed(1) + " MB";
const count = (n) => n.toLocaleString("en") + (n === 1 ? " token" : " tokens");

function showSessions() {
  const items = sessions.map((session) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = session.name;
    button.setAttribute("aria-current", String(session.id === current?.id));
    const small = document.createElement("small");
    small.textContent = count(session.position);
    button.append(small);
    button.addEventListener("click", () => choose(session.id).catch(say));
    const item = document.createElement("li");
    item.append(button);
    return item;
  });
  at("sessions").replaceChildren(...items);
}

function showCurrent() {
  at("title").textContent = current ? current.name : "No session";
  at("facts").textContent = current
    ? count(current.position) + " read · state of " + bytes(current.state_bytes) : "A message begins one.";
  for (const id of ["fork", "rename", "delete"]) at(id).disabled = !current || Boolean(busy);
  at("read").disabled = at("send").disabled = at("new").disabled = Boolean(busy);
  at("stop").hidden = !busy;
  at("state").setAttribute("aria-disabled", String(!current));
  showSessions();
}

function article(message) {
  const element = document.createElement("article");
  element.className = message.role;
  const who = document.createElement("h3");
  who.textContent = { user: "You", assistant: "Model", file: "File" }[message.role] || message.role;
  const text = document.createElement("div");
  text.textContent = message.content;
  element.append(who, text);
  at("log").append(element);
  at("log").scrollTop = at("log").scrollHeight;
  return { element, text };
}

function showTalk() {
  at("log").replaceChildren();
  talk.forEach(article);
}

// Kept here while something is coming, because the session cannot be changed then.
function keep() {
  if (current) try { localStorage.setItem("talk:" + current.id, JSON.stringify(talk)); } catch { /* full: the note stays */ }
}

async function save() {
  keep();
  const id = current.id;
  for (let left = 20; ; left -= 1) {
    try {
      await json("PATCH", path(id), { note: JSON.stringify(talk) });
      return localStorage.removeItem("talk:" + id);
    } catch (error) {
      if (error.code !== "session_in_use" || left === 0) throw error;
      await new Promise((done) => setTimeout(done, 100));
    }
  }
}

async function refresh() {
  sessions = (await json("GET", "v1/sessions")).data;
  if (current) current = { ...current, ...sessions.find((session) => session.id === current.id), note: current.note };
  showCurrent();
}

function parsed(text) {
  try { const value = JSON.parse(text); return Array.isArray(value) ? value : []; } catch { return []; }
}

async function choose(id) {
  if (busy) return;
  say("");
  current = await json("GET", path(id));
  const kept = localStorage.getItem("talk:" + id);
  talk = kept ? parsed(kept) : parsed(current.note);
  location.hash = id;
  at("state").href = path(id, "/state");
  showTalk();
  await refresh();
  if (kept) await save();
}

async function create(name) {
  const made = await json("POST", "v1/sessions", { name });
  await choose(made.id);
}

// Does something that takes a while and can be stopped.
async function during(work) {
  busy = new AbortController();
  say("");
  showCurrent();
  try {
    await work(busy.signal);
  } catch (error) {
    if (error.name !== "AbortError") say(error);
  } finally {
    busy = null;
    await (current ? save().then(refresh) : refresh()).catch(say);
    showCurrent();
  }
}

async function ask(question) {
  if (!current) await create(question.slice(0, 40));
  await during(async (signal) => {
    talk.push({ role: "user", content: question });
    article(talk.at(-1));
    const answer = { role: "assistant", content: "" };
    talk.push(answer);
    keep();
    const shown = article(answer);
    shown.element.classList.add("coming");
    try {
      const response = await call("POST", "v1/chat/completions", {
        session_id: current.id, stream: true, keep_partial: true, messages: [{ role: "user", content: question }],
      }, { signal });
      for await (const value of values(response)) {
        answer.content += value.choices[0]?.delta?.content || "";
        shown.text.textContent = answer.content;
        at("log").scrollTop = at("log").scrollHeight;
        keep();
      }
    } finally {
      shown.element.classList.remove("coming");
    }
  });
}

// Pieces end at a line where one ends in their last half.
function* pieces(text) {
  for (let from = 0; from < text.length;) {
    let to = Math.min(text.length, from + PIECE);
    if (to < text.length) {
      const line = text.lastIndexOf("\n", to - 1) + 1;
      if (line > from + PIECE / 2) to = line;
      else if ((text.charCodeAt(to - 1) & 0xfc00) === 0xd800) to -= 1; // never half a character
    }
    yield [from, to];
    from = to;
  }
}

async function readFile(file) {
  const text = await file.text();
  if (!text) return say(file.name + " is empty.");
  if (text.includes("\0")) return say(file.name + " is no text.");
  if (!current) await create(file.name.slice(0, 40));
  await during(async (signal) => {
    const note = { role: "file", content: file.name + ": nothing read yet" };
    talk.push(note);
    const shown = article(note);
    const run = crypto.getRandomValues(new Uint32Array(2)).join("-");
    let tokens = 0;
    at("reading-what").textContent = "Reading " + file.name;
    at("progress").value = 0;
    at("reading").hidden = false;
    try {
      for (const [from, to] of pieces(text)) {
        const response = await call("POST", path(current.id, "/append"), { text: text.slice(from, to), stream: true },
          { signal, headers: { "Idempotency-Key": "page-" + run + "-" + from } });
        for await (const value of values(response)) {
          if (value.of) at("progress").value = (from + (to - from) * value.read / value.of) / text.length;
          if (value.position !== undefined) {
            tokens += value.tokens;
            current.position = value.position;
          }
        }
        note.content = file.name + ": " + count(tokens) + (to < text.length ? " read so far" : " read");
        shown.text.textContent = note.content;
        keep();
        showCurrent();
      }
    } finally {
      at("reading").hidden = true;
    }
  });
}

at("new").addEventListener("click", () => create("New session").then(() => at("question").focus()).catch(say));
at("fork").addEventListener("click", async () => {
  try {
    const made = await json("POST", path(current.id, "/fork"), { name: "Fork of " + current.name.slice(0, 180), note: JSON.stringify(talk) });
    await choose(made.id);
    at("question").focus();
  } catch (error) { say(error); }
});
at("rename").addEventListener("click", async () => {
  const name = await prompted("Name of the session", current.name);
  if (!name) return;
  try {
    current = await json("PATCH", path(current.id), { name });
    await refresh();
  } catch (error) { say(error); }
});
at("delete").addEventListener("click", async () => {
  if (await prompted("Type its name to delete “" + current.name + "”", "") !== current.name) return;
  try {
    await call("DELETE", path(current.id));
    localStorage.removeItem("talk:" + current.id);
    current = null;
    talk = [];
    history.replaceState(null, "", location.pathname);
    showTalk();
    await refresh();
    at("new").focus();
  } catch (error) { say(error); }
});
at("state").addEventListener("click", async (event) => {
  if (!sessionStorage.getItem("key")) return; // the browser fetches it by itself
  event.preventDefault();
  try {
    const blob = await (await call("GET", path(current.id, "/state"))).blob();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "state.safetensors";
    link.click();
    URL.revokeObjectURL(link.href);
  } catch (error) { say(error); }
});
at("read").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => {
  const file = at("file").files[0];
  at("file").value = "";
  if (file && !busy) readFile(file).catch(say);
});
at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = at("question").value.trim();
  if (!question || busy) return;
  at("question").value = "";
  ask(question).catch(say);
});
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("ask").requestSubmit();
  }
});
const stop = () => busy?.abort();
at("stop").addEventListener("click", stop);
at("reading-stop").addEventListener("click", stop);
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !at("dialog").open) stop(); });
at("dialog-cancel").addEventListener("click", () => at("dialog").close("cancel"));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", kind === "dragover");
    const file = kind === "drop" && event.dataTransfer.files[0];
    if (file && !busy) readFile(file).catch(say);
  });
}

async function begin() {
  try {
    at("model").textContent = (await json("GET", "v1/models")).data[0].id;
    await refresh();
    const wanted = location.hash.slice(1);
    const first = sessions.find((session) => session.id === wanted) || sessions[0];
    if (first) await choose(first.id);
    say("");
  } catch (error) {
    say(error);
    if (error.code === "loading") setTimeout(begin, 1000);
  }
}
showCurrent();
begin();
