"""``client.transcripts``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Required, TypeVar, Unpack, overload

from truto_ci_async._wire.filters import MeetingFilter
from truto_ci_async.models import Transcript
from truto_ci_async.pagination.paginator import Paginator

from .options import MODEL, Account, CommonListOptions
from .pulled import PulledResource

if TYPE_CHECKING:
    from truto_ci_async._http.base_client import BaseClient

S = TypeVar("S")


class TranscriptListOptions(CommonListOptions, total=False):
    """Arguments of ``Transcripts.list`` besides the account and the item type."""

    meeting: Required[MeetingFilter]


class Transcripts(PulledResource[Transcript]):
    """``client.transcripts``: what was said in a meeting, sentence by sentence. Gong only.

        transcript = await truto.transcripts.list(account_id, meeting=meeting).first()
        print(transcript.text())

    The service takes one meeting per call. A meeting without a transcript gives no item, or a NotFoundError.

    A pull asks for the transcript of every meeting that began in the window, each once; ``report.without_transcript``
    counts those that have none. Run it again with ``lookback="2d"`` to ask once more for those that were first found
    missing at most two days ago. ``limit``, ``remote_query`` and ``extra_query`` are for the list of meetings.
    """

    own_filters: ClassVar[tuple[str, ...]] = ("meeting",)
    required_filters: ClassVar[tuple[str, ...]] = ("meeting",)

    def __init__(self, client: BaseClient) -> None:
        super().__init__(client, MODEL, "transcripts", Transcript)

    if TYPE_CHECKING:  # at run time these are the base's, with the signature of ``own_filters``

        @overload  # type: ignore[override]  # it takes other filters than the base
        def list(
            self, integrated_account_id: Account = None, **options: Unpack[TranscriptListOptions]
        ) -> Paginator[Transcript]: ...
        @overload
        def list(
            self,
            integrated_account_id: Account = None,
            *,
            item_type: type[S],
            **options: Unpack[TranscriptListOptions],
        ) -> Paginator[S]: ...
        def list(self, *args: Any, **options: Any) -> Any: ...  # pyright: ignore[reportIncompatibleMethodOverride]
