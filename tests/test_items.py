"""Decoding a body in chunks: the same items as from msgspec decoding it whole, wherever it is cut."""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
import logging
import re
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import ijson
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ijson.backends import python as ijson_python
from msgspec import Raw

from tests.support import examples
from truto_ci_async._json import DECODED_BYTES
from truto_ci_async._wire.incremental import (
    array_scanner,
    envelope,
    fast_parser,
    item_collector,
    item_decoder,
)
from truto_ci_async._wire.incremental.array_scanner import ArrayScanner
from truto_ci_async._wire.incremental.fast_parser import FastArrayParser
from truto_ci_async._wire.incremental.ijson_parser import IjsonArrayParser
from truto_ci_async._wire.incremental.item_collector import ISSUES_KEPT, ItemCollector
from truto_ci_async._wire.incremental.item_decoder import Engine, ItemDecoder, NdjsonDecoder
from truto_ci_async._wire.incremental.lexer import (
    JsonChecker,
    JsonTokenSplitter,
    NestingTracker,
    for_ijson,
    is_cut,
)
from truto_ci_async._wire.item_reader import ItemReader
from truto_ci_async._wire.page_reader import PageReader
from truto_ci_async.errors import BodyTooLargeError, DecodeError, TruncatedBodyError, UsageError
from truto_ci_async.models import Interaction

ENGINES: tuple[Engine, ...] = ("auto", "ijson")
engines = pytest.mark.parametrize("engine", ENGINES)
parsers = pytest.mark.parametrize("make", [FastArrayParser, IjsonArrayParser])


