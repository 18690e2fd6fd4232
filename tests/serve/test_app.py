import base64
import gzip
import http.client
import io
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import COLOURS, encode, picture
from PIL import Image

from topwork.models.explain import Explainer
from topwork.models.folder import load_model

IMAGE = encode(picture())
# 20,000 by 20,000 pixels in a few kilobytes.
BOMB = encode(Image.new("1", (20_000, 20_000)), "PNG")


@pytest.fixture(scope="module")
def model(saved):
    return load_model(saved)


def test_an_image_is_answered_as_the_model_does(site, model):
    images = [encode(picture(colour, seed=7)) for colour in COLOURS.values()]
    wanted = model.predict(images).probabilities
    for image, chances in zip(images, wanted, strict=True):
        status, _, content = site.predict(image, top=9)
        assert status == 200
        assert content.keys() == {"model", "version", "task", "results"}
        (found,) = content["results"]
        assert (found["name"], found["width"], found["height"]) == (None, 40, 30)
        ranked = [(entry["label"], entry["probability"]) for entry in found["predictions"]]
        assert [share for _, share in ranked] == pytest.approx(sorted(chances, reverse=True), 1e-3)
        assert [label for label, _ in ranked] == [model.classes[n] for n in np.argsort(-chances)]
    assert len(site.predict(images[0], top=1)[2]["results"][0]["predictions"]) == 1


def test_answers_belong_to_their_questions(site, model):
    images = [
        encode(picture(tuple(np.random.default_rng(n).integers(0, 255, 3)), seed=n))
        for n in range(96)
    ]
    wanted = model.predict(images).probabilities
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(site.predict, images, timeout=120))
    for (status, _, content), chances in zip(answers, wanted, strict=True):
        assert status == 200
        (found,) = content["results"]
        for entry in found["predictions"]:
            place = model.classes.index(entry["label"])
            assert entry["probability"] == pytest.approx(chances[place], abs=1e-3)


def test_a_bad_image_among_many_fails_alone(site, form):
    odd = 'a "b" <i>ü</i>.png'.replace('"', "%22")
    files = [("1.png", IMAGE), (odd, b"<html>"), ("", IMAGE[:-200]), ("4.png", IMAGE)]
    status, _, content = site.predict(*form(*files))
    assert status == 200
    assert [found["name"] for found in content["results"]] == ["1.png", odd, "", "4.png"]
    assert [found.get("status") for found in content["results"]] == [None, 415, 422, None]
    assert content["results"][1]["error"] == "not an image: it starts like a web page"
    assert content["results"][2]["error"].startswith("damaged or cut off")
    first, last = content["results"][0], content["results"][3]
    assert first["predictions"] == [
        {"label": entry["label"], "probability": pytest.approx(entry["probability"], abs=1e-4)}
        for entry in last["predictions"]
    ]


