"use strict";
// A vote is put into localStorage first, then sent, and removed once the server says that it is on its disk: neither a
// closed tab nor a killed server loses one. Each vote has a key of its own, so that one sent twice is written once.

const $ = (id) => document.getElementById(id);
const OUTBOX = "medtune.review.vote.", REFUSED = "medtune.review.refused.", DRAFT = "medtune.review.draft.";
const WHO = "medtune.review.reviewer", KEYS = "medtune.review.keys";
const WORDS = { a: "A가 더 낫다", b: "B가 더 낫다", equal: "비슷하다" };
const PAUSE = 350; // ms in which a second tap or key counts as the same one, not as a vote on the next pair

let token = document.querySelector("meta[name=review-token]").content;
let reviewer = "", items = [], at = 0, shownAt = 0, given = []; // given: indices voted on since the page was opened
let sending = false, waiting = 0, retry = null;

// ---- what this browser keeps (memory stands in where it may not keep anything)
const memory = new Map();
const store = {
  get(key) { try { return localStorage.getItem(key) ?? memory.get(key) ?? null; } catch { return memory.get(key) ?? null; } },
  set(key, value) { try { localStorage.setItem(key, value); } catch { memory.set(key, value); } },
  remove(key) { memory.delete(key); try { localStorage.removeItem(key); } catch { /* memory was all there is */ } },
  keys(prefix) {
    let kept = [];
    try { kept = Object.keys(localStorage); } catch { /* memory is all there is */ }
    return [...new Set([...kept, ...memory.keys()])].filter((key) => key.startsWith(prefix)).sort();
  },
};
const hex = (bytes) => Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (b) => b.toString(16).padStart(2, "0")).join("");
let counter = 0;
const nextKey = () => OUTBOX + String(Date.now()).padStart(15, "0") + "." + String(counter++).padStart(6, "0") + "." + hex(4);
const outbox = () => store.keys(OUTBOX).map((key) => [key, JSON.parse(store.get(key))]);

// ---- server
async function call(path, options = {}) {
  const request = () => fetch(path, {
    ...options, headers: { "x-review-token": token, "content-type": "application/json" }, signal: AbortSignal.timeout(15000),
  });
  let answer = await request();
  if (answer.status === 403) { // the server was started anew
    token = (await (await fetch("/api/token", { signal: AbortSignal.timeout(15000) })).json()).token;
    answer = await request();
  }
  return answer;
}

async function flush() {
  if (sending) return;
  sending = true;
  clearTimeout(retry);
  try {
    for (let [entry] = outbox(); entry; [entry] = outbox()) {
      const [key, vote] = entry;
      tellSaved();
      const answer = await call("/api/vote", { method: "POST", body: JSON.stringify(vote) });
      if (answer.status === 409 || answer.status === 413 || answer.status === 422) store.set(REFUSED + key, JSON.stringify(vote));
      else if (!answer.ok) throw new Error(String(answer.status));
      store.remove(key);
      waiting = 0;
    }
  } catch {
    waiting = Math.min(waiting ? waiting * 2 : 1000, 8000);
    retry = setTimeout(flush, waiting);
  } finally {
    sending = false;
    tellSaved();
  }
}

function tellSaved() {
  const unsent = outbox().length, refused = store.keys(REFUSED).length;
  const said = unsent ? (waiting ? `저장 대기 ${unsent}건` : "저장 중…") : reviewer && doneCount() ? "모두 저장됨" : "";
  if ($("saved").textContent !== said) $("saved").textContent = said;
  const banner = waiting && unsent
    ? `서버에 연결할 수 없습니다. 답 ${unsent}건을 이 브라우저에 보관하고 있으며, 다시 연결되면 보냅니다. 계속 평가하셔도 됩니다.`
    : refused ? `답 ${refused}건은 지금 평가하는 문항의 것이 아니어서 저장되지 않았습니다. 담당자에게 알려 주세요.` : "";
  if ($("banner").textContent !== banner) $("banner").textContent = banner;
  $("banner").hidden = !banner;
  const closing = unsent
    ? "아직 보내지 못한 답이 있습니다. ‘모두 저장됨’이 보일 때까지 창을 열어 두세요."
    : `${items.length}개 문항을 모두 평가하셨습니다. 이 창을 닫으셔도 됩니다.`;
  if ($("done-text").textContent !== closing) $("done-text").textContent = closing;
}

