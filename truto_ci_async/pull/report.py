"""The limits of a pull, and the report on how it went."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from truto_ci_async._checks import check_number, check_whole_number
from truto_ci_async.errors import APIError, TrutoError, UsageError
from truto_ci_async.export import html

# Characters kept of what the service sent with an error: a report may hold the errors of 100,000 accounts.
KEPT_CHARACTERS = 2_000
# Errors kept in full; of further ones only messages and hints are kept.
KEPT_ERRORS = 1_000


class Budget(Struct, frozen=True, kw_only=True):
    """The limits of one pull.

    ``max_accounts``  accounts asked at the same time.
    ``max_outage``    seconds a service may be down before the accounts that are left are parked for a later run.
    ``probe_wait``    seconds before a single trial request finds out whether the service is back; doubled for each
                      further one, up to ``max_probe_wait``.
    ``max_park``      seconds an account is parked at most, whatever the service asks for.

    :raises ConfigurationError: a value out of range.
    """

    max_accounts: int = 32
    max_outage: float = 900.0
    probe_wait: float = 1.0
    max_probe_wait: float = 30.0
    max_park: float = 86_400.0

    def __post_init__(self) -> None:
        check_whole_number("max_accounts", self.max_accounts, least=1)
        check_number("max_outage", self.max_outage, least=0)
        check_number("probe_wait", self.probe_wait, above=0)
        check_number("max_probe_wait", self.max_probe_wait, above=0)
        check_number("max_park", self.max_park, least=0)

    @staticmethod
    def of(budget: Budget | None, max_accounts: int) -> Budget:
        """Return the budget that a caller gave, in one of two ways. One of another type is refused by the pull.

        :raises UsageError: in both.
        """
        if isinstance(budget, Budget) and max_accounts not in (budget.max_accounts, Budget().max_accounts):
            raise UsageError(
                f"max_accounts={max_accounts} and a budget with max_accounts={budget.max_accounts}: give one"
            )
        return Budget(max_accounts=max_accounts) if budget is None else budget


class PullReport(Struct, eq=False):
    """How a pull of a ``resource`` went, or is going.

    ``accounts``  accounts of the plan, each over ``windows`` windows; ``windows_done`` of all accounts are over, and
                  failed and parked accounts leave ``windows_left`` to a later run.
    ``done``      accounts pulled to the end, in this run or an earlier one; ``empty`` those of them without a row.
    ``failed``    account id -> the error that ended it; a later run asks it again. Its traceback and long values of
                  ``raw_response``, ``details`` and the like are left out; after 1,000 errors, short ones are too.
    ``unsupported``  account id -> why it was not pulled: its provider does not have the resource, as the account's
                  capabilities confirm. It counts as done, and no later run asks it again; ``fresh=True`` does.
    ``filtered``  account id -> rows left out. Its provider ignores the window, or the end of it, so this account is
                  asked for all windows at once, and meetings that began outside of them are left out.
    ``without_transcript``  meetings of this run that had no transcript, at least not yet; see ``lookback``.
    ``misaligned``  account id -> how a window answered differs from the one asked, in a sync: pass its ``time_zone``.
    ``parked``    account id -> when to ask it again, in seconds since 1970 (None: nobody knows, so the next run does).
    ``no_data``   windows of this run that the provider answered with a 404 that says that there is no data: they count
                  as empty. ``not_found`` accounts of this run that failed with any other 404.
    ``error``     what ended the pull early or made its last commit fail, also where a cancellation hid it.
    ``rows, pages, requests, retries, issues``  counts of this run; ``waited`` seconds of pacing, all accounts together.
    """

    accounts: int = 0
    windows: int = 1
    windows_done: int = 0
    windows_left: int = 0
    done: int = 0
    empty: int = 0
    failed: dict[str, TrutoError] = {}
    unsupported: dict[str, str] = {}
    filtered: dict[str, int] = {}
    without_transcript: int = 0
    misaligned: dict[str, str] = {}
    parked: dict[str, float | None] = {}
    no_data: int = 0
    not_found: int = 0
    rows: int = 0
    pages: int = 0
    requests: int = 0
    retries: int = 0
    waited: float = 0.0
    issues: int = 0
    error: Exception | None = None
    resource: str = "interactions"

    @property
    def complete(self) -> bool:
        """Whether every account was pulled to the end."""
        return self.done == self.accounts

    def count_call(self, *, attempts: int, waited: float = 0.0, issues: int = 0) -> None:
        """Count a call of this run, whether it gave a page or failed."""
        self.requests += attempts
        self.retries += max(attempts - 1, 0)
        self.waited += waited
        self.issues += issues

    def keep_failure(self, account: str, error: TrutoError) -> None:
        """Keep the error that ended an account, without what would take much memory."""
        self.failed[account] = without_bodies(error, keep_short=len(self.failed) < KEPT_ERRORS)

    def to_dict(self, *, most: int | None = None) -> dict[str, Any]:
        """Return the report as plain, JSON-ready data: of failed and parked accounts and the like, ``most`` of each.

        With ``most``, ``failed_count`` and so on say how many there are.
        """
        failed = {
            account: {"error": type(error).__name__, "message": str(error)}
            for account, error in islice(self.failed.items(), most)
        }
        changed = {"failed": failed, "parked": dict(self.parked), "waited": round(self.waited, 3)}
        error = self.error and {"type": type(self.error).__name__, "message": str(self.error)}
        found: dict[str, Any] = {"complete": self.complete, **asdict(self), **changed, "error": error}
        if most is not None:
            for name in ("failed", "parked", "unsupported", "filtered", "misaligned"):
                found |= {
                    name: dict(islice(found[name].items(), most)),
                    f"{name}_count": len(getattr(self, name)),
                }
        return found

    def _repr_html_(self) -> str:
        return self.to_html()

    def to_html(self) -> str:
        """Return what a notebook shows."""
        ends = [
            *(
                [account, "failed", f"{type(error).__name__}: {error}"]
                for account, error in self.failed.items()
            ),
            *([account, "parked", _until(until)] for account, until in self.parked.items()),
            *([account, "unsupported", why] for account, why in self.unsupported.items()),
        ]
        tables = [html.facts((name, getattr(self, name)) for name in _SHOWN)]
        if ends:
            tables.append(html.table(["account", "", "why"], ends[: html.ROWS]))
        more = (
            f"{len(ends) - html.ROWS:,} more accounts in .failed, .parked and .unsupported"
            if len(ends) > html.ROWS
            else ""
        )
        return html.card("PullReport", "complete" if self.complete else "not complete", more, tables=tables)

    def __repr__(self) -> str:
        counted = (
            (len(self.unsupported), "unsupported"),
            (len(self.filtered), "filtered"),
            (len(self.misaligned), "misaligned"),
            (
                self.without_transcript,
                f"meeting{'' if self.without_transcript == 1 else 's'} without a transcript",
            ),
        )
        more = "".join(f", {count:,} {what}" for count, what in counted if count)
        return (
            f"PullReport({self.done:,} of {self.accounts:,} accounts done, {self.empty:,} of them empty, "
            f"{len(self.failed):,} failed, {len(self.parked):,} parked{more}; "
            f"{self.rows:,} rows in {self.pages:,} pages)"
        )


class PullReports(Struct, eq=False):
    """How a pull of several resources went: a report for each, None for one that it did not come to.

    ``reports["meetings"]`` is one of them. Counts are those of all together.
    """

    by_resource: dict[str, PullReport | None]

    def __getitem__(self, resource: str) -> PullReport:
        """:raises KeyError: the pull did not come to this resource."""
        report = self.by_resource[resource]
        if report is None:
            raise KeyError(resource)
        return report

    @property
    def complete(self) -> bool:
        """Whether every account was pulled to the end, for every resource."""
        return all(report is not None and report.complete for report in self.by_resource.values())

    @property
    def rows(self) -> int:
        return sum(report.rows for report in self._reports())

    @property
    def requests(self) -> int:
        return sum(report.requests for report in self._reports())

    @property
    def failed(self) -> dict[tuple[str, str], TrutoError]:
        """The errors by resource and account."""
        return {
            (name, account): error
            for name, report in self.by_resource.items()
            if report is not None
            for account, error in report.failed.items()
        }

    def _reports(self) -> list[PullReport]:
        return [report for report in self.by_resource.values() if report is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return the reports as plain, JSON-ready data."""
        resources = {
            name: None if report is None else report.to_dict() for name, report in self.by_resource.items()
        }
        return {
            "complete": self.complete,
            "rows": self.rows,
            "requests": self.requests,
            "resources": resources,
        }

    def _repr_html_(self) -> str:
        return "".join(
            f"<h4>{html.text(name)}</h4>" + ("not begun" if report is None else report.to_html())
            for name, report in self.by_resource.items()
        )

    def __repr__(self) -> str:
        return f"PullReports({self.by_resource!r})"


