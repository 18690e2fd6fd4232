// A card: one picture, its answer, and the map of one of its classes.

import { drawMap, drawPicture, findLargest } from "./page.maps.js";
import { send, service } from "./page.server.js";
import {
  Refusal,
  explainMap,
  figure,
  locatePeak,
  percent,
  printable,
  summarise,
  whole,
} from "./page.words.js";

const TOP = 5;
const NEIGHBOURS = 5;

export class Card {
  /**
   * @param {File} file
   * @param {object} page  what the card needs of it: `model()` the chosen one, `say(text)` to those
   *   who listen, `remove(card)`, `again(card)`, and `renew()` for when the server's model changed
   */
  constructor(file, page) {
    this.file = file;
    this.page = page;
    this.name = printable(file.name || "image without a name");
    this.view = document.getElementById("card").content.firstElementChild.cloneNode(true);
    this.view.setAttribute("aria-label", this.name);
    this.part("name").textContent = this.name;
    this.part("remove").setAttribute("aria-label", `Remove ${this.name}`);
    this.part("remove").addEventListener("click", () => page.remove(this));
    this.part("again").addEventListener("click", () => page.again(this));
    const strength = this.part("strength").querySelector("input");
    const fade = () => (this.part("map").style.opacity = strength.value / 100);
    strength.addEventListener("input", fade);
    fade();
    this.reset();
  }

  part(name) {
    return this.view.querySelector(`.${name}`);
  }

  /** Stops what is under way and takes the answer off. */
  reset() {
    this.stop?.abort();
    this.stop = new AbortController();
    this.maps = new Map();
    this.hideMap();
    this.setState("waiting", "Waiting");
    for (const name of ["answers", "press", "near", "again"]) this.part(name).hidden = true;
  }

  get isWaiting() {
    return this.view.classList.contains("waiting");
  }

  setState(state, verdict, note = "") {
    this.view.classList.remove("waiting", "failed", "unsure", "sure");
    this.view.classList.add(state);
    this.view.setAttribute("aria-busy", String(state === "waiting"));
    this.part("verdict").textContent = verdict;
    this.ownNote = note;
    this.setNote(note);
  }

  setNote(note) {
    this.part("note").textContent = note;
    this.part("note").hidden = !note;
  }

  /**
   * Draws the picture and asks the server about it.
   *
   * @returns {Promise<string>} the answer or the reason for none; empty if it was stopped.
   */
  async ask() {
    const { signal } = this.stop;
    this.setState("waiting", "Looking at it");
    try {
      if (!service.models.length) await this.page.renew();
      await this.draw();
      signal.throwIfAborted();
      const model = this.page.model();
      const question = { model: model.name, top: TOP };
      if (model.neighbours) question.neighbours = NEIGHBOURS;
      const answer = await send("predict", question, this.file, signal);
      if (answer.version !== model.version) await this.page.renew();
      signal.throwIfAborted();
      return this.show(this.page.model(), answer.results[0]);
    } catch (error) {
      if (signal.aborted) return "";
      const reason = explainError(error);
      this.setState("failed", reason);
      this.part("again").hidden = false;
      return reason;
    }
  }

  async draw() {
    const { image_bytes: bytes, image_pixels: pixels } = service.limits;
    if (this.file.size > bytes) {
      throw new Refusal(
        `The file has ${whole(this.file.size)} bytes, and this server takes at most ` +
          `${whole(bytes)}. Make the image smaller.`,
      );
    }
    const picture = this.part("picture");
    this.size = await drawPicture(picture, this.file);
    picture.setAttribute("aria-label", this.name);
    picture.hidden = !this.size;
    this.part("unseen").hidden = Boolean(this.size);
    if (this.size?.width * this.size?.height > pixels) {
      throw new Refusal(
        `The image has ${whole(this.size.width * this.size.height)} pixels, and this server ` +
          `takes at most ${whole(pixels)}. Make the image smaller.`,
      );
    }
  }

