import errno
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import COLOURS, encode, picture
from recorder import Recorder
from servers import FileServer, s3_server

from topwork.core.errors import DatasetError, ImageError, SettingsError, StoreError
from topwork.data.remote import urls
from topwork.data.remote.cache import Remote, is_url
from topwork.data.remote.downloads import CacheEntry, PartialDownload, Version
from topwork.images.decode import read_bytes

pytest.importorskip("aiohttp")

BIG = random.Random(0).randbytes(3_000_000)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDSECRET")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "WONDROUSSECRET")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")


@pytest.fixture
def site():
    with FileServer() as site:
        yield site


@pytest.fixture
def start(tmp_path):
    """Starts runs that share a cache; what they would have waited is in `waits`."""
    opened = []

    def start_run(waits=None, **options):
        sleep = (waits if waits is not None else []).append
        remote = Remote(tmp_path / "cache", sleep=sleep, **options)
        opened.append(remote)
        return remote

    yield start_run
    for remote in opened:
        remote.close()


def cached(tmp_path, ending):
    return sorted(path.name for path in (tmp_path / "cache").rglob(f"*{ending}"))


# What is a URL, and what of it is shown


@pytest.mark.parametrize("text", ["s3://b/a.jpg", "HTTPS://h/a", "gs://b", "memory://x", "s3://"])
def test_urls(text):
    assert is_url(text)


@pytest.mark.parametrize("text", ["C:\\x", "C://x", "a:b.jpg", "/a/b", "a//b", "", "x s3://b/a"])
def test_paths_are_no_urls(text):
    assert not is_url(text)


SIGNED = (
    "X-Amz-Signature=abc123&X-Amz-Credential=AKID%2Fx&X-Amz-Date=d",
    "sv=2024&se=2026&sig=abc123",
    "AWSAccessKeyId=AKID&Signature=abc123&Expires=1",
    "token=abc123",
    "v=1&x=abc123abc123abc123abc123abc123",
)


@pytest.mark.parametrize("query", SIGNED)
def test_messages_have_no_secrets(query):
    shown = urls.show(f"https://user:word@host:80/a/b.jpg?{query}#f")
    assert shown == "https://host:80/a/b.jpg?..."
    assert urls.show_text(f"GET 'https://u:p@h/x?{query}' failed") == "GET 'https://h/x?...' failed"
    assert urls.show("https://host/a.jpg?id=5") == "https://host/a.jpg?id=5"


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_odd_urls_are_shown_on_one_line_and_without_a_login(text):
    shown = urls.show(f"http://user:WORD@{text}")
    assert "WORD" not in shown
    assert shown.isprintable()
    assert urls.identity(f"http://{text}")


def test_a_file_is_the_same_however_it_is_signed_and_another_by_any_other_parameter():
    plain = urls.identity("https://h/a.jpg")
    for query in SIGNED[:3]:
        assert urls.identity(f"https://me:pw@H/a.jpg?{query}") == plain
        assert urls.identity(f"https://h/a.jpg?id=5&{query}") == urls.identity(
            "https://h/a.jpg?id=5"
        )
    different = {"https://h/a.jpg?id=5", "https://h/a.jpg?token=a", "https://h/a.jpg?token=b",
                 "http://h/a.jpg", "s3://b/a?x", "s3://b/a?y", "s3://b/a#x"}  # fmt: skip
    assert len({urls.identity(url) for url in different} | {plain}) == len(different) + 1


# Reading and the cache


def test_an_image_is_read_once_and_a_later_run_asks_only_whether_it_changed(site, start):
    data = encode(picture())
    site.files["/a b%.png"] = data
    url = urls.join(site.url, "a b%.png")
    run = start()
    source = run.source(url)
    assert read_bytes(source) == data == source.read() == run.source(url).read()
    assert run.received == len(data) == site.sent
    assert site.count("/a b%.png") == 1
    later = start()
    assert later.source(url).read() == data
    assert later.received == 0
    assert site.sent == len(data)


def test_a_new_version_is_downloaded(site, start):
    site.files["/a"] = b"one"
    old = start().fetch(f"{site.url}/a")
    site.files["/a"] = b"two"
    later = start()
    assert later.fetch(f"{site.url}/a").read_bytes() == b"two"
    assert later.received == 3
    assert old.read_bytes() == b"one", "another run may still be reading it"