class ShardReports(Struct, eq=False):
    """How the shards of a plan went, or are going: for each number what the ``PullReport`` of its last attempt says.

    ``count`` shards make up the plan; ``by_shard`` has the reports as ``to_dict`` gives them, which travel between
    processes.
    """

    count: int
    by_shard: dict[int, dict[str, Any]] = {}

    @property
    def complete(self) -> bool:
        """Whether every account of every shard was pulled to the end."""
        return len(self.by_shard) == self.count and all(each["complete"] for each in self.by_shard.values())

    @property
    def failed(self) -> dict[str, dict[str, str]]:
        """Account id -> type and message of the error that ended it."""
        return {
            name: error for each in self.by_shard.values() for name, error in each.get("failed", {}).items()
        }

    def total(self, name: str) -> int:
        """Return the sum of a count, such as ``rows``, over all shards."""
        return sum(int(each.get(name, 0)) for each in self.by_shard.values())

    def __repr__(self) -> str:
        return (
            f"ShardReports({len(self.by_shard):,} of {self.count:,} shards, {self.total('done'):,} of "
            f"{self.total('accounts'):,} accounts done, {len(self.failed):,} failed; {self.total('rows'):,} rows in "
            f"{self.total('pages'):,} pages)"
        )


_SHOWN = (
    "accounts",
    "done",
    "empty",
    "windows",
    "windows_done",
    "rows",
    "pages",
    "requests",
    "retries",
    "issues",
)


def _until(until: float | None) -> str:
    if until is None:
        return "until the service is up again"
    return f"until {datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M} UTC"


# Attributes of an APIError that may hold anything, and what stands for their absence.
_FROM_THE_SERVICE: dict[str, Callable[[], Any]] = {
    "raw_response": type(None),
    "details": type(None),
    "headers": dict,
    "insight": dict,
}


def without_bodies(error: TrutoError, *, keep_short: bool = True) -> TrutoError:
    """Return ``error`` without its traceback, which keeps pages alive, and without what the service sent with it.

    Hints that are short stay, and so does everything else that is, unless not ``keep_short``.
    """
    each: BaseException | None = error
    while each is not None:
        each.__traceback__ = each.__context__ = None
        if isinstance(each, APIError):
            for name, empty in _FROM_THE_SERVICE.items():
                is_kept = keep_short or name == "insight"
                if not is_kept or _is_long(getattr(each, name)):
                    setattr(each, name, empty())
        each = each.__cause__
    return error


def _is_long(value: object) -> bool:
    try:
        return len(repr(value)) > KEPT_CHARACTERS
    except RecursionError:
        return True
