"""Text from outside, made safe for terminals, logs and files."""

from __future__ import annotations

import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from truto_ci_async._text import encodable, hide_passwords, printable

from .support import examples

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


@examples(200)
@given(st.text(st.characters(exclude_categories=())))
@example("".join(map(chr, range(0xA0))) + "\u2028\u2029\ud800\udfff" + BIDI)
def test_nothing_is_left_that_a_terminal_obeys(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert {unicodedata.category(each) for each in shown}.isdisjoint({"Cc", "Cs", "Zl", "Zp"})
    assert not set(shown) & set(BIDI)
    assert len(shown) == len(text)
    assert printable(shown) == shown


def test_ordinary_text_stays_as_it_is() -> None:
    """Joiners and unusual spaces are part of names and of emoji."""
    for text in ("plain", "Ünïcödé 山田", "\U0001f468\u200d\U0001f469", "نام\u200cها", "a\u00a0b"):
        assert printable(text) == encodable(text) == text


@examples(100)
@given(st.text(st.characters(exclude_categories=())))
def test_everything_can_be_stored(text: str) -> None:
    assert encodable(text).encode().decode() == encodable(text)


def test_a_word_with_an_at_sign_may_hold_a_password() -> None:
    for url in ("u:PW@host", "http:/u:PW@host", "https://u:PW@host:1/x", "--api-url=u:PW@h"):
        assert hide_passwords(f"not {url} please") == "not *** please"
