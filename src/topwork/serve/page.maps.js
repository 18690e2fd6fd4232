// Pictures as the model sees them, and the maps that are laid over them.

const PICTURE_PX = 640;
const MAP_PX = 240;
const AGAINST = [20, 80, 255];
const FOR = [255, 120, 0];

/**
 * Draws a file: upright as its EXIF says, on white.
 *
 * @returns {Promise<{width: number, height: number}|null>} its size, or null if this browser
 *   cannot show it.
 */
export async function drawPicture(canvas, file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    return null;
  }
  const { width, height } = bitmap;
  fit(canvas, width, height, PICTURE_PX);
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return { width, height };
}

/**
 * Draws a map: red where the image speaks for a class, blue where against, clear where neither.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {import("./page.words.js").Explanation} found
 */
export function drawMap(canvas, { map, width, height }) {
  fit(canvas, width, height, MAP_PX);
  const most = findLargest(map);
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(canvas.width, canvas.height);
  grow(map, canvas.width, canvas.height).forEach((value, place) => {
    image.data.set(value < 0 ? AGAINST : FOR, 4 * place);
    image.data[4 * place + 3] = Math.round((255 * Math.abs(value)) / most);
  });
  pen.putImageData(image, 0, 0);
}

/** The value that is drawn in full colour. */
export function findLargest(map) {
  return Math.max(...map.flat().map(Math.abs)) || 1;
}

function fit(canvas, width, height, longest) {
  const scale = longest / Math.max(width, height);
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
}

/** Grows a map to (height, width), bilinear between the centres of its cells. */
function grow(map, width, height) {
  const columns = Array.from({ length: width }, (_, x) => findCells(x, width, map[0].length));
  const grown = new Float32Array(width * height);
  for (let y = 0; y < height; y += 1) {
    const [above, below, down] = findCells(y, height, map.length);
    for (let x = 0; x < width; x += 1) {
      const [left, right, along] = columns[x];
      const upper = map[above][left] * (1 - along) + map[above][right] * along;
      const lower = map[below][left] * (1 - along) + map[below][right] * along;
      grown[y * width + x] = upper * (1 - down) + lower * down;
    }
  }
  return grown;
}

/** The two cells that a pixel lies between, and how far it is on the way to the second. */
function findCells(pixel, pixels, cells) {
  const at = Math.min(Math.max(((pixel + 0.5) * cells) / pixels - 0.5, 0), cells - 1);
  const first = Math.floor(at);
  return [first, Math.min(first + 1, cells - 1), at - first];
}
