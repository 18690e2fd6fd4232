import socket

import pytest

import topwork.cli.serve  # noqa: F401 (registers the command)
from topwork.cli.serve import check_origin, find_key
from topwork.core.errors import SettingsError


def test_help_fits_and_says_what_the_limits_are(run):
    from topwork.serve.limits import Limits

    code, out, _ = run("serve", "--help")
    assert code == 0
    assert all(len(line) <= 80 for line in out.splitlines())
    text = " ".join(out.split())
    limits = Limits.create()
    mebibytes = {"image_bytes": "20 MiB", "request_bytes": "64 MiB"}
    for name, said in mebibytes.items():
        assert getattr(limits, name) == int(said.split()[0]) * 2**20
    for said in (*mebibytes.values(), "50 million", "[32]", "[128]", "[30]", "[60]"):
        assert said in text
    assert (limits.image_pixels, limits.images, limits.queue) == (50_000_000, 32, 128)
    assert (limits.timeout_s, limits.receive_timeout_s) == (30, 60)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("serve",), 2, "Missing argument"),
        (("serve", "nowhere"), 1, "nowhere is not a Topwork model: there is no such folder"),
        (("serve", "MODEL", "MODEL"), 2, "both called colours; rename one"),
        (("serve", "MODEL", "--port", "99999"), 2, "--port"),
        (("serve", "MODEL", "--host", "no.such.host.invalid"), 2, "cannot listen on"),
        (("serve", "MODEL", "--queue", "5"), 2, "queue: must be at least"),
        (("serve", "MODEL", "--max-pixels", "0"), 2, "image_pixels: .*received 0"),
        (("serve", "MODEL", "--abstain-below", "2"), 2, "abstain_below: must be 0 to 1"),
        (("serve", "MODEL", "--allow-origin", "example.com"), 2, "allow_origin: .*'example.com'"),
        (
            ("serve", "MODEL", "--api-key-file", "none"),
            2,
            "api_key_file: cannot read none: No such",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    run, saved, tmp_path, monkeypatch, arguments, code, message
):
    import re

    pytest.importorskip("uvicorn")
    monkeypatch.chdir(tmp_path)
    options = () if "--port" in arguments or len(arguments) < 2 else ("--port", "0")
    found, out, err = run(*(saved if part == "MODEL" else part for part in arguments), *options)
    assert (found, out) == (code, "")
    (line,) = err.splitlines()
    assert re.search(message, line), line


def test_a_port_that_is_taken_is_named(run, saved):
    pytest.importorskip("uvicorn")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = run("serve", saved, "--port", port)
    assert code == 2
    assert f"cannot listen on 127.0.0.1, port {port}" in err


def test_a_key_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("TOPWORK_API_KEY", raising=False)
    assert find_key(None) is None
    file = tmp_path / "key"
    file.write_text("of-file\n")
    monkeypatch.setenv("TOPWORK_API_KEY", "of-environment")
    assert (find_key(None), find_key(file)) == ("of-environment", "of-file")
    # To be told to have a key and to have none is not to be open to all.
    monkeypatch.setenv("TOPWORK_API_KEY", "")
    with pytest.raises(SettingsError, match=r"\$TOPWORK_API_KEY: must hold an API key"):
        find_key(None)
    for content in (b"", b"\xff\xfe", b"two words"):
        file.write_bytes(content)
        with pytest.raises(SettingsError):
            find_key(file)


@pytest.mark.parametrize(
    "origin", ["example.com", "ftp://a", "https://a/path", "https://a?b", "", "null", "https://"]
)
def test_an_origin_is_a_scheme_and_a_host(origin):
    with pytest.raises(SettingsError, match="allow_origin"):
        check_origin(origin)
    assert check_origin("https://Example.com:8443/") == "https://example.com:8443"
    assert check_origin("*") == "*"