def test_date_and_size_are_a_version_too(site, start):
    site.has_etags, site.has_dates = False, True
    site.files["/a"] = b"one"
    start().fetch(f"{site.url}/a")
    later = start()
    assert later.fetch(f"{site.url}/a").read_bytes() == b"one"
    assert later.received == 0
    site.files["/a"] = b"four"
    assert start().fetch(f"{site.url}/a").read_bytes() == b"four"


def test_where_the_server_tells_nothing_every_run_downloads_once(site, start):
    site.has_etags = False
    site.files["/a"] = b"one"
    run = start()
    assert [run.fetch(f"{site.url}/a").read_bytes() for _ in range(3)] == [b"one"] * 3
    assert site.count("/a") == 1
    site.files["/a"] = b"two"
    assert start().fetch(f"{site.url}/a").read_bytes() == b"two"


def test_threads_that_ask_for_the_same_file_share_a_download(site, start):
    site.files |= {f"/{n}": bytes([n]) * 5000 for n in range(4)}
    run = start()
    site.gate.clear()
    read = []
    threads = [
        threading.Thread(target=lambda n=n: read.append((n, run.source(f"{site.url}/{n}").read())))
        for n in [*range(4)] * 3
    ]
    for thread in threads:
        thread.start()
    site.gate.set()
    for thread in threads:
        thread.join()
    assert sorted(read) == sorted((n, bytes([n]) * 5000) for n in [*range(4)] * 3)
    assert len(site.requests) == 4
    assert run.received == 20_000


def test_a_table_keeps_its_suffix_and_a_redirect_is_followed(site, start):
    site.files["/far/x.csv"] = b"a,b\n"
    site.faults["/list.tar.gz"] = [("to", "/far/x.csv")]
    path = start().fetch(f"{site.url}/list.tar.gz?token=SECRET")
    assert path.name.endswith("list.tar.gz")
    assert "SECRET" not in path.name
    assert path.read_bytes() == b"a,b\n"


def test_an_image_that_is_too_large_is_not_downloaded(site, start, tmp_path):
    site.files["/a"] = BIG
    for site.has_lengths in (True, False):
        run = start(largest_image_bytes=1 << 20)
        with pytest.raises(ImageError, match="larger than the 1 MiB"):
            run.source(f"{site.url}/a").read()
        assert run.received < 2 << 20
        assert (run.received == 0) is site.has_lengths
    assert not cached(tmp_path, ".part")
    assert start().fetch(f"{site.url}/a").read_bytes() == BIG


# What goes wrong


@pytest.mark.parametrize("fault", [503, 429, 500, 408, 7, "short", "slow"])
def test_what_passes_is_tried_again(site, start, fault):
    site.files["/a"] = b"whole picture"
    site.faults["/a"] = [fault, fault]
    site.has_ranges = False
    waits = []
    assert start(waits).source(f"{site.url}/a").read() == b"whole picture"
    assert len(waits) == (0 if fault == "slow" else 2)
    assert all(0.2 < wait < 2 for wait in waits)


@pytest.mark.parametrize(
    ("status", "reason"), [(404, "no such file"), (410, "no such file"), (403, "no permission"),
                           (401, "no permission"), (400, "answered 400"), (501, "answered 501")],
)  # fmt: skip
def test_what_is_final_is_named_and_not_tried_again(site, start, tmp_path, status, reason):
    site.faults["/a.jpg"] = [status] * 2
    run, waits = start(), []
    with pytest.raises(ImageError, match=reason):
        run.source(f"{site.url}/a.jpg").read()
    with pytest.raises(DatasetError, match=rf"http://{site.host}/a.jpg must .*{reason}"):
        run.fetch(f"{site.url}/a.jpg")
    assert len(site.requests) == 2
    assert not waits
    assert not cached(tmp_path, ".part")


def test_a_server_that_stays_ill_ends_an_image_and_then_the_run(site, start):
    site.faults = {f"/{n}": [503] * 50 for n in range(9)}
    run = start()
    for n in range(2):
        with pytest.raises(ImageError, match="answered 503, 5 times"):
            run.source(f"{site.url}/{n}").read()
    with pytest.raises(DatasetError, match=r"/2: .*3 files in a row.*run again"):
        run.source(f"{site.url}/2").read()
    assert len(site.requests) == 15


def test_what_answers_in_between_keeps_the_run_alive(site, start):
    site.files["/ok"] = b"x"
    site.faults = {f"/{n}": [503] * 50 for n in range(9)}
    run = start()
    for n in range(4):
        with pytest.raises(ImageError):
            run.source(f"{site.url}/{n}").read()
        with pytest.raises(ImageError, match="no such"):
            run.source(f"{site.url}/none{n}").read()


