"use strict";
// Texts of the data reach the page through textContent alone, never as markup.
const DATA = JSON.parse(document.getElementById("data").textContent);
const AT_ONCE = 50;
const MOST_OPTIONS = 200;
const NONE = "";
const ALL = "*";

const WORDS = {
  en: {
    switch: "中文", all: "all", none: "(none)", reset: "Reset", search: "Search in all fields", back: "← Back", on: "Next →",
    count: (n, all) => `${n} of ${all} rows on this page`,
    page: (n, all) => `page ${n} of ${all}`,
    more: (n) => `… ${n} more: use the search`,
    drawn: (d) => `${figure(d.rows.length)} of ${figure(d.total)} rows, ` +
      (d.rows.length < d.total ? `drawn evenly over scenario × label (rare ones whole), seed ${d.seed}` : "all there are") +
      (d.unreadable ? `; ${figure(d.unreadable)} not readable` : ""),
    keys: "/ search · j k next, previous row · Enter opens",
    shown: "shown", there: "in the data", others: "further fields", place: "file:line", reject: "left out", find: "Show",
    fields: {
      stage: "Stage", file: "File", scenario: "Scenario", sub_category: "Sub-category", label: "Label", source: "Source",
      origin: "Origin", intent: "Intent", last_step: "Last step", method: "Method", responder: "Answered by", votes: "Votes",
      reason: "Left out because",
    },
    values: { agree: "agree", differ: "differ", unreadable: "too few are readable", "安全": "safe", "不安全": "unsafe",
      "有争议": "controversial" },
  },
  zh: {
    switch: "English", all: "全部", none: "（无）", reset: "重置", search: "搜索所有字段", back: "← 上一页", on: "下一页 →",
    count: (n, all) => `本页 ${all} 条中的 ${n} 条`,
    page: (n, all) => `第 ${n} / ${all} 页`,
    more: (n) => `……另有 ${n} 项，请用搜索`,
    drawn: (d) => `共 ${figure(d.total)} 条，显示 ${figure(d.rows.length)} 条` +
      (d.rows.length < d.total ? `：按 场景 × 标签 均匀抽样（稀少者全取），种子 ${d.seed}` : "（全部）") +
      (d.unreadable ? `；${figure(d.unreadable)} 条无法读取` : ""),
    keys: "/ 搜索 · j k 下一条、上一条 · 回车展开",
    shown: "显示", there: "数据中", others: "其他字段", place: "文件:行", reject: "被剔除", find: "查看",
    fields: {
      stage: "阶段", file: "文件", scenario: "场景", sub_category: "子类别", label: "标签", source: "来源集", origin: "来源",
      intent: "意图", last_step: "最后一步", step: "步骤", method: "方法", responder: "回答者", votes: "投票", reason: "剔除原因",
      question: "问题", response: "回答", analyze: "分析", analysis: "分析", judge: "评判者", score: "不安全分数",
      made_by: "制作过程", elements: "要素", parent: "母条", model: "模型", prompt: "提示词", seed: "种子", refused: "拒答", query: "问题编号",
      category_name: "场景", sub_category_name: "子类别", id: "编号", label_by: "标签来自", text: "原文", messages: "对话",
    },
    values: {
      agree: "一致", differ: "不一致", unreadable: "可读的不足两票", harmful: "有害", borderline: "临界", benign: "日常",
      synthetic: "合成", real: "真实", translated: "翻译", "Synthetic Data": "合成数据", "Real Data": "真实数据",
      "Translated Data": "翻译数据",
    },
  },
};
const FIRST = ["question", "response", "messages", "label", "analyze", "votes", "parent", "made_by", "elements"];
// Of these fields the values have names in both languages; everything else is shown as it stands in the data.
const NAMED = new Set(["label", "intent", "origin", "source", "category_name", "sub_category_name"]);
const BADGES = new Map([["安全", "safe"], ["不安全", "unsafe"]]);
// No property of these can be mistaken for a word, whatever a data set calls its fields.
const CHINESE = new Map(Object.entries(DATA.chinese));
const FIELDS = { en: new Map(), zh: new Map(Object.entries(WORDS.zh.fields)) };
const VALUES = { en: new Map(Object.entries(WORDS.en.values)), zh: new Map(Object.entries(WORDS.zh.values)) };

const byId = (id) => document.getElementById(id);
const figure = (n) => n.toLocaleString("en");
let language = (navigator.language || "").toLowerCase().startsWith("zh") ? "zh" : "en";
let page = 0;
let found = [];
const chosen = new Map();
const selects = new Map();
const search = make("input", "");

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function fieldName(name) { return FIELDS[language].get(name) ?? name; }

