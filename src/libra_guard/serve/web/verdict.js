// A verdict as it is shown: word and scales, score with threshold, policy, evidence, categories.
import { byId, inLanguage, inOther, make, markLanguage, onLanguage, other, t } from "./words.js";

const KINDS = new Map([["安全", "safe"], ["不安全", "unsafe"], ["有争议", "controversial"]]);
const SCENARIOS = [
  "Illegal Activities and Crime", "Bias and Discrimination", "Privacy and Property", "Rumors and Misinformation",
  "Hate Speech and Abuse", "Ethics and Morality", "Physical and Mental Health",
];
// What one thinks of when one sees the label.
const EXPECTED = { safe: "pass", controversial: "review", unsafe: "block", unreadable: "block" };
const TILT_LEAST = 4, TILT_MOST = 13, ARM = 56;
// How the analysis names the evidence and the score without it (guards/templates/mini_analysis.*.j2).
const QUOTES = [
  /去掉“(?<sentence>[^]+)”后得分降至 (?<without>[\d.]+)，/,
  /Without “(?<sentence>[^]+)” the score falls to (?<without>[\d.]+):/,
];
// The notes that the page knows, which the server has in English (guards/base.py, guards/windows.py).
const NOTES = [
  [/^(?<n>\d+) earlier messages were not read$/, "note_unread"],
  [/^the question was shortened to its beginning and end$/, "note_shortened"],
];
const slider = byId("threshold");
let shown = null;
let listed = [];
// The threshold that the user set; null while the server's is in force.
let own = null;

/** Shows a judgement, `{messages, answer, ms}`, or with null the empty page; `categories`: the guard's, as listed. */
export function show(judgement, categories = []) {
  shown = judgement;
  listed = categories;
  byId("weighed").hidden = !shown;
  byId("empty").hidden = Boolean(shown);
  byId("spoken").classList.toggle("away", !shown);
  if (!shown) {
    for (const id of ["took", "outcome", "apart-label"]) byId(id).textContent = "";
    return showLabel("", "", 0);
  }
  const { verdict, decision, answer } = resultOf(shown);
  showDecision(decision, answer, kindOf(shown));
  showEvidence(verdict);
  showCategories(verdict.categories ?? {});
  showAnalysis(verdict);
  return decide();
}

/** Forgets a threshold that was set by hand. */
export function resetThreshold() {
  own = null;
}

/** The threshold set by hand, or null. */
export const ownThreshold = () => own;

/** What a judgement says in one word, as the server has it: safe, unsafe, controversial, unreadable. */
export const kindOf = (judgement) => KINDS.get(resultOf(judgement).verdict.label) ?? "unreadable";

const resultOf = (judgement) => judgement.answer.results[0];
const twoDigits = (value) => value.toFixed(2);
// Of a score that rounds to the threshold one has to see on which side it is.
const scoreBeside = (score, threshold) => score.toFixed(twoDigits(score) === twoDigits(threshold) ? 4 : 2);

// The label by the threshold in force, and everything that hangs on it.
function decide() {
  const { verdict, decision, threshold: given } = resultOf(shown);
  const score = typeof verdict.unsafe_score === "number" ? verdict.unsafe_score : null;
  const server = kindOf(shown);
  // What could not be read stays unreadable, whatever the threshold.
  const moved = own !== null && score !== null && server !== "unreadable";
  const threshold = moved ? own : given ?? 0.5;
  const kind = moved ? (score >= own ? "unsafe" : "safe") : server;
  const target = shown.messages.at(-1).role === "assistant" ? "response" : "prompt";
  const about = server === "unreadable" ? "unreadable_about" : `about_${target}`;
  const lean = score === null ? { safe: -1, unsafe: 1, unreadable: 1 }[kind] ?? 0 : score - threshold;
  showLabel(kind, t(about, { guard: shown.answer.guard }), kind === "controversial" ? 0 : lean);
  byId("took").textContent = t("took", { ms: shown.ms });
  byId("apart-label").textContent = kind === server ? "" : t("apart_label", { value: twoDigits(threshold), label: t(server) });
  const heard = score === null ? [] : [t("heard_score", { score: scoreBeside(score, threshold) })];
  byId("outcome").textContent = [...heard, t("heard_action", { action: t(decision.action) })].join(" ");
  byId("score").textContent = score === null ? t("no_score") : scoreBeside(score, threshold);
  byId("rod").classList.toggle("no-score", score === null || server === "unreadable");
  byId("fill").style.width = `${(score ?? 0) * 100}%`;
  byId("rod").dataset.kind = kind;
  const meter = byId("meter");
  if (score === null) meter.removeAttribute("aria-valuenow");
  else meter.setAttribute("aria-valuenow", score);
  slider.value = threshold;
  slider.setAttribute("aria-valuetext", t("threshold_value", { value: twoDigits(threshold), score: twoDigits(score ?? 0) }));
  byId("threshold-value").textContent = twoDigits(threshold);
  const back = byId("reset");
  back.hidden = !moved || given === null;
  back.textContent = t("reset", { value: twoDigits(given ?? 0.5) });
  const names = { value: twoDigits(threshold), own: given === null ? "–" : twoDigits(given), label: t(server) };
  byId("redecided").textContent = t(moved ? "redecided" : "redecide", names);
  byId("apart").hidden = !moved;
}