def test_a_machine_that_is_not_there(start):
    with FileServer() as gone:
        url = gone.url
    waits = []
    with pytest.raises(ImageError, match=r"Cannot connect.*5 times"):
        start(waits).source(f"{url}/a").read()
    assert len(waits) == 4
    assert waits == sorted(waits) or waits[-1] > waits[0]


@pytest.mark.parametrize("url", ["http://[x/a", "http:///a", "http://127.0.0.1:99999/a", "http://"])
def test_addresses_that_are_none(start, url):
    with pytest.raises(ImageError):
        start().source(url).read()


@pytest.mark.parametrize("url", ["ssh://h/a.jpg", "file:///etc/passwd", "zip://a::http://b"])
def test_other_protocols_are_a_bad_image_not_the_end(start, url):
    with pytest.raises(ImageError, match=r"is not supported; what is: s3://"):
        start().source(url).read()


@pytest.mark.parametrize(
    ("url", "package"), [("s3://b/a", "topwork[remote]"), ("gs://b/a", "gcsfs"),
                         ("http://h/a", "topwork[remote]")],
)  # fmt: skip
def test_a_missing_package_is_named(start, monkeypatch, url, package):
    for name in ("s3fs", "gcsfs", "aiohttp", "fsspec.implementations.http"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SettingsError, match="pip install") as caught:
        start().source(url).read()
    assert f"pip install '{package}'" in str(caught.value)


def test_a_full_disk_is_no_fault_of_the_server(site, start, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PartialDownload, "write", fail)
    site.files["/a"] = b"x"
    waits = []
    with pytest.raises(StoreError, match=r"written.*: No space left on device; make room"):
        start(waits).fetch(urls.join(site.url, "a"))
    assert not waits


def test_a_cache_that_cannot_be_written(site, tmp_path):
    site.files["/a"] = b"x"
    (tmp_path / "file").touch()
    with Remote(tmp_path / "file") as run, pytest.raises(StoreError, match="must be a folder"):
        run.fetch(f"{site.url}/a")


def test_secrets_are_in_no_message_name_or_traceback(site, start, tmp_path, caplog):
    caplog.set_level(logging.DEBUG, "topwork")
    bad = f"http://user:WORD@{site.host}/a.jpg?X-Amz-Signature=SIGNED&x-amz-credential=AKIDX"
    site.files["/ok.jpg"] = b"x"
    run = start()
    run.fetch(bad.replace("a.jpg", "ok.jpg"))
    for call in (run.fetch, run.list_files, lambda url: run.source(url).read()):
        for faults in ([404], [503] * 5, [7] * 5):
            site.faults["/a.jpg"] = list(faults)
            with pytest.raises((DatasetError, ImageError)) as caught:
                call(bad)
            text = "".join(traceback.format_exception(caught.value))
            # Sources of the test itself are part of a traceback.
            text = "\n".join(line for line in text.splitlines() if "test_remote" not in line)
            assert not any(word in text for word in ("WORD", "SIGNED", "AKIDX"))
    stored = b"".join(p.read_bytes() for p in (tmp_path / "cache").rglob("*") if p.is_file())
    names = " ".join(map(str, (tmp_path / "cache").rglob("*")))
    for word in ("WORD", "SIGNED", "AKIDX", "user"):
        assert word not in names + caplog.text
        assert word.encode() not in stored


# Going on where it stopped


def test_a_cut_download_goes_on(site, start):
    site.files["/a.zip"] = BIG
    site.faults["/a.zip"] = [1_000_000, 500_000]
    run = start()
    assert run.fetch(f"{site.url}/a.zip").read_bytes() == BIG
    assert run.received == site.sent == len(BIG)
    assert [r[2].get("Range") for r in site.requests] == [None, "bytes=1000000-", "bytes=1500000-"]


def test_progress_starts_the_count_of_tries_anew(site, start):
    site.files["/a.zip"] = BIG
    site.faults["/a.zip"] = [400_000] * 12
    waits = []
    assert start(waits).fetch(f"{site.url}/a.zip").read_bytes() == BIG
    assert len(waits) == 7
    assert max(waits) < 1
    assert site.sent == len(BIG)


