// The page of `topwork serve`: pictures in, answers out.
//
// Files that are chosen, dropped or pasted become cards. The cards stand in one line, from which a
// few at a time are drawn, checked against the server's limits and sent to `predict`; the answer,
// or the reason for none, is written on the card. A class that is pressed goes to `explain`, and
// its map is laid over the picture.
//
// page.words.js says, page.server.js asks, page.maps.js draws, page.cards.js holds one picture.
// Whatever comes from a file's name or the server is written as text, never as HTML.

import { Card } from "./page.cards.js";
import { allowAsking, loadService, service } from "./page.server.js";
import { Refusal, describe, printable } from "./page.words.js";

const AT_ONCE = 3;
const MOST_CARDS = 100;

const find = (id) => document.getElementById(id);

/** @type {Set<Card>} */
const cards = new Set();
/** Those asked since the line was last empty: what "3 of 8" is about. @type {Set<Card>} */
const round = new Set();
/** @type {Card[]} */
let line = [];
let running = 0;

const page = { model: chosenModel, say, remove: removeCard, again, renew };

function say(text) {
  find("status").textContent = text;
}

function complain(text) {
  find("trouble").textContent = text;
  find("trouble").hidden = !text;
}

function chosenModel() {
  return service.models[find("models").selectedIndex];
}

/** Learns anew which models the server has. */
async function renew() {
  const chosen = find("models").value;
  await loadService();
  const options = service.models.map(
    ({ name }) => new Option(printable(name), name, false, name === chosen),
  );
  find("models").replaceChildren(...options);
  find("chooser").hidden = options.length < 2;
  find("facts").textContent = describe(chosenModel());
}

/** Puts cards at the end of the line, and sees that a few are being asked. */
function enqueue(some) {
  if (!running) round.clear();
  for (const card of some) {
    card.reset();
    round.add(card);
  }
  line.push(...some);
  allowAsking();
  for (; running < AT_ONCE && line.length; running += 1) askNext();
  tell("");
}

async function askNext() {
  const card = line.shift();
  const said = await card.ask();
  running -= 1;
  if (said) tell(`${card.name}: ${said}.`);
  if (line.length) {
    running += 1;
    askNext();
  }
}

/** Says what is new, and how far the round is. */
function tell(news) {
  const answered = [...round].filter((card) => !card.isWaiting).length;
  const count = round.size > 1 ? `${answered} of ${round.size} answered.` : "";
  say(`${count} ${news}`.trim());
  find("progress").max = Math.max(round.size, 1);
  find("progress").value = answered;
  find("progress").hidden = answered === round.size || round.size < 2;
  find("clear").hidden = !cards.size;
}

/** Makes cards of files, the newest in front. */
function addFiles(list) {
  const files = [...list].slice(0, MOST_CARDS - cards.size);
  const added = files.map((file) => new Card(file, page));
  for (const card of added) cards.add(card);
  find("cards").prepend(...added.map((card) => card.view));
  enqueue(added);
  const rest = list.length - files.length;
  complain(
    rest
      ? `This page holds ${MOST_CARDS} images at most: ${rest} of ${list.length} were left out. ` +
          "Remove some, or use topwork predict for whole folders."
      : "",
  );
}

function again(card) {
  // The button goes away, and the focus would go with it.
  card.part("remove").focus();
  enqueue([card]);
}

function removeCard(card) {
  const next = card.view.nextElementSibling ?? card.view.previousElementSibling;
  forget(card);
  (next?.querySelector(".remove") ?? find("files")).focus();
  tell(`${card.name} was removed.`);
}

function forget(card) {
  card.stop.abort();
  line = line.filter((other) => other !== card);
  round.delete(card);
  cards.delete(card);
  card.view.remove();
}

function removeAll() {
  for (const card of [...cards]) forget(card);
  find("files").focus();
  tell("All images were removed.");
}

function takeDropped(event) {
  event.preventDefault();
  document.body.classList.remove("dragging");
  const items = [...event.dataTransfer.items].filter(({ kind }) => kind === "file");
  // A folder comes as a file that cannot be read.
  const folders = items.filter((item) => item.webkitGetAsEntry()?.isDirectory);
  const files = items.filter((item) => !folders.includes(item)).map((item) => item.getAsFile());
  if (files.length) addFiles(files);
  if (folders.length) complain("A folder was left out: drop the images that are in it.");
  else if (!files.length) complain("That was no file: save the image first, then drop the file.");
}

function listen() {
  for (const id of ["files", "camera"]) {
    find(id).addEventListener("change", ({ target }) => {
      addFiles(target.files);
      // Else the same file could not be chosen again.
      target.value = "";
    });
  }
  document.addEventListener("paste", ({ clipboardData }) => {
    if (clipboardData.files.length) addFiles(clipboardData.files);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  document.addEventListener("dragleave", ({ relatedTarget }) => {
    if (!relatedTarget) document.body.classList.remove("dragging");
  });
  document.addEventListener("drop", takeDropped);
  find("clear").addEventListener("click", removeAll);
  find("models").addEventListener("change", () => {
    find("facts").textContent = describe(chosenModel());
    line = [];
    enqueue([...cards]);
  });
  find("cancel").addEventListener("click", () => find("ask").close());
  find("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    find("ask").close("use");
  });
}

listen();
renew().catch((error) => {
  if (!(error instanceof Refusal)) reportError(error);
  find("facts").textContent = "";
  complain(`${printable(error.message)} Choose an image to ask again.`);
});