function valueName(value) {
  if (value === NONE) return WORDS[language].none;
  return VALUES[language].get(value) ?? (language === "zh" ? CHINESE.get(value) : undefined) ?? value;
}

// Filters and their counts

const facetOf = (entry, name) => (Object.hasOwn(entry.facets, name) ? entry.facets[name] : NONE);

function gather(value, texts) {
  if (Array.isArray(value)) value.forEach((one) => gather(one, texts));
  else if (value !== null && typeof value === "object") Object.values(value).forEach((one) => gather(one, texts));
  else if (value !== null) texts.push(String(value));
  return texts;
}

function prepare() {
  for (const entry of DATA.rows) entry.hay = gather([entry.row, entry.reject], []).join("\n").toLowerCase();
  for (const name of DATA.facets) {
    const counts = new Map();
    for (const entry of DATA.rows) {
      const value = facetOf(entry, name);
      counts.set(value, (counts.get(value) ?? 0) + 1);
    }
    if (counts.size > 1) addSelect(name, [...counts].sort((a, b) => b[1] - a[1]).map(([value]) => value));
  }
}

function addSelect(name, values) {
  const select = make("select");
  // An option's value is its place in the list: a text of the data could be any value.
  const kept = values.slice(0, MOST_OPTIONS);
  select.append(...[ALL, ...kept].map((_, place) => Object.assign(make("option"), { value: String(place - 1) })));
  if (values.length > kept.length) select.append(Object.assign(make("option"), { disabled: true }));
  select.addEventListener("change", () => {
    if (Number(select.value) < 0) chosen.delete(name);
    else chosen.set(name, kept[Number(select.value)]);
    filter();
  });
  selects.set(name, { select, kept, cut: values.length - kept.length });
}

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const counts = new Map([...selects.keys()].map((name) => [name, new Map()]));
  found = [];
  for (const entry of DATA.rows) {
    if (!words.every((word) => entry.hay.includes(word))) continue;
    const missed = [...chosen].filter(([name, value]) => facetOf(entry, name) !== value).map(([name]) => name);
    if (!missed.length) found.push(entry);
    if (missed.length > 1) continue;
    // The counts of a filter are those under all others: what choosing another value would give.
    for (const name of missed.length ? missed : counts.keys()) {
      const of = counts.get(name);
      of.set(facetOf(entry, name), (of.get(facetOf(entry, name)) ?? 0) + 1);
    }
  }
  for (const [name, { select, kept, cut }] of selects) {
    const of = counts.get(name);
    const all = [...of.values()].reduce((sum, n) => sum + n, 0);
    select.options[0].textContent = `${WORDS[language].all} (${figure(all)})`;
    kept.forEach((value, place) => {
      select.options[place + 1].textContent = `${valueName(value)} (${figure(of.get(value) ?? 0)})`;
    });
    if (cut) select.options[kept.length + 1].textContent = WORDS[language].more(figure(cut));
    select.classList.toggle("set", chosen.has(name));
  }
  page = 0;
  show();
}

function reset() {
  chosen.clear();
  search.value = "";
  for (const { select } of selects.values()) select.value = "-1";
  filter();
}

// Rows

function show() {
  const pages = Math.max(1, Math.ceil(found.length / AT_ONCE));
  const words = WORDS[language];
  byId("rows").replaceChildren(...found.slice(page * AT_ONCE, (page + 1) * AT_ONCE).map(line));
  byId("count").textContent = words.count(figure(found.length), figure(DATA.rows.length));
  byId("page").textContent = words.page(page + 1, pages);
  byId("back").disabled = page === 0;
  byId("on").disabled = page + 1 >= pages;
}

function line(entry) {
  const details = make("details", undefined, "row");
  const summary = make("summary");
  const label = facetOf(entry, "label");
  const reason = facetOf(entry, "reason");
  const said = ["question", "text", "response"].map((name) => entry.row[name] ?? entry.reject[name]);
  // Where the votes give no label, how they stand.
  const badge = make("span", valueName(label || facetOf(entry, "votes")), `badge ${BADGES.get(label) ?? "other"}`);
  badge.hidden = !label && !facetOf(entry, "votes");
  const where = [facetOf(entry, "sub_category") || facetOf(entry, "scenario"), reason].filter(Boolean).map(valueName);
  const text = said.find((one) => typeof one === "string") ?? JSON.stringify(entry.row);
  summary.append(badge, make("span", where.join(" · "), "where"), make("span", text.slice(0, 200), "said"));
  details.append(summary);
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(whole(entry));
  });
  return details;
}