def test_where_every_image_fails_the_status_is_that_of_the_first(site, form):
    status, _, content = site.predict(*form(("a", b"nothing"), ("b", b"")))
    assert status == 415
    assert [found["status"] for found in content["results"]] == [415, 422]


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"no image", 415, "not an image"),
        (IMAGE[:100], 422, "damaged or cut off"),
        (encode(picture(), "JPEG")[:200], 422, "damaged or cut off"),
        (BOMB, 413, "50,000,000 pixels, and it has"),
    ],
)
def test_an_image_that_cannot_be_used_is_refused_in_words(site, body, status, reason):
    found, _, content = site.predict(body)
    assert found == status == content["results"][0]["status"]
    assert reason in content["results"][0]["error"]


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "reason"),
    [
        ("GET", "/nothing", None, {}, 404, "openapi.json"),
        ("GET", "/static/page.html", None, {}, 404, "page.html"),
        ("GET", "/static/..%2Fapp.py", None, {}, 404, "nothing here"),
        ("GET", "/predict", None, {}, 405, "GET is not for this address"),
        ("POST", "/models", b"", {}, 405, "POST"),
        ("POST", "/predict", b"", {}, 422, "it is empty"),
        ("POST", "/predict?model=other", IMAGE, {}, 404, "choose one of colours"),
        ("POST", "/predict?top=0", IMAGE, {}, 422, "top: .*greater than or equal to 1"),
        ("POST", "/predict?top=a", IMAGE, {}, 422, "top: .*received 'a'"),
        ("POST", "/predict?neighbours=-1", IMAGE, {}, 422, "neighbours"),
        ("POST", "/predict?abstain_below=2", IMAGE, {}, 422, "abstain_below"),
        ("POST", "/predict?abstain_below=nan", IMAGE, {}, 422, "abstain_below"),
        ("POST", "/explain?class=cat", IMAGE, {}, 422, "one of blue, green, red, received 'cat'"),
        ("POST", "/explain", b"no image", {}, 415, "not an image"),
        ("POST", "/predict", gzip.compress(IMAGE), {"Content-Encoding": "gzip"}, 415, "compress"),
        ("POST", "/predict", IMAGE, {"Content-Type": "multipart/form-data"}, 400, "boundary"),
        ("GET", "/models", None, {"Host": "evil.example"}, 400, "received 'evil.example'"),
        ("GET", "/models", None, {"Host": "127.0.0.1.evil.example:80"}, 400, "Host"),
        ("GET", "/models", None, {"Origin": "https://evil.example"}, 403, "--allow-origin"),
        ("GET", "/models", None, {"Origin": "null"}, 403, "'null' may not"),
        ("GET", "/models", None, {"Origin": "http://["}, 403, "may not"),
    ],
)
def test_what_is_wrong_is_said_with_its_status(site, method, path, body, headers, status, reason):
    found, head, content = site.ask(method, path, body, headers)
    assert (found, content["error"]["status"]) == (status, status)
    assert re.search(reason, content["error"]["reason"]), content
    assert head["content-type"] == "application/json"
    assert (status == 405) == ("allow" in head)


def test_health_is_told_to_everybody(site, open_site, saved):
    for headers in (
        {"Host": "pod.internal:8000"}, {"Host": ""}, {"Origin": "https://evil.example"},
    ):  # fmt: skip
        assert site.ask("GET", "/healthz", headers=headers)[0] == 200
        assert site.ask("GET", "/healthz/", headers=headers)[0] != 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/models", "/metrics", "/static/page.js"])
def test_a_head_is_that_of_a_get_without_its_body(site, path):
    status, head, body = site.ask("HEAD", path)
    wanted = site.ask("GET", path)
    assert (status, body) == (200, b"")
    assert head["content-type"] == wanted[1]["content-type"]
    assert "content-length" in head
    assert site.ask("HEAD", "/predict")[0] == 405
    assert site.ask("HEAD", "/models", headers={"Host": "evil.example"})[0] == 400
    said = site.ask("GET", "/metrics")[2].decode()
    assert f'topwork_requests_total{{route="{path}",status="200"}}'[:30] in said


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("abstain-below=0.9", "did you mean abstain_below"),
        ("abstainBelow=0.9", "did you mean abstain_below"),
        ("abstain=0.9", "did you mean abstain_below"),
        ("abstein_below=0.9", "did you mean abstain_below"),
        ("ABSTAIN_BELOW=0.9", "did you mean abstain_below"),
        ("threshold=0.9", "there are model, top, neighbours, abstain_below"),
        ("topk=1", "did you mean top"),
        ("top_k=1", "did you mean top"),
        ("Top=1", "did you mean top"),
        ("neighbors=3", "did you mean neighbours"),
        ("modle=colours", "did you mean model"),
        ("%20top=1", "did you mean top"),
        ("top=1&%E2%98%83=1", "is no option"),
        ("class=red", "there are|did you mean"),
        ("abstain_below=0.9&abstain_below=0.1", "must be given once, received 2"),
    ],
)
def test_an_option_that_nobody_knows_is_refused_with_the_nearest(site, option, reason):
    status, _, content = site.ask("POST", f"/predict?{option}", IMAGE)
    assert status == 422
    assert re.search(reason, content["error"]["reason"]), content


