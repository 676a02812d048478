// Search, filter and order of the answers. Everything else on the page works without this.
(() => {
  "use strict";
  const form = document.querySelector(".controls");
  if (!form) return;
  const list = document.getElementById("list");
  const count = document.getElementById("count");
  const more = document.getElementById("more");
  const [find, set, verdict, sort] = ["find", "set", "verdict", "sort"].map((id) => document.getElementById(id));
  const items = [...list.children];
  const CHUNK = 40; // a phone draws so many at once without a pause
  let shown = CHUNK;
  const texts = new Map(); // lower-case text of an item, made when it is first searched
  const text = (item) => {
    if (!texts.has(item)) texts.set(item, item.textContent.normalize("NFC").toLowerCase());
    return texts.get(item);
  };
  const rank = (item) => Number(item.dataset.rank);
  const orders = {
    worst: (a, b) => rank(a) - rank(b),
    best: (a, b) => rank(b) - rank(a),
    id: (a, b) => a.dataset.set.localeCompare(b.dataset.set) || a.dataset.id.localeCompare(b.dataset.id, "en", { numeric: true }),
  };

  function show() {
    const words = find.value.normalize("NFC").toLowerCase().split(/\s+/).filter(Boolean);
    const found = items.filter(
      (item) =>
        (!set.value || item.dataset.set === set.value) &&
        (!verdict.value || item.dataset.verdict === verdict.value) &&
        words.every((word) => text(item).includes(word)),
    );
    found.sort(orders[sort.value]);
    const now = found.slice(0, shown);
    list.replaceChildren(...now);
    const all = found.length === items.length ? `${items.length} prompts` : `${found.length} of ${items.length} prompts`;
    count.textContent = now.length < found.length ? `${all}, the first ${now.length} are shown` : all;
    more.hidden = now.length === found.length;
  }
  function anew() {
    shown = CHUNK;
    show();
  }

  let waiting;
  find.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(anew, 120);
  });
  for (const control of [set, verdict, sort]) control.addEventListener("change", anew);
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const next = list.children.length;
    shown += CHUNK;
    show();
    list.children[next]?.querySelector("summary").focus();
  });
  form.hidden = false;
  show();
})();