// ---- the flow
const doneCount = () => items.filter((item) => item.vote).length;
const say = (text) => { $("announce").textContent = text; };

async function enter(name) {
  const unsent = outbox(); // read before the server is asked: what is sent meanwhile is here or in its answer
  const answer = await call("/api/items?reviewer=" + encodeURIComponent(name));
  if (!answer.ok) throw new Error(String(answer.status));
  const told = await answer.json();
  reviewer = told.reviewer;
  items = told.items;
  const byId = new Map(items.map((item) => [item.id, item]));
  for (const [, vote] of unsent) { // given before a reload, still to be sent
    const item = byId.get(vote.item);
    if (!item || vote.reviewer !== reviewer) continue;
    if (vote.choice === null) delete item.vote; else item.vote = vote;
  }
  store.set(WHO, reviewer);
  $("name").textContent = reviewer;
  given = [];
  at = nextOpen(0);
  const begun = doneCount();
  render(begun ? `${begun}개 문항을 이미 평가하셨습니다. 이어서 진행합니다.` : "");
}

const nextOpen = (from) => {
  for (let step = 0; step < items.length; step++) {
    const i = (from + step) % items.length;
    if (!items[i].vote) return i;
  }
  return items.length;
};

// On a phone the focus would call up the keyboard over the text that is to be read first
const offerName = () => { if (!matchMedia("(pointer: coarse)").matches) $("reviewer").focus({ preventScroll: true }); };

function show(id) {
  for (const section of ["start", "review", "done"]) $(section).hidden = section !== id;
  $("who").hidden = $("progress").hidden = id === "start";
}

function render(said) {
  const total = items.length, done = doneCount();
  $("progress").max = total;
  $("progress").value = done;
  $("progress").setAttribute("aria-valuetext", `${total}개 가운데 ${done}개 평가함`);
  tellSaved();
  window.scrollTo(0, 0);
  shownAt = performance.now();
  if (at >= total) {
    show("done");
    $("done-title").focus({ preventScroll: true });
    say(said);
    return;
  }
  const item = items[at], draft = JSON.parse(store.get(DRAFT + reviewer + "." + item.id) ?? "null");
  show("review");
  $("title").textContent = `문항 ${at + 1} / ${total}`;
  $("question").textContent = item.question;
  for (const side of ["a", "b"]) {
    const text = $("text-" + side), empty = !item[side].trim();
    text.textContent = empty ? "(빈 답변)" : item[side].trim();
    text.classList.toggle("empty", empty);
    press(side, Boolean(draft?.harmful.includes(side)));
  }
  $("comment").value = draft?.comment ?? "";
  $("undo").disabled = lastVoted() < 0;
  $("title").focus({ preventScroll: true });
  say(said);
}

const pressed = (side) => $("harm-" + side).getAttribute("aria-pressed") === "true";
const press = (side, on) => $("harm-" + side).setAttribute("aria-pressed", String(on));
const harmful = () => ["a", "b"].filter(pressed);

function keepDraft(item) {
  const draft = { harmful: harmful(), comment: $("comment").value };
  const key = DRAFT + reviewer + "." + item.id;
  if (draft.harmful.length || draft.comment) store.set(key, JSON.stringify(draft)); else store.remove(key);
}

function toggle(side) {
  press(side, !pressed(side));
  keepDraft(items[at]);
  say(`답변 ${side.toUpperCase()}: 위험한 답 ${pressed(side) ? "표시함" : "표시 지움"}`);
}

function put(item, choice, marks, comment) {
  const key = nextKey();
  const vote = { reviewer, item: item.id, a: item.a_id, choice, harmful: marks, comment, key: hex(16) };
  store.set(key, JSON.stringify(vote));
  if (choice === null) delete item.vote; else item.vote = vote;
  flush();
}

