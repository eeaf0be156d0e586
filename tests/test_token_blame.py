"""429s that do not say whose limit they met: when the token is to blame."""

from __future__ import annotations

from truto_ci_async._http.policy.token_blame import FORGIVEN_IN_HEAVY_USE, TokenBlame


def verdicts(blame: TokenBlame, accounts: str, active: int = 10, start: float = 0.0) -> list[bool]:
    """Note a 429 a second for each of ``accounts``; return for which of them the token was to blame."""
    return [blame.add(account, active, start + second) for second, account in enumerate(accounts)]


def test_three_accounts_in_a_row_blame_the_token_and_it_starts_anew() -> None:
    blame = TokenBlame()
    assert verdicts(blame, "abc") == [False, False, True]
    assert blame.score == 0.0
    assert verdicts(blame, "def", start=3.0) == [False, False, True]


def test_with_many_accounts_it_takes_more_of_them() -> None:
    """2.5 % of 200 are five."""
    assert verdicts(TokenBlame(), "abcde", 200) == [False] * 4 + [True]


def test_an_account_scores_once_a_minute() -> None:
    blame = TokenBlame()
    verdicts(blame, "aaaaa")
    assert blame.score == 1.0
    assert not blame.add("a", 10, 64.0)  # 60 s after its last one, which counts too
    assert blame.score == 1.0
    assert not blame.add("a", 10, 124.1)
    assert blame.score == 2.0


def test_an_account_seen_again_is_remembered_from_then_on() -> None:
    blame = TokenBlame()
    for account, now in (("a", 0.0), ("b", 30.0), ("a", 50.0)):
        blame.add(account, 100, now)
    assert blame.score == 2.0
    blame.add("a", 100, 109.0)  # the one of "b" is forgotten, its own is not
    assert blame.score == 2.0
    blame.add("b", 100, 110.0)
    assert blame.score == 0.0  # three points: the token is to blame


def test_repeats_count_when_many_accounts_are_refused() -> None:
    """A quarter of the active accounts, and three at least, is no coincidence."""
    for active, repeats_count in ((4, True), (12, True), (13, False)):
        blame = TokenBlame()
        for account in "abc":
            blame.add(account, active, 0.0)
        blame.score = 0.0
        blame.add("a", active, 1.0)
        assert (blame.score == 1.0) == repeats_count


def test_a_success_takes_off_a_point_but_little_in_heavy_use() -> None:
    """If we use much of the limit ourselves, a success says little about others who use it too."""
    blame = TokenBlame()
    verdicts(blame, "ab")
    blame.forgive(0.25)
    assert blame.score == 2.0 - FORGIVEN_IN_HEAVY_USE
    blame.forgive(0.24)
    assert blame.score == 1.0 - FORGIVEN_IN_HEAVY_USE
    blame.forgive(0.0)
    assert blame.score == 0.0
