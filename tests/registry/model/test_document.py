import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import InvalidResource
from registry.model.document import MAX_BYTES, MAX_YAML_BYTES, inspect, read_document, read_documents
from registry.model.fields import MAX_DEPTH
from tests.strategies import texts


def _refusal(data: bytes) -> InvalidResource:
    with pytest.raises(InvalidResource) as caught:
        inspect(read_document(data, where="key"), where="key")
    return caught.value


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a": [1, "x", null, true]}', {"a": [1, "x", None, True]}),
        (b"a: [1, x, null, true]", {"a": [1, "x", None, True]}),
        (b"{a: 1, b: [x]}", {"a": 1, "b": ["x"]}),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b"a:\n- b: 1\n  c:\n  - d\n- e\n", {"a": [{"b": 1, "c": ["d"]}, "e"]}),
        (b"---\na: 1\n", {"a": 1}),
        (b"a: |\n  one\n  two\n", {"a": "one\ntwo\n"}),
        (b"80: x", {"80": "x"}),
    ],
)
def test_json_and_yaml(data: bytes, value: object) -> None:
    """JSON and YAML, in block and in flow style, are read alike."""
    assert read_document(data, where="key") == value


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("no", "no"),
        ("NO", "NO"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("010", "010"),
        ("1_000", "1_000"),
        ("true", True),
        ("~", None),
        ("-7", -7),
        ("1.5", 1.5),
        ("1.5e+3", 1500.0),
        ("1e3", "1e3"),
        ('"80"', "80"),
        ("!!str 80", "80"),
        ("''", ""),
    ],
)
def test_yaml_scalars(scalar: str, value: object) -> None:
    """Plain scalars are as in YAML 1.2, where fewer words are something else than text than in 1.1."""
    assert read_document(f"a: {scalar}".encode(), where="key") == {"a": value}


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b'{"a": 1, "a": 2}', "a"),
        (b'{"a": [{"b": 1, "c": 2, "b": 3}]}', "a[0].b"),
        (b"a: 1\na: 2", "a"),
        (b"a:\n- x\n- b: 1\n  b: 2", "a[1].b"),
        (b'{"a": {"x/y": 1, "x/y": 2}}', 'a["x/y"]'),
    ],
)
def test_repeated_field(data: bytes, path: str) -> None:
    """A field that stands twice is refused, with its path."""
    error = _refusal(data)
    assert (error.path, error.reason) == (path, "stands twice")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"null", "is empty"),
        (b"\xff\xfe", "is not UTF-8 text (byte 0)"),
        (b'{"a": 1} x', "is not valid JSON: Extra data"),
        (b"a: b: c", "is neither JSON nor valid YAML: mapping values are not allowed"),
        (b"a: 'x", "is neither JSON nor valid YAML: found unexpected end of stream (line 1"),
        (b"\x00", "is not valid YAML: it holds characters that YAML forbids"),
        (
            b"a: !!python/name:os.system x",
            'the tag "tag:yaml.org,2002:python/name:os.system" is not accepted',
        ),
        (b"a: !!set {x}", 'the tag "tag:yaml.org,2002:set" is not accepted'),
        (b"? [a]\n: b", "a field's name is not text"),
        (b"a: 1\n---\nb: 2", "holds 2 documents"),
        (b'{"a": 99999999999999999999}', "the number is out of range"),
        (b"a: 99999999999999999999999", "the number is out of range"),
        (b'{"a": "\\ud800"}', "the text is not valid Unicode"),
        (b'{"\\udfff": 1}', "the text is not valid Unicode"),
    ],
)
def test_unreadable(data: bytes, reason: str) -> None:
    """What is neither JSON nor plain YAML is refused with what is wrong."""
    assert _refusal(data).reason.startswith(reason)


@pytest.mark.parametrize("data", [b"a: [*]", b"a: *suffix", b"- *"])
def test_star_without_quotes(data: bytes) -> None:
    """A bare *, which YAML takes for an alias, is answered with the advice to quote it."""
    assert "must be in quotes" in _refusal(data).mend


def test_alias_bomb() -> None:
    """Aliases are refused at the first, so that none can multiply."""
    bomb = b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]"
    assert _refusal(bomb).path == "b[0]"


@pytest.mark.parametrize("size", [MAX_BYTES + 1, 10 * MAX_BYTES])
def test_size(size: int) -> None:
    """More bytes than etcd would store are not even looked at."""
    assert _refusal(b"x" * size).reason == f"is {size} bytes long"


@pytest.mark.parametrize("first", [b"a: ", b"{a: "])
def test_yaml_size(first: bytes) -> None:
    """Long values must be JSON, because YAML takes long to read."""
    error = _refusal(first + b"x" * MAX_YAML_BYTES)
    assert "write it as JSON" in error.mend or error.reason.startswith("is not valid JSON")


def test_long_json() -> None:
    """JSON may be as long as etcd can hold."""
    data = b'{"a": "' + b"x" * (MAX_BYTES - 9) + b'"}'
    assert read_document(data, where="key") == {"a": "x" * (MAX_BYTES - 9)}


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 900, 200_000])
@pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"a":', "}"), ("- ", "")])
def test_depth(depth: int, left: str, right: str) -> None:
    """Nesting without end is refused in JSON and in YAML, however deep it goes."""
    size = min(depth, MAX_YAML_BYTES // 2 - 1) if left == "- " else depth
    assert "nested deeper" in _refusal((left * size + "1" + right * size).encode()).reason


@pytest.mark.parametrize(("left", "right"), [("[", "]"), ("- ", "")])
def test_depth_allowed(left: str, right: str) -> None:
    """Nesting up to the limit is read."""
    inspect(read_document((left * MAX_DEPTH + "1" + right * MAX_DEPTH).encode(), where="key"), where="key")


def test_several_documents() -> None:
    """A file may hold many documents; empty ones are passed over and each is named by its number."""
    data = b"---\na: 1\n---\n# nothing\n---\nb: 2\n"
    assert read_documents(data, where="file") == [
        ("file (document 1)", {"a": 1}),
        ("file (document 2)", {"b": 2}),
    ]


def test_single_document_of_a_file() -> None:
    """The only document of a file is named by the file alone."""
    assert read_documents(b'{"a": 1}', where="file") == [("file", {"a": 1})]


def test_json_documents_between_dashes() -> None:
    """JSON documents may be several too, with YAML's line between them."""
    assert [value for _, value in read_documents(b'{"a": 1}\n---\n{"b": 2}', where="file")] == [
        {"a": 1},
        {"b": 2},
    ]


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes(data: bytes) -> None:
    """Whatever the bytes, reading gives a value or InvalidResource, never another error."""
    with suppress(InvalidResource):
        inspect(read_document(data, where="key"), where="key")


@given(st.text("{}[]:,-&*!|>'\"%@`# \n\tabc01.?", max_size=40))
def test_any_punctuation(text: str) -> None:
    """Whatever YAML's signs are strewn about, reading gives a value or InvalidResource."""
    with suppress(InvalidResource):
        inspect(read_document(text.encode(), where="key"), where="key")


@given(texts, texts)
def test_paths_name_odd_fields(outer: str, inner: str) -> None:
    """Whatever fields are called, the path of a repeated one can be built."""
    pair = f"{json.dumps(inner)}: 1"
    error = _refusal(f"{{{json.dumps(outer)}: {{{pair}, {pair}}}}}".encode())
    assert error.reason == "stands twice"