@pytest.fixture(autouse=True, scope="module")
def _guess_early() -> Iterator[None]:
    """Let the fast parser guess after two items, so that small bodies reach all of its branches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_parser, "LEARN_FROM", 2)
        yield


RAW = ItemReader(Raw)
ANY: ItemReader[Any] = ItemReader(Any)
DICT = ItemReader(dict)
INTERACTION = ItemReader(Interaction)


def read(
    chunks: Iterable[bytes], reader: ItemReader[Any] = RAW, **options: Any
) -> tuple[list[Any], dict[str, Any]]:
    decoder = ItemDecoder(reader, **options)
    items = [item for chunk in chunks for item in decoder.feed(chunk)]
    items += decoder.flush()
    envelope = decoder.close()
    assert decoder.items_read == len(items)
    return [bytes(item) if isinstance(item, Raw) else item for item in items], envelope


# Numbers inside items are not converted, so they may be too large for a float.
WHOLE = msgspec.json.Decoder(float_hook=float)


_HEX = rb"[0-9a-fA-F]{2}"
_SURROGATES = re.compile(
    rb"\\(?:(u[dD][89abAB]%b\\u[dD][c-fC-F]%b)|(u[dD][89a-fA-F]%b)|.)" % (_HEX, _HEX, _HEX), re.DOTALL
)


def without_surrogates(body: bytes) -> bytes:
    """Replace lone surrogates, escape by escape."""
    return _SURROGATES.sub(lambda found: b"\\ufffd" if found[2] else found[0], body)


def oracle(body: bytes, path: str = "result", *, keyed: bool = False) -> tuple[list[bytes], dict[str, Any]]:
    """Decode the body whole: the exact bytes of each item, and the envelope."""
    body.decode()
    body = without_surrogates(body.removeprefix(b"\xef\xbb\xbf"))
    envelope: Any = WHOLE.decode(body)
    *parents, last = path.split(".")
    inner, levels = envelope, [msgspec.json.decode(body, type=dict[str, Raw])]
    for key in parents:
        inner = inner[key]
        levels.append(msgspec.json.decode(levels[-1].pop(key), type=dict[str, Raw]))
    if path == "result" and last not in inner:
        last = "results"
    del inner[last]
    items = levels[-1].pop(last)
    for around in (raw for level in levels for raw in level.values()):
        msgspec.json.decode(around)  # numbers in the envelope have to fit
    if keyed:
        return [bytes(raw) for raw in msgspec.json.decode(items, type=dict[str, Raw]).values()], envelope
    return [bytes(raw) for raw in msgspec.json.decode(items, type=list[Raw])], envelope


def sliced(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


def times(body: bytes, count: int) -> bytes:
    """Make a body that repeats the items of ``body`` ``count`` times."""
    return b'{"a":1,"result":[' + b",\n ".join(oracle(body)[0] * count) + b'],"b":2}'


def cut_at(body: bytes, places: Iterable[int]) -> list[bytes]:
    bounds = [0, *sorted({place for place in places if 0 < place < len(body)}), len(body)]
    return [body[start:end] for start, end in itertools.pairwise(bounds)]


# Random bodies, composed as text so that white space, escapes and number formats vary too


strings = st.one_of(
    st.text(max_size=6).map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.text(max_size=6).map(json.dumps),
    st.sampled_from(
        [
            '"},{\\"id\\":"', '"}],[{"', '"]}"', '"\\\\"', '"\\\\\\""', '"\\u00e9\\n\\/"', '"\\ud83d\\ude00"',
            '"é"', '"日本"', '"😀"', '","', '":["', '"result"', '""', '"\x7f"', '"\\ud83d"', '"x\\uDE00\\ud83d"',
            '"\\\\ud83d"', '"\\\\\\ud83d\\n"', '"\\ud83d\\ud83d\\ude00"', '"\\ufffd\\udfff"',
        ]
    ),
)  # fmt: skip
numbers = st.one_of(
    st.integers(-(10**25), 10**25).map(str),
    st.sampled_from(["0", "-0", "1.0", "-1.5e3", "1E+2", "2e-7", "0.000", "123456789.123456789", "1e300"]),
)
scalars = st.one_of(strings, numbers, st.sampled_from(["null", "true", "false"]))
keys = st.sampled_from(['"id"', '"id"', '"user"', '"x"', '"result"', '"r\\u0065sult"', '"é"', '"},{"', '""'])


@st.composite
def containers(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    space = st.sampled_from(["", "", "", " ", "\n  ", "\t", "\r\n"])
    if draw(st.booleans()):
        parts = draw(st.lists(inner, max_size=4))
        opening, closing = "[", "]"
    else:
        names = draw(st.lists(keys, max_size=4, unique_by=json.loads))
        parts = [f"{name}{draw(space)}:{draw(space)}{draw(inner)}" for name in names]
        opening, closing = "{", "}"
    middle = ",".join(draw(space) + part + draw(space) for part in parts)
    return opening + (middle or draw(space)) + closing


values = st.recursive(scalars, containers, max_leaves=12)
objects = st.lists(st.tuples(keys, values), max_size=3, unique_by=lambda pair: json.loads(pair[0])).map(
    lambda pairs: "{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}"
)
deep = st.integers(1, 200).map(lambda depth: "[" * depth + "]" * depth)


@st.composite
def bodies(draw: st.DrawFn, path: str = "result", *, keyed: bool = False) -> bytes:
    """A body with items at ``path``, between other keys."""
    space = st.sampled_from(["", "", " ", "\n", " \r\n\t"])
    kind = draw(st.sampled_from([values, objects, objects, numbers, strings, st.one_of(objects, deep)]))
    items = draw(st.lists(kind, max_size=8))
    between = draw(st.sampled_from([",", ",", ", ", " ,\n  "]))
    if keyed:
        items = [f'"k{number}"{draw(space)}:{draw(space)}{item}' for number, item in enumerate(items)]
    text = ("{" if keyed else "[") + draw(space) + between.join(items) + draw(space) + ("}" if keyed else "]")
    for key in reversed(path.split(".")):
        around = draw(
            st.lists(
                st.tuples(st.sampled_from(["a", "next_cursor", "é", "z\\n", "0"]), values | deep),
                max_size=3,
                unique_by=lambda pair: pair[0],
            )
        )
        # A cursor with a lone surrogate is refused; see test_a_cursor_with_a_lone_surrogate_is_an_error.
        around = [
            (name, without_surrogates(value.encode()).decode() if name == "next_cursor" else value)
            for name, value in around
        ]
        members = [f'"{name}"{draw(space)}:{draw(space)}{value}{draw(space)}' for name, value in around]
        members.insert(
            draw(st.integers(0, len(members))), f'{draw(space)}"{key}"{draw(space)}:{draw(space)}{text}'
        )
        text = "{" + ",".join(members) + draw(space) + "}"
    mark = draw(st.sampled_from(["", "", "", "\ufeff"]))
    return (mark + draw(space) + text + draw(space)).encode()


@given(bodies(), st.lists(st.integers(0, 400), max_size=12))
def test_both_engines_agree_with_the_oracle_in_random_chunks(body: bytes, places: list[int]) -> None:
    expected = oracle(body)
    for engine in ENGINES:
        assert read([body], engine=engine) == expected
        assert read(cut_at(body, places), engine=engine) == expected
        assert read(sliced(body, 1), engine=engine) == expected


@given(bodies(), st.integers(2, 50), st.integers(50, 5000))
def test_both_engines_agree_with_the_oracle_on_many_items(few: bytes, count: int, size: int) -> None:
    body = times(few, count)
    expected = oracle(body)
    for engine in ENGINES:
        assert read(sliced(body, size), engine=engine) == expected
        assert read(sliced(body, size), ANY, engine=engine)[0] == json.loads(body)["result"]


@engines
@pytest.mark.parametrize(
    "body",
    [
        b'{"result":[1,2,3 ,4,{"a":1} ,{"a":2},"x","y","z",[],[]]}',
        b'{"result":[[[1],[2]],[[3],[4]],[[5],[6]]]}',
        b'{"result":[{"id":1},{"id":2},{"id":3},{"id":"},{\\"id\\":"},{"id":4}],"a":[{"id":5},{"id":6}]}',
    ],
)
def test_separators_that_mislead(engine: Engine, body: bytes) -> None:
    for size in range(1, len(body)):
        assert read(sliced(body, size), engine=engine) == oracle(body)


def test_a_separator_longer_than_what_comes_next() -> None:
    chunks = [b'{"result":[{"id":["a"\n  ]},{"id":[ ]}', b",", b"{}]}"]
    assert read(chunks) == oracle(b"".join(chunks))


@engines
def test_a_comma_too_many_is_not_guessed_away(engine: Engine) -> None:
    with pytest.raises(DecodeError):
        read([b'{"result":[1,2,3,', b",", b"4]}"], engine=engine)


@examples(8)
@given(bodies())
def test_both_engines_agree_with_the_oracle_cut_at_every_byte(body: bytes) -> None:
    expected = oracle(body)
    for engine in ENGINES:
        for place in range(1, len(body)):
            assert read([body[:place], body[place:]], engine=engine) == expected


@examples(40)
@given(bodies("records.items"), bodies(keyed=True), st.integers(1, 30))
def test_nested_paths_and_keyed_objects(nested: bytes, keyed: bytes, size: int) -> None:
    for engine in ENGINES:
        assert read(sliced(nested, size), path="records.items", engine=engine) == oracle(
            nested, "records.items"
        )
        assert read(sliced(keyed, size), key_by=True, engine=engine) == oracle(keyed, keyed=True)


def assert_cut(body: bytes, place: int, size: int, **options: Any) -> None:
    for engine in ENGINES:
        decoder = ItemDecoder(RAW, engine=engine, **options)
        count = sum(len(decoder.feed(chunk)) for chunk in sliced(body[:place], size))
        count += len(decoder.flush())
        with pytest.raises(TruncatedBodyError) as caught:
            decoder.close()
        assert (caught.value.items_read, caught.value.bytes_read) == (count, place)
        assert str(caught.value) == f"the JSON ends early, after {place:,} bytes and {count:,} items"


SAMPLE = (
    b'{"n":-1.5e+3,"a":{"result":[0]},"result" : [{"id":"\\u00e9\xc3\xa9","x":[1.0,-2e-3,true]}, "a\\ud83d\\ude00" '
    b',null,-0.5E+7 ,[],{"id":"},{\\"id\\":"}],"next_cursor":"c\xf0\x9f\x98\x80","z":[false,12]}'
)


@pytest.mark.parametrize("size", [1, 10**6])
def test_every_truncation_is_reported_as_one(size: int) -> None:
    """A truncated body is retried, a malformed one is not, so they must never be confused."""
    assert len(read([SAMPLE])[0]) == 6
    keyed = (
        SAMPLE.replace(b'" : [', b'":{"a":')
        .replace(b' "a\\ud', b'"b":"a\\ud')
        .replace(b",null", b',"c":null')
    )
    keyed = keyed.replace(b",-0.5E+7 ,[],{", b',"d":-0.5E+7 ,"e\\"":[],"f":{').replace(b'"}],', b'"}},')
    assert len(read([keyed], key_by=True)[0]) == 6
    for place in range(1, len(SAMPLE)):
        assert_cut(SAMPLE, place, size)
    for place in range(1, len(keyed)):
        assert_cut(keyed, place, size, key_by=True)


@examples(50)
@given(bodies(), st.lists(st.floats(0, 1, exclude_max=True), max_size=10), st.integers(1, 500))
def test_any_truncation_is_reported_as_one(body: bytes, places: list[float], size: int) -> None:
    mark = b"\xef\xbb\xbf" if body.startswith(b"\xef\xbb\xbf") else b""
    body = mark + body.removeprefix(mark).strip()
    for place in places:
        if body[: max(1, int(place * len(body)))] == mark:
            continue  # an empty body
        assert_cut(body, max(1, int(place * len(body))), size)


@engines
def test_a_number_beyond_any_float_is_accepted_in_items_only(engine: Engine) -> None:
    """Raw items keep their bytes, but the envelope is decoded into Python numbers."""
    body = b'{"result":[0 ,\n  1e3000]}'
    assert read(sliced(body, 20), engine=engine) == oracle(body) == ([b"0", b"1e3000"], {})
    for body in (b'{"a":1e3000,"result":[0]}', b'{"result":[0],"a":[1e3000]}'):
        with pytest.raises(msgspec.DecodeError):
            oracle(body)
        with pytest.raises(DecodeError):
            read(sliced(body, 20), engine=engine)


@examples(150)
@given(bodies(), st.data())
def test_a_broken_body_is_never_silent(body: bytes, data: st.DataObject) -> None:
    """Change, add or drop some bytes: we must fail where the oracle fails, and agree where it does not."""
    broken = bytearray(body)
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.integers(0, len(broken) - 1))
        broken[place : place + data.draw(st.integers(0, 1))] = data.draw(
            st.sampled_from(
                [b"", b",", b"]", b"}", b'"', b"[", b"{", b"0", b"-", b"x", b"\\", b"\xff", b"\x00", b":"]
            )
        )
    size = data.draw(st.integers(1, 40))
    try:
        expected = oracle(bytes(broken))
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        expected = None
    for engine in ENGINES:
        try:
            found = read(sliced(bytes(broken), size), engine=engine)
        except (DecodeError, TruncatedBodyError) as error:
            if expected is not None and "twice" not in str(error):
                raise
        else:
            assert found == expected


MALFORMED = [
    b"",
    b"   ",
    b"<html></html>",
    b"[]",
    b"5",
    b"null",
    b'"result"',
    b'\xef\xbb\xbf\xef\xbb\xbf{"result":[]}',
    b' \xef\xbb\xbf{"result":[]}',
    b'{\xef\xbb\xbf"result":[]}',
    b"\xef\xbb\xbf",
    b'{"result":[]}x',
    b'{"result":[]}{}',
    b'{"result":[]}]',
    b'{"result":[]]}',
    b'{"result":[,]}',
    b'{"result":[1,]}',
    b'{"result":[1,,2]}',
    b'{"result":[1 2]}',
    b'{"result":[{} {}]}',
    b'{"result":[{"a":1}}]}',
    b'{"result":[{"a":1]]}',
    b'{"result":[{"a" 1}]}',
    b'{"result":[{"a":1,}]}',
    b'{"result":[{a:1}]}',
    b'{"result":[01]}',
    b'{"result":[1.]}',
    b'{"result":[+1]}',
    b'{"result":[-]}',
    b'{"result":[NaN]}',
    b'{"result":[tru]}',
    b'{"result":[truex]}',
    b'{"result":["\\x"]}',
    b'{"result":["\\u12g4"]}',
    b'{"result":["\x01"]}',
    b'{"result":["\xff"]}',
    b'{"result":["\xed\xa0\x80"]}',
    b'{"result":["\\ud8"]}',
    b'{"result":["\\ud800\\udc0g"]}',
    b'{"result":[\\ud800]}',
    b'{"result":[] "a":1}',
    b'{"result":[],}',
    b'{"result":[],"a"}',
    b'{"result":[],"a":01}',
    b'{"result":[],"a":\\ud800}',
    b'{"result":[],"a":"\xff"}',
    b'{"a":"\xff","result":[]}',
    b'{"a":\\ud800,"result":[]}',
    b'{"a":tru,"result":[]}',
    b"{'result':[]}",
    b'{"result" [1]}',
    b'{"result":/*c*/[1]}',
    b'{"result":[/*c*/1]}',
    b'\x0b{"result":[]}',
    b'{"result":[]}\x0b',
    b'{"result":[]} \x0c',
]


@engines
@pytest.mark.parametrize("body", MALFORMED)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_malformed_json_is_a_decode_error(engine: Engine, body: bytes, size: int) -> None:
    with pytest.raises(DecodeError):
        read(sliced(body, size), engine=engine)


@engines
@pytest.mark.parametrize(
    ("body", "index", "message", "raw"),
    [
        (b'{"result":[1, 2 3]}', 2, "expected a comma or the end after an item, got '3'", b"3]}"),
        (b'{"result":[1,,2]}', 1, "the item is not JSON", b",2]}"),
        (b'{"result":[1,]}', 1, "the item is not JSON", b"]}"),
        (b'{"result":[{"a":1}:', 1, "expected a comma or the end after an item, got ':'", b":"),
        (b'{"result":{"a":1,"b" 2}}', 1, "expected a colon after a key, got '2'", b"2}}"),
        (b'{"result":{"a":1,"b"}}', 1, "expected a colon after a key, got '}'", b"}}"),
        (b'{"result":{"a":1, 5:2}}', 1, "expected a key, got '5'", b"5:2}}"),
        (b'{"result":{5:2}}', 0, "expected a key, got '5'", b"5:2}}"),
        (b'{"result":{"a":1,}}', 1, "expected a key, got '}'", b"}}"),
        (b'{"result":{"a":1 "b":2}}', 1, "expected a comma or the end after an item, got '\"'", b'"b":2}}'),
    ],
)
def test_the_error_for_a_malformed_item_says_where_it_is(
    engine: Engine, body: bytes, index: int, message: str, raw: bytes
) -> None:
    """The error carries up to 512 bytes from the bad one on."""
    space = b" " * 600
    with pytest.raises(DecodeError) as caught:
        read([body + space], key_by=True, engine=engine)
    error = caught.value
    assert str(error) == message
    assert (error.index, error.path) == (index, f"$.result[{index}]")
    assert error.raw == (raw + space)[:512]


def test_a_malformed_item_at_the_end_of_the_body_is_not_taken_for_a_cut() -> None:
    decoder = ItemDecoder(RAW)
    assert list(map(bytes, decoder.feed(b'{"result":[1,-x'))) == [b"1"]
    with pytest.raises(DecodeError) as caught:
        decoder.close()
    assert str(caught.value) == "the item is not JSON"
    assert (caught.value.path, caught.value.index, caught.value.raw) == ("$.result[1]", 1, b"-x")


@engines
def test_a_malformed_item_is_reported_long_before_the_end(engine: Engine) -> None:
    """There may be another gigabyte of the body to come."""
    decoder = ItemDecoder(RAW, engine=engine)
    with pytest.raises(DecodeError) as caught:
        for chunk in itertools.chain(
            [b'{"result":[{"a":1},{"b":"\\x"'], itertools.repeat(b',"x":[1,2]', 50_000)
        ):
            decoder.feed(chunk)
    assert decoder.bytes_read < 100_000
    if engine == "auto":  # ijson does not say in which item
        assert (caught.value.path, caught.value.index) == ("$.result[1]", 1)


@engines
@pytest.mark.parametrize("after", [b'"]}', b'x"]}', "é".encode() + b'"]}'], ids=["end", "ascii", "other"])
def test_a_character_split_between_chunks_must_continue(engine: Engine, after: bytes) -> None:
    """The shortcut for chunks of plain ASCII must not be taken after such a chunk."""
    for decoder in (ItemDecoder(ANY, engine=engine), NdjsonDecoder(ANY)):
        decoder.feed(b'{"result":["\xf0\x9f')
        with pytest.raises(DecodeError) as caught:
            decoder.feed(after)
        assert str(caught.value) == "the body is not UTF-8 at byte 12 (invalid continuation byte)"
    good = ItemDecoder(ANY, engine=engine)
    good.feed(b'{"result":["\xf0\x9f')
    assert good.feed(b'\x98\x80", "a"]}')[0] == "😀"
    with pytest.raises(DecodeError, match="at byte 24 "):
        ItemDecoder(ANY, engine=engine).feed(b" " * 12 + b'{"result":["\xff')


def test_ijsons_message_is_put_on_one_short_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __init__(self, events: Any) -> None: ...

        def send(self, piece: bytes) -> None:
            raise ijson.JSONError(piece.decode())

        def close(self) -> None:
            raise StopIteration

    monkeypatch.setattr(ijson, "basic_parse_coro", Failing)
    for text, said in (("a \n  b", "a b"), ("x" * 600, "x" * 160), (" ", "JSONError")):
        with pytest.raises(DecodeError) as caught:
            JsonChecker().send(text.encode())
        assert str(caught.value) == f"the body is not JSON: {said}"
        assert caught.value.raw == text.encode()[:512]
    with pytest.raises(DecodeError) as caught:
        JsonChecker().is_complete()
    assert str(caught.value) == "the body is not JSON: StopIteration"
    assert caught.value.raw == b""


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], False),
        ([b"", b" \n"], False),
        ([b"[", b" "], True),
        ([b"[1,", b" 2"], True),
        ([b'["', b"x" * 200_000], True),
        ([b'["', b"x" * 200_000, b'"]'], False),
        ([b"[" + b"1," * 100_000], True),
        ([b"[" + b"1," * 100_000 + b"x"], False),
        ([b"[1", b"]"], False),
        ([b"[1]", b"x"], False),
        ([b"[tru"], True),
        ([b"[trx"], False),
        ([b"tru", b"x"], False),
        ([b"\xef"], True),
        ([b"\xef\xbb\xbf"], True),
        ([b"\xef\xbb\xbe"], False),
        ([b"\xef", b"\xbc"], False),
    ],
)
def test_a_text_is_cut_if_more_bytes_could_complete_it(parts: list[bytes], expected: bool) -> None:
    assert is_cut(*parts) is expected


@pytest.mark.parametrize(
    ("chunks", "pieces", "held"),
    [
        ([b'["a', b"b", b'"]'], [b"[", b"", b'"ab"]'], b""),
        ([b"[1", b"2 ", b"3"], [b"[", b"12 ", b""], b"3"),
        ([b'"a\\', b'"b" , "c'], [b"", b'"a\\"b" , '], b'"c'),
        ([b'"a\\', b'\\" , "c'], [b"", b'"a\\\\" , '], b'"c'),
        ([b'"a\\', b'"', b'b"'], [b"", b"", b'"a\\"b"'], b""),
        ([b'"a\\', b"n", b'b" '], [b"", b"", b'"a\\nb" '], b""),
        ([b'1, "a', b"b", b"c"], [b"1, ", b"", b""], b'"abc'),
    ],
)
def test_a_token_is_held_until_it_is_complete(chunks: list[bytes], pieces: list[bytes], held: bytes) -> None:
    splitter = JsonTokenSplitter()
    assert [splitter.cut(chunk) for chunk in chunks] == pieces
    assert splitter.held_bytes == len(held)
    assert splitter.rest() == held
    assert splitter.held_bytes == 0
    assert splitter.cut(b'"a"') == b'"a"'  # starts over
    for start in b'"x', b'"x\\', b"1":
        splitter.cut(start)
        assert splitter.rest() == start
        assert splitter.cut(b'"a",') == b'"a",'


@pytest.mark.parametrize(
    ("token", "is_replaced"),
    [
        (b"1" * 4000, False),
        (b"1" * 4001, True),
        (b"-" + b"9" * 5000, True),
        (b"1e" + b"9" * 17, True),
        (b"1.50E-" + b"9" * 17, True),
        (b"1e" + b"9" * 16, False),
        (b"1" * 5000 + b".5", False),
        (b'"%s"' % (b"1" * 5000), False),
    ],
)
def test_ijson_gets_another_number_for_one_it_cannot_hold(token: bytes, is_replaced: bool) -> None:
    expected = b"0".ljust(len(token)) if is_replaced else token
    assert for_ijson(b"[%s , 1]" % token) == b"[%s , 1]" % expected


@pytest.mark.parametrize("make", [NestingTracker, lambda: ArrayScanner(("result",), key_by=False)])
def test_nesting_is_followed_down_to_512_levels(make: Any) -> None:
    checker = make()
    checker.read(b"[" * 512 + b"]" * 512)
    checker = make()
    for _ in range(512):
        checker.read(b'{"a":')
    assert checker.depth == 512
    with pytest.raises(DecodeError, match=r"^the body is nested deeper than 512$"):
        checker.read(b"[")


# Finding the items


HINT = "name the key that holds the items, as in path='peopleInteractionStats', item_type=dict"
MANY = ",".join(f'"k{number}":0' for number in range(40)).encode()
SEEN = ", ".join(f"k{number}" for number in range(32))


@engines
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            b'{"error":"Bad Request"}',
            'the body has no $.result; the keys at its top are: error; the body is {"error":"Bad Request"}',
        ),
        (
            b'{"message":"%s\xc3\xa9"}' % (b"x" * 187),
            f'the body has no $.result; the keys at its top are: message; the body is {{"message":"{"x" * 187}\ufffd',
        ),
        (b'{"a":[{}],"b":"x"}', f"the body has no $.result; the keys at its top are: a, b; {HINT}"),
        (b'{"a":{"result":[1]}}', f"the body has no $.result; the keys at its top are: a; {HINT}"),
        (b'{"a":[{"result":[1]}]}', f"the body has no $.result; the keys at its top are: a; {HINT}"),
        (b"{}", f"the body has no $.result; the keys at its top are: none; {HINT}"),
        (b"{%s}" % MANY, f"the body has no $.result; the keys at its top are: {SEEN}, ...; {HINT}"),
        (b'{"result":null}', "expected an array at $.result, got null"),
        (b'{"result":{"a":{}}}', "expected an array at $.result, got an object; key_by takes an object"),
        (b'{"result":5}', "expected an array at $.result, got a number"),
        (b'{"result":"[1]"}', "expected an array at $.result, got a string"),
        (b"[[1]]", "expected a JSON object with 'result': it begins b'[[1]]'"),
    ],
)
def test_the_error_for_a_body_without_items_says_what_it_has(
    engine: Engine, body: bytes, message: str
) -> None:
    with pytest.raises(DecodeError) as caught:
        read([body], engine=engine)
    error = caught.value
    assert str(error) == message
    assert error.raw == body[:512]
    assert error.path == ("$.result" if body[:1] == b"{" else "$")


@engines
def test_results_is_accepted_for_result(engine: Engine) -> None:
    assert read([b'{"limit":2,"results":[1,2]}'], engine=engine) == ([b"1", b"2"], {"limit": 2})
    assert read([b'{"result":[1],"results":[2]}'], engine=engine) == ([b"1"], {"results": [2]})
    with pytest.raises(
        DecodeError, match=r"^both result and results are there: say path='results'$"
    ) as caught:
        read([b'{"results":[2],"result":[1]}'], engine=engine)
    assert caught.value.path == "$.result"
    assert read([b'{"results":[2],"result":[1]}'], path="results", engine=engine) == ([b"2"], {"result": [1]})
    with pytest.raises(DecodeError, match="no \\$.x"):
        read([b'{"results":[2]}'], path="x", engine=engine)


@engines
def test_two_arrays_of_one_name_are_an_error(engine: Engine) -> None:
    """In a buffered body the last one wins, but here the items of the first were already handed out."""
    for body in (
        b'{"result":[1],"a":2,"result":[3]}',
        b'{"result":[1],"result":null}',
        b'{"result":[1],"r\\u0065sult":2}',
    ):
        with pytest.raises(DecodeError, match=r"^the key 'result' comes twice$") as caught:
            read([body], engine=engine)
        assert caught.value.path == "$.result"
    with pytest.raises(DecodeError, match=r"^the key 'a.b' comes twice$") as caught:
        read([b'{"a":{"b":[1]},"a":{"b":[1]}}'], path="a.b", engine=engine)
    assert caught.value.path == "$.a.b"
    with pytest.raises(DecodeError, match="twice"):
        read([b'{"a":{"b":[1]},"a":5}'], path="a.b", engine=engine)


@engines
def test_large_members_around_nested_items_stay_raw(engine: Engine) -> None:
    """Decoding them at once would hold the loop. Only what leads to the items is taken apart."""
    large = b'{"x":"%s"}' % (b"1" * DECODED_BYTES)
    body = b'{"b":%s,"result":7,"a":{"b":{"items":[1,2],"c":%s,"d":3},"e":%s}}' % (large, large, large)
    items, around = read([body], path="a.b.items", engine=engine)
    assert items == [b"1", b"2"]
    raw = Raw(large)
    assert around == {"b": raw, "result": 7, "a": {"b": {"c": raw, "d": 3}, "e": raw}}


@engines
def test_a_member_that_cannot_be_decoded_is_named(engine: Engine) -> None:
    with pytest.raises(DecodeError, match=r"^b cannot be decoded: ") as caught:
        read([b'{"a":{"b":1e999,"items":[]}}'], path="a.items", engine=engine)
    assert caught.value.path == "$.b"


@engines
def test_key_by_takes_an_array_too(engine: Engine) -> None:
    assert read([b'{"result":[{"id":1}]}'], key_by=True, engine=engine)[0] == [b'{"id":1}']
    assert read([b'{"result":{}}'], key_by=True, engine=engine) == ([], {})
    for body in (
        b'{"result":{"a":1,}}',
        b'{"result":{"a"}}',
        b'{"result":{5:1}}',
        b'{"result":{"a" "b":1}}',
        b'{"result":{"a":}}',
    ):
        with pytest.raises(DecodeError):
            read(sliced(body, 1), key_by=True, engine=engine)
        with pytest.raises(DecodeError):
            read([body], key_by=True, engine=engine)


@pytest.mark.parametrize(("engine", "parser"), [("auto", FastArrayParser), ("ijson", IjsonArrayParser)])
def test_each_engine_has_its_parser(engine: Engine, parser: Any) -> None:
    decoder = ItemDecoder(RAW, engine=engine)
    decoder.feed(b'{"result":[')
    assert isinstance(decoder._parser, parser)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"path": ""}, "path is one key, or several joined by dots, not ''"),
        ({"path": "a..b"}, "path is one key, or several joined by dots, not 'a..b'"),
        ({"engine": "simdjson"}, "engine is 'auto' or 'ijson', not 'simdjson'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        ItemDecoder(RAW, **options)
    assert str(caught.value) == said


# Typed items and repair


@engines
def test_items_are_typed_and_repaired_with_their_place_in_the_body(engine: Engine) -> None:
    body = b'{"result":[{"id":"a"},{"id":5},7,{"id":"b","metrics":{"patience":"x"}}],"n":1}'
    decoder = ItemDecoder(INTERACTION, engine=engine)
    items = [item for chunk in sliced(body, 9) for item in decoder.feed(chunk)] + decoder.flush()
    assert decoder.close() == {"n": 1}
    assert [item.id for item in items] == ["a", "5", "b"]
    assert [(issue.index, issue.path) for issue in decoder.issues] == [
        (1, "$.result[1].id"),
        (2, "$.result[2]"),
        (3, "$.result[3].metrics.patience"),
    ]
    assert (decoder.items_read, decoder.issues_count) == (3, 3)


@engines
def test_raise_ends_the_stream_at_the_bad_item(engine: Engine) -> None:
    decoder = ItemDecoder(ItemReader(Interaction, on_invalid="raise"), engine=engine)
    with pytest.raises(DecodeError) as caught:
        for chunk in sliced(b'{"result":[' + b'{"id":"a"},' * 40 + b'{"id":5}]}', 50):
            decoder.feed(chunk)
    assert (caught.value.index, caught.value.path) == (40, "$.result[40].id")
    with pytest.raises(UsageError, match=r"^cannot feed this decoder: it failed; "):
        decoder.feed(b"]}")
    with pytest.raises(UsageError, match=r"^cannot close this decoder: it failed; "):
        decoder.close()


@engines
def test_a_body_of_foreign_rows_is_an_error(engine: Engine) -> None:
    """As for a buffered page: a walk that kept nothing must not look like success."""
    decoder = ItemDecoder(INTERACTION, path="rows", engine=engine)
    decoder.feed(b'{"rows":[{"userId":"1"},{"userId":"2"}]}')
    with pytest.raises(DecodeError) as caught:
        decoder.close()
    first = decoder.issues[0]
    assert str(caught.value) == (
        f"no item of this body is of type Interaction: {first.message}; item_type=dict takes objects of any shape"
    )
    assert (caught.value.path, caught.value.index, caught.value.raw) == ("$.rows[0]", 0, b'{"userId":"1"}')
    with pytest.raises(DecodeError, match=r"no item of this body is of type int \| None: Expected"):
        read([b'{"result":["a"]}'], ItemReader(int | None), engine=engine)
    decoder = ItemDecoder(INTERACTION, engine=engine)
    decoder.feed(b'{"result":[{"userId":"1"},{"id":"2"}]}')
    assert decoder.close() == {}


# Wrong items, surrogates and numbers: the same from both engines, and from a page that is read whole

wrong_items = st.sampled_from(
    [
        b"1", b"null", b"{}", b'{"a":1}', b'{"id":5}', b'{"id":"a"}', b'{"id":"\\ud83d"}', b'{"user":[1]}', b"[]",
        b'{"id":"b","remote_data":{"\\udc00":["\\ud83d",1.10,1E-99999999999999999999]}}', b'"\\ud83d"',
        b'{"id":"c","metrics":{"patience":1e400,"interactivity":2}}',
    ]
)  # fmt: skip


def outcome(read: Any) -> Any:
    try:
        items, issues = read()
    except (DecodeError, TruncatedBodyError) as error:
        return type(error)
    return [msgspec.json.encode(item) for item in items], sorted(
        (issue.index or 0, issue.path, issue.message, issue.raw) for issue in issues
    )


@given(
    st.lists(wrong_items, max_size=12), st.sampled_from([1, 7, 5000]), st.sampled_from([Interaction, dict])
)
def test_wrong_items_and_their_issues_are_the_same_however_they_are_read(
    items: list[bytes], size: int, item_type: Any
) -> None:
    body = b'\xef\xbb\xbf{"next_cursor":"c","result":[' + b", ".join(items) + b'],"x":"\\ud83d"}'
    reader: ItemReader[Any] = ItemReader(item_type)

    def by(engine: Engine) -> Any:
        decoder = ItemDecoder(reader, engine=engine)
        found = [item for chunk in sliced(body, size) for item in decoder.feed(chunk)]
        found += decoder.flush()
        assert decoder.close() == {"next_cursor": "c", "x": "\ufffd"}
        return found, decoder.issues

    def whole() -> Any:
        page = PageReader(reader).read(body)
        assert (page.next_cursor, page.extra) == ("c", {"x": "\ufffd"})
        return page.items, page.issues

    expected = outcome(whole)
    for engine in ENGINES:
        assert outcome(lambda engine=engine: by(engine)) == expected


@pytest.mark.parametrize(
    "number",
    [
        "1E-99999999999999999999", "-1e-400", "0e99999999999999999999", "0.0E+99999999999999999999", "1e400",
        "1E99999999999999999999", "1" * 400, "1" * 4_300, "1" * 4_301, "-" + "9" * 5_000, "0." + "1" * 5_000,
        "1" * 5_000 + "e-4990", "1e" + "0" * 40 + "1", "1" * 5_000 + ".5", "-0", "98765432109876543210", "1.50",
    ],
)  # fmt: skip
@pytest.mark.parametrize("template", ['{"n":%s,"result":[]}', '{"result":[],"n":[%s]}', '{"result":[%s]}'])
def test_every_number_is_read_the_same_way(number: str, template: str) -> None:
    """ijson makes numbers of all of them, of which Python's own types cannot hold each."""
    body = (template % number).encode()

    def by(engine: Engine, size: int) -> Any:
        decoder = ItemDecoder(ANY, engine=engine)
        items = [item for chunk in sliced(body, size) for item in decoder.feed(chunk)] + decoder.flush()
        return [*items, decoder.close()], []

    def whole() -> Any:
        page = PageReader(ANY).read(body)
        return [*page.items, page.extra], []

    expected = outcome(whole)
    for engine in ENGINES:
        for size in (1, 1000, 100_000):
            assert outcome(lambda engine=engine, size=size: by(engine, size)) == expected


