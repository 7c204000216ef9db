// The conversation as it is written: turns, and what of pasted JSON is one.
import { byId, make, markLanguage, onLanguage, t } from "./words.js";

const ROLES = ["user", "assistant", "system"];
const list = byId("turns");
const told = byId("read");
let changed = () => {};

/** Calls back after every change of the conversation. */
export function onChange(callback) {
  changed = callback;
}

/** What is written, blank turns left out: `[{role, content}]`. */
export function messages() {
  return turns()
    .map(({ role, area }) => ({ role: role.value, content: area.value }))
    .filter(({ content }) => content.trim());
}

/** Writes a conversation into the page; a lone question gets an empty answer behind it, nothing an empty pair. */
export function write(conversation) {
  list.replaceChildren();
  for (const { role, content } of conversation) append(role, content);
  while (list.children.length < 2) append(nextRole());
  told.replaceChildren();
  number();
  changed();
}

/** Goes to the first text. */
export function focusFirst() {
  turns()[0].area.focus();
}

/** The conversation that a pasted text is the JSON of, or null: {question, response}, {messages} or the list alone. */
export function conversationOf(text) {
  if (!/^\s*[[{]/.test(text)) return null;
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof value?.question === "string") {
    const question = { role: "user", content: value.question };
    const answered = typeof value.response === "string" && value.response;
    return answered ? [question, { role: "assistant", content: value.response }] : [question];
  }
  const given = Array.isArray(value) ? value : value?.messages;
  if (!Array.isArray(given) || !given.length) return null;
  const found = given.map((one) => ({ role: one?.role, content: plain(one?.content) }));
  return found.every(({ role, content }) => ROLES.includes(role) && content !== null) ? found : null;
}

// A message in parts, as chat interfaces have it, is its texts; one with a picture is none that can be judged.
function plain(content) {
  if (typeof content === "string") return content;
  if (!Array.isArray(content) || !content.every((part) => typeof part?.text === "string")) return null;
  return content.map((part) => part.text).join("\n");
}

function turns() {
  return Array.from(list.children, (item) => item.parts);
}

function nextRole() {
  return turns().at(-1)?.role.value === "user" ? "assistant" : "user";
}

function append(role, content = "") {
  const item = make("li", undefined, "turn");
  const select = make("select", undefined, "role");
  for (const name of ROLES) select.append(new Option(name, name));
  select.value = role;
  const tag = make("span", undefined, "tag");
  const remove = make("button", undefined, "quiet remove");
  remove.type = "button";
  const area = make("textarea");
  area.rows = 2;
  area.value = content;
  area.spellcheck = false;
  const head = make("div", undefined, "turn-head");
  head.append(select, tag, remove);
  item.append(head, area);
  item.parts = { item, role: select, tag, remove, area };
  select.addEventListener("change", edited);
  area.addEventListener("input", (event) => {
    if (event.inputType === "insertFromPaste" || event.inputType === "insertFromDrop") readPasted(area);
    edited();
  });
  remove.addEventListener("click", () => {
    const at = turns().findIndex((one) => one.item === item);
    item.remove();
    if (!list.children.length) append("user");
    edited();
    turns()[Math.max(0, at - 1)].area.focus();
  });
  list.append(item);
  return item.parts;
}

function edited() {
  number();
  changed();
}

function readPasted(area) {
  const text = area.value;
  const found = conversationOf(text);
  if (!found) return;
  const before = turns().map((one) => ({ role: one.role.value, content: one.area.value }));
  write(found);
  turns().at(-1).area.focus();
  const back = make("button", t("as_text"), "quiet");
  back.type = "button";
  back.addEventListener("click", () => write(before));
  told.append(t("recognised", { n: found.length }), " ", back);
}

// Numbers, names and the tag on what is judged, after any change.
function number() {
  const all = turns();
  const judged = all.findLast(({ area }) => area.value.trim());
  all.forEach(({ item, role, tag, remove, area }, place) => {
    const n = place + 1;
    item.dataset.role = role.value;
    for (const option of role.options) option.textContent = t(option.value);
    role.setAttribute("aria-label", t("role", { n }));
    const hint = { user: "question_hint", assistant: "answer_hint", system: "system_hint" }[role.value];
    area.placeholder = t(hint);
    markLanguage(area, area.value);
    area.setAttribute("aria-label", `${t("turn", { n })} · ${t(role.value)}`);
    tag.textContent = judged && judged.item === item && role.value !== "system" ? t("judged_tag") : "";
    remove.textContent = t("remove");
    remove.setAttribute("aria-label", t("remove_turn", { n }));
    remove.hidden = all.length === 1;
  });
}

byId("add").addEventListener("click", () => {
  append(nextRole()).area.focus();
  edited();
});
byId("clear").addEventListener("click", () => {
  write([]);
  focusFirst();
});
onLanguage(number);
