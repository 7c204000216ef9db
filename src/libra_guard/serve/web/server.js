// The server's interface: what is asked, with the key where one is needed, and what went wrong in plain words.
import { known, t } from "./words.js";

const KEY = "libra-key";
const PATIENCE_MS = 60000;
// Without a place to keep it the key lasts until the page is left.
let key = "";

/** Something went wrong: `status` 0 where no answer came. */
export class ServerError extends Error {
  constructor(status, { message = "", after = "", code = "" } = {}) {
    super(message);
    Object.assign(this, { status, after, code });
  }

  /** Plain words in the page's language, and the server's own behind them where they help. */
  words() {
    const { status, after, code } = this;
    if (status === 0) return t(code || "error_network");
    if (code === "text_too_long") return t("error_413");
    if (status === 429 && /^\d+$/.test(after)) return t("error_429_after", { n: after });
    const exact = `error_${status}`;
    if (known(exact)) return t(exact);
    const plain = t(status < 500 ? "error_4xx" : "error_5xx", { status });
    return this.message ? `${plain} ${t("server_says", { message: this.message })}` : plain;
  }
}

export function useKey(value) {
  key = value;
  try {
    sessionStorage.setItem(KEY, value);
  } catch {
    // Held above.
  }
}

export function hasKey() {
  if (!key) {
    try {
      key = sessionStorage.getItem(KEY) ?? "";
    } catch {
      key = "";
    }
  }
  return key !== "";
}

/** Guards or policies: `[{id, default, …}]`. */
export async function list(what) {
  const found = (await ask(`v1/${what}`)).data;
  if (!Array.isArray(found)) throw new ServerError(0, { code: "error_answer" });
  return found.filter((one) => typeof one?.id === "string");
}

/** The server's answer on one conversation: `{guard, policy, results: [{verdict, decision, threshold, answer, …}]}`. */
export async function judge(request, signal) {
  const answer = await ask("v1/guard", request, signal);
  if (!answer.results?.[0]?.verdict) throw new ServerError(0, { code: "error_answer" });
  return answer;
}

/** The same request for a terminal; the key is named, not shown. */
export function asCurl(request) {
  const body = JSON.stringify(request).replaceAll("'", "'\\''");
  const secret = hasKey() ? ` \\\n  -H "Authorization: Bearer $LIBRA_API_KEY"` : "";
  const url = new URL("v1/guard", document.baseURI).href.replaceAll("'", "%27");
  return `curl -sS '${url}' \\\n  -H 'Content-Type: application/json'${secret} \\\n  -d '${body}'`;
}

async function ask(path, body, signal) {
  const headers = hasKey() ? { Authorization: `Bearer ${key}` } : {};
  const options = { headers, credentials: "same-origin", cache: "no-store" };
  if (body) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  const patience = AbortSignal.timeout(PATIENCE_MS);
  options.signal = signal ? AbortSignal.any([signal, patience]) : patience;
  let response, text;
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ServerError(0, { code: patience.aborted ? "error_504" : "" });
  }
  const answer = parsed(text);
  if (!response.ok) {
    const { message = "", code = "" } = answer?.error ?? {};
    throw new ServerError(response.status, { message, code, after: response.headers.get("Retry-After") ?? "" });
  }
  if (answer === null || typeof answer !== "object") throw new ServerError(0, { code: "error_answer" });
  return answer;
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
