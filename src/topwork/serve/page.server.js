// Requests to the server, with the API key where it asks for one, and patience where it is busy.

import { Refusal, printable } from "./page.words.js";

const MOST_TRIES = 8;
const LONGEST_WAIT_S = 30;
const KEPT = "topwork-api-key";

let key = "";
try {
  key = sessionStorage.getItem(KEPT) ?? "";
} catch {
  // A browser in which pages may keep nothing: the key lives as long as the page.
}
let asking = null;
let declined = false;

/** @type {{models: import("./page.words.js").Model[], limits: Record<string, number>}} */
export let service = { models: [], limits: {} };

export async function loadService() {
  service = await request("models");
}

/** Lets the page ask for a key again: the user has done something that needs one. */
export function allowAsking() {
  declined = false;
}

/**
 * Asks one of the questions about an image.
 *
 * @param {"predict"|"explain"} path
 * @param {Record<string, string|number>} question
 * @param {Blob} file
 * @param {AbortSignal} signal
 * @throws {Refusal} with the server's reason.
 */
export function send(path, question, file, signal) {
  const headers = { "Content-Type": "application/octet-stream" };
  const address = `${path}?${new URLSearchParams(question)}`;
  return request(address, { method: "POST", body: file, headers, signal });
}

async function request(address, options = {}) {
  for (let tries = 1; ; tries += 1) {
    const sent = key;
    const answer = await reach(address, options, sent);
    const body = await answer.json().catch(() => null);
    if (answer.ok && body) return body;
    options.signal?.throwIfAborted();
    const said = body?.error?.reason ?? body?.results?.[0]?.error;
    const reason = said ?? `The server answered ${answer.status} and gave no reason.`;
    if (answer.status === 401) {
      // Another request may have brought a key meanwhile.
      if (sent === key) await askKey(reason);
    } else if (answer.status === 429 && tries < MOST_TRIES) {
      const wait = Number(answer.headers.get("Retry-After")) || 1;
      await pause(Math.min(wait, LONGEST_WAIT_S), options.signal);
    } else {
      throw new Refusal(reason);
    }
  }
}

async function reach(address, options, sent) {
  const headers = { ...options.headers, ...(sent ? { "X-API-Key": sent } : {}) };
  try {
    return await fetch(address, { ...options, headers });
  } catch {
    options.signal?.throwIfAborted();
    throw new Refusal("The server cannot be reached, or the file can no longer be read.");
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/** Opens the dialog for the API key, once for all requests that wait for it. */
function askKey(reason) {
  // Who closed the dialog is not asked again for every picture in the line.
  if (declined) throw new Refusal(reason);
  asking ??= new Promise((resolve, reject) => {
    const dialog = document.getElementById("ask");
    const field = document.getElementById("key");
    document.getElementById("ask-why").textContent = printable(reason);
    const finish = () => {
      asking = null;
      declined = dialog.returnValue !== "use";
      if (declined) {
        reject(new Refusal(reason));
      } else {
        keep(field.value);
        resolve();
      }
      field.value = "";
    };
    dialog.addEventListener("close", finish, { once: true });
    dialog.returnValue = "";
    dialog.showModal();
  });
  return asking;
}

function keep(value) {
  // A header takes no other characters, and a pasted key often ends in a space.
  key = value.replace(/[^\x21-\x7e]/g, "");
  try {
    sessionStorage.setItem(KEPT, key);
  } catch {
    // As above.
  }
}
