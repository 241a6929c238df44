"""Spellings of one path."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry.model.value_checks import check_path
from registry.rules.paths import canonical_escapes, forwardable, normalise, readings

# What paths are made of, the awkward parts more often than people write them.
parts = st.sampled_from(
    [
        "/",
        "//",
        ".",
        "..",
        "a",
        "b",
        "%2e",
        "%2E",
        "%2F",
        "%5c",
        "\\",
        "%",
        "%2",
        "%25",
        "%zz",
        ";",
        "é",
        "%C3",
    ]
)
raw = st.lists(parts, max_size=12).map("".join) | st.text(max_size=20)
clean = st.lists(st.sampled_from(["a", "b", "c.d", "...", "x;y"]), max_size=4)


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        ("/", "/"),
        ("", "/"),
        ("*", "*"),
        ("a", "/a"),
        ("/a", "/a"),
        ("/a/", "/a/"),
        ("//a///b", "/a/b"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a//../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/b/.", "/a/b/"),
        ("/..", "/"),
        ("/../../a", "/a"),
        ("/a/..", "/"),
        ("/a/../", "/"),
        ("/...", "/..."),
        ("/.a/..b", "/.a/..b"),
        ("/%61%62%63", "/abc"),
        ("/some%2fdata", "/some/data"),
        ("/a%5Cb\\c", "/a/b/c"),
        ("/%2e%2e/a", "/a"),
        ("/a/%2E%2e%2fb", "/b"),
        ("/%252e", "/%252e"),
        ("/%c3%a9", "/%C3%A9"),
        ("/é", "/%C3%A9"),
        ("/a b", "/a%20b"),
        ("/%00", "/%00"),
        ("/100%", "/100%25"),
        ("/%%32e", "/%252e"),
        ("/%zz", "/%25zz"),
        ("/a?b=/../c", "/a"),
        ("/a#b", "/a"),
        ("/a%3Fb", "/a%3Fb"),
        ("/public/./data/abc/../xyz", "/public/data/xyz"),
        ("/public/..;/admin", "/admin"),
        ("/public/..;a=b/admin", "/admin"),
        ("/public/%2e%2E;/admin", "/admin"),
        ("/public/.;x/admin", "/public/admin"),
        ("/a/..;", "/"),
        ("/a/b/..;x", "/a/"),
        ("/a;b/c", "/a;b/c"),
        ("/a/..b;/c", "/a/..b;/c"),
        ("/a/%2F/../b", "/a/b"),
    ],
)
def test_spellings(path: str, normal: str) -> None:
    """Escapes are decoded once, slashes merged, dot segments resolved, query and fragment dropped."""
    assert normalise(path) == normal


@given(raw)
@example("/%%32e")
@example("/%\\2e")
@example("/.%2F")
def test_once_is_enough(path: str) -> None:
    """What is normalised is not changed by normalising it again."""
    assert normalise(normalise(path)) == normalise(path)


@given(raw)
def test_nothing_to_hide_behind(path: str) -> None:
    """A normalised path is absolute ASCII without query, repeated slashes, dot segments or odd escapes."""
    normal = normalise(path)
    if path == "*":
        return
    assert re.fullmatch(r"(/([!-.0-\[\]-~]*))+", normal)
    assert "//" not in normal
    assert not {"?", "#", "\\"} & set(normal)
    assert not {".", ".."} & set(normal.split("/"))
    for escape in re.findall(r"%(?:..)?", normal):
        assert re.fullmatch(r"%[0-9A-F]{2}", escape)
        assert not re.fullmatch(r"[A-Za-z0-9._~/\\-]", chr(int(escape[1:], 16)))


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/", "/"),
        ("*", "*"),
        ("", "/"),
        ("/a?b=/../c&d=%2f", "/a?b=/../c&d=%2f"),
        ("/a?", "/a?"),
        ("/a#b?c", "/a"),
        ("//a/./b/../c?x#y", "/a/c?x"),
        ("/a%2fb", "/a%2Fb"),
        ("/a%5cb\\c", "/a%5Cb/c"),
        ("/a/%2e%2e/b", "/b"),
        ("/a/..%2fb", "/a/..%2Fb"),
        ("/a/..;/b", "/b"),
        ("/%61%20b", "/a%20b"),
    ],
)
def test_what_is_sent_on(target: str, sent: str) -> None:
    """A target is sent on in one spelling, but with its escaped slashes, and its query as it came."""
    assert forwardable(target) == sent


@given(raw)
def test_what_is_sent_is_what_was_judged(path: str) -> None:
    """The next proxy judges what is sent to it as this one did, and sends it on unchanged."""
    sent = forwardable(path)
    assert forwardable(sent) == sent
    assert readings(sent) == readings(path)
    assert normalise(sent) == normalise(path)


@pytest.mark.parametrize(
    ("path", "ways"),
    [
        ("/a/b", ("/a/b",)),
        ("*", ("*",)),
        ("/a%2Fb?c=%2F", ("/a/b", "/a%2Fb")),
        ("/a%5cb", ("/a/b", "/a%5Cb")),
        ("/a/..%2fb", ("/b", "/a/..%2Fb")),
        (
            "/pub/x%2F..%2F..%2Fadmin%2Fy%5C..%5C..%5Cpub",
            (
                "/pub",
                "/pub/x%2F..%2F..%2Fadmin%2Fy%5C..%5C..%5Cpub",
                "/admin/y%5C..%5C..%5Cpub",
            ),
        ),
    ],
)
def test_readings(path: str, ways: tuple[str, ...]) -> None:
    """A path with an escaped slash is what it is with and without it, and with one of the two kinds alone."""
    assert readings(path) == ways


@given(raw)
def test_the_first_reading_is_the_normal_one(path: str) -> None:
    """What routing looks at is one of the paths that authorization asks about."""
    assert readings(path)[0] == normalise(path)


@given(clean, st.data())
def test_detours(segments: list[str], data: st.DataObject) -> None:
    """However a path goes round about, it is the path that it leads to."""
    detours = st.sampled_from(["", "/", ".", "./.", "a/..", "a/b/../..", "%2e", "a/%2E%2E", "a\\..", "%2f"])
    told = "".join(f"/{data.draw(detours)}/{segment}" for segment in segments)
    assert normalise(told) == f"/{'/'.join(segments)}"


@given(clean, st.data())
def test_escaped_letters(segments: list[str], data: st.DataObject) -> None:
    """Which letters of a path are escaped, and in which case, makes no difference."""
    path = f"/{'/'.join(segments)}"
    forms = [
        data.draw(st.sampled_from([letter, f"%{ord(letter):02x}", f"%{ord(letter):02X}"]))
        if letter.isalnum() or letter == "."
        else letter
        for letter in path
    ]
    assert normalise("".join(forms)) == path


@given(st.lists(parts, max_size=8).map(lambda found: f"/{''.join(found)}"))
def test_policies_say_normal_paths(path: str) -> None:
    """A path that a policy may hold is compared as a request's is, but for how its escapes are written."""
    if check_path(path) is None:
        assert canonical_escapes(path) == normalise(path)
