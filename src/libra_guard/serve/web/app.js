// The page: asks the server, shows its verdict, keeps what was judged while the page is open.
import { asCurl, hasKey, judge, list, ServerError, useKey } from "./server.js";
import { focusFirst, messages, onChange, write } from "./turns.js";
import { kindOf, ownThreshold, resetThreshold, show } from "./verdict.js";
import { byId, inLanguage, make, markLanguage, onLanguage, t } from "./words.js";

const TYPING_MS = 500;
const REMEMBERED = 30;
const PREVIEW = 60;
const guard = byId("guard"), policy = byId("policy"), live = byId("live");
const offered = { guards: [], policies: [] };
const past = [];
let current = null;
let trouble = null;
let asking = null;
let typing = 0;

async function ask({ typed = false } = {}) {
  stop();
  const said = messages();
  if (!said.length || said.at(-1).role === "system") {
    if (typed) return;
    refuse(said.length ? "last_system" : "nothing");
    focusFirst();
    return;
  }
  const request = { conversations: [{ messages: said }], explain: true };
  if (guard.value) request.guard = guard.value;
  if (policy.value) request.policy = policy.value;
  const mine = (asking = new AbortController());
  busy(true);
  const began = performance.now();
  try {
    const answer = await judge(request, mine.signal);
    succeed({ request, answer, messages: said, ms: Math.max(1, Math.round(performance.now() - began)) }, typed);
  } catch (error) {
    if (mine.signal.aborted) return;
    refuse(error, typed);
  } finally {
    if (asking === mine) {
      asking = null;
      busy(false);
    }
  }
}

function busy(now) {
  byId("judge").textContent = t(now ? "judging" : "judge");
  byId("form").setAttribute("aria-busy", String(now));
  showAge();
}

function stop() {
  clearTimeout(typing);
  asking?.abort();
  asking = null;
  busy(false);
}

// A verdict is never shown as if it were of what is written or chosen now when it is not.
function showAge() {
  const old = current !== null && (asking !== null || isOutdated(current.request));
  byId("result").classList.toggle("old", old);
  const told = !old ? "" : t(asking ? "old_asking" : "old");
  // A live region says again what is set again, though it be the same.
  if (byId("age").textContent !== told) byId("age").textContent = told;
}

function isOutdated({ conversations, guard: itsGuard = "", policy: itsPolicy = "" }) {
  const now = [messages(), guard.value, policy.value];
  return JSON.stringify(now) !== JSON.stringify([conversations[0].messages, itsGuard, itsPolicy]);
}

function succeed(judgement, typed) {
  fail(null);
  showCurrent(judgement);
  if (!typed) for (const id of ["rod", "head"]) byId(id).scrollIntoView({ block: "nearest" });
  // While one types, a conversation is one entry, not one for every pause.
  if (typed && past[0]?.typed) past.shift();
  past.unshift({ ...judgement, typed });
  past.length = Math.min(past.length, REMEMBERED);
  showPast();
  // The server was away when the page was opened.
  if (!offered.guards.length) load();
}

function showCurrent(judgement) {
  current = judgement;
  byId("copied").textContent = "";
  show(current, offered.guards.find(({ id }) => id === current?.answer.guard)?.categories);
  showAge();
}

// Nothing was judged: an earlier verdict beside the reason would look like the answer.
function refuse(what, typed = false) {
  showCurrent(null);
  fail(what);
  if (typed) return;
  byId("trouble").scrollIntoView({ block: "nearest" });
  if (what?.status === 401) byId("key").focus();
}

// An error of the server, a text's key, or null for none.
function fail(what) {
  trouble = what;
  const box = byId("trouble");
  // That a key is needed is no alarm: the form for it says so.
  box.hidden = !what || (what.status === 401 && !hasKey());
  box.textContent = !what ? "" : typeof what === "string" ? t(what) : what instanceof ServerError ? what.words() : String(what);
  byId("key-form").hidden = what?.status !== 401;
}