def test_a_later_run_goes_on(site, start, tmp_path):
    site.files["/a.zip"] = BIG
    site.faults["/a.zip"] = [1_000_000, *[503] * 5]
    with pytest.raises(DatasetError, match="503, 5 times"):
        start().fetch(f"{site.url}/a.zip")
    (part,) = (tmp_path / "cache").rglob("*.part")
    assert part.stat().st_size == 1_000_000
    later = start()
    assert later.fetch(f"{site.url}/a.zip").read_bytes() == BIG
    assert later.received == len(BIG) - 1_000_000
    assert not cached(tmp_path, ".part") + cached(tmp_path, ".part.json")


@pytest.mark.parametrize("how", ["no ranges", "another version", "weak etag", "no version"])
def test_what_cannot_go_on_starts_again(site, start, how):
    site.files["/a.zip"] = BIG[::-1]
    site.faults["/a.zip"] = [1_000_000, *[503] * 5]
    site.weak = "W/" if how == "weak etag" else ""
    site.has_etags = how != "no version"
    with pytest.raises(DatasetError):
        start().fetch(f"{site.url}/a.zip")
    site.has_ranges = how != "no ranges"
    if how == "another version":
        site.files["/a.zip"] = BIG
    waits = []
    later = start(waits)
    assert later.fetch(f"{site.url}/a.zip").read_bytes() == site.files["/a.zip"]
    assert later.received == len(BIG)
    assert not waits


@pytest.mark.parametrize("fault", ["other part", "less"])
def test_a_part_that_was_not_asked_for_is_not_accepted(site, start, fault):
    site.files["/a.zip"] = BIG
    site.faults["/a.zip"] = [1_000_000, fault]
    waits = []
    assert start(waits).fetch(f"{site.url}/a.zip").read_bytes() == BIG
    assert len(waits) == 2


def test_a_copy_that_lost_its_end_is_downloaded_again(site, start):
    site.files["/a.zip"] = BIG
    path = start().fetch(f"{site.url}/a.zip")
    os.truncate(path, 1000)
    assert start().fetch(f"{site.url}/a.zip").read_bytes() == BIG


def test_who_waits_for_a_download_that_comes_to_nothing_begins_one(tmp_path):
    entry = CacheEntry(tmp_path, "ab12", "a.jpg")
    done = []

    def download():
        with entry.part() as part:
            part.restart(Version("x", size=3))
            part.write(b"abc")
            done.append(entry.finish(part))

    with entry.part():
        thread = threading.Thread(target=download)
        thread.start()
        time.sleep(0.1)
        assert not done
    thread.join()
    assert entry.kept().path == done[0]
    assert done[0].read_bytes() == b"abc"


def test_a_body_of_another_length_is_never_accepted(site, start, tmp_path):
    site.files["/a"] = b"x" * 1000
    site.faults["/a"] = ["short"] * 50
    with pytest.raises(ImageError, match="5 times"):
        start().source(f"{site.url}/a").read()
    assert not cached(tmp_path, "-a")


CHILD = """
import sys
from pathlib import Path
from topwork.data.remote.cache import Remote
run = Remote(Path(sys.argv[1]))
run.is_folder(sys.argv[2] + "/")
print("began", flush=True)
path = run.fetch(sys.argv[2])
print(run.received, len(path.read_bytes()), flush=True)
"""