SURROGATES = (
    rb'{"a":"\ud83d","result":[{"id":"a"},{"id":"b\uDE00x","remote_data":{"t":["\ud83d\ude00","\ud83d"],"n":1.10}},'
    rb'{"id":"\\ud83d"}],"z":{"\ud83d":1}}'
)


@engines
def test_lone_surrogates_are_replaced_and_told_wherever_the_body_is_cut(engine: Engine) -> None:
    """JavaScript makes them when it cuts a text inside an emoji. They used to cost the page."""
    for place in range(len(SURROGATES)):
        decoder = ItemDecoder(INTERACTION, engine=engine)
        items = decoder.feed(SURROGATES[:place]) + decoder.feed(SURROGATES[place:]) + decoder.flush()
        assert decoder.close() == {"a": "\ufffd", "z": {"\ufffd": 1}}
        assert [item.id for item in items] == ["a", "b\ufffdx", "\\ud83d"]
        assert bytes(items[1].remote_json) == rb'{"t":["\ud83d\ude00","\ufffd"],"n":1.10}'
        places = [(issue.index, issue.path) for issue in decoder.issues]
        assert sorted(places, key=str) == [
            (1, "$.result[1].id"), (1, "$.result[1].remote_data.t[1]"), (None, "$.a"), (None, "$.z"),
        ]  # fmt: skip
        assert decoder.issues_count == 4
        assert decoder.issues[0].raw.startswith(rb'{"id":"b\uDE00x"')
        assert [issue.raw for issue in decoder.issues if issue.index is None] == [b"", b""]