def test_options_of_an_explanation_are_its_own(site):
    assert site.ask("POST", "/explain?class=red", IMAGE)[0] == 200
    for option, reason in (("label=red", "there are model, class"), ("clas=red", "mean class")):
        status, _, content = site.ask("POST", f"/explain?{option}", IMAGE)
        assert status == 422
        assert reason in content["error"]["reason"]


@pytest.mark.parametrize("passes_host", [False, True])
def test_behind_a_proxy_the_message_says_what_helps(site, open_site, saved, passes_host):
    origin = "https://photos.example"
    headers = {"Origin": origin} | ({"Host": "photos.example"} if passes_host else {})
    status, _, content = site.ask("POST", "/predict", IMAGE, headers)
    assert status == (400 if passes_host else 403)
    assert f"--allow-origin {origin}" in content["error"]["reason"]
    allowed = open_site(saved, allow_origins=(origin,))
    assert allowed.ask("POST", "/predict", IMAGE, headers)[0] == 200
    for other in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        assert allowed.ask("POST", "/predict", IMAGE, other)[0] in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "[::1]:8000", "LOCALHOST:1"])
def test_this_machine_may_be_called_by_any_of_its_names(site, host):
    assert site.ask("GET", "/models", headers={"Host": host})[0] == 200


def test_the_page_of_this_server_may_ask_it(site):
    origin = f"http://127.0.0.1:{site.port}"
    assert site.predict(IMAGE, {"Origin": origin})[0] == 200


def test_limits_are_kept(open_site, saved, form):
    site = open_site(
        saved, limits={"image_bytes": 9000, "images": 2, "request_bytes": 20_000, "queue": 2}
    )
    small, large = encode(picture()), encode(picture(size=(80, 60)), "BMP")
    assert len(small) < 9000 < len(large) < 20_000
    assert site.predict(large)[0] == 413
    status, _, content = site.predict(*form(("a", large), ("b", small)))
    assert (status, content["results"][0]["status"]) == (200, 413)
    assert "an image may have 9,000 bytes" in content["results"][0]["error"]
    assert content["results"][1]["predictions"]
    status, _, content = site.predict(*form(*[("a", small)] * 3))
    assert (status, content["error"]["reason"][:30]) == (413, "a request may have 2 images; s")
    status, _, content = site.predict(bytes(30_000))
    assert (status, content["error"]["reason"][:34]) == (413, "a request may have 20,000 bytes; s")
    # A length that is not said, or that lies, is counted.
    chunks = iter([bytes(5000)] * 6)
    assert site.predict(chunks)[0] == 413
    assert site.ask("GET", "/models")[2]["limits"]["image_bytes"] == 9000


def test_who_comes_when_the_queue_is_full_is_asked_to_come_again(open_site, saved, form):
    site = open_site(saved, limits={"images": 2, "queue": 2})
    with site.open() as slow:
        slow.sendall(
            b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(IMAGE)
        )
        slow.sendall(IMAGE[:10])
        wait_for(site, "topwork_queue_images 1.0")
        status, head, content = site.predict(*form(("a", IMAGE), ("b", IMAGE)))
        assert (status, head["retry-after"]) == (429, "1")
        assert "at most 2 images and 2 are in it" in content["error"]["reason"]
        assert site.predict(IMAGE)[0] == 200
        slow.sendall(IMAGE[10:])
        assert slow.recv(12) == b"HTTP/1.1 200"
    assert site.predict(*form(("a", IMAGE), ("b", IMAGE)))[0] == 200