function showPast() {
  byId("past").hidden = !past.length;
  byId("history").replaceChildren(...past.map((one) => {
    const button = make("button", undefined, "quiet");
    button.type = "button";
    const kind = kindOf(one);
    const word = make("strong", t(kind));
    word.dataset.kind = kind;
    const text = one.messages.at(-1).content;
    const begins = make("span", Array.from(text.slice(0, 2 * PREVIEW)).slice(0, PREVIEW).join(""), "begins");
    markLanguage(begins);
    button.append(word, begins);
    button.addEventListener("click", () => {
      stop();
      fail(null);
      write(one.messages);
      clearTimeout(typing);
      choose(one.request);
      showCurrent(one);
    });
    const item = make("li");
    item.append(button);
    return item;
  }));
}

async function copy(text) {
  let done = false;
  try {
    await navigator.clipboard.writeText(text);
    done = true;
  } catch {
    // Pages that did not come over https or from this machine have no clipboard, but may copy what is selected.
    const area = make("textarea", text, "hidden-area");
    document.body.append(area);
    const before = document.activeElement;
    area.select();
    done = document.execCommand("copy");
    area.remove();
    before?.focus();
  }
  byId("copied").textContent = t(done ? "copied" : "not_copied");
}

// The first choice is none: the server's default, or the guard that the policy asks for.
function options(select, entries, preferred) {
  const chosen = select.value;
  const ids = entries.map(({ id }) => id).filter((id) => id !== preferred);
  // A policy that is called "default" has said it.
  const first = !preferred ? t("server_default") : preferred === "default" ? preferred : t("default", { name: preferred });
  select.replaceChildren(new Option(first, ""), ...ids.map((id) => new Option(id, id)));
  select.value = ids.includes(chosen) ? chosen : "";
}

function showOffered() {
  const byDefault = (entries) => entries.find((one) => one.default);
  options(policy, offered.policies, byDefault(offered.policies)?.id);
  const profile = offered.policies.find(({ id }) => id === policy.value) ?? byDefault(offered.policies);
  options(guard, offered.guards, profile?.guard ?? byDefault(offered.guards)?.id);
}

// The guard and the policy that a request was made with.
function choose({ guard: itsGuard = "", policy: itsPolicy = "" }) {
  if (guard.value === itsGuard && policy.value === itsPolicy) return;
  resetThreshold();
  policy.value = itsPolicy;
  showOffered();
  guard.value = itsGuard;
}

async function load() {
  const before = trouble;
  try {
    [offered.guards, offered.policies] = await Promise.all([list("guards"), list("policies")]);
    // What went wrong in the meantime is another matter.
    if (trouble === before) fail(null);
  } catch (error) {
    fail(error);
  }
  showOffered();
}

async function loadExamples() {
  const response = await fetch("web/examples.json");
  if (!response.ok) return;
  const examples = await response.json();
  onLanguage(() => byId("examples").replaceChildren(...examples.map((one) => {
    const button = make("button", inLanguage(one.name), "chip");
    button.type = "button";
    button.addEventListener("click", () => {
      write(one.messages);
      ask();
    });
    return button;
  })));
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.isComposing) return;
  event.preventDefault();
  ask();
});
onChange(() => {
  clearTimeout(typing);
  if (!messages().length) {
    stop();
    if (current) showCurrent(null);
    if (trouble?.status !== 401) fail(null);
  } else if (live.checked) typing = setTimeout(() => ask({ typed: true }), TYPING_MS);
  showAge();
});
live.addEventListener("change", () => live.checked && ask({ typed: true }));
for (const select of [guard, policy]) {
  select.addEventListener("change", () => {
    showOffered();
    resetThreshold();
    if (messages().length && (current || trouble)) ask();
    else showAge();
  });
}
byId("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  useKey(byId("key").value.trim());
  await load();
  if (trouble) {
    if (trouble.status === 401) byId("key").select();
    return;
  }
  byId("judge").focus();
  if (messages().length) ask();
});
byId("copy-json").addEventListener("click", () => copy(JSON.stringify(current.answer, null, 2)));
byId("copy-curl").addEventListener("click", () => {
  const threshold = ownThreshold();
  copy(asCurl(threshold === null ? current.request : { ...current.request, threshold }));
});
onLanguage(() => {
  busy(asking !== null);
  if (trouble) fail(trouble);
  showOffered();
  showPast();
  byId("copied").textContent = "";
});
write([]);
load();
loadExamples();
