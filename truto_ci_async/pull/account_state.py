"""How far the pull of one account has come, and what the accounts of one pull have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import anyio
from msgspec import Struct
from msgspec.structs import replace

from truto_ci_async._http.policy.circuit_breaker import CircuitBreaker
from truto_ci_async._wire.list_query import RequestTargets
from truto_ci_async._wire.page_reader import PageReader
from truto_ci_async.models import Position
from truto_ci_async.models.pulls import PlannedAccount, Window
from truto_ci_async.pagination.next_page import PageCursor
from truto_ci_async.pull.checkpoint.base import AccountProgress, Progress
from truto_ci_async.pull.plan.plan import Plan

from .commits import Commits, PulledPage
from .handover import DirectWriting, Handover
from .positions import MeetingQueue
from .report import Budget, PullReport
from .row_fingerprints import SeenRows

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient

# A window that has not begun, and a placeholder for when none is left.
_NEW, _OVER = Progress(), Progress(outcome="done")


@dataclass
class Shared:
    """What the accounts of one pull have in common."""

    client: BaseClient
    plan: Plan
    stored: dict[str, AccountProgress]  # of earlier runs, for accounts that have not had a turn yet
    reader: PageReader[Any]
    pages: Handover[PulledPage[Any]] | DirectWriting[PulledPage[Any]]
    commits: Commits
    report: PullReport
    budget: Budget
    outage_cause: str = ""  # the error of the last call for which the service was to blame
    is_stopping: bool = False
    #: What the last account to end was asked when the service last answered for it: shows whether it still does.
    witness: tuple[RequestTargets, Position] | None = None
    #: A scope for each request without a response yet; cancelling it drops the request.
    fetching: set[anyio.CancelScope] = field(default_factory=set[anyio.CancelScope])
    #: By window, of the first account that came to it: checking, ordering and encoding is done once.
    targets: dict[Window, RequestTargets] = field(default_factory=dict[Window, RequestTargets])

    def __post_init__(self) -> None:
        self.walk = self.plan.walk
        # Sends a request once, since retries are for a service that is there. A token that expired while it was down
        # is renewed: that takes a second request, but neither time nor budget.
        retry = self.client.retry
        once = replace(retry, attempts=min(2, retry.attempts), max_elapsed=0.0, budget_capacity=0.0)
        self.trial_client = self.client.with_options(retry=once)
        limits = self.budget
        self.circuit = CircuitBreaker(limits.max_outage, limits.probe_wait, limits.max_probe_wait)


class AccountState(Struct, eq=False, gc=False):
    """How far the pull of one account has come. Make it at its first turn: there may be very many accounts.

    It keeps what is needed of the window the account is at, and of those windows after it that an earlier run has
    begun. The garbage collector does not look at it, since nothing in it refers back to it or to the pull: going
    through 100,000 of them held the loop for 90 ms.
    """

    account: PlannedAccount
    window: int
    windows_left: int
    has_rows: bool  # in any window: an account without any is reported as empty
    later: dict[int, Progress]
    progress: Progress = Progress()  # in this window
    cursor: PageCursor | None = None  # of the walk over this window
    targets: RequestTargets | None = None  # of that walk, while the account has its turn
    seen: SeenRows | None = None  # rows handed out before that window was restarted
    is_whole: bool = (
        False  # the walk covers all windows from this one on, since the provider ignores their bounds
    )
    queue: MeetingQueue | None = None  # of a transcripts pull, in this window
    asked: set[bytes] = set()  # fingerprints of the meetings that were asked for in it
    is_resumed: bool = False  # the walk begins with a cursor of an earlier run, not used in this one yet
    is_partial: bool = False  # some page of the walk lacks rows, by what the provider or the decoder says
    restarts: int = 0
    body: bytes = b""  # of the page that is about to be handed over
    arrived_at: float = 0.0  # that body, by the monotonic clock
    pulled_at: datetime | None = None  # the same moment
    calls: int = 0  # failed in a row
    failing_since: float | None = None  # when the first of the failed calls since the last response was sent

    @classmethod
    def of(cls, account: PlannedAccount, stored: AccountProgress, windows: int) -> AccountState:
        """Return the state of an account at its first turn."""
        left = windows - stored.windows_over()
        state = cls(account, stored.finished - 1, left, stored.has_rows, stored.later)
        state.next_window()
        return state

    def next_window(self) -> None:
        """Go to the next window that is not over; they are asked oldest first."""
        self.progress = _OVER
        while self.progress.is_over and self.windows_left:
            self.window += 1
            self.progress = self.later.pop(self.window, _NEW)

    def end_walk(self) -> None:
        """Forget the walk over this window, which has ended or starts over."""
        self.cursor = self.targets = self.seen = self.queue = None
        self.asked = set()
        self.is_partial = False
