"""The page of `topwork serve` in a browser: a real one, against the real server.

What the server says seldom (a number, a busy moment) is put into its answers on their way.
"""

import base64
import contextlib
import io
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
from pictures import COLOURS, encode, picture
from PIL import Image, ImageOps

from topwork.core.config import Settings
from topwork.data.dataset import Dataset
from topwork.models.explain import Explainer
from topwork.models.gallery import write_gallery
from topwork.recipes import train as pipeline

pytestmark = pytest.mark.system

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
pytest.importorskip("fastapi", reason="needs the extra serve")
expect = sync_api.expect

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
KEY = "a-key-of-the-tests"
EVIL = "<img src=x onerror=document.title='owned'>"
# Between what the model makes of one colour and of two.
ABSTAIN_BELOW = 0.6
SECONDS = 1000


@pytest.fixture(scope="module")
def trained(photos, small, store):
    """A model that is sure of the colours; its vectors are those of the one for all tests."""
    settings = small.model_copy(update={"epochs": 40, "learning_rate": 0.03})
    return pipeline.train(Dataset.from_folder(photos), settings, store)


@pytest.fixture(scope="module")
def models(trained, tmp_path_factory):
    """A model that carries thumbnails, and one whose labels are markup."""
    folder = tmp_path_factory.mktemp("served")
    trained.save(folder / "colours.model")
    labels = (EVIL, "b\u202eeulb\x07", "x" * 90)
    replace(trained, model=replace(trained.model, classes=labels)).save(folder / "evil.model")
    names = [f"{name}/{n}{EVIL}.png" for name in COLOURS for n in range(3)]
    sources = [encode(picture(COLOURS[name.split("/")[0]], seed=n)) for n, name in enumerate(names)]
    vectors = vectors_of(trained.model, sources)
    gallery = folder / "colours.model" / "gallery.parquet"
    write_gallery(gallery, names, [name.split("/")[0] for name in names], sources, vectors)
    return [folder / "colours.model", folder / "evil.model"]


def vectors_of(model, sources):
    explainer = Explainer(model)
    return np.concatenate([explainer.explain(source).vector for source in sources])


@contextlib.contextmanager
def serving(models, *options):
    """Runs the server in another process; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "topwork", "serve", *map(str, models), "--port", str(port)]
    process = subprocess.Popen(
        [*command, *options],
        env={**os.environ, "TOPWORK_API_KEY": KEY},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    url = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(url + "healthz"):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the server does not start: {process.stderr.read()}")
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def url(models):
    with serving(models, "--abstain-below", str(ABSTAIN_BELOW), "--no-access-log") as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("needs Chromium or Chrome")
    expect.set_options(timeout=20 * SECONDS)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


class Visitor:
    """A person's browser on the page, and everything in it that went wrong."""

    def __init__(self, browser, url, *, key=KEY, **options):
        self.url = url
        self.faults = []
        self.allowed = []
        self.context = browser.new_context(**options)
        if key:
            kept = f"sessionStorage.getItem('topwork-api-key') ?? '{key}'"
            self.context.add_init_script(f"sessionStorage.setItem('topwork-api-key', {kept})")
        self.page = self.context.new_page()
        self.page.set_default_timeout(20 * SECONDS)
        self.page.on("console", lambda message: self._hear(message.type, message.text))
        self.page.on("pageerror", lambda error: self.faults.append(f"page: {error}"))
        self.page.on("requestfailed", lambda asked: self.faults.append(f"failed: {asked.url}"))
        self.page.on("request", self._check_host)

    def _hear(self, kind, text):
        if kind in ("error", "warning"):
            self.faults.append(f"console: {text}")

    def _check_host(self, request):
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.faults.append(f"third party: {request.url}")

    def come(self):
        self.page.goto(self.url)
        expect(self.page.locator("#facts")).to_contain_text("Validation")
        return self

    def give(self, *files):
        """Chooses files: (name, bytes) each."""
        self.page.set_input_files("#files", [payload(*file) for file in files])

    def cards(self):
        return self.page.locator("article")

    def verdicts(self, count):
        """Waits for so many answers; returns their headings, the first card's first."""
        answered = self.page.locator("article.sure, article.unsure, article.failed")
        expect(answered).to_have_count(count)
        return self.page.locator("article .verdict").all_inner_texts()

    def status(self):
        return self.page.locator("#status")

    def pixels(self, name):
        """Returns a canvas of the first card, (H, W, 4) uint8."""
        found = self.page.locator(f"canvas.{name}").evaluate("canvas => canvas.toDataURL()")
        image = Image.open(io.BytesIO(base64.b64decode(found.partition(",")[2])))
        return np.asarray(image.convert("RGBA"))

    def change(self, path, change, status=200):
        """Changes the server's answers to a path; `change` gets the JSON and returns it."""

        def handle(route):
            answer = route.fetch()
            route.fulfill(response=answer, status=status, json=change(answer.json()))

        self.page.route(re.compile(rf"/{path}(\?|$)"), handle)

    def check(self):
        """Nothing has gone wrong but what was allowed to; then forgets it."""
        bad = [fault for fault in self.faults if not any(part in fault for part in self.allowed)]
        self.faults, self.allowed = [], []
        self.page.unroute_all()
        assert not bad