@engines
def test_each_item_with_a_lone_surrogate_is_told(engine: Engine) -> None:
    decoder = ItemDecoder(INTERACTION, engine=engine)
    decoder.feed(rb'{"result":[{"id":"\ud83d"},{"id":"a"},{"id":"\ude00"}]}')
    decoder.flush()
    decoder.close()
    assert [issue.index for issue in decoder.issues] == [0, 2]


@engines
@pytest.mark.parametrize(
    ("body", "path", "index"),
    [
        (rb'{"result":[{"id":"a"},{"id":"\ud83d"}]}', "$.result[1].id", 1),
        (rb'{"result":[{"id":"a","remote_data":["\ud83d"]}]}', "$.result[0].remote_data[0]", 0),
        (rb'{"result":[],"x":{"y":"\ud83d"}}', "$.x.y", None),
        (rb'{"result":[],"next_cursor":"\ud83d"}', "$.next_cursor", None),
    ],
)
def test_a_lone_surrogate_under_raise_says_where(
    engine: Engine, body: bytes, path: str, index: int | None
) -> None:
    strict = ItemReader(Interaction, on_invalid="raise")
    for read_it in (lambda: read([body], strict, engine=engine), lambda: PageReader(strict).read(body)):
        with pytest.raises(DecodeError) as caught:
            read_it()
        assert (caught.value.path, caught.value.index) == (path, index)