def test_bodies_on_their_way_may_hold_so_many_bytes_together(open_site, saved):
    site = open_site(saved, limits={"request_bytes": 5000, "held_bytes": 5000})
    with site.open() as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4900\r\n\r\n")
        slow.sendall(bytes(4800))
        wait_for(site, "topwork_queue_images 1.0")
        status, head, content = site.predict(IMAGE)
        assert (status, head["retry-after"]) == (429, "1")
        assert "5,000 bytes together" in content["error"]["reason"]


def wait_for(site, line):
    for _ in range(1000):
        if line in site.ask("GET", "/metrics")[2].decode():
            return
    raise AssertionError(f"never {line}")


def test_a_body_that_comes_too_slowly_is_refused(open_site, saved):
    site = open_site(saved, limits={"receive_timeout_s": 0.2})
    with site.open() as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nab")
        response = http.client.HTTPResponse(slow)
        response.begin()
        assert response.status == 408
        assert "2 bytes of it did" in json.loads(response.read())["error"]["reason"]


def test_an_answer_that_takes_too_long_is_given_up(open_site, saved):
    site = open_site(saved, limits={"timeout_s": 1e-9})
    status, head, content = site.predict(IMAGE)
    assert (status, head["retry-after"]) == (503, "1")
    assert "no answer within" in content["error"]["reason"]