  /**
   * @param {import("./page.words.js").Model} model
   * @param {import("./page.words.js").Result} result
   */
  show(model, result) {
    const verdict = summarise(model, result);
    const asked = result.abstained && model.abstain_below;
    const why = `No probability reaches the ${percent(asked)} that an answer takes here.`;
    this.setState(result.abstained ? "unsure" : "sure", verdict, asked ? why : "");
    const isNumber = model.task === "number";
    const present = new Set(result.present);
    const rows = isNumber
      ? result.numbers.map((number) => this.makeNumber(number))
      : result.predictions.map((prediction) => this.makeBar(prediction, present));
    this.part("answers").replaceChildren(...rows);
    this.part("answers").setAttribute("aria-label", isNumber ? "Numbers" : "Probabilities");
    this.hint = `Press one to see which places ${isNumber ? "raise it" : "speak for it"}.`;
    this.part("con").textContent = isNumber ? "lowers" : "against";
    this.part("pro").textContent = isNumber ? "raises" : "for";
    this.part("answers").hidden = false;
    this.hideMap();
    const near = result.neighbours ?? [];
    this.part("near").querySelector("ul").replaceChildren(...near.map(makeNeighbour));
    this.part("near").hidden = !near.length;
    if (isNumber || result.present) return verdict;
    const [first] = result.predictions;
    const share = percent(first.probability);
    const guess = result.abstained ? `perhaps ${printable(first.label)}, ` : "";
    return `${verdict}, ${guess}${share}`;
  }

  /** A label with its probability, as a bar. */
  makeBar({ label, probability }, present) {
    const bar = make("span", "bar", make("i"));
    bar.firstElementChild.style.width = `${100 * probability}%`;
    const words = make("span", "label", printable(label));
    if (present.has(label)) words.append(make("span", "here", " ✓ present"));
    return this.makeRow(label, words, make("span", "share", percent(probability)), bar);
  }

  makeNumber({ name, value, range }) {
    const parts = [make("span", "label", printable(name)), make("span", "share", figure(value))];
    if (range) {
      const ends = range.map((end) => figure(end)).join(" and ");
      parts.push(make("span", "range", `between ${ends}`));
    }
    return this.makeRow(name, ...parts);
  }

  makeRow(label, ...parts) {
    const button = make("button", "", ...parts);
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => this.press(button, label));
    return make("li", "", button);
  }

  /** Shows the map of a class; hides it if it is shown. */
  async press(button, label) {
    const isShown = this.pressed === button;
    this.hideMap();
    if (isShown) return;
    const { signal } = this.stop;
    button.setAttribute("aria-pressed", "true");
    this.pressed = button;
    this.setNote(this.ownNote);
    const isCurrent = () => this.pressed === button && !signal.aborted;
    try {
      if (!this.maps.has(label)) {
        this.part("press").textContent = "Looking where.";
        const question = { model: this.page.model().name, class: label };
        this.maps.set(label, await send("explain", question, this.file, signal));
      }
      if (isCurrent()) this.showMap(this.maps.get(label));
    } catch (error) {
      if (!isCurrent()) return;
      this.hideMap();
      this.setNote(`There is no map: ${explainError(error)}`);
      this.page.say(this.part("note").textContent);
    }
  }

  /** @param {import("./page.words.js").Explanation} found */
  showMap(found) {
    const most = figure(findLargest(found.map));
    drawMap(this.part("map"), found);
    this.part("low").textContent = `−${most}`;
    this.part("high").textContent = `+${most}`;
    this.part("why").textContent = explainMap(this.page.model(), found);
    const words = `Map of ${printable(found.label)}: highest at the ${locatePeak(found.map)}.`;
    this.part("map").setAttribute("aria-label", words);
    // A picture that does not lie as the model saw it would be explained wrongly.
    const fits = this.size?.width === found.width && this.size?.height === found.height;
    this.part("picture").hidden = !fits;
    this.view.classList.toggle("alone", !fits);
    this.view.classList.add("mapped");
    this.part("map").hidden = this.part("legend").hidden = false;
    this.part("press").hidden = true;
    // On a phone the buttons may be further down than the picture.
    this.part("frame").scrollIntoView({ block: "nearest" });
    this.page.say(words);
  }

  hideMap() {
    this.pressed?.setAttribute("aria-pressed", "false");
    this.pressed = null;
    this.view.classList.remove("mapped", "alone");
    this.part("map").hidden = this.part("legend").hidden = true;
    this.part("picture").hidden = !this.size;
    this.part("press").textContent = this.hint ?? "";
    this.part("press").hidden = false;
  }
}

/** An element with a class, and text or elements in it. */
function make(tag, name = "", ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...children);
  return element;
}

function makeNeighbour({ name, label, similarity, thumbnail }) {
  const image = make("img");
  image.src = thumbnail;
  image.alt = "";
  const words = make("p", "", make("b", "", printable(label)), `likeness ${figure(similarity)}`);
  const item = make("li", "", image, words);
  item.title = printable(name);
  return item;
}

/** The reason in an error; what is no reason is the page's own mistake and goes to the console. */
function explainError(error) {
  if (error instanceof Refusal) return printable(error.message);
  reportError(error);
  return "The page could not read the server’s answer.";
}
