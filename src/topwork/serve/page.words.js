// What the page says: numbers, names and answers as text.

/**
 * @typedef {object} Model  as `models` lists it
 * @property {string} name
 * @property {"classes"|"binary"|"labels"|"number"} task
 * @property {string[]} classes
 * @property {string} base
 * @property {number} image_size
 * @property {string} version
 * @property {{metric: string, value: number, interval: (number|null)[]}} validation
 * @property {boolean} neighbours  whether it carries small training images
 * @property {number|null} abstain_below
 */
/**
 * @typedef {object} Result  what `predict` says of one image
 * @property {number} width  upright
 * @property {number} height
 * @property {{label: string, probability: number}[]} [predictions]
 * @property {{name: string, value: number, range?: (number|null)[]}[]} [numbers]
 * @property {string[]} [present]
 * @property {boolean} [abstained]
 * @property {{name: string, label: string, similarity: number, thumbnail: string}[]} [neighbours]
 */
/**
 * @typedef {object} Explanation  what `explain` says of one class
 * @property {string} label
 * @property {number} logit  the mean of the map, plus the rest
 * @property {number} rest
 * @property {boolean} exact
 * @property {number[][]} map
 * @property {number} width
 * @property {number} height
 */

/** What the user can do something about; its message is for them. */
export class Refusal extends Error {}

/** Text in which nothing is invisible and nothing turns the reading direction. */
export function printable(text) {
  return String(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (char) => {
    const code = char.codePointAt(0).toString(16);
    return code.length < 3 ? `\\x${code.padStart(2, "0")}` : `\\u${code.padStart(4, "0")}`;
  });
}

/** A probability in per cent; one that only rounds to nothing or everything is not called so. */
export function percent(share) {
  if (share > 0.9995) return "> 99.9 %";
  return share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

/** A number of any size, short. */
export function figure(value, digits = 2) {
  if (!Number.isFinite(value)) return "unknown";
  const size = Math.abs(value);
  const wide = size >= 1e6 || (size > 0 && size < 1e-3);
  const text = wide ? value.toExponential(digits) : value.toFixed(digits);
  return text.replace("-", "−");
}

/** A whole number with its thousands apart. */
export function whole(count) {
  return count.toLocaleString("en");
}

/** @param {Model} model */
export function describe(model) {
  const { metric, value, interval } = model.validation;
  const what = model.task === "number" ? "mean absolute error" : metric;
  const count = model.classes.length;
  const others = { labels: ["label", "labels"], number: ["number", "numbers"] };
  const [one, many] = others[model.task] ?? ["class", "classes"];
  const range = interval.map((end) => figure(end, 3)).join(" to ");
  return (
    `${printable(model.name)} knows ${count} ${count === 1 ? one : many}. ` +
    `Validation ${what} ${figure(value, 3)} (95 % interval ${range}). ` +
    `Base ${printable(model.base)} at ${model.image_size} px, version ${printable(model.version)}.`
  );
}

/**
 * An answer in a few words.
 *
 * @param {Model} model
 * @param {Result} result
 */
export function summarise(model, result) {
  if (model.task === "number") {
    const numbers = result.numbers.map(({ name, value }) => `${printable(name)} ${figure(value)}`);
    return numbers.join(", ");
  }
  if (result.abstained) return "Not sure";
  if (model.task === "labels") {
    return result.present.map(printable).join(", ") || "None of the labels";
  }
  return printable(result.predictions[0].label);
}

/**
 * What the numbers of a map mean.
 *
 * @param {Model} model
 * @param {Explanation} found
 */
export function explainMap(model, found) {
  const what = `${model.task === "number" ? "" : "the logit of "}${printable(found.label)}`;
  return (
    `What each place adds to ${what}: the map’s mean ${figure(found.logit - found.rest)} ` +
    `and the rest ${figure(found.rest)} make ${figure(found.logit)}.` +
    (found.exact ? "" : " The model has an inner layer: this holds near this picture only.")
  );
}

/** Where a map is highest, for those who do not see it. */
export function locatePeak(map) {
  const flat = map.flat();
  const place = flat.indexOf(Math.max(...flat));
  const third = (at, count) => Math.floor((3 * (at + 0.5)) / count);
  const row = ["top", "middle", "bottom"][third(Math.floor(place / map[0].length), map.length)];
  const column = ["left", "centre", "right"][third(place % map[0].length, map[0].length)];
  return row === "middle" && column === "centre" ? column : `${row} ${column}`;
}