def payload(name, data):
    return {"name": name, "mimeType": "", "buffer": data}


@pytest.fixture
def visit(browser, url):
    """Opens browsers; after the test nothing may have gone wrong in any of them."""
    visitors = []

    def open_page(**options):
        visitors.append(Visitor(browser, url, **options))
        return visitors[-1]

    yield open_page
    for visitor in visitors:
        visitor.check()
        visitor.context.close()


@pytest.fixture(scope="module")
def regular(browser, url):
    return Visitor(browser, url)


@pytest.fixture
def visitor(regular):
    """One browser for many tests, which comes to the page anew for each."""
    yield regular.come()
    regular.check()


def coloured(name, n=0, **options):
    """The n-th training picture of a colour."""
    seed = 8 * list(COLOURS).index(name) + n
    return f"{name}.png", encode(picture(COLOURS[name], seed=seed, **options))


def two_coloured():
    """A picture that the model cannot be sure of."""
    halves = [np.asarray(picture(COLOURS[name], size=(20, 30), seed=9)) for name in ("blue", "red")]
    return "both.png", encode(Image.fromarray(np.concatenate(halves, axis=1)))


def transfer(visitor, *files):
    """Returns a DataTransfer in the page that holds files."""
    found = [(name, base64.b64encode(data).decode()) for name, data in files]
    return visitor.page.evaluate_handle(
        """(files) => {
            const transfer = new DataTransfer();
            for (const [name, data] of files) {
                const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
                transfer.items.add(new File([bytes], name));
            }
            return transfer;
        }""",
        found,
    )


def test_shows_what_the_model_says(visitor, trained):
    name, data = coloured("red")
    visitor.give((name, data))
    assert visitor.verdicts(1) == ["red"]
    chances = trained.model.predict([data]).probabilities[0]
    shares = visitor.page.locator("article .share").all_inner_texts()
    labels = visitor.page.locator("article .label").all_inner_texts()
    order = np.argsort(-chances)
    assert labels == [trained.model.classes[n] for n in order]
    for text, n in zip(shares, order, strict=True):
        assert text == said_percent(chances[n])
    widths = visitor.page.locator("article .bar i").evaluate_all(
        "all => all.map(i => i.style.width)"
    )
    assert [float(width.strip("%")) for width in widths] == pytest.approx(
        100 * chances[order], abs=0.01
    )
    expect(visitor.status()).to_have_text(f"red.png: red, {shares[0]}.")
    value, ends = trained.model.validation.value, trained.model.validation.interval
    facts = visitor.page.locator("#facts").inner_text()
    assert f"accuracy {value:.3f} (95 % interval {ends[0]:.3f} to {ends[1]:.3f})" in facts


def said_percent(share):
    if share > 0.9995:
        return "> 99.9 %"
    return "< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


