"""The description is true: whatever it allows is answered as it says."""

import pytest
from pictures import encode, picture

IMAGE = encode(picture())


def test_every_route_and_status_is_described(site):
    found = site.ask("GET", "/openapi.json")[2]
    assert found["openapi"].startswith("3.1")
    assert {*found["paths"]} == {"/predict", "/explain", "/models", "/healthz", "/metrics"}
    for path in ("/predict", "/explain"):
        statuses = {*found["paths"][path]["post"]["responses"]}
        assert statuses == {
            *("200", "400", "403", "404", "405", "408", "413", "415", "422", "429", "431"),
            *("500", "503"),
        }
    assert "security" not in found["paths"]["/predict"]["post"]
    for name in ("/docs", "/redoc"):
        assert site.ask("GET", name)[0] == 404


def test_answers_are_as_they_are_described(site, form):
    schemas = pytest.importorskip("jsonschema_rs")
    found = site.ask("GET", "/openapi.json")[2]

    def check(path, method, answer):
        status, head, content = answer
        described = found["paths"][path][method]["responses"][str(status)]["content"]
        kind = head["content-type"].partition(";")[0]
        schema = {**described[kind]["schema"], "components": found["components"]}
        if kind == "application/json":
            schemas.Draft202012Validator(schema).validate(content)

    check("/predict", "post", site.predict(IMAGE, abstain_below=0.5))
    check("/predict", "post", site.predict(*form(("a", IMAGE), ("b", b"none"))))
    check("/predict", "post", site.predict(b"none"))
    check("/predict", "post", site.predict(b""))
    check("/explain", "post", site.ask("POST", "/explain", IMAGE))
    check("/explain", "post", site.ask("POST", "/explain", b""))
    check("/models", "get", site.ask("GET", "/models"))
    check("/healthz", "get", site.ask("GET", "/healthz"))
    check("/metrics", "get", site.ask("GET", "/metrics"))


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, "key-1"])
def test_what_schemathesis_makes_up_finds_nothing(open_site, saved, key, tmp_path):
    pytest.importorskip("schemathesis")
    import subprocess
    import sys

    site = open_site(saved, api_key=key)
    url = f"http://127.0.0.1:{site.port}"
    # That no image can be guessed is no fault, and no schema says what an image is.
    left_out = "positive_data_acceptance"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", url + "/openapi.json"),
            *("--checks", "all", "--exclude-checks", left_out, "--max-examples", "100"),
            *("--seed", "1", "--no-color", "--request-timeout", "60"),
            *(("--header", f"X-API-Key: {key}") if key else ()),
        ],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