function vote(choice) {
  if ($("review").hidden || performance.now() - shownAt < PAUSE) return;
  const item = items[at];
  put(item, choice, harmful(), $("comment").value.trim());
  store.remove(DRAFT + reviewer + "." + item.id);
  given.push(at);
  at = nextOpen(at + 1);
  render(`${WORDS[choice]}, 기록했습니다. ` + (at < items.length ? `문항 ${at + 1}.` : "모두 마치셨습니다."));
}

const lastVoted = () => { // after a reload: the one before this in the reviewer's order
  if (given.length) return given.at(-1);
  for (let i = Math.min(at, items.length) - 1; i >= 0; i--) if (items[i].vote) return i;
  return -1;
};

function undo() {
  const i = lastVoted();
  if ($("review").hidden && $("done").hidden || i < 0) return;
  given.pop();
  const item = items[i], before = item.vote;
  put(item, null, [], "");
  store.set(DRAFT + reviewer + "." + item.id, JSON.stringify({ harmful: before.harmful, comment: before.comment }));
  at = i;
  render(`되돌렸습니다. 문항 ${i + 1}을 다시 골라 주세요.`);
}

function leave() {
  store.remove(WHO);
  reviewer = "";
  items = [];
  show("start");
  tellSaved();
  $("reviewer").value = "";
  offerName();
}

async function tryEnter(name) {
  try {
    await enter(name);
  } catch (error) {
    if (error.message === "422") $("banner").textContent = "이 이름은 쓸 수 없습니다. 1~40자로 적어 주세요.";
    else $("banner").textContent = "서버에 연결할 수 없습니다. 잠시 뒤 다시 시도해 주세요.";
    $("banner").hidden = false;
    show("start");
    $("reviewer").value = name;
  }
}

// ---- keys: by their place on the keyboard, so that they work in Korean input as well
const ACTIONS = {
  Digit1: () => vote("a"), Numpad1: () => vote("a"), ArrowLeft: () => vote("a"),
  Digit2: () => vote("b"), Numpad2: () => vote("b"), ArrowRight: () => vote("b"),
  Digit0: () => vote("equal"), Numpad0: () => vote("equal"), Equal: () => vote("equal"), NumpadEqual: () => vote("equal"),
  KeyQ: () => toggle("a"), KeyP: () => toggle("b"), KeyU: undo, KeyC: () => $("comment").focus(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || $("help").open) return;
  const target = event.target;
  if (target instanceof HTMLTextAreaElement || target instanceof HTMLInputElement) {
    if (event.code === "Escape" && target === $("comment")) $("title").focus();
    return;
  }
  if (!$("keys").checked || event.repeat || $("start").hidden === false) return;
  if (event.code === "KeyH" || event.key === "?") { event.preventDefault(); openHelp(); return; }
  const action = ACTIONS[event.code];
  if (!action || $("review").hidden && event.code !== "KeyU") return;
  event.preventDefault();
  action();
});

function openHelp() { $("help").showModal(); }

$("enter").addEventListener("submit", (event) => { event.preventDefault(); tryEnter($("reviewer").value); });
for (const choice of ["a", "b", "equal"]) $("vote-" + choice).addEventListener("click", () => vote(choice));
for (const side of ["a", "b"]) $("harm-" + side).addEventListener("click", () => toggle(side));
$("comment").addEventListener("input", () => keepDraft(items[at]));
$("undo").addEventListener("click", undo);
$("undo-done").addEventListener("click", undo);
$("leave").addEventListener("click", leave);
$("help-open").addEventListener("click", openHelp);
$("help-close").addEventListener("click", () => $("help").close());
$("keys").checked = store.get(KEYS) !== "off";
$("keys").addEventListener("change", () => { if ($("keys").checked) store.remove(KEYS); else store.set(KEYS, "off"); });
window.addEventListener("online", flush);

flush();
const known = store.get(WHO);
if (known) tryEnter(known); else { show("start"); offerName(); }
