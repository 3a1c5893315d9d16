
"use strict";
(function () {
  const table = document.getElementById("table");
  if (!table) return;
  const PAGE = 200;
  const element = (id) => document.getElementById(id);
  const words = element("words"), chip = element("chip"), shown = element("shown"), rest = element("rest");
  const heads = Array.from(table.tHead.rows[0].cells);
  const keys = heads.map((head) => head.dataset.key);
  const { one, many } = table.dataset;
  const section = table.closest("section");
  const links = Array.from(document.querySelectorAll("[data-find]"));
  const fixed = Array.from(table.children).filter((child) => child.localName !== "tbody");
  const text = (cell) => cell.textContent.trim();
  const bodies = Array.from(table.tBodies);
  let order = bodies.map((body, at) => ({ body, at, cells: null, all: null }));
  let matching = order, limit = PAGE, token = null;

  // What a row says is read when it is first needed: 5,000 rows need not be at once.
  const cells = (row) => row.cells || (row.cells = Array.from(row.body.rows[0].cells, text));
  const all = (row) => row.all || (row.all = row.body.textContent.toLowerCase());
  const count = (number) => number.toLocaleString("en");

  function found(row) {
    if (!token) return true;
    const at = token.indexOf("=");
    if (at > 0) return cells(row)[keys.indexOf(token.slice(0, at))] === token.slice(at + 1).trim();
    return row.body.dataset.is.split(" ").includes(token);
  }

  function show() {
    const visible = Math.min(limit, matching.length);
    table.classList.toggle("long", visible > PAGE);  // the style has it laid out in parts
    table.replaceChildren(...fixed, ...matching.slice(0, limit).map((row) => row.body));
    shown.textContent = matching.length === order.length ? `${count(order.length)} ${many}`
      : matching.length ? `${count(matching.length)} of ${count(order.length)} ${many}` : `No ${one} is like that`;
    rest.hidden = visible === matching.length;
    element("next").textContent = `Show ${count(Math.min(PAGE, matching.length - visible))} more`;
    element("all").textContent = `Show all ${count(matching.length)}`;
  }

  function filter() {
    chip.hidden = !token;
    chip.textContent = token ? named() : "";
    chip.setAttribute("aria-label", `Show all again, not only: ${chip.textContent}`);
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    matching = order.filter((row) => found(row) && wanted.every((word) => all(row).includes(word)));
    limit = PAGE;
    show();
  }

  // The filter is in the address, behind the #: #find=drift&words=web. So it can be kept, sent, and gone back from.
  function address() {
    const parts = new URLSearchParams();
    if (token) parts.set("find", token);
    if (words.value) parts.set("words", words.value);
    return `#${parts.toString() || section.id}`;
  }

  function goTo(value, text, anew) {
    token = value;
    if (words.value !== text) words.value = text;  // where it is typed, the cursor stays
    filter();
    if ((location.hash || `#${section.id}`) !== address())
      history[anew ? "pushState" : "replaceState"](null, "", address());
  }

  function fromAddress() {
    const parts = new URLSearchParams(location.hash.slice(1));
    token = parts.get("find") || null;
    words.value = parts.get("words") || "";
    filter();
    return token !== null || words.value !== "";
  }

  function named() {
    const link = links.find((one) => one.dataset.find === token);
    return link ? link.dataset.name || link.getAttribute("aria-label") || link.textContent.replace(/^\d[\d,]* /, "") : token;
  }

  function sort(column) {
    const head = heads[column];
    const numeric = head.classList.contains("n");
    const rank = head.dataset.rank && [...head.dataset.rank.split(" "), ""];
    const now = head.getAttribute("aria-sort");
    const up = now ? now === "descending" : !numeric;
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const collator = new Intl.Collator("en", { numeric: true });
    const key = numeric ? (row) => Number(cells(row)[column].replace(/,/g, "") || NaN)
      : rank ? (row) => rank.indexOf(cells(row)[column]) : (row) => cells(row)[column];
    const keyed = order.map((row) => [key(row), row]);
    const empty = (value) => value === "" || Number.isNaN(value);
    keyed.sort(([a, x], [b, y]) => {
      if (empty(a) || empty(b)) return empty(a) - empty(b) || x.at - y.at;  // what is not known comes last, always
      const by = typeof a === "number" ? a - b : collator.compare(a, b);
      return (up ? by : -by) || x.at - y.at;
    });
    order = keyed.map(([, row]) => row);
    filter();
  }

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(column));
  });
  for (const link of links) {
    link.href = `#${new URLSearchParams({ find: link.dataset.find })}`;
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;  // it is to open elsewhere
      event.preventDefault();
      goTo(link.dataset.find, "", true);
      section.scrollIntoView();
    });
  }
  chip.addEventListener("click", () => {
    goTo(null, words.value, true);
    words.focus();
  });
  // What is typed at one time is one place to come back from.
  let typing = false;
  words.addEventListener("input", () => {
    goTo(token, words.value, !typing);
    typing = true;
  });
  for (const end of ["change", "blur"]) words.addEventListener(end, () => { typing = false; });
  words.addEventListener("keydown", (event) => {
    if (event.key === "Escape") goTo(null, "", true);
  });
  addEventListener("popstate", () => {
    typing = false;
    fromAddress();
  });
  element("next").addEventListener("click", () => {
    limit += PAGE;
    show();
  });
  element("all").addEventListener("click", () => {
    limit = Infinity;
    show();
  });
  let before = limit;
  addEventListener("beforeprint", () => {
    before = limit;
    limit = Infinity;
    show();
  });
  addEventListener("afterprint", () => {
    limit = before;
    show();
  });
  table.classList.add("sortable");
  element("tools").hidden = false;
  if (fromAddress()) section.scrollIntoView();
  document.documentElement.classList.remove("scripted");
})();
