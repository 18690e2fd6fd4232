import bz2
import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import threading
import zipfile
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import encode, picture

from topwork.core.errors import DatasetError, ImageError
from topwork.data.readers import members
from topwork.data.readers.archive import is_archive, open_archive
from topwork.data.readers.members import ArchiveLimits

FILES = {
    "cats/1.png": encode(picture(seed=1)),
    "cats/deep/2.png": encode(picture(seed=2)),
    "dogs/3.png": encode(picture((9, 99, 200), seed=3)),
    "labels.csv": b"image,label\n",
}
NAMES = ("cats/", "cats/1.png", "cats/deep/", "cats/deep/2.png", "dogs/", "dogs/3.png")
NAMES = (*NAMES, "labels.csv")
PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
KINDS = ["zip", "tar", *(f"tar.{kind}" for kind in PACKERS)]


def zipped(files, method=zipfile.ZIP_DEFLATED):
    """A zip of names, or of `ZipInfo`s, and contents."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return file.getvalue()


def tarred(files, **options):
    """A tar of names and contents; a `TarInfo` instead of a content is added as it is."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as opened:
        for name, data in files.items():
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
            opened.addfile(info, io.BytesIO(data) if isinstance(data, bytes) else None)
    return file.getvalue()


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def pack(files, kind):
    if kind == "zip":
        return zipped(files)
    return PACKERS.get(kind[4:], bytes)(tarred(files))


@pytest.fixture
def opened(tmp_path):
    """Writes the bytes of an archive and opens it."""

    def write_and_open(data, name="photos.bin", **options):
        path = tmp_path / name
        path.write_bytes(data)
        return open_archive(path, tmp_path / "cache", **options)

    return write_and_open


def refusal(opened, data, **options):
    with pytest.raises(DatasetError) as error:
        opened(data, **options)
    return str(error.value)


def contents(found):
    return {name: found.source(name).read() for name in found.names if not name.endswith("/")}


def reasons(found):
    return {item.path: item.reason for item in found.skipped}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a.zip", True), ("A.ZIP", True), ("a.tar", True), ("a.Tar.GZ", True), ("a.tgz", True),
        ("a.tar.bz2", True), ("a.tbz2", True), ("a.tar.xz", True), ("a.txz", True),
        ("a.gz", False), ("a.jpg", False), ("zip", False), ("a.tar.jpg", False), ("", False),
    ],
)  # fmt: skip
def test_archives_are_told_by_their_names(name, wanted):
    assert is_archive(name) is wanted


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_packed_comes_out_again(opened, kind):
    found = opened(pack(FILES, kind))
    assert found.names == NAMES
    assert found.skipped == ()
    assert contents(found) == FILES
    assert found.read("labels.csv", 100) == FILES["labels.csv"]


def test_stored_zips_and_empty_archives_are_read(opened):
    assert contents(opened(zipped(FILES, zipfile.ZIP_STORED))) == FILES
    for kind in KINDS:
        assert opened(pack({}, kind)).names == ()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_in_place_means_that_nothing_is_written(opened, tmp_path, kind):
    contents(opened(pack(FILES, kind)))
    assert [path.name for path in tmp_path.iterdir()] == ["photos.bin"]


def test_a_compressed_tar_is_decompressed_once_into_the_cache_alone(opened, tmp_path, monkeypatch):
    data = pack(FILES, "tar.gz")
    found = opened(data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "photos.bin"]
    [cached] = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(gzip, "open", None)
    again = open_archive(found.path, tmp_path / "cache")
    assert contents(again) == contents(found) == FILES
    monkeypatch.undo()
    os.utime(found.path, ns=(1, 1))
    assert contents(open_archive(found.path, tmp_path / "cache")) == FILES
    [newer] = (tmp_path / "cache").iterdir()
    assert newer.name != cached.name


def test_what_killed_processes_left_in_the_cache_is_removed(opened, tmp_path):
    (tmp_path / "cache").mkdir()
    old, new = (f".{'a' * 32}-5-6-{digit * 16}.tmp" for digit in "01")
    for name, time in ((old, 0), (new, None), (".another.tmp", 0)):
        (tmp_path / "cache" / name).touch()
        if time is not None:
            os.utime(tmp_path / "cache" / name, (time, time))
    opened(pack(FILES, "tar.gz"))
    assert {path.name for path in (tmp_path / "cache").glob(".*")} == {new, ".another.tmp"}