def child(tmp_path, url):
    command = [sys.executable, "-c", CHILD, str(tmp_path / "cache"), url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.system
def test_a_killed_download_goes_on_and_nobody_sees_half_of_it(site, start, tmp_path):
    site.files["/a.zip"] = BIG
    site.faults["/a.zip"] = ["hang"]
    with child(tmp_path, f"{site.url}/a.zip") as process:
        wait_for(lambda: [p for p in (tmp_path / "cache").rglob("*.part") if p.stat().st_size])
        process.send_signal(signal.SIGKILL)
    there = next((tmp_path / "cache").rglob("*.part")).stat().st_size
    assert 0 < there < len(BIG)
    assert not cached(tmp_path, ".zip")
    site.gate.set()
    later = start()
    assert later.fetch(f"{site.url}/a.zip").read_bytes() == BIG
    assert later.received == len(BIG) - there


@pytest.mark.system
def test_processes_that_share_a_cache_download_once(site, tmp_path):
    site.files["/a.zip"] = BIG
    site.gate.clear()
    children = [child(tmp_path, f"{site.url}/a.zip") for _ in range(2)]
    for process in children:
        assert process.stdout.readline() == "began\n"
    wait_for(lambda: site.requests)
    time.sleep(0.2)
    site.gate.set()
    results = sorted(process.communicate()[0].split()[0] for process in children)
    assert results == ["0", str(len(BIG))]
    assert len(site.requests) == 1


def wait_for(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited too long")


# Folders


def test_a_page_of_links_is_listed_to_its_depths(site, start):
    names = ["a.jpg", "train/T-shirt & co/1 #.jpg", "train/dress/ü%20.png", "z/y/x/w.csv"]
    site.files |= {f"/photos/{name}": name.encode() for name in [*names, "../elsewhere.jpg"]}
    site.files["/photos2/b.jpg"] = b"x"
    run = start()
    for url in (f"{site.url}/photos", f"{site.url}/photos/"):
        assert run.list_files(url) == sorted(names)
        for name in names:
            assert run.source(urls.join(url, name)).read() == name.encode()


@pytest.mark.parametrize(
    ("link", "name"),
    [("b.jpg", "b.jpg"), ("./b.jpg", "b.jpg"), ("/a/b.jpg", "b.jpg"), ("b%20c", "b c"),
     ("http://h/a/b.jpg", "b.jpg"), ("//h/a/b.jpg#x", "b.jpg"), ("c/b.jpg", "c/b.jpg"),
     ("../b.jpg", None), ("../a2/b.jpg", None), ("http://g/a/b.jpg", None), ("?C=N", None),
     ("b.jpg?v=1", None), ("", None), ("#top", None), ("mailto:x@y", None), ("b%2fc", None),
     ("%2e%2e/%2e%2e/b", None), ("javascript:void(0)", None), ("http://[", None),
     ("/a//b.jpg", None)],
)  # fmt: skip
def test_only_links_below_the_folder_count(link, name):
    assert urls.names_below("http://h/a/", [link]) == ([name] if name else [], [])


@given(st.lists(st.text(max_size=30), max_size=5))
def test_no_link_leads_out_of_the_folder(links):
    files, folders = urls.names_below("http://h/a/", links)
    for name in files + folders:
        assert not {"", ".", ".."} & set(name.split("/"))


def test_what_is_a_folder(site, start):
    site.files["/photos/cat/a.jpg"] = b"x"
    run = start()
    assert run.is_folder(f"{site.url}/photos")
    assert run.is_folder(f"{site.url}/photos/")
    assert not run.is_folder(f"{site.url}/photos/cat/a.jpg")
    assert not run.is_folder(f"{site.url}/none")
    site.faults["/secret"] = [403]
    with pytest.raises(DatasetError, match="no permission"):
        run.is_folder(f"{site.url}/secret")


def test_folders_that_cannot_be_listed(site, start):
    site.files["/file/"] = b"x"
    run = start()
    for path, reason in (("none", "no such"), ("file", "not a page of links")):
        with pytest.raises(DatasetError, match=reason):
            run.list_files(f"{site.url}/{path}")
    for url in ("http://[x/a", "ssh://h/a"):
        with pytest.raises(DatasetError):
            run.list_files(url)
    with pytest.raises(DatasetError):
        run.is_folder("http://[x/a")
    with pytest.raises(DatasetError, match="must be a folder with files"):
        run.list_files("memory://nothing")


# S3


@pytest.fixture(scope="module")
def bucket():
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    files = {
        f"set/{split}/{name}/{n}.png": encode(picture(colour, size=(8, 8), seed=n))
        for split in ("train", "test")
        for name, colour in COLOURS.items()
        for n in range(2)
    }
    files["set/odd #1?.txt"] = b"odd"
    files["set/empty/"] = b""
    files["settings.txt"] = b"x"
    with s3_server(files) as (url, client):
        yield url, client, files


def test_a_bucket_is_listed_and_read(bucket, start, monkeypatch):
    url, _, files = bucket
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    calls = watch(monkeypatch)
    names = [name for name in files if name.startswith("set/") and not name.endswith("/")]
    run = start()
    listed = run.list_files("s3://photos/set")
    assert [f"set/{name}" for name in listed] == sorted(names)
    assert {name.split("/")[1] for name in listed if name.endswith(".png")} == set(COLOURS)
    for name in listed:
        assert run.source(urls.join("s3://photos/set", name)).read() == files[f"set/{name}"]
    assert run.received == sum(len(files[name]) for name in names)
    # A listing, and one request per file.
    assert calls == ["list_objects_v2"] + ["get_object"] * len(names)
    later = start()
    for name in later.list_files("s3://photos/set/"):
        later.source(urls.join("s3://photos/set/", name)).read()
    assert later.received == 0
    assert calls[1 + len(names) :] == ["list_objects_v2"]


def watch(monkeypatch):
    import s3fs

    calls, call = [], s3fs.S3FileSystem._call_s3

    async def record(self, method, *args, **kwargs):
        calls.append(method)
        return await call(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", record)
    return calls


def test_files_of_a_bucket_without_a_listing(bucket, start, monkeypatch):
    url, client, _ = bucket
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    client.put_object(Bucket="photos", Key="big.zip", Body=BIG)
    assert start(piece_bytes=1_000_000).fetch("s3://photos/big.zip").read_bytes() == BIG
    later = start(piece_bytes=1_000_000)
    assert later.fetch("s3://photos/big.zip").read_bytes() == BIG
    assert later.received == 0
    client.put_object(Bucket="photos", Key="big.zip", Body=BIG[:-1])
    assert later.fetch("s3://photos/big.zip").read_bytes() == BIG, "one version in a run"
    assert start(piece_bytes=1_000_000).fetch("s3://photos/big.zip").read_bytes() == BIG[:-1]


def test_what_is_wrong_with_a_bucket(bucket, start, monkeypatch):
    url, _, _ = bucket
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    run = start()
    assert run.is_folder("s3://photos/set")
    assert run.is_folder("s3://photos")
    assert not run.is_folder("s3://photos/settings.txt")
    assert not run.is_folder("s3://photos/none")
    with pytest.raises(ImageError, match="no such file"):
        run.source("s3://photos/none.jpg").read()
    with pytest.raises(ImageError, match="folder, not a file"):
        run.source("s3://photos/set").read()
    for url, reason in (
        ("s3://nobucket/x", "no such|none below"),
        ("s3://photos/none", "none below"),
        ("s3://photos/settings.txt", "it is a file"),
        ("s3:///", "Cannot traverse all of S3"),
    ):
        with pytest.raises(DatasetError, match=reason):
            run.list_files(url)


@pytest.mark.parametrize("fault", [503, 500, 400_000, "short", "less"])
def test_faults_of_a_bucket_pass(site, start, monkeypatch, fault):
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", site.url)
    site.files["/photos/big.zip"] = BIG
    site.faults["/photos/big.zip"] = [503, None, None, fault]
    waits = []
    run = start(waits, piece_bytes=1_000_000)
    assert run.fetch("s3://photos/big.zip").read_bytes() == BIG
    assert run.received == len(BIG), "whole pieces are kept"
    assert len(waits) == 2
    ranges = [r[2].get("Range") for r in site.requests if r[0] == "GET"]
    assert ranges == [f"bytes={n * 1_000_000}-{n * 1_000_000 + 999_999}" for n in (0, 1, 1, 2)]


def test_a_file_of_a_bucket_that_changes_meanwhile_starts_again(site, start, monkeypatch):
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", site.url)
    site.files["/photos/big.zip"] = BIG
    run = start(piece_bytes=1_000_000)
    server = run._server("s3://photos")
    read = server._system.cat_file

    def read_and_change(*args, **kwargs):
        data = read(*args, **kwargs)
        site.files["/photos/big.zip"] = BIG[::-1]
        return data

    server._system.cat_file = read_and_change
    assert run.fetch("s3://photos/big.zip").read_bytes() == BIG[::-1]


def test_a_bucket_that_wants_credentials(site, start, monkeypatch):
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", site.url)
    site.faults["/photos/a.jpg"] = [403]
    with pytest.raises(ImageError, match="no permission") as caught:
        start().source("s3://photos/a.jpg").read()
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ImageError, match="no credentials were found"):
        start().source("s3://photos/a.jpg").read()


def test_what_came_is_told_and_another_process_connects_anew(tmp_path):
    told = []
    with FileServer() as server:
        server.files = {"/a.png": b"1" * 3000, "/b.png": b"2" * 500}
        remote = Remote(tmp_path, callback=Recorder(on_received=told.append))
        source = remote.source(f"{server.url}/a.png")
        assert source.read() == b"1" * 3000
        assert told[-1] == remote.received == 3000
        assert told == sorted(told)
        again = pickle.loads(pickle.dumps(source))
        assert again.read() == b"1" * 3000
        assert remote.source(f"{server.url}/b.png").read() == b"2" * 500
        assert told[-1] == 3500
        again.remote.close()
        remote.close()
