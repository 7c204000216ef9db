// Language and theme: what was chosen, what the page says in it, and the switches. Texts enter by textContent alone.
import { TEXTS } from "./texts.js";

export const byId = (id) => document.getElementById(id);
const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
const listeners = [];
let language = kept("libra-language") ?? ((navigator.language || "").toLowerCase().startsWith("zh") ? "zh" : "en");
if (!(language in TEXTS)) language = "en";

/** What the page says under that key, with `{name}` filled in. */
export function t(key, values = {}) {
  return TEXTS[language][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** Whether the page says anything under that key, which may be another's word. */
export const known = (key) => Object.hasOwn(TEXTS.zh, key);

/** The one of `{"zh": …, "en": …}` to be shown, and the other one. */
export const inLanguage = (texts) => texts[language];
export const inOther = (texts) => texts[language === "zh" ? "en" : "zh"];

/** The same text in the other language. */
export const other = (key) => inOther(TEXTS)[key];

/** Calls back now and whenever the language changes. */
export function onLanguage(show) {
  listeners.push(show);
  show();
}

/** Says in which language a text is that is not the page's own, for a voice to read it; none where there is no text. */
export function markLanguage(element, text = element.textContent) {
  if (text.trim()) element.lang = /\p{Script=Han}/u.test(text) ? "zh-Hans" : "en";
  else element.removeAttribute("lang");
}

export function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function kept(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

function keep(name, value) {
  try {
    if (value === null) localStorage.removeItem(name);
    else localStorage.setItem(name, value);
  } catch {
    // A browser that keeps nothing asks again the next time.
  }
}

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
}

function showTheme() {
  byId("theme").textContent = t(isDark() ? "to_light" : "to_dark");
}

function fill() {
  root.lang = language === "zh" ? "zh-Hans" : "en";
  document.title = t("title");
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = t(element.dataset.text);
  for (const element of document.querySelectorAll("[data-label]")) element.setAttribute("aria-label", t(element.dataset.label));
  const button = byId("language");
  button.textContent = t("language");
  button.lang = language === "zh" ? "en" : "zh-Hans";
  showTheme();
}

byId("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  keep("libra-language", language);
  for (const show of listeners) show();
});

byId("theme").addEventListener("click", () => {
  const wanted = isDark() ? "light" : "dark";
  if ((wanted === "dark") === dark.matches) {
    // What the system prefers is followed again, also when it changes at dusk.
    delete root.dataset.theme;
    keep("libra-theme", null);
  } else {
    root.dataset.theme = wanted;
    keep("libra-theme", wanted);
  }
  showTheme();
});
dark.addEventListener("change", showTheme);
onLanguage(fill);