def test_many_threads_read_at_once(opened):
    for kind in ("zip", "tar.xz"):
        found = opened(pack(FILES, kind))
        wrong = []

        def check(found=found, wrong=wrong):
            for _ in range(20):
                if contents(found) != FILES:
                    wrong.append(1)

        threads = [threading.Thread(target=check) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def test_reading_a_table_has_a_limit_and_says_what_is_missing(opened):
    found = opened(pack(FILES, "zip"))
    assert found.read("labels.csv", 12)
    with pytest.raises(DatasetError, match="at most 11 bytes, it has 12"):
        found.read("labels.csv", 11)
    for name in ("none.csv", "cats/", "../labels.csv"):
        with pytest.raises(DatasetError, match="there is no file"):
            found.read(name, 100)
        with pytest.raises(DatasetError, match="there is no file"):
            found.source(name)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_an_archive_that_is_changed_afterwards_is_not_read_at_old_places(opened, tmp_path, kind):
    found = opened(pack(FILES, kind))
    source = found.source("cats/1.png")
    for path in [found.path, *tmp_path.glob("cache/*")]:
        os.utime(path, ns=(5, 5))
    with pytest.raises(ImageError, match="changed meanwhile"):
        source.read()
    for path in [found.path, *tmp_path.glob("cache/*")]:
        path.unlink()
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        source.read()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_hidden_files_and_litter_are_not_mentioned(opened, kind):
    litter = {
        "__MACOSX/cats/._1.png": b"x", ".DS_Store": b"x", "cats/.hidden/1.png": b"x",
        "cats/Thumbs.db": b"x", "./.git/x": b"x",
    }  # fmt: skip
    found = opened(pack(FILES | litter, kind))
    assert found.names == NAMES
    assert found.skipped == ()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_needless_parts_of_paths_are_left_away(opened, kind):
    found = opened(pack({"./a/./1.png": b"one", "b//2.png": b"two", "./": b""}, kind))
    assert contents(found) == {"a/1.png": b"one", "b/2.png": b"two"}


def test_folders_without_files_are_listed(opened):
    assert opened(zipped({"empty/": b"", "a/1.png": b"1"})).names == ("a/", "a/1.png", "empty/")
    tar = tarred({"": special("empty", tarfile.DIRTYPE)})
    assert opened(tar).names == ("empty/",)


ESCAPES = [
    "../up.png", "a/../../up.png", "a/../b.png", "/etc/passwd", "//host/share/1.png", "..",
    "C:/1.png", "c:1.png", "\\1.png", "..\\1.png", "a\\..\\..\\1.png", "C:\\1.png",
    "\\\\host\\share\\1.png",
]  # fmt: skip


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_paths_that_lead_out_are_refused_by_name(opened, tmp_path, kind, name):
    message = refusal(opened, pack(FILES | {name: b"x"}, kind))
    shown = name.replace("\\", "/") if kind == "zip" else name
    assert f"because of {shown} in it: its path leads out" in message
    assert not list(tmp_path.parent.glob("up.png"))


def test_a_name_with_a_nul_is_refused(opened):
    data = zipped({"cats/1.png#.txt": b"x"}).replace(b"1.png#", b"1.png\0")
    assert "1.png\\x00.txt in it: its path leads out" in refusal(opened, data)
    tar = tarred({"": special("long", tarfile.REGTYPE)}, format=tarfile.PAX_FORMAT)
    info = tarfile.TarInfo("x")
    info.pax_headers = {"path": "a\0b.png"}
    tar = tarred({"": info}, format=tarfile.PAX_FORMAT)
    assert "a\\x00b.png" in refusal(opened, tar)


def test_hidden_places_do_not_hide_an_escape(opened):
    assert "leads out" in refusal(opened, zipped({"__MACOSX/../../x": b"x"}))


def test_links_and_devices_are_left_out_of_a_tar(opened):
    kinds = {
        "soft.png": (tarfile.SYMTYPE, "/etc/passwd"), "hard.png": (tarfile.LNKTYPE, "cats/1.png"),
        "char": (tarfile.CHRTYPE, ""), "block": (tarfile.BLKTYPE, ""),
        "pipe": (tarfile.FIFOTYPE, ""),
    }  # fmt: skip
    files = FILES | {name: special(name, *kind) for name, kind in kinds.items()}
    found = opened(tarred(files))
    assert found.names == NAMES
    assert reasons(found).keys() == kinds.keys()
    assert "link" in reasons(found)["soft.png"]
    assert "link" in reasons(found)["hard.png"]
    assert all("device" in reasons(found)[name] for name in ("char", "block", "pipe"))


def test_links_and_pipes_are_left_out_of_a_zip(opened):
    files = dict(FILES)
    for name, kind in (("soft.png", stat.S_IFLNK), ("pipe", stat.S_IFIFO)):
        info = zipfile.ZipInfo(name)
        info.external_attr = (kind | 0o644) << 16
        files[info] = b"/etc/passwd"
    found = opened(zipped(files))
    assert found.names == NAMES
    assert "link" in reasons(found)["soft.png"]
    assert "device" in reasons(found)["pipe"]


def flagged(data, offset, change):
    """Changes a field of the last entry of a zip's index."""
    data = bytearray(data)
    change(data, data.rindex(b"PK\1\2") + offset)
    return bytes(data)


def test_encrypted_and_oddly_packed_members_are_left_out(opened):
    def encrypt(data, place):
        data[place] |= 1

    found = opened(flagged(zipped(FILES), 8, encrypt))
    assert "encrypted" in reasons(found)["labels.csv"]
    assert found.names == NAMES[:-1]
    found = opened(zipped({"a.png": b"x"}, zipfile.ZIP_LZMA))
    assert "method 14" in reasons(found)["a.png"]


def test_a_sparse_file_is_left_out(opened):
    info = special("sparse.png", tarfile.GNUTYPE_SPARSE)
    assert "sparse" in reasons(opened(tarred({"": info})))["sparse.png"]


def test_of_a_name_that_is_there_twice_the_last_counts(opened):
    def twice(name):
        first, last = tarfile.TarInfo(name), tarfile.TarInfo(name)
        first.size = last.size = 3
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            tar.addfile(first, io.BytesIO(b"old"))
            tar.addfile(last, io.BytesIO(b"new"))
        return file.getvalue()

    double_zip = zipped({"a/1.png": b"old", "a/#.png": b"new"}).replace(b"a/#.png", b"a/1.png")
    for data in (twice("a/1.png"), double_zip):
        found = opened(data)
        assert contents(found) == {"a/1.png": b"new"}
        assert "the same name" in reasons(found)["a/1.png"]


def test_a_file_that_is_a_folder_too_is_left_out(opened):
    found = opened(tarred({"a": b"x", "a/1.png": b"y"}))
    assert found.names == ("a/", "a/1.png")
    assert "folder has the same name" in reasons(found)["a"]


def test_strict_refuses_what_would_be_left_out(opened):
    data = tarred(FILES | {"": special("soft.png", tarfile.SYMTYPE, "x")})
    with pytest.raises(DatasetError, match=r"photos.bin/soft.png: it is a link"):
        opened(data, strict=True)
    assert opened(tarred(FILES), strict=True).names == NAMES


def test_names_that_are_not_unicode_are_escaped(opened):
    info = tarfile.TarInfo("caf\udce9/1.png")
    found = opened(tarred({"": info}, format=tarfile.GNU_FORMAT, encoding="utf-8"))
    assert found.names == ("caf\\udce9/", "caf\\udce9/1.png")
    # As Macs write it, without a word that it is UTF-8; and as DOS wrote it.
    for written, wanted in (("é".encode(), "é.png"), (b"\x82#", "é#.png")):
        data = zipped({"##.png": b"x"}).replace(b"##.png", written + b".png")
        assert opened(data).names == (wanted,)


def test_backslashes_of_windows_separate_in_a_zip(opened):
    assert opened(zipped({"a#1.png": b"x"}).replace(b"#", b"\\")).names == ("a/", "a/1.png")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_bomb_is_refused_before_anything_is_read(opened, tmp_path, kind):
    big = members.LARGE_BYTES + members.LARGE_BYTES // 8
    message = refusal(opened, pack({"bomb.png": bytes(big)}, kind))
    assert "no images can be packed to less than 1/200" in message
    assert not list(tmp_path.glob("cache/*"))


def test_many_small_bombs_are_one(opened):
    data = zipped({f"{n}.png": bytes(999) for n in range(400)})
    assert "no images" in refusal(opened, data, limits=ArchiveLimits(large_bytes=1000, ratio=5))


def test_limits_of_members_and_bytes(opened):
    for kind in KINDS:
        said = refusal(opened, pack(FILES, kind), limits=ArchiveLimits(members=3))
        assert "labels.csv in it: there are more than 3 members" in said
    for kind in ("zip", "tar.gz"):
        said = refusal(opened, pack(FILES, kind), limits=ArchiveLimits(bytes=1000))
        assert "more than 1,000 bytes" in said


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_member_that_is_too_large_is_left_out(opened, kind):
    found = opened(pack(FILES, kind), limits=ArchiveLimits(member_bytes=20))
    assert contents(found) == {"labels.csv": FILES["labels.csv"]}
    assert all("more than 20" in reason for reason in reasons(found).values())


def test_a_member_that_lies_too_deep_is_left_out(opened):
    deep = "a/" * 101 + "1.png"
    found = opened(tarred({deep: b"x"}))
    assert "folders deep" in reasons(found)[deep]
    assert found.names == ()


def resized(data, size, packed=None):
    """Writes another size into the index of a zip, for its last member."""

    def change(data, place):
        struct.pack_into("<I", data, place + 4, size)
        if packed is not None:
            struct.pack_into("<I", data, place, packed)

    return flagged(data, 20, change)


@pytest.mark.parametrize("size", [0, 5, 11, 13, 10_000])
def test_a_size_that_is_a_lie_is_found_out(opened, size):
    found = opened(resized(zipped(FILES), size))
    with pytest.raises(ImageError, match="not what its archive says"):
        found.source("labels.csv").read()
    stored = resized(zipped(FILES, zipfile.ZIP_STORED), size)
    assert "two different sizes" in refusal(opened, stored)


def test_no_more_is_decompressed_than_the_index_promises(monkeypatch):
    asked = []

    class Watched:
        def decompress(self, _, most):
            asked.append(most)
            return bytes(most)

    monkeypatch.setattr(zlib, "decompressobj", lambda _: Watched())
    members._inflate(b"", 100)
    assert asked == [101]


def test_overlapping_members_are_refused(opened):
    data = bytearray(zipped({"1.png": b"one", "2.png": b"two"}))
    first, last = data.index(b"PK\1\2"), data.rindex(b"PK\1\2")
    # Both are the same stretch of the file, as in bombs that quote themselves.
    data[last + 42 : last + 46] = data[first + 42 : first + 46]
    assert "overlaps" in refusal(opened, bytes(data))
    # The first reaches over the header of the second.
    longer = bytearray(zipped({"1.png": b"one", "2.png": b"two"}, zipfile.ZIP_STORED))
    for place in (20, 24):
        struct.pack_into("<I", longer, longer.index(b"PK\1\2") + place, 30)
    assert "1.png in it: it overlaps" in refusal(opened, bytes(longer))
    # The last reaches into the index.
    reaching = resized(zipped({"1.png": b"one"}, zipfile.ZIP_STORED), 50, 50)
    assert "overlaps" in refusal(opened, reaching)
    # An extra field that swallows the next header.
    quoting = bytearray(zipped({"1.png": b"one", "2.png": b"two"}))
    struct.pack_into("<H", quoting, 28, 40)
    assert "1.png in it: it overlaps" in refusal(opened, bytes(quoting))


def test_a_damaged_member_of_a_zip_costs_only_itself(opened):
    data = bytearray(zipped(FILES, zipfile.ZIP_STORED))
    data[data.index(FILES["dogs/3.png"]) + 30] ^= 255
    found = opened(bytes(data))
    with pytest.raises(ImageError, match="not what its archive says"):
        found.source("dogs/3.png").read()
    assert found.source("cats/1.png").read() == FILES["cats/1.png"]
    deflated = bytearray(zipped({"a.csv": b"some words, and again some words" * 9}))
    deflated[35 + 3 : 35 + 8] = b"\xff" * 5
    with pytest.raises(ImageError, match="damaged"):
        opened(bytes(deflated)).source("a.csv").read()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_archive_is_refused(opened, kind, share):
    # Noise, so that every part of the file holds some of it; and no padding at the end.
    noise = {f"{n}.bin": os.urandom(4000) for n in range(10)}
    data = pack(noise, kind)
    data = data.rstrip(b"\0") if kind == "tar" else data
    message = refusal(opened, data[: int(len(data) * share)])
    assert "photos.bin" in message
    assert "damaged" in message or "must be a zip or tar" in message


def test_a_tar_that_ends_or_goes_on_unexpectedly_is_refused(opened):
    data = tarred({"1.png": b"one", "2.png": b"two"})
    assert "cut off at byte 2,048" in refusal(opened, data[:2048])
    wrong = bytearray(data)
    wrong[1024] ^= 1
    assert "damaged" in refusal(opened, bytes(wrong))
    assert "goes on behind its end" in refusal(opened, data + data)


def test_impossible_sizes_in_a_tar_are_refused(opened):
    def with_size(field):
        data = bytearray(tarred({"1.png": b"one"}))
        data[124:136] = field
        data[148:156] = b" " * 8
        data[148:156] = b"%06o\0 " % sum(data[:512])
        return bytes(data)

    # -1, and -512, which leads back to where it stands.
    for field in (b"\xff" * 12, b"\xff" * 10 + b"\xfe\x00"):
        assert "1.png in it: its size is impossible" in refusal(opened, with_size(field))
    assert "cut off in 1.png" in refusal(opened, with_size(b"\x80" + b"\x7f" * 11))
    assert "cut off in 1.png" in refusal(opened, with_size(b"00000077777\0"))


def test_a_huge_header_of_a_tar_is_refused(opened):
    limits = ArchiveLimits(header_bytes=1024)
    data = tarred({"a/" * 400 + "1.png": b"x"}, format=tarfile.GNU_FORMAT)
    assert opened(data, limits=limits).skipped
    data = tarred({"a" * 3000: b"x"}, format=tarfile.GNU_FORMAT)
    assert "a header of" in refusal(opened, data, limits=limits)


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", encode(picture()), gzip.compress(b"hello" * 200, mtime=0),
     gzip.compress(b"", mtime=0),
     lzma.compress(encode(picture())), b"PK\3\4 and no more"],
)  # fmt: skip
def test_what_is_no_archive_is_refused(opened, tmp_path, data):
    assert "must be a zip or tar file" in refusal(opened, data)
    assert not list(tmp_path.glob("cache/*"))