function whole(entry) {
  const list = make("dl", undefined, "all");
  if (Object.keys(entry.reject).length) list.append(make("dt", WORDS[language].reject), cell("dd", entry.reject));
  for (const name of FIRST.filter((one) => Object.hasOwn(entry.row, one))) {
    const shown = cell("dd", entry.row[name], name);
    if (name === "parent" && entry.row.parent) shown.append(" ", finder(String(entry.row.parent)));
    list.append(make("dt", fieldName(name)), shown);
  }
  const others = Object.entries(entry.row).filter(([name]) => !FIRST.includes(name));
  const rest = make("dd");
  rest.append(pairs([...others, [WORDS[language].place, entry.place]]));
  list.append(make("dt", WORDS[language].others), rest);
  return list;
}

function finder(id) {
  const button = make("button", WORDS[language].find);
  button.type = "button";
  button.addEventListener("click", () => {
    reset();
    search.value = id;
    filter();
    search.focus();
  });
  return button;
}

function cell(tag, value, name) {
  const element = make(tag);
  const isRecord = (one) => one !== null && typeof one === "object" && !Array.isArray(one);
  const empty = value === "" || value === null || value === undefined;
  if (empty || (typeof value === "object" && !Object.keys(value).length)) {
    element.append(make("span", WORDS[language].none, "none"));
  } else if (Array.isArray(value) && value.every(isRecord)) {
    const columns = [...new Set(value.flatMap((one) => Object.keys(one)))];
    const rows = value.map((one) => columns.map((key) => cell("td", Object.hasOwn(one, key) ? one[key] : null, key)));
    element.append(table(columns.map(fieldName), rows));
  } else if (isRecord(value)) {
    element.append(pairs(Object.entries(value)));
  } else {
    const text = typeof value === "string" ? value : JSON.stringify(value);
    element.append(make(tag === "td" ? "span" : "div", NAMED.has(name) ? valueName(text) : text, "text"));
    if (tag === "td" && typeof value === "number") element.className = "figure";
  }
  return element;
}

function pairs(entries) {
  return table([], entries.map(([name, value]) => [make("th", fieldName(name)), cell("td", value, name)]));
}

function table(head, rows) {
  const scroll = make("div", undefined, "scroll");
  const grid = make("table");
  if (head.length) {
    const top = make("tr");
    top.append(...head.map((name) => make("th", name)));
    grid.append(top);
  }
  for (const row of rows) {
    const tr = make("tr");
    tr.append(...row);
    grid.append(tr);
  }
  scroll.append(grid);
  return scroll;
}

// Words, keys, and the first view

function speak() {
  const words = WORDS[language];
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  byId("language").textContent = words.switch;
  byId("drawn").textContent = words.drawn(DATA);
  byId("keys").textContent = words.keys;
  byId("back").textContent = words.back;
  byId("on").textContent = words.on;
  const strata = DATA.strata.map(([scenario, label, ...counts]) =>
    [cell("td", scenario, "category_name"), cell("td", label, "label"), ...counts.map((n) => cell("td", n))]);
  byId("strata").replaceChildren(table([words.fields.scenario, words.fields.label, words.shown, words.there], strata));
  const form = byId("filters");
  const labels = [...selects].map(([name, { select }]) => labelled(WORDS[language].fields[name], select));
  const free = labelled(words.search, search);
  free.className = "wide";
  const clear = make("button", words.reset);
  clear.type = "button";
  clear.addEventListener("click", reset);
  form.replaceChildren(free, ...labels, clear);
  filter();
}

function labelled(name, control) {
  const label = make("label", name);
  label.append(control);
  return label;
}

function step(by) {
  const lines = [...document.querySelectorAll(".row > summary")];
  const at = lines.indexOf(document.activeElement);
  const next = lines[at < 0 ? 0 : Math.min(lines.length - 1, Math.max(0, at + by))];
  if (next) next.focus();
}

function turn(by) {
  page += by;
  show();
  byId("count").scrollIntoView();
}

let waiting = 0;
search.type = "search";
search.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(filter, 120);
});
byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("back").addEventListener("click", () => turn(-1));
byId("on").addEventListener("click", () => turn(1));
byId("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  speak();
});
document.addEventListener("keydown", (event) => {
  const typing = ["INPUT", "SELECT"].includes(event.target.tagName);
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") {
    event.preventDefault();
    search.focus();
  } else if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
});
prepare();
speak();