def test_takes_dropped_files_and_refuses_folders(visitor, tmp_path):
    """The drop is the browser's own, as from a file manager."""
    name, data = coloured("green")
    (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    session = visitor.context.new_cdp_session(visitor.page)
    for kind in ("dragEnter", "dragOver", "drop"):
        if kind == "drop":
            expect(visitor.page.locator("body")).to_have_class("dragging")
        files = [str(tmp_path / name), str(tmp_path / "folder")]
        held = {"items": [], "files": files, "dragOperationsMask": 1}
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 99, "y": 300, "data": held})
    assert visitor.verdicts(1) == ["green"]
    expect(visitor.page.get_by_role("alert")).to_have_text(
        "A folder was left out: drop the images that are in it."
    )
    expect(visitor.page.locator("body")).not_to_have_class("dragging")


def test_takes_a_pasted_picture_and_no_text(visitor):
    visitor.page.dispatch_event("body", "drop", {"dataTransfer": transfer(visitor)})
    expect(visitor.page.get_by_role("alert")).to_contain_text("That was no file")
    held = transfer(visitor, coloured("blue"))
    visitor.page.evaluate(
        "(held) => document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: held}))", held
    )
    assert visitor.verdicts(1) == ["blue"]
    expect(visitor.page.get_by_role("alert")).to_be_hidden()


def test_answers_several_and_says_which_is_broken(visitor):
    visitor.allowed = ["415", "422"]
    good = [coloured(name, n) for n, name in enumerate(COLOURS)]
    broken = ("no.jpg", good[0][1][:300])
    visitor.give(good[0], broken, ("note.txt", b"no image at all"), *good[1:], ("empty.png", b""))
    blue, cut, text, green, red, empty = visitor.verdicts(6)
    assert (blue, green, red) == tuple(COLOURS)
    assert "damaged or cut off" in cut
    assert text == "not an image, or of a format that is not supported"
    assert "empty" in empty or "0 bytes" in empty
    expect(visitor.status()).to_contain_text("6 of 6 answered.")
    expect(visitor.page.locator("#progress")).to_be_hidden()
    # The newest come first, and those that were there stay.
    visitor.give(coloured("red", 6))
    assert visitor.verdicts(7)[:2] == ["red", "blue"]
    visitor.page.get_by_role("button", name="Remove all").click()
    expect(visitor.cards()).to_have_count(0)
    expect(visitor.page.locator("#clear")).to_be_hidden()


def test_asks_again_when_told(visitor):
    visitor.allowed = ["500", "Internal"]
    visitor.change("predict", lambda body: {"odd": body["version"]}, status=500)
    visitor.give(coloured("red"))
    assert visitor.verdicts(1) == ["The server answered 500 and gave no reason."]
    visitor.page.unroute_all()
    visitor.page.get_by_role("button", name="Try again").click()
    expect(visitor.page.locator(".sure .verdict")).to_have_text("red")
    expect(visitor.page.get_by_role("button", name="Try again")).to_have_count(0)


def test_says_when_it_is_not_sure(visitor, trained):
    name, data = two_coloured()
    chances = trained.model.predict([data]).probabilities[0]
    assert chances.max() < ABSTAIN_BELOW
    visitor.give((name, data))
    assert visitor.verdicts(1) == ["Not sure"]
    expect(visitor.page.locator(".note")).to_have_text(
        "No probability reaches the 60.0 % that an answer takes here."
    )
    best = trained.model.classes[chances.argmax()]
    expect(visitor.status()).to_have_text(
        f"both.png: Not sure, perhaps {best}, {said_percent(chances.max())}."
    )
    visitor.page.locator(".answers button").first.click()
    expect(visitor.page.locator("canvas.map")).to_be_visible()
    expect(visitor.page.locator(".note")).to_be_visible()


def test_draws_the_map_that_the_server_explains(visitor, trained):
    """The tiny model sees one place, so its map is one colour, full where it speaks for."""
    name, data = coloured("red")
    visitor.give((name, data))
    visitor.verdicts(1)
    visitor.page.get_by_role("button", name="red").filter(has_text="%").click()
    expect(
        visitor.page.get_by_role("img", name="Map of red: highest at the centre.")
    ).to_be_visible()
    found = Explainer(trained.model).explain(data)
    answer = trained.model.classes.index("red")
    (only,) = found.maps(answer)
    most, rest = float(only[0, 0]), found.rest(answer)
    expect(visitor.page.locator(".high")).to_have_text(f"+{abs(most):.2f}")
    expect(visitor.page.locator(".why")).to_contain_text(
        f"mean {most:.2f} and the rest {rest:.2f} make {most + rest:.2f}.".replace("-", "−")
    )
    drawn = visitor.pixels("map")
    assert (drawn == ((255, 120, 0) if most > 0 else (20, 80, 255)) + (255,)).all()
    # The same button takes it away again.
    visitor.page.get_by_role("button", name="red").filter(has_text="%").click()
    expect(visitor.page.locator("canvas.map")).to_be_hidden()