def test_damaged_compression_is_refused_and_not_kept(opened, tmp_path):
    data = bytearray(pack(FILES, "tar.gz"))
    data[len(data) // 2] ^= 255
    assert "damaged" in refusal(opened, bytes(data))
    broken = bytearray(tarred(FILES))
    broken[512 * 3] ^= 1
    assert "damaged" in refusal(opened, gzip.compress(bytes(broken[: 512 * 4]) + bytes(1024)))
    assert not list(tmp_path.glob("cache/*"))


def test_what_cannot_be_opened_says_why(tmp_path):
    with pytest.raises(DatasetError, match="there is no such file"):
        open_archive(tmp_path / "none.zip", tmp_path)
    with pytest.raises(DatasetError, match="it is not a file"):
        open_archive(tmp_path, tmp_path)


def test_a_cache_that_cannot_be_written_says_what_to_do(opened, tmp_path):
    (tmp_path / "cache").write_text("a file is in the way")
    assert "choose another store, or pack it as zip" in refusal(opened, pack(FILES, "tar.xz"))
    (tmp_path / "cache").unlink()
    said = refusal(opened, pack(FILES, "tar.xz"), reserved_bytes=1 << 60)
    assert "more bytes than the 0 that may be used" in said
    assert not list(tmp_path.glob("cache/*"))


def assert_sound(data, folder):
    """Whatever the bytes: a reason, or names that stay inside and are readable or have one."""
    path = folder / "photos.bin"
    path.write_bytes(data)
    try:
        found = open_archive(path, folder / "cache")
    except DatasetError as error:
        assert "photos.bin" in str(error)
        return None
    for name in found.names:
        assert name
        assert not name.startswith("/")
        assert ".." not in name.replace("\\", "/").split("/")
        name.encode()
        if not name.endswith("/"):
            try:
                found.source(name).read()
            except ImageError as error:
                assert str(error)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("archives")


# What writes the archives ends a name at a NUL, and cannot write an empty one.
names = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("/\\.:\0#"), min_size=1, max_size=12
).filter(lambda name: name[0] != "\0")
quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(
    kind=st.sampled_from(KINDS), files=st.dictionaries(names, st.binary(max_size=40), max_size=5)
)
def test_any_names_are_refused_or_safe_and_their_contents_the_same(folder, kind, files):
    found = assert_sound(pack(files, kind), folder)
    if found is not None:
        assert set(contents(found).values()) <= set(files.values())


@quick
@given(
    kind=st.sampled_from(KINDS),
    changes=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damaged_archives_are_refused_or_safe(folder, kind, changes):
    data = bytearray(pack({"a/1.png": b"1" * 600, "b/2.png": b"2" * 30}, kind))
    for place, value in changes:
        data[int(place * len(data))] = value
    assert_sound(bytes(data), folder)


@quick
@given(
    start=st.sampled_from([b"", b"PK\3\4", b"PK\5\6", b"\x1f\x8b\x08\0", b"BZh9", b"\xfd7zXZ\0"]),
    data=st.binary(max_size=700),
)
def test_random_bytes_are_refused(folder, start, data):
    assert_sound(start + data, folder)