def test_every_answer_has_its_headers_of_safety(site):
    for method, path in (("GET", "/"), ("GET", "/nothing"), ("POST", "/predict")):
        _, head, _ = site.ask(method, path, b"x" if method == "POST" else None)
        assert head["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in head["content-security-policy"]
        assert head["cache-control"] == ("no-cache" if path == "/" else "no-store")
        assert "access-control-allow-origin" not in head
        assert "server" not in head


def test_the_page_and_its_files_are_there(site):
    status, head, body = site.ask("GET", "/")
    assert (status, head["content-type"]) == (200, "text/html; charset=utf-8")
    for name, kind in (("page.js", "text/javascript"), ("page.css", "text/css")):
        assert f"static/{name}".encode() in body
        status, head, _ = site.ask("GET", f"/static/{name}")
        assert (status, head["content-type"]) == (200, f"{kind}; charset=utf-8")


def test_a_picture_that_lies_on_its_side_is_measured_upright(site):
    image, exif = picture(size=(40, 30)), Image.Exif()
    exif[274] = 6
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        for data, size in ((encode(image, kind), (40, 30)), (turned(image, kind, exif), (30, 40))):
            (found,) = site.predict(data)[2]["results"]
            assert (found["width"], found["height"]) == size, kind


def turned(image, kind, exif):
    file = io.BytesIO()
    image.save(file, kind, exif=exif)
    return file.getvalue()


def test_models_are_described(site, saved):
    (facts,) = site.ask("GET", "/models")[2]["models"]
    card = json.loads((saved / "model.json").read_text())
    assert facts["name"] == "colours"
    assert facts["classes"] == ["blue", "green", "red"]
    assert (facts["task"], facts["base"], facts["image_size"]) == (
        "classes", "efficientnet-lite0", 32,
    )  # fmt: skip
    assert facts["validation"] == card["validation"]
    assert (facts["neighbours"], facts["exact_maps"], facts["abstain_below"]) == (False, True, None)
    assert site.predict(IMAGE)[2]["version"] == facts["version"]


def test_a_map_is_the_logit(site, model):
    wanted = Explainer(model).explain(IMAGE)
    status, _, found = site.ask("POST", "/explain", IMAGE)
    top = model.classes[int(wanted.logits.argmax())]
    assert (status, found["label"], found["exact"]) == (200, top, True)
    assert (found["width"], found["height"]) == (40, 30)
    assert np.mean(found["map"]) + found["rest"] == pytest.approx(found["logit"], abs=1e-5)
    for label in model.classes:
        found = site.ask("POST", "/explain", IMAGE, **{"class": label})[2]
        place = model.classes.index(label)
        assert found["label"] == label
        assert found["map"] == pytest.approx(wanted.maps(place)[0], abs=1e-4)
        assert found["logit"] == pytest.approx(wanted.logits[0, place], abs=1e-3)
        chance = wanted.predictions.probabilities[0, place]
        assert found["probability"] == pytest.approx(chance, abs=1e-3)


def test_one_image_at_a_time_is_explained(site, form):
    body, headers = form(("a", IMAGE), ("b", IMAGE))
    status, _, content = site.ask("POST", "/explain", body, headers)
    assert (status, content["error"]["reason"]) == (
        422, "one image at a time is explained, received 2",
    )  # fmt: skip
    assert site.ask("POST", "/explain", *form(("a", IMAGE)))[0] == 200


def test_several_models_with_several_networks(open_site, saved, stacked_saved, form):
    site = open_site(stacked_saved, saved, abstain_below=1.0)
    known, other = load_model(stacked_saved), load_model(saved)
    for name, wanted in (("stacked", known), ("colours", other)):
        content = site.predict(*form(*[("a", IMAGE)] * 6), model=name)[2]
        assert (content["model"], len(content["results"])) == (name, 6)
        chances = wanted.predict([IMAGE]).probabilities[0]
        for found in content["results"]:
            assert found["predictions"][0]["probability"] == pytest.approx(chances.max(), abs=1e-3)
            assert found["abstained"] is True
    assert site.predict(IMAGE)[2]["model"] == "stacked"
    found = site.ask("POST", "/explain", IMAGE)[2]
    assert found["exact"] is False
    assert np.mean(found["map"]) + found["rest"] == pytest.approx(found["logit"], abs=1e-5)
    wanted = Explainer(known).explain(IMAGE)
    assert found["logit"] == pytest.approx(wanted.logits.max(), abs=1e-3)
    assert found["rest"] == pytest.approx(wanted.rest(int(wanted.logits.argmax())), abs=1e-3)


def test_a_request_may_ask_to_hear_nothing_where_the_model_is_not_sure(site):
    assert "abstained" not in site.predict(IMAGE)[2]["results"][0]
    for threshold, said in ((0, False), (1, True)):
        (found,) = site.predict(IMAGE, abstain_below=threshold)[2]["results"]
        assert found["abstained"] is said


def test_a_key_is_asked_for_everything_but_the_page(open_site, saved):
    site = open_site(saved, api_key="secret-1")
    for path in ("/", "/healthz", "/static/page.js"):
        assert site.ask("GET", path)[0] == 200
    for path in ("/models", "/metrics", "/openapi.json", "/nothing", "/healthz/", "//"):
        status, head, content = site.ask("GET", path)
        assert (status, head["www-authenticate"]) == (401, "Bearer"), path
        assert "the one received is none" in content["error"]["reason"]
    for headers in ({"X-API-Key": "secret-1"}, {"Authorization": "bearer secret-1"}):
        assert site.predict(IMAGE, headers)[0] == 200
    for headers in (
        {"X-API-Key": "secret-2"},
        {"X-API-Key": "secret-1é".encode().decode("latin-1")},
        {"Authorization": "Basic secret-1"},
        {"Authorization": "Bearer"},
    ):
        assert site.predict(IMAGE, headers)[0] == 401
    described = site.ask("GET", "/openapi.json", headers={"X-API-Key": "secret-1"})[2]
    assert described["paths"]["/predict"]["post"]["security"]
    assert "security" not in described["paths"]["/healthz"]["get"]


def test_pages_of_allowed_sites_may_ask(open_site, saved):
    site = open_site(saved, allow_origins=("https://good.example",), api_key="k")
    key = {"X-API-Key": "k"}
    good, bad = {"Origin": "https://good.example"}, {"Origin": "https://evil.example"}
    assert site.ask("GET", "/models", headers=good | key)[1]["access-control-allow-origin"] == (
        "https://good.example"
    )
    # Without the key the page has to read that it needs one.
    assert site.ask("GET", "/models", headers=good)[1]["access-control-allow-origin"]
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    assert site.ask("OPTIONS", "/predict", headers=good | asked)[0] == 200
    assert site.ask("OPTIONS", "/predict", headers=bad | asked)[0] == 400
    status, head, _ = site.ask("GET", "/models", headers=bad | key)
    assert (status, "access-control-allow-origin" in head) == (403, False)


def test_figures_count_requests_and_images(open_site, saved, form):
    site = open_site(saved)
    site.predict(*form(("a", IMAGE), ("b", b"none")))
    site.ask("GET", "/secret/name")
    lines = site.ask("GET", "/metrics")[2].decode().splitlines()
    for line in (
        'topwork_requests_total{route="/predict",status="200"} 1.0',
        'topwork_requests_total{route="other",status="404"} 1.0',
        'topwork_images_total{model="colours",outcome="answered"} 1.0',
        'topwork_images_total{model="colours",outcome="415"} 1.0',
        'topwork_batch_images_count{model="colours"} 1.0',
        "topwork_queue_images 0.0",
    ):
        assert line in lines
    assert not [line for line in lines if "secret" in line]
    (info,) = [line for line in lines if line.startswith("topwork_model_info{")]
    assert 'base="efficientnet-lite0"' in info


def test_a_fault_is_answered_and_logged(open_site, saved, monkeypatch, caplog):
    from topwork.serve import service

    site = open_site(saved)
    monkeypatch.setattr(service, "format_predictions", None)
    status, head, content = site.predict(IMAGE)
    assert (status, content["error"]["reason"]) == (500, "a fault of the server; its log says more")
    assert head["x-content-type-options"] == "nosniff"
    assert "POST /predict failed" in caplog.text
    monkeypatch.undo()
    assert site.predict(IMAGE)[0] == 200


def test_the_log_has_a_short_line_for_each_request(site, caplog):
    caplog.set_level("INFO", "topwork.serve")
    site.predict(IMAGE, top=1)
    site.ask("GET", "/%1b%0aname" + "x" * 500)
    # A line is written when the answer has gone.
    end = time.monotonic() + 20
    while len(caplog.records) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    *_, first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("127.0.0.1 POST /predict?top=1 200 1 image ")
    assert second.startswith("127.0.0.1 GET /\\x1b\\nnamexxx")
    assert len(second) < 160


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=60).map(lambda tail: IMAGE[: len(IMAGE) - len(tail)] + tail),
        st.integers(0, len(IMAGE)).map(lambda cut: IMAGE[:cut]),
        st.binary(max_size=200).map(lambda tail: b"--border\r\n" + tail + b"\r\n--border--\r\n"),
    ),
    kind=st.sampled_from(
        ["image/png", "multipart/form-data; boundary=border", "multipart/form-data", "", ";=,"]
    ),
)
def test_no_body_makes_the_server_fail(site, body, kind):
    status, _, content = site.predict(body, {"Content-Type": kind})
    assert status in (200, 400, 413, 415, 422)
    assert ("error" in content) != ("results" in content)


def test_neighbours_come_with_their_thumbnails(open_site, saved, tmp_path, monkeypatch):
    from topwork.models.gallery import Near
    from topwork.serve import registry

    class Gallery:
        def find(self, vector, count):
            assert vector.ndim == 1
            return [Near("<a>.png", "red", 0.5, b"RIFF")] * count

    monkeypatch.setattr(registry, "load_gallery", lambda folder, length: Gallery())
    site = open_site(saved)
    assert site.ask("GET", "/models")[2]["models"][0]["neighbours"] is True
    assert "neighbours" not in site.predict(IMAGE)[2]["results"][0]
    (found,) = site.predict(IMAGE, neighbours=2)[2]["results"]
    assert (
        found["neighbours"]
        == [
            {
                "name": "<a>.png",
                "label": "red",
                "similarity": 0.5,
                "thumbnail": "data:image/webp;base64," + base64.b64encode(b"RIFF").decode(),
            }
        ]
        * 2
    )