def grow(values, width, height):
    """Pillow's bilinear resize, our reference."""
    image = Image.fromarray(np.asarray(values, np.float32))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("rotated", [False, True])
def test_lays_map_and_picture_the_same_way(visitor, rotated):
    """A picture whose EXIF says that it lies on its side, and a map that is all different."""
    values = np.array([[4.0, -1.0, 0.5], [-3.0, 0.0, 1.0], [2.0, -2.5, -0.25], [0.1, 3.0, -4.5]])

    def change(body):
        mean = float(values.mean())
        return {**body, "map": values.tolist(), "rest": 0.5, "logit": mean + 0.5, "exact": False}

    visitor.change("explain", change)
    data, upright = lying(6 if rotated else None)
    visitor.give(("side.jpg", data))
    visitor.verdicts(1)
    visitor.page.locator(".answers button").first.click()
    expect(
        visitor.page.get_by_role("img", name=re.compile("highest at the top left"))
    ).to_be_visible()
    shown = visitor.pixels("picture")
    assert (shown.shape[0] > shown.shape[1]) == rotated
    wanted = np.asarray(upright.resize(shown.shape[1::-1], Image.Resampling.BILINEAR), float)
    assert np.abs(shown[..., :3] - wanted).mean() < 4
    drawn = visitor.pixels("map")
    height, width = drawn.shape[:2]
    assert width / height == pytest.approx(upright.width / upright.height, rel=0.02)
    sign = np.where(drawn[..., 0] > drawn[..., 2], 1, -1)
    found = sign * drawn[..., 3] / 255 * 4.5
    assert np.abs(found - grow(values, width, height)).max() < 4.5 / 255
    assert "inner layer" in visitor.page.locator(".why").inner_text()
    boxes = [visitor.page.locator(f"canvas.{name}").bounding_box() for name in ("map", "picture")]
    assert boxes[0] == pytest.approx(boxes[1], abs=1)


def lying(orientation):
    """A JPEG with four different quarters, and how it is upright."""
    quarters = [picture(c, size=(60, 40), seed=n) for n, c in enumerate(COLOURS.values())]
    whole = Image.new("RGB", (120, 80), "white")
    for place, quarter in zip(((0, 0), (60, 0), (0, 40)), quarters, strict=True):
        whole.paste(quarter, place)
    options = {"quality": 95}
    if orientation:
        exif = Image.Exif()
        exif[274] = orientation
        options["exif"] = exif
    data = encode(whole, "JPEG", **options)
    return data, ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def test_answers_what_the_browser_cannot_show(visitor):
    heif = pytest.importorskip("pillow_heif", reason="needs the extra heic")
    file = io.BytesIO()
    heif.from_pillow(picture(COLOURS["blue"], size=(64, 48), seed=3)).save(file)
    visitor.give(("phone.heic", file.getvalue()))
    assert visitor.verdicts(1) == ["blue"]
    expect(visitor.page.get_by_text("This browser cannot show the picture.")).to_be_visible()
    visitor.page.locator(".answers button").first.click()
    expect(visitor.page.locator("canvas.map")).to_be_visible()
    box = visitor.page.locator("canvas.map").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(64 / 48, rel=0.02)
    assert box["height"] > 50


def test_explains_no_picture_that_lies_otherwise(visitor):
    visitor.change(
        "explain", lambda body: {**body, "width": body["height"], "height": body["width"]}
    )
    visitor.give(coloured("red"))
    visitor.verdicts(1)
    visitor.page.locator(".answers button").first.click()
    expect(visitor.page.locator("canvas.map")).to_be_visible()
    expect(visitor.page.locator("canvas.picture")).to_be_hidden()
    visitor.page.locator(".answers button").first.click()
    expect(visitor.page.locator("canvas.picture")).to_be_visible()