@engines
def test_a_cursor_with_a_lone_surrogate_is_an_error(engine: Engine) -> None:
    """It cannot be sent as it was, and with U+FFFD in it it is another one."""
    body = rb'{"result":[],"next_cursor":"\ud83d"}'
    with pytest.raises(DecodeError, match="cannot be sent"):
        read([body], engine=engine)
    with pytest.raises(DecodeError, match="cannot be sent"):
        PageReader(RAW).read(body)


@engines
def test_an_envelope_of_ten_thousand_keys_is_refused(engine: Engine) -> None:
    """Decoding a million of them would hold the loop for seconds."""
    keys = b",".join(b'"k%d":{"a":1,"b":2}' % number for number in range(9_998))
    body = b'{"a":1,"result":[1],' + keys + b"}"
    assert len(read([body], ANY, engine=engine)[1]) == 9_999
    for more in (body[:-1] + b',"y":1}', b'{"y":1,' + body[1:]):
        with pytest.raises(DecodeError, match="more than 10,000 keys"):
            read([more], ANY, engine=engine)


@engines
def test_issues_are_capped_and_counted(engine: Engine) -> None:
    body = b'{"result":[' + b",".join(b'{"id":%d}' % n for n in range(3 * ISSUES_KEPT)) + b"]}"
    decoder = ItemDecoder(INTERACTION, engine=engine)
    for chunk in sliced(body, 1000):
        decoder.feed(chunk)
    assert len(decoder.issues) == ISSUES_KEPT
    assert decoder.issues_count + len(decoder.flush()) == 3 * ISSUES_KEPT


def test_issues_of_large_records_do_not_add_up() -> None:
    decoder = ItemDecoder(INTERACTION)
    decoder.feed(b'{"result":[')
    for _ in range(40):
        decoder.feed(b'{"id":5,"remote_data":"' + b"x" * 200_000 + b'"},')
    assert decoder.issues_count >= 38
    assert sum(len(issue.raw) for issue in decoder.issues) <= item_collector.ISSUE_BYTES_KEPT


# Bounds


@engines
@pytest.mark.parametrize("size", [1, 7, 5000])
def test_an_item_has_at_most_max_item_bytes(engine: Engine, size: int) -> None:
    fits = b'{"a":"' + b"x" * 92 + b'"}'
    assert len(fits) == 100
    body = b'{"result":[' + b",".join([b"1", fits + b"   ", fits, b"2"]) + b"]}"
    items, _ = read(sliced(body, size), engine=engine, max_item_bytes=100)
    assert len(items) == 4
    with pytest.raises(BodyTooLargeError) as caught:
        read(sliced(body.replace(b"xx", b"xxx", 1), size), engine=engine, max_item_bytes=100)
    assert caught.value.limit == 100
    assert str(caught.value) == "item 1 has more than 100 bytes (max_item_bytes)"


@engines
def test_what_follows_the_items_may_be_larger_than_an_item(engine: Engine) -> None:
    after = b'"z":"%s"' % (b"x" * 5000)
    for items in (b"[1]", b'{"k":1}'):
        body = b'{"result":%s,%s}' % (items, after)
        assert read([body], key_by=True, max_item_bytes=100, engine=engine)[0] == [b"1"]


@engines
def test_a_value_of_a_keyed_object_has_at_most_max_item_bytes(engine: Engine) -> None:
    body = b'{"result":{"a":1,"b"  :  "%s"  ,"c":3}}'
    for size in (1, 7, 5000):
        items, _ = read(sliced(body % (b"x" * 98), size), key_by=True, engine=engine, max_item_bytes=100)
        assert len(items) == 3
        with pytest.raises(BodyTooLargeError, match="item 1 has more than 100 bytes"):
            read(sliced(body % (b"x" * 99), size), key_by=True, engine=engine, max_item_bytes=100)


@engines
def test_an_item_without_end_is_stopped(engine: Engine) -> None:
    decoder = ItemDecoder(RAW, engine=engine, max_item_bytes=100_000)
    decoder.feed(b'{"result":["')
    with pytest.raises(BodyTooLargeError):
        for _ in range(30):
            decoder.feed(b"x" * 10_000)
    assert decoder.bytes_read <= 250_000
    keyed = ItemDecoder(RAW, engine="auto", key_by=True, max_item_bytes=1000)
    keyed.feed(b'{"result":{"k":')
    with pytest.raises(BodyTooLargeError):
        for _ in range(100):
            keyed.feed(b" " * 100)


@engines
@pytest.mark.parametrize("body", [b'{"a":"%s","result":[1]}', b'{"result":[1],"a":"%s"}'])
def test_the_envelope_is_bounded(engine: Engine, body: bytes) -> None:
    read(sliced(body % (b"x" * 900), 100), engine=engine, max_envelope_bytes=1000)
    with pytest.raises(BodyTooLargeError) as caught:
        read(sliced(body % (b"x" * 1000), 100), engine=engine, max_envelope_bytes=1000)
    assert caught.value.limit == 1000
    assert "max_envelope_bytes" in str(caught.value)


@engines
@pytest.mark.parametrize("size", [1, 10**6])
def test_the_envelope_may_have_exactly_its_limit(engine: Engine, size: int) -> None:
    """Head and tail count together, without the items and without white space around the document."""
    head, tail = b'{"a":"x","result":', b',"b":"y"}'
    body = b" \n" + head + b'[1,"not counted"]' + tail + b" \n"
    read(sliced(body, size), engine=engine, max_envelope_bytes=len(head + tail))
    with pytest.raises(BodyTooLargeError) as caught:
        read(sliced(body, size), engine=engine, max_envelope_bytes=len(head + tail) - 1)
    assert str(caught.value) == (
        f"more than {len(head + tail) - 1} bytes surround the items of 'result' (max_envelope_bytes);"
        " if the items are elsewhere say path=...; the keys at its top are: a, result"
    )


@engines
def test_white_space_without_end_costs_nothing(engine: Engine) -> None:
    """Servers send it to keep a connection alive."""
    space = b" \n" * 2000
    body = space + b'{"result":[1,' + space + b'{"id":2}' + space + b",3" + space + b"]}" + space
    for size in (1, 100, 10**6):
        items, _ = read(sliced(body, size), engine=engine, max_item_bytes=100, max_envelope_bytes=100)
        assert items == [b"1", b'{"id":2}', b"3"]


@engines
def test_data_after_the_document_is_refused_at_once(engine: Engine) -> None:
    decoder = ItemDecoder(RAW, engine=engine)
    decoder.feed(b'{"result":[]} ')
    decoder.feed(b" \n")
    with pytest.raises(DecodeError) as caught:
        decoder.feed(b" %s" % (b"x" * 50))
    assert str(caught.value) == f"unexpected data after the end of the document: {b'x' * 40!r}"
    decoder = ItemDecoder(RAW, engine=engine)
    decoder.feed(b'{"result":[]} ')
    with pytest.raises(DecodeError, match=r"document: b'\\x0b'$"):
        decoder.feed(b"\n\x0b ")


@engines
def test_white_space_in_the_envelope_is_kept_wherever_the_body_is_cut(engine: Engine) -> None:
    body = b'{"a":" x  ","result":[],"z":"  y " } \n'
    for place in range(len(body)):
        assert read([body[:place], body[place:]], engine=engine)[1] == {"a": " x  ", "z": "  y "}


@engines
def test_an_empty_body_is_told(engine: Engine) -> None:
    for body in (b"", b" \n"):
        with pytest.raises(DecodeError, match=r"^the body is not JSON: it is empty$"):
            read([body], engine=engine)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RecursionError(), "the envelope around the items is nested too deep to decode"),
        (msgspec.DecodeError("odd"), "the envelope around the items cannot be decoded: odd"),
    ],
)
def test_an_envelope_that_cannot_be_decoded_is_told(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(envelope, "_decode_levels", fail)
    with pytest.raises(DecodeError) as caught:
        read([b'{"result":[]}'])
    assert str(caught.value) == said


@engines
def test_the_wrong_path_of_a_large_body_names_the_keys_seen(engine: Engine) -> None:
    with pytest.raises(BodyTooLargeError, match="requestId, peopleInteractionStats"):
        read(
            sliced(b'{"requestId":1,"peopleInteractionStats":[' + b"{}," * 1000, 100),
            engine=engine,
            max_envelope_bytes=1000,
        )
    with pytest.raises(DecodeError, match="keys at its top are: a"):
        read(sliced(b'{"a":1}' + b" " * 2000, 100), engine=engine, max_envelope_bytes=1000)
    with pytest.raises(DecodeError, match="got an object"):
        read(sliced(b'{"result":{' + b'"a":[],' * 1000, 100), engine=engine, max_envelope_bytes=1000)


@engines
def test_deep_nesting_is_read_or_refused_but_never_crashes(engine: Engine) -> None:
    deep = b"[" * 200 + b"]" * 200
    body = b'{"a":%s,"result":[{"id":"1","remote_data":%s}],"b":%s}' % (deep, deep, deep)
    [item], _ = read([body], INTERACTION, engine=engine)
    assert bytes(item.remote_json) == deep
    for body in (b'{"a":%s', b'{"result":[%s', b'{"result":[{"a":%s', b'{"result":[],"a":%s'):
        with pytest.raises(DecodeError, match="deep"):
            read(sliced(body % (b"[" * 100_000), 5000), engine=engine)


@engines
def test_the_first_item_comes_out_at_once(engine: Engine) -> None:
    """The chunk that completes an item returns it, rather than wait for a batch."""
    decoder = ItemDecoder(RAW, engine=engine)
    assert decoder.feed(b'{"next_cursor":"c","result":[{"id":1}') == [Raw(b'{"id":1}')]
    assert decoder.feed(b',{"id":2},{"id"') == [Raw(b'{"id":2}')]


def test_a_decoder_is_used_once() -> None:
    decoder = ItemDecoder(RAW)
    for byte in sliced(b'{"result":[{"id":1234567890123}]}', 1):
        decoder.feed(byte)
    with pytest.raises(UsageError, match=r"^flush\(\) returns the last items: call it before close\(\)$"):
        decoder.close()
    decoder = ItemDecoder(RAW)
    decoder.feed(b'{"result":[]}')
    decoder.flush()
    for verb, call in (("flush", decoder.flush), ("feed", lambda: decoder.feed(b""))):
        said = f"^cannot {verb} this decoder: it was flushed; it reads one body once$"
        with pytest.raises(UsageError, match=said):
            call()
    decoder = ItemDecoder(RAW)
    decoder.feed(b'{"result":[]}')
    assert decoder.close() == {}
    for verb, call in (
        ("close", decoder.close), ("flush", decoder.flush), ("feed", lambda: decoder.feed(b""))
    ):  # fmt: skip
        said = f"^cannot {verb} this decoder: it was closed; it reads one body once$"
        with pytest.raises(UsageError, match=said):
            call()


@engines
def test_a_body_that_ends_in_its_byte_order_mark_is_truncated(engine: Engine) -> None:
    decoder = ItemDecoder(RAW, engine=engine)
    assert [decoder.feed(byte) for byte in sliced(b"\xef\xbb", 1)] == [[], []]
    with pytest.raises(TruncatedBodyError, match=r"^the JSON ends early, after 2 bytes and 0 items$"):
        decoder.close()


def test_the_keys_before_and_after_the_items_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_scanner, "MAX_KEYS", 4)
    body = b'{"a":1,"b":{"x":1,"y":2},"result":[1],"c":3'
    assert len(read([body + b"}"], ANY)[1]) == 3
    said = r"^the body has more than 4 keys; the keys at its top are: a, b, result$"
    with pytest.raises(DecodeError, match=said):
        read([body + b',"d":4}'], ANY)