function showLabel(kind, about, lean) {
  byId("head").dataset.kind = kind;
  byId("label").textContent = kind && t(kind);
  byId("basis").textContent = about;
  const size = Math.min(TILT_MOST, TILT_LEAST + Math.abs(lean) * 16);
  const angle = lean === 0 ? 0 : Math.sign(lean) * size;
  const turned = (angle * Math.PI) / 180;
  const style = byId("scales").style;
  style.setProperty("--tilt", `${angle}deg`);
  style.setProperty("--down", `${ARM * Math.sin(turned)}px`);
  style.setProperty("--in", `${ARM * (1 - Math.cos(turned))}px`);
}

function showDecision({ action, would, policy, mode, scenarios, guessed, reason, listed: found }, answer, kind) {
  const line = byId("action");
  line.replaceChildren(make("strong", t(action)), t("by_policy", { policy }));
  line.dataset.action = action;
  const said = [];
  if (mode === "monitor") said.push(t("monitor", { action: t(would) }));
  if (scenarios.length) said.push(t(guessed ? "guessed" : "against", { names: scenarios.map(wordOf).join(t("comma")) }));
  const reasons = said.map((one) => make("li", one));
  if (would !== EXPECTED[kind]) {
    // The server's words, which are English; told where the label does not explain the action.
    const why = make("li", found ? `${reason}: ${found}` : reason);
    why.lang = "en";
    reasons.push(why);
  }
  byId("reasons").replaceChildren(...reasons);
  byId("instead").hidden = answer === null;
  byId("answer").textContent = answer ?? "";
  markLanguage(byId("answer"));
}

/** The sentence that moved the score most, `{start, end, without}` in the text, or null. */
export function evidenceIn(text, analysis) {
  const quote = QUOTES.map((pattern) => pattern.exec(analysis ?? "")).find(Boolean);
  if (!quote) return null;
  // It is quoted on one line, and what would act on the text around it as U+FFFD.
  const pattern = Array.from(quote.groups.sentence.trim().replace(/\s+/g, " "), (one) => {
    if (one === " ") return "[\\s\\x1c-\\x1f\\x85]+";
    return one === "\ufffd" ? "[^]" : one.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
  }).join("");
  const found = new RegExp(pattern, "u").exec(text);
  return found && { start: found.index, end: found.index + found[0].length, without: Number(quote.groups.without) };
}

function showEvidence({ analysis }) {
  const text = shown.messages.at(-1).content;
  const found = evidenceIn(text, analysis);
  byId("weight").hidden = !found;
  if (!found) return;
  byId("without").textContent = t("without", { score: twoDigits(found.without) });
  const mark = make("mark", text.slice(found.start, found.end));
  const box = byId("judged");
  box.replaceChildren(text.slice(0, found.start), mark, text.slice(found.end));
  markLanguage(box);
  box.scrollTop = mark.offsetTop - box.offsetTop - box.clientHeight / 3;
}

// A category in the page's language and in the other one; one that nobody knows is called what the guard calls it.
function wordOf(name) {
  return SCENARIOS.includes(name) ? t(name) : listedName(name, inLanguage);
}

function otherWordOf(name) {
  return SCENARIOS.includes(name) ? other(name) : listedName(name, inOther);
}

function listedName(code, choose) {
  const one = listed.find((category) => category.code === code);
  return one ? choose({ zh: one.name_zh, en: one.name }) : code;
}

function showCategories(categories) {
  const names = Object.keys(categories);
  const libra = names.length > 0 && names.every((name) => SCENARIOS.includes(name));
  const order = libra ? SCENARIOS : names.sort((a, b) => categories[b] - categories[a]);
  byId("kinds").hidden = names.length === 0;
  byId("kinds-title").textContent = t(libra ? "scenarios" : "categories");
  byId("categories").replaceChildren(...order.map((name) => {
    const score = categories[name] ?? 0;
    const row = make("li", undefined, "kind");
    const words = make("span", wordOf(name), "name");
    const also = otherWordOf(name);
    if (also !== words.textContent) {
      const second = make("small", also, "other");
      markLanguage(second);
      words.append(" ", second);
    }
    const bar = make("span", undefined, "bar");
    bar.setAttribute("aria-hidden", "true");
    const fill = make("span");
    fill.style.width = `${score * 100}%`;
    bar.append(fill);
    row.append(words, bar, make("span", twoDigits(score), "figure"));
    row.classList.toggle("high", score >= 0.5);
    return row;
  }));
}

function showAnalysis({ analysis, notes }) {
  byId("said").hidden = !analysis && !notes?.length;
  byId("analysis").textContent = analysis ?? "";
  markLanguage(byId("analysis"));
  byId("notes").replaceChildren(...(notes ?? []).map(noteLine));
}

function noteLine(note) {
  for (const [pattern, key] of NOTES) {
    const found = pattern.exec(note);
    if (found) return make("li", t(key, found.groups));
  }
  const line = make("li", note);
  markLanguage(line);
  return line;
}

slider.addEventListener("input", () => {
  own = Number(slider.value);
  decide();
});
byId("reset").addEventListener("click", () => {
  own = null;
  decide();
  slider.focus();
});
onLanguage(() => show(shown, listed));