def test_shows_the_nearest_training_images(visitor):
    visitor.give(coloured("green", 4))
    visitor.verdicts(1)
    near = visitor.page.locator(".near")
    expect(near.get_by_role("heading")).to_have_text("Nearest training images")
    expect(near.locator("li")).to_have_count(5)
    assert near.locator("b").all_inner_texts()[:3] == ["green"] * 3
    sizes = near.locator("img").evaluate_all("all => all.map(i => i.complete && i.naturalWidth)")
    assert min(sizes) > 0
    assert EVIL in near.locator("li").first.get_attribute("title")


def test_asks_for_the_api_key(visit):
    visitor = visit(key=None)
    visitor.allowed = ["401"]
    page = visitor.page
    page.goto(visitor.url)
    dialog = page.get_by_role("dialog", name="API key")
    expect(dialog).to_be_visible()
    expect(page.get_by_label("Key", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#trouble")).to_contain_text("Choose an image to ask again.")
    # Once for all pictures, and a wrong key is not the end.
    visitor.give(*[coloured(name) for name in COLOURS])
    page.get_by_label("Key", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Key", exact=True)).to_have_value("")
    expect(dialog).to_be_visible()
    page.get_by_label("Key", exact=True).fill(f" {KEY} ")
    page.get_by_role("button", name="Use it").click()
    assert visitor.verdicts(3) == list(COLOURS)
    expect(dialog).to_be_hidden()
    visitor.come()
    expect(dialog).to_be_hidden()


def test_does_not_insist_on_a_key(visit):
    visitor = visit(key=None)
    visitor.allowed = ["401"]
    visitor.page.goto(visitor.url)
    visitor.page.keyboard.press("Escape")
    visitor.give(*[coloured("red", n) for n in range(5)])
    dialog = visitor.page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name="Cancel").click()
    assert len(set(visitor.verdicts(5))) == 1
    expect(dialog).to_be_hidden()


def test_asks_for_no_key_that_it_was_just_given(visit):
    """Two requests are refused, one of them after the user has entered another key."""
    visitor = visit().come()
    visitor.allowed = ["401"]
    refusal = {"error": {"status": 401, "reason": "the key has changed"}}
    late = []

    def handle(route):
        headers = route.request.headers
        if headers["x-api-key"] == "new":
            route.continue_(headers={**headers, "x-api-key": KEY})
        elif late:
            route.fulfill(status=401, json=refusal)
        else:
            late.append(route)

    visitor.page.route(re.compile("/predict"), handle)
    visitor.give(coloured("red"), coloured("red"))
    expect(visitor.page.get_by_role("dialog")).to_contain_text("the key has changed")
    visitor.page.get_by_label("Key", exact=True).fill("new")
    visitor.page.get_by_role("button", name="Use it").click()
    expect(visitor.page.locator(".sure")).to_have_count(1)
    late[0].fulfill(status=401, json=refusal)
    assert visitor.verdicts(2) == ["red", "red"]


def test_needs_no_mouse(visitor):
    page = visitor.page
    with page.expect_file_chooser() as chooser:
        focus_by_tab(page, "Choose images")
        page.keyboard.press("Enter")
    chooser.value.set_files([payload(*coloured("red")), payload(*coloured("blue"))])
    assert visitor.verdicts(2) == ["red", "blue"]
    focus_by_tab(page, "red")
    page.keyboard.press("Enter")
    expect(page.locator("canvas.map").first).to_be_visible()
    page.keyboard.press("Shift+Tab")
    focus_by_tab(page, "Strength of the map", backwards=True)
    page.keyboard.press("ArrowLeft")
    strength = "map => map.style.opacity"
    assert page.locator("canvas.map").first.evaluate(strength) == "0.75"
    page.keyboard.press("Home")
    assert page.locator("canvas.map").first.evaluate(strength) == "0"
    focus_by_tab(page, "Remove red.png")
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(visitor.cards()).to_have_count(1)
    expect(page.get_by_role("button", name="Remove blue.png")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#files")).to_be_focused()


def focus_by_tab(page, text, *, backwards=False):
    """Presses Tab until what has the focus is called so."""
    seen = []
    for _ in range(40):
        name = page.evaluate(
            """() => {
                const own = document.activeElement;
                const label = own.labels?.[0]?.innerText ?? own.innerText;
                return own.getAttribute("aria-label") ?? label;
            }"""
        )
        if name.strip().startswith(text):
            return
        seen.append(name)
        page.keyboard.press("Shift+Tab" if backwards else "Tab")
    pytest.fail(f"no Tab leads to {text}: {seen}")


def test_tells_a_screen_reader_everything(visitor):
    visitor.give(coloured("red"))
    visitor.verdicts(1)
    visitor.page.locator(".answers button").first.click()
    expect(visitor.page.locator("canvas.map")).to_be_visible()
    snapshot = visitor.page.locator("body").aria_snapshot()
    for wanted in (
        '- heading "What is in the picture?" [level=1]',
        '- combobox "Model"',
        '- region "Images"',
        '- button "Choose images"',
        "- status: ",
        '- button "Remove all"',
        '- region "Answers"',
        '- article "red.png"',
        '- img "red.png"',
        "- 'img \"Map of red: highest at the centre.\"'",
        '- slider "Strength of the map"',
        '- button "Remove red.png"',
        '- heading "red" [level=2]',
        '- list "Probabilities"',
        "[pressed]",
        '- heading "Nearest training images" [level=3]',
    ):
        assert wanted in snapshot, f"{wanted} is missing in\n{snapshot}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_can_be_read_in_any_light(visit, scheme):
    """Contrast of at least 4.5 : 1. Source: WCAG 2.2, 1.4.3."""
    motion = "reduce" if scheme == "dark" else "no-preference"
    visitor = visit(color_scheme=scheme, reduced_motion=motion).come()
    visitor.allowed = ["415"]
    visitor.give(coloured("red"), two_coloured(), ("no.png", b"nothing"))
    visitor.verdicts(3)
    visitor.page.locator(".answers button").first.click()
    expect(visitor.page.locator("canvas.map").first).to_be_visible()
    found = visitor.page.evaluate(
        """() => [...document.querySelectorAll("main *")]
            .filter((e) => e.checkVisibility() && [...e.childNodes].some(
                (n) => n.nodeType === 3 && n.data.trim()))
            .map((e) => {
                let own = e;
                while (getComputedStyle(own).backgroundColor === "rgba(0, 0, 0, 0)") {
                    own = own.parentElement;
                }
                return [e.className || e.id || e.tagName, getComputedStyle(e).color,
                        getComputedStyle(own).backgroundColor];
            })"""
    )
    assert len(found) > 20
    for name, ink, paper in found:
        light, dark = sorted(map(luminance, (ink, paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{name}: {ink} on {paper}"
    page = visitor.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (luminance(page) < 0.1) == (scheme == "dark")
    # Nor does anything move for those who asked for that.
    moving = visitor.page.locator("main *").evaluate_all(
        "all => all.filter(e => parseFloat(getComputedStyle(e).transitionDuration)).length"
    )
    assert (moving == 0) == (scheme == "dark")


def luminance(colour):
    """Source: WCAG 2.2, relative luminance."""
    values = np.array(re.findall(r"[\d.]+", colour)[:3], float) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def test_fits_a_phone(visit):
    visitor = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True).come()
    page = visitor.page
    expect(page.get_by_role("button", name="Take a photo")).to_be_visible()
    assert page.locator("#camera").get_attribute("capture") == "environment"
    page.locator("#models").select_option("evil")
    visitor.give(("n" * 200 + ".png", coloured("red")[1]), coloured("blue"))
    visitor.verdicts(2)
    page.locator(".answers button").first.tap()
    expect(page.locator("canvas.map").first).to_be_visible()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    wide = page.locator("main *").evaluate_all(
        "all => all.filter(e => e.getBoundingClientRect().right > 360).map(e => e.className)"
    )
    assert not wide
    heights = page.locator(".answers button").evaluate_all("all => all.map(b => b.offsetHeight)")
    assert min(heights) >= 44


def test_names_and_labels_stay_text(visitor):
    page = visitor.page
    page.locator("#models").select_option("evil")
    for n, name in enumerate(COLOURS):
        visitor.give((f"{EVIL}{n}\u202egnp.exe", coloured(name)[1]))
    verdicts = visitor.verdicts(3)
    assert verdicts == ["x" * 90, "b\\u202eeulb\\x07", EVIL]
    names = page.locator(".name").all_inner_texts()
    assert names[2] == f"{EVIL}0\\u202egnp.exe"
    page.locator(".answers button").filter(has_text="<img").first.click()
    expect(page.locator("canvas.map").first).to_be_visible()
    assert page.locator("img[src=x]").count() == 0
    assert page.title() == "Topwork"


def test_another_model_answers_anew(visitor):
    visitor.give(coloured("blue"), coloured("red"))
    assert visitor.verdicts(2) == ["blue", "red"]
    visitor.page.get_by_label("Model").select_option("evil")
    expect(visitor.page.locator("#facts")).to_contain_text("evil knows 3 classes.")
    expect(visitor.page.locator(".verdict").first).to_have_text(EVIL)
    expect(visitor.page.locator(".verdict").last).to_have_text("x" * 90)
    expect(visitor.page.locator(".near").first).to_be_hidden()


def test_does_not_send_what_is_too_large(visit):
    visitor = visit()
    visitor.change(
        "models",
        lambda body: {
            **body,
            "limits": {**body["limits"], "image_bytes": 9000, "image_pixels": 2000},
        },
    )
    visitor.come()
    sent = []
    visitor.page.on(
        "request", lambda asked: sent.append(asked.url) if "predict" in asked.url else None
    )
    large = encode(picture(size=(100, 100)), compress_level=0)
    flat = encode(Image.new("RGB", (100, 100), "red"))
    visitor.give(("large.png", large), ("flat.png", flat), coloured("red", size=(20, 20)))
    bytes_said, pixels_said, verdict = visitor.verdicts(3)
    assert verdict == "red"
    assert bytes_said == (
        f"The file has {len(large):,} bytes, and this server takes at most 9,000. "
        "Make the image smaller."
    )
    assert pixels_said == (
        "The image has 10,000 pixels, and this server takes at most 2,000. Make the image smaller."
    )
    assert len(sent) == 1


def test_waits_while_the_server_is_busy(visitor):
    visitor.allowed = ["429"]
    asked = []

    def handle(route):
        asked.append(time.monotonic())
        if len(asked) > 2:
            return route.continue_()
        body = {"error": {"status": 429, "reason": "the queue is full"}}
        return route.fulfill(status=429, headers={"Retry-After": "0.2"}, json=body)

    visitor.page.route(re.compile("/predict"), handle)
    visitor.give(coloured("red"))
    assert visitor.verdicts(1) == ["red"]
    assert len(asked) == 3
    assert min(np.diff(asked)) >= 0.19


def test_says_when_the_server_is_gone(visitor):
    visitor.allowed = ["failed: ", "net::ERR"]
    visitor.page.route(re.compile("/predict"), lambda route: route.abort())
    visitor.give(coloured("red"))
    assert visitor.verdicts(1) == [
        "The server cannot be reached, or the file can no longer be read."
    ]


def test_a_map_that_fails_leaves_the_answer(visitor):
    visitor.allowed = ["503"]
    reason = "there was no answer within 30 s"
    body = {"error": {"status": 503, "reason": reason}}
    visitor.change("explain", lambda _: body, status=503)
    visitor.give(coloured("red"))
    assert visitor.verdicts(1) == ["red"]
    visitor.page.locator(".answers button").first.click()
    expect(visitor.page.locator(".note")).to_have_text(f"There is no map: {reason}")
    expect(visitor.page.locator("[aria-pressed=true]")).to_have_count(0)
    assert visitor.page.locator(".verdict").inner_text() == "red"


def test_a_removed_picture_is_not_waited_for(visitor):
    visitor.allowed = ["failed: "]
    held = []
    visitor.page.route(
        re.compile("/predict"), lambda route: route.continue_() if held else held.append(route)
    )
    visitor.give(coloured("red"), coloured("blue"))
    expect(visitor.page.locator(".sure")).to_have_count(1)
    with visitor.page.expect_event("requestfailed"):
        visitor.page.locator("article.waiting .remove").click()
    assert visitor.verdicts(1) in (["red"], ["blue"])
    expect(visitor.page.locator("#progress")).to_be_hidden()
    visitor.give(coloured("green"))
    assert visitor.verdicts(2)[0] == "green"


def as_task(visitor, task, result):
    """Makes the first model one of another task."""

    def change_models(body):
        first, *others = body["models"]
        return {**body, "models": [{**first, "task": task, "neighbours": False}, *others]}

    visitor.change("models", change_models)
    kept = ("name", "width", "height")
    visitor.change(
        "predict",
        lambda body: {
            **body,
            "task": task,
            "results": [{**{name: body["results"][0][name] for name in kept}, **result}],
        },
    )
    visitor.come()
    visitor.give(coloured("red"))


def test_shows_which_labels_are_present(visit):
    chances = [("red", 0.9), ("blue", 0.7), ("green", 0.2)]
    rows = [{"label": label, "probability": share} for label, share in chances]
    visitor = visit()
    result = {"predictions": rows, "present": ["red", "blue"]}
    as_task(visitor, "labels", result)
    assert visitor.verdicts(1) == ["red, blue"]
    found = visitor.page.locator(".label").all_inner_texts()
    assert found == ["red ✓ present", "blue ✓ present", "green"]
    expect(visitor.page.locator("#facts")).to_contain_text("3 labels")
    result["present"] = []
    visitor.give(coloured("red"))
    assert visitor.verdicts(2) == ["None of the labels", "red, blue"]


def test_shows_numbers(visit):
    numbers = [
        {"name": "red", "value": -12345.678, "range": [-20000.5, None]},
        {"name": "blue", "value": 0.00001234},
    ]
    visitor = visit()
    as_task(visitor, "number", {"numbers": numbers})
    assert visitor.verdicts(1) == ["red −12345.68, blue 1.23e−5"]
    expect(visitor.page.locator(".range")).to_have_text("between −20000.50 and unknown")
    expect(visitor.page.locator(".press")).to_have_text("Press one to see which places raise it.")
    assert visitor.page.locator(".bar").count() == 0
    visitor.page.locator(".answers button").first.click()
    expect(visitor.page.locator(".why")).to_contain_text("adds to red:")
    expect(visitor.page.locator(".con")).to_have_text("lowers")


@pytest.mark.slow
def test_holds_a_hundred_pictures(visitor):
    name, data = coloured("red")
    visitor.give(*[(f"{n}{name}", data) for n in range(103)])
    assert visitor.verdicts(100) == ["red"] * 100
    expect(visitor.page.get_by_role("alert")).to_contain_text("3 of 103 were left out")


@pytest.mark.slow
def test_explains_a_photograph(browser, reference_photos, store, tmp_path):
    """All the way with a network that sees 7 x 7 places: the map is that of `Explainer`."""
    dataset = Dataset.from_folder(reference_photos / "validation")
    settings = Settings.create(image_size=224, epochs=3, learning_rate=0.01, precision="f32")
    trained = pipeline.train(dataset, settings, store)
    trained.save(tmp_path / "photos.model")
    data = next((reference_photos / "test" / "hat").glob("*.jpg")).read_bytes()
    found = Explainer(trained.model).explain(data)
    answer = int(found.logits[0].argmax())
    with serving([tmp_path / "photos.model"]) as url:
        visitor = Visitor(browser, url).come()
        visitor.give(("hat.jpg", data))
        visitor.verdicts(1)
        visitor.page.locator(".answers button").first.click()
        expect(visitor.page.locator("canvas.map")).to_be_visible()
        drawn = visitor.pixels("map")
        visitor.check()
        visitor.context.close()
    wanted = found.heat(answer, drawn.shape[1], drawn.shape[0])
    most = np.abs(found.maps(answer)[0]).max()
    sign = np.where(drawn[..., 0] > drawn[..., 2], 1, -1)
    assert np.abs(sign * drawn[..., 3] / 255 - wanted / most).max() < 0.01