# Cost


class Counting(ItemReader[Any]):
    """Counts the bytes given to the typed decoder."""

    seen = 0

    def read_array(self, text: bytes, **options: Any) -> Any:
        self.seen += len(text)
        return super().read_array(text, **options)


# Nested objects that begin and end like items, so that the right-most separator is nearly always a wrong guess.
LOOK_ALIKE = b'{"id":[%s],"x":{"y":1}}' % b",".join([b'{"id":{"y":1}}'] * 60)
HOSTILE = {
    "nested look-alikes": lambda n: b",".join([LOOK_ALIKE] * (n // len(LOOK_ALIKE))),
    "one item of look-alikes": lambda n: b'{"id":1,"x":[%s]}' % b",".join([b'{"id":1}'] * (n // 9)),
    "a string of look-alikes": lambda n: (
        b'{"id":1},{"id":2},{"id":3,"x":"%s"}' % (b'},{\\"id\\":' * (n // 12))
    ),
    "an array in an array": lambda n: b"[%s]" % b",".join([b"[1]"] * (n // 4)),
    "the separator changes": lambda n: b",".join([b'{"id":1}', b"[2]", b'"},{"', b" {} "] * (n // 24)),
    "small and large in turn": lambda n: b",".join(
        [b'{"id":1}', b'{"id":"%s"}' % (b"x" * 50_000)] * (n // 50_000)
    ),
    "tiny": lambda n: b",".join([b"1"] * (n // 2)),
    "much white space": lambda n: b",".join([b"{}" + b" " * 5000] * (n // 5003)),
    "lone surrogates": lambda n: b",".join([rb'{"id":"\ud83d"}'] * (n // 16)),
    "a string of lone surrogates": lambda n: b'{"id":1},"%s"' % (rb"\ud83d\\" * (n // 8)),
    "lone surrogates among emoji": lambda n: b'"%s"' % (rb"\ud83d\ude00" * (n // 12) + rb"\ude00"),
    "digits": lambda n: b",".join([b"1" * 3_999] * (n // 4_000)),
    "nothing but commas in strings": lambda n: b",".join([b'",",","'] * (n // 8)).replace(b'"",', b'",'),
}


@pytest.mark.parametrize("size", [1000, 65_536])
@pytest.mark.parametrize("kind", HOSTILE)
def test_no_input_costs_more_than_linear_work(kind: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts the bytes that are scanned, because time varies on a busy machine."""
    skim = fast_parser._skip_value
    scanned = 0

    def counting(text: memoryview) -> object:
        nonlocal scanned
        try:
            found = skim(text)
        except msgspec.DecodeError as error:
            place = str(error).rpartition("(byte ")[2].rstrip(")")
            scanned += int(place) if place.isdigit() else len(text)
            raise
        scanned += len(text)
        return found

    monkeypatch.setattr(fast_parser, "_skip_value", counting)
    for n in (250_000, 1_000_000):
        scanned = 0
        reader = Counting(Any)
        body = b'{"result":[%s]}' % HOSTILE[kind](n)
        items, _ = read(sliced(body, size), reader)
        assert len(items) == len(json.loads(body)["result"])
        assert (scanned + reader.seen) / len(body) <= 6


class Failing(ItemReader[Any]):
    """Counts the guesses that fail."""

    failed = 0

    def read_array(self, text: bytes, **options: Any) -> Any:
        try:
            return super().read_array(text, **options)
        except msgspec.DecodeError:
            self.failed += 1
            raise


def failures(items: list[bytes]) -> int:
    """Count the failed guesses when each chunk ends in the middle of every second item."""
    reader = Failing(Any)
    body = b'{"result":[%s]}' % b",".join(items)
    chunks = cut_at(body, range(400, len(body), 2 * len(items[0] + b",")))
    assert len(read(chunks, reader)[0]) == len(items)
    return reader.failed


def test_guesses_that_fail_become_rare() -> None:
    """Another failure doubles the batches until the next guess: 2, 4, 8, then up to 64."""
    places = list(itertools.accumulate([1, 3, 5, 9, 17, 33, 65, 65, 65, 65]))
    for batches in (10, 100, 200, 330):
        assert failures([LOOK_ALIKE] * (2 * batches)) == sum(place <= batches for place in places)


def test_a_guess_that_succeeds_makes_them_frequent_again() -> None:
    good = b'{"id":[%s],"x":{"z":1}}' % b",".join([b"[1,2]"] * 150)
    assert len(good) == len(LOOK_ALIKE)
    bad = [LOOK_ALIKE] * 40
    assert failures([*bad, *[good] * 100, *bad]) == 2 * failures(bad)


def test_no_guesses_are_made_inside_a_large_item() -> None:
    """A guess there would decode everything that is held, only to fail."""
    reader = Failing(Any)
    large = b'{"id":1,"x":[%s]}' % b",".join([b'{"id":1}'] * 40_000)
    body = b'{"result":[%s,%s]}' % (b",".join([b'{"id":1}'] * 100), large)
    assert len(read(sliced(body, 5000), reader)[0]) == 101
    assert reader.failed <= 1


@pytest.mark.parametrize("item", [b"1", b"{}", b'{"x":1}', b'"text"'])
def test_items_that_are_dropped_are_guessed_as_well(item: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were taken for parts of one large item, so that each was walked over: 20 MB of them took a minute."""
    walked = 0

    def count(text: memoryview) -> int:
        nonlocal walked
        walked += 1
        return length_of(text)

    length_of = fast_parser.value_length
    monkeypatch.setattr(fast_parser, "value_length", count)
    body = b'{"result":[{"id":"a"},' + b",".join([item] * 20_000) + b"]}"
    decoder = ItemDecoder(INTERACTION)
    for chunk in sliced(body, 4096):
        decoder.feed(chunk)
    assert (decoder.items_read, decoder.issues_count) == (1, 20_000)
    assert walked < 4_000


@pytest.mark.parametrize(
    ("one", "between", "two", "separator", "kept"),
    [
        (b'{"id":1}', b",", b'{"id":2}', b'},{"id":', 1),
        (b'{"a":1}', b",", b'{"b":2}', b"},{", 1),
        (b'{"a":[1]}', b" ,\n ", b'{"a":[2]} ', b']} ,\n {"a":', 2),
        (b'{"a":[1]}', b",", b'{"a":{}}', b'},{"a":', 1),
        (b"[[1]]", b",", b'{"a":[1]}', b",{", 0),
        (b'{"a":1}', b",", b'[{"a":1}]', b",[", 0),
        (b"[1]", b",", b"[2]", b"],[", 1),
        (b'"a"', b" , ", b'"b"', b'" , "', 1),
        (b"1", b",", b"2 ", b",", 0),
        (b"[" * 40 + b"]" * 40, b",", b"[" * 40 + b"]" * 40, b"]" * 32 + b",[", 32),
        (b'{"%s":1}' % (b"k" * 40), b",", b'{"%s":2}' % (b"k" * 40), b'},{"%s":' % (b"k" * 40), 1),
        (b'{"%s":1}' % (b"k" * 41), b",", b'{"%s":2}' % (b"k" * 41), b"},{", 1),
        (b'{"a":1}', b"," + b" " * 89, b'{"a":2}', b"}," + b" " * 89 + b'{"a":', 1),
        (b'{"a":1}', b"," + b" " * 90, b'{"a":2}', b",", 0),
        (b"{}" + b" " * 70, b",", b"{}", b" " * 64 + b",{", 0),
    ],
)  # fmt: skip
def test_the_separator_is_what_stood_between_two_items(
    one: bytes, between: bytes, two: bytes, separator: bytes, kept: int
) -> None:
    """With as much of both as they have in common: the longer it is, the fewer wrong guesses."""
    for before in b"", b" ":
        decoder = ItemDecoder(RAW)
        decoder.feed(b'{"result":[%s%s%s%s,' % (before, one, between, two))
        parser = decoder._parser
        assert isinstance(parser, fast_parser.FastArrayParser)
        assert (parser._separator, parser._keep) == (separator, kept)


def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that will have the length of each text the fast parser looks at."""
    skip = fast_parser._skip_value
    seen: list[int] = []

    def noting(text: memoryview) -> object:
        seen.append(len(text))
        return skip(text)

    monkeypatch.setattr(fast_parser, "_skip_value", noting)
    return seen


def test_an_incomplete_item_is_looked_at_when_twice_as_much_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or one byte more than it may have: it is refused then, and not at some later power of two."""
    seen = looks(monkeypatch)
    decoder = ItemDecoder(RAW, max_item_bytes=100)
    decoder.feed(b'{"result":[')
    with pytest.raises(BodyTooLargeError):
        for byte in itertools.chain([b'"'], itertools.repeat(b"x", 200)):
            decoder.feed(byte)
    assert seen == [1, 2, 4, 8, 16, 32, 64, 101]


def test_a_key_and_its_white_space_are_bounded_together() -> None:
    decoder = ItemDecoder(RAW, key_by=True, max_item_bytes=100)
    decoder.feed(b'{"result":{')
    begun = decoder.bytes_read
    with pytest.raises(BodyTooLargeError):
        for byte in itertools.chain([b'"', b"k", b'"', b":"], itertools.repeat(b" ", 2000)):
            decoder.feed(byte)
    assert decoder.bytes_read - begun == 2 * 100 + 1024 + 1


@engines
def test_a_number_of_max_item_bytes_may_end_in_the_next_chunk(engine: Engine) -> None:
    number = b"1" * 100
    chunks = [b'{"result":[', number, b",2]}"]
    assert read(chunks, engine=engine, max_item_bytes=100)[0] == [number, b"2"]
    with pytest.raises(BodyTooLargeError):
        read([b'{"result":[', number + b"1", b",2]}"], engine=engine, max_item_bytes=100)


# Each has the commas and brackets of an array of items inside.
NESTED = [
    b'{"id":1,"x":[{"id":1},{"id":2},{"y":[2,3]}]}',
    b'{\n  "id": 1,\n  "x": [ { "id": 1 }, { "y": [ 2, 3 ] } ]\n}',
    b'{ "id" : 1, "x": "},{" }',
    b'{"%s":[1,2],"x":{"y":[3,4]}}' % (b"k" * 60),
    b"[[1,2],[3,4]]",
    b'["a","b"]',
    b'"a,b"',
    b"7",
]


def test_nearly_all_items_are_decoded_without_walking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guessing makes the parser fast; without it the items would be the same."""
    seen = looks(monkeypatch)
    for item in NESTED:
        for between in (b",", b" , ", b" \n,\n  ", b"," + b" " * 30):
            seen.clear()
            body = b'{"result":[%s]}' % between.join([item] * 2000)
            chunks = list(sliced(body, 4000))
            assert len(read(chunks)[0]) == 2000
            assert len(seen) <= 3 * len(chunks)


def test_an_item_is_malformed_once_its_error_is_16_bytes_back() -> None:
    """Closer to the end it may be an incomplete token: an escaped surrogate pair has 12 bytes."""
    for start in (b"tru3", b'{"a":-', b'["\\ud83d\\ude0'):
        assert fast_parser.value_length(memoryview(start)) == fast_parser.INCOMPLETE
    for count in range(30):
        text = b'{"a":tru3' + b" " * count
        with pytest.raises(msgspec.DecodeError) as caught:
            fast_parser._skip_value(memoryview(text))
        place = int(str(caught.value).rpartition("(byte ")[2].rstrip(")"))
        length = fast_parser.value_length(memoryview(text))
        assert (length == fast_parser.MALFORMED) == (place + 16 < len(text))


@pytest.fixture
def steady_heap() -> Iterator[None]:
    """Turn off garbage collection and mmap, which only begin at some size and would distort the comparison."""

    def set_glibc(mmaps: int, trim: int) -> None:
        if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
            libc.mallopt(-4, mmaps)  # M_MMAP_MAX
            libc.mallopt(-1, trim)  # M_TRIM_THRESHOLD

    set_glibc(0, 2**31 - 1)
    gc.disable()
    yield
    gc.enable()
    set_glibc(65_536, 128 * 1024)


@pytest.mark.long
@engines
@pytest.mark.parametrize("kind", HOSTILE)
def test_no_input_costs_more_than_linear_time(kind: str, engine: Engine, steady_heap: None) -> None:
    def seconds(body: bytes) -> float:
        start = time.process_time()
        decoder = ItemDecoder(ANY, engine=engine)
        for chunk in sliced(body, 65_536):
            decoder.feed(chunk)
        decoder.flush()
        decoder.close()
        return time.process_time() - start

    n = 250_000
    while (
        seconds(small := b'{"result":[%s]}' % HOSTILE[kind](n)) < 0.05
    ):  # shorter runs mostly measure the clock
        n *= 2
    large = b'{"result":[%s]}' % HOSTILE[kind](4 * n)
    # Measured in turns, because the speed of a shared machine changes. Quadratic work would give a ratio of 4.
    ratios = [seconds(large) / sum(seconds(small) for _ in range(4)) for _ in range(5)]
    assert min(ratios) <= 1.1  # linear work gives 1


@engines
@pytest.mark.parametrize("size", [1, 500, 10**6])
def test_ijson_is_given_a_string_once(engine: Engine, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """ijson rereads an incomplete token with each piece, so no piece may end inside one."""
    pieces: list[bytes] = []
    parser = ijson.basic_parse_coro

    class Counted:
        def __init__(self, target: Any) -> None:
            self.parser = parser(target)

        def send(self, piece: bytes) -> None:
            pieces.append(piece)
            self.parser.send(piece)

        def close(self) -> None:
            self.parser.close()

    monkeypatch.setattr(ijson, "basic_parse_coro", Counted)
    string = b'"%s"' % (b':[{}],\\"' * 5000)
    body = b'{"a":%s,"result":[{"a":%s},%s],"b":%s}' % (string, string, string, string)
    assert read(sliced(body, size), engine=engine) == oracle(body)
    assert len(pieces) < 60
    assert all(piece.count(string) or len(piece) < len(string) for piece in pieces)


@given(bodies(), st.integers(1, 30))
def test_pieces_end_between_tokens(body: bytes, size: int) -> None:
    splitter = JsonTokenSplitter()
    pieces = [splitter.cut(chunk) for chunk in sliced(body, size)]
    pieces.append(splitter.rest())
    assert b"".join(pieces) == body
    assert splitter.held_bytes == 0
    inside = {
        place
        for token in re.finditer(rb'"(?:[^"\\]|\\.)*"|[-+.\w]+', body)
        for place in range(token.start() + 1, token.end())
    }
    assert inside.isdisjoint(itertools.accumulate(map(len, pieces)))


def test_returned_items_are_not_kept() -> None:
    """Memory stays flat: the decoder holds less than one chunk of a 30 MB body."""
    decoder = ItemDecoder(RAW)
    decoder.feed(b'{"result":[{"id":"0"}')
    item = b',{"id":"1","remote_data":"%s"}' % (b"x" * 3000)
    for chunk in itertools.repeat(item * 20, 500):
        decoder.feed(chunk)
        parser = decoder._parser
        assert isinstance(parser, fast_parser.FastArrayParser)
        assert sum(map(len, parser._parts)) <= len(item)


# Backends of the engines


def test_the_ijson_engine_is_used_if_msgspecs_messages_change(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def changed(text: memoryview) -> object:
        raise msgspec.DecodeError("JSON is malformed: data after the end (offset 3)")

    def moved(text: memoryview) -> object:
        raise msgspec.DecodeError("JSON is malformed: trailing characters (byte 1, line 1)")

    assert fast_parser.check_msgspec() is True
    assert not caplog.records
    for changes in (changed, moved):
        monkeypatch.setattr(fast_parser, "_skip_value", changes)
        assert fast_parser.check_msgspec() is False
    said = f"msgspec {msgspec.__version__} has error messages unknown to us: streaming is slower"
    assert [record.getMessage() for record in caplog.records] == [said, said]
    monkeypatch.setattr(item_decoder, "FAST_PARSER_WORKS", False)
    assert ItemDecoder(RAW).engine == "ijson"
    assert fast_parser.FAST_PARSER_WORKS


@examples(30)
@given(bodies(), st.integers(1, 50))
def test_the_python_backend_of_ijson_gives_the_same(body: bytes, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ijson, "basic_parse_coro", ijson_python.basic_parse_coro)
        for engine in ENGINES:
            assert read(sliced(body, size), engine=engine) == oracle(body)


def test_the_python_backend_is_quiet_when_a_body_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in a destructor would be printed, which fails this suite."""
    monkeypatch.setattr(ijson, "basic_parse_coro", ijson_python.basic_parse_coro)
    ItemDecoder(RAW).feed(b'{"a":[1')
    gc.collect()


def test_a_slower_backend_of_ijson_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        for backend in ("yajl2_c", "python"):
            monkeypatch.setattr(ijson, "backend", backend)
            ItemDecoder(RAW)
    said = "ijson uses its backend python: streaming is slower than it could be"
    assert [record.getMessage() for record in caplog.records] == [said]


# One JSON value per line


def read_lines(chunks: Iterable[bytes], reader: ItemReader[Any] = ANY, **options: Any) -> list[Any]:
    decoder = NdjsonDecoder(reader, **options)
    items = [item for chunk in chunks for item in decoder.feed(chunk)]
    items += decoder.flush()
    assert decoder.close() == {}
    assert decoder.items_read == len(items)
    return items


@given(
    st.lists(values.map(lambda value: value.replace("\n", " ").replace("\r", " ")), max_size=6),
    st.integers(1, 60),
    st.booleans(),
)
def test_lines_are_read_however_they_are_cut(lines: list[str], size: int, ended: bool) -> None:
    body = "\n".join(lines) + ("\r\n\n" if ended else "")
    expected = [msgspec.json.decode(without_surrogates(line.encode())) for line in lines]
    assert read_lines(sliced(body.encode(), size)) == expected
    marked = "".join(f"\ufeff{line}\n" for line in lines)  # files that were joined
    assert read_lines(sliced(marked.encode(), size)) == expected


def test_the_last_line_may_lack_its_end() -> None:
    decoder = NdjsonDecoder(DICT)
    assert decoder.feed(b'{"a":1}\n\n  \r\n{"a"') == [{"a": 1}]
    assert decoder.feed(b":2}") == []
    with pytest.raises(UsageError, match=r"flush\(\)"):
        decoder.close()
    assert read_lines([b'{"a":1}\n{"a":2}'], DICT) == [{"a": 1}, {"a": 2}]
    assert read_lines([]) == read_lines([b"\n \n"]) == []


def test_a_cut_line_is_reported_as_truncated() -> None:
    line = b'{"a":[1,"x"]}'
    for place in range(1, len(line)):
        decoder = NdjsonDecoder(DICT)
        decoder.feed(line + b"\n" + line[:place])
        with pytest.raises(TruncatedBodyError) as caught:
            decoder.flush()
        size = len(line) + 1 + place
        assert (caught.value.items_read, caught.value.bytes_read) == (1, size)
        assert str(caught.value) == f"the last line ends early, after {size} bytes and 1 items"
    decoder = NdjsonDecoder(DICT)
    for byte in sliced(b'{"a":[1', 1):
        decoder.feed(byte)
    with pytest.raises(TruncatedBodyError):
        decoder.flush()


def test_a_line_has_at_most_max_item_bytes() -> None:
    line = b'"%s"' % (b"x" * 98)
    body = b"\n".join([line, line, b"", b"1", line])
    for size in (1, 7, 5000):
        assert len(read_lines(sliced(body, size), max_item_bytes=100)) == 4
        with pytest.raises(BodyTooLargeError) as caught:
            read_lines(sliced(body + b" ", size), max_item_bytes=100)
        assert str(caught.value) == "item 3 has more than 100 bytes (max_item_bytes)"


@pytest.mark.parametrize(
    "body",
    [
        b"{}\n{} {}\n",
        b"{},{}\n",
        b'{"a":1\n}\n',
        b'"\xff"\n',
        b"\x0b{}\n",
        b"{}\nx",
        b"[1\n2]\n",
    ],
)
def test_a_malformed_line_is_a_decode_error(body: bytes) -> None:
    for size in (1, 100):
        with pytest.raises(DecodeError):
            read_lines(sliced(body, size))


def test_lines_are_typed_bounded_and_repaired() -> None:
    decoder = NdjsonDecoder(INTERACTION)
    assert [item.id for item in decoder.feed(b'{"id":"a"}\n{"id":5}\n7\n')] == ["a", "5"]
    assert [(issue.index, issue.path) for issue in decoder.issues] == [(1, "$[1].id"), (2, "$[2]")]
    assert decoder.issues_count == 2
    assert decoder.flush() == []
    assert decoder.close() == {}
    with pytest.raises(BodyTooLargeError):
        read_lines(sliced(b'{"a":"' + b"x" * 1000, 10), max_item_bytes=500)
    with pytest.raises(DecodeError, match="no item"):
        read_lines([b'{"x":1}\n'], INTERACTION)
    broken = NdjsonDecoder(ANY)
    with pytest.raises(DecodeError):
        broken.feed(b"x\n")
    with pytest.raises(UsageError, match="failed"):
        broken.feed(b"1\n")


def test_a_line_with_a_lone_surrogate_is_repaired_and_told() -> None:
    line, both = rb'{"id":"\ud83d"}', rb'{"id":"\ud83d","metrics":{"patience":"x"}}'
    decoder = NdjsonDecoder(INTERACTION)
    items = decoder.feed(b"\n".join((b'{"id":"a"}', line, b"7", both, b"")))
    assert [item.id for item in items] == ["a", "\ufffd", "\ufffd"]
    assert [(issue.index, issue.path, issue.raw, issue.dropped) for issue in decoder.issues] == [
        (1, "$[1].id", line, False),
        (2, "$[2]", b"7", True),
        (3, "$[3].id", both, False),
        (3, "$[3].metrics.patience", without_surrogates(both), False),
    ]
    assert decoder.issues_count == 4
    strict = NdjsonDecoder(ItemReader(Interaction, on_invalid="raise"))
    strict.feed(b'{"id":"a"}\n')
    with pytest.raises(DecodeError, match=r"^\$\[1\]\.id: ") as caught:
        strict.feed(line + b"\n")
    assert (caught.value.index, caught.value.raw) == (1, line)


# Counts, issues and keys, whoever finds the items


def test_the_keys_of_items_are_kept_without_those_that_were_dropped() -> None:
    collector = ItemCollector(INTERACTION, "$.result", keeps_keys=True)
    collector.read_array(b'[{"id":"a"},7]', b'["k0","k1"]')
    collector.read_array(b'[7,{"id":"b"},{"id":"c"}]', b'["k2","k3","k4"]')
    assert collector.keys == ["k0", "k3", "k4"]
    assert (collector.index, collector.dropped_count) == (5, 2)
    collector.read_array(b'[{"id":"d"}]', rb'["\ud83d"]')
    assert collector.keys[3:] == ["\ufffd"]
    last = collector.issues[-1]
    assert (last.index, last.raw, last.dropped) == (None, rb'["\ud83d"]', False)
    assert last.path.startswith("$.result (keys)")


@parsers
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_both_parsers_hand_over_the_keys(make: Any, size: int) -> None:
    collector = ItemCollector(INTERACTION, "$.result", keeps_keys=True)
    parser = make(collector, keyed=True, max_item_bytes=100)
    items = []
    for chunk in sliced(rb'"k0" : {"id":"a"} , "k\u0031":7,"k2":{"id":"b"},"k3":{"id":"c"}} ', size):
        if parser.rest is None:
            items += parser.feed(chunk, end=False)
    assert [item.id for item in items] == ["a", "b", "c"]
    assert collector.keys == ["k0", "k2", "k3"]
    assert parser.rest is not None
    collector = ItemCollector(INTERACTION, "$.result")
    make(collector, keyed=True, max_item_bytes=100).feed(rb'"\ud83d":{"id":"a"},"k":{"id":"b"}}', end=True)
    assert (collector.index, collector.keys, collector.issues) == (2, [], [])


def test_an_item_that_is_nested_too_deep_is_named() -> None:
    decoder = ItemDecoder(RAW)
    with pytest.raises(DecodeError, match="^nested too deep to decode$") as caught:
        decoder.feed(b'{"result":[1,' + b"[" * 100_000)
    assert (caught.value.path, caught.value.index) == ("$.result[1]", 1)


def test_a_value_that_is_too_large_is_refused_before_it_ends() -> None:
    decoder = ItemDecoder(RAW, key_by=True, max_item_bytes=100)
    assert decoder.feed(b'{"result":{"k":"' + b"x" * 99) == []
    with pytest.raises(BodyTooLargeError, match="item 0 has more than 100 bytes"):
        decoder.feed(b"x" * 120)
    for engine in ENGINES:
        decoder = ItemDecoder(RAW, engine=engine, max_item_bytes=100)
        with pytest.raises(BodyTooLargeError, match="item 2 has more than 100 bytes"):
            decoder.feed(b'{"result":[1,2,"' + b"x" * 120)


@parsers
def test_what_the_decoder_alone_refuses_is_malformed(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise msgspec.DecodeError("odd")

    collector = ItemCollector(RAW, "$.result")
    monkeypatch.setattr(collector, "read_array", refuse)
    with pytest.raises(DecodeError, match=r"^not JSON: odd$") as caught:
        make(collector, keyed=False, max_item_bytes=100).feed(b'{"a":1},2]', end=True)
    assert (caught.value.path, caught.value.index) == ("$.result[0]", 0)
    assert caught.value.raw is not None
    assert caught.value.raw.startswith(b'{"a":1}')


def test_issues_outside_of_the_items_are_kept_and_counted_too() -> None:
    collector = ItemCollector(INTERACTION, "$")
    collector.add_issues([("$.a", "one"), ("$.b", "two")], b"raw")
    collector.add_issues([("$.c", "three")], b"", dropped=True)
    assert [(each.index, each.path, each.message, each.raw, each.dropped) for each in collector.issues] == [
        (None, "$.a", "one", b"raw", False),
        (None, "$.b", "two", b"raw", False),
        (None, "$.c", "three", b"", True),
    ]
    assert (collector.issues_count, collector.dropped_count) == (3, 0)


def test_a_bounded_number_of_issues_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of large records even fewer, but always the first."""
    collector = ItemCollector(INTERACTION, "$")
    for kept in (60, ISSUES_KEPT, ISSUES_KEPT):
        collector.add_issues([("$.a", "odd")] * 60, b"")
        assert len(collector.issues) == kept
    assert collector.issues_count == 180
    monkeypatch.setattr(item_collector, "ISSUE_BYTES_KEPT", 10)
    for sizes, kept in (([5, 5, 1], 2), ([11, 1], 1), ([9, 2], 1)):
        collector = ItemCollector(INTERACTION, "$")
        for size in sizes:
            collector.add_issues([("$.a", "odd")], b"x" * size)
        assert len(collector.issues) == kept


def test_issues_are_in_the_order_of_their_items() -> None:
    collector = ItemCollector(INTERACTION, "$")
    collector.read_array(rb'[{"id":5},{"id":"\ud83d"},7,{"id":"\ud83d"}]')
    assert [issue.index for issue in collector.issues] == [0, 1, 2, 3]


def test_the_error_for_a_body_whose_items_were_all_dropped_names_the_first_of_them() -> None:
    """Or what else is known, if that one is not among the issues that were kept."""
    collector = ItemCollector(INTERACTION, "$")
    collector.add_issues([("$.a", "odd")], b"")
    collector.read_array(b"[7]")
    assert collector.no_item_fits().path == "$[0]"
    collector = ItemCollector(INTERACTION, "$")
    collector.add_issues([("$.a", "odd")] * ISSUES_KEPT, b"")
    collector.read_array(b"[7]")
    assert len(collector.issues) == ISSUES_KEPT
    error = collector.no_item_fits()
    assert (error.path, error.index) == ("$.a", None)
    assert "is of type Interaction: odd; item_type=dict" in str(error)
