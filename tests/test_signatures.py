"""Signatures: an editor, a notebook and ``help()`` show every argument of a verb, with its type and what it is."""

from __future__ import annotations

import inspect
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import truto_ci_async
from tests.support import messages
from truto_ci_async import Pacing, Resource, TrutoClient, pull_resources
from truto_ci_async.integrations import ray as on_ray
from truto_ci_async.integrations import ray_data
from truto_ci_async.integrations.dlt import source as dlt_source
from truto_ci_async.integrations.redis import RedisBudget

NAMES = ("interactions", "meetings", "users", "transcripts", "activity")
VERBS = ("list", "stream", "keyed", "raw", "get", "meta", "plan", "pull", "pull_to")
CLIENT = TrutoClient("token", base_url="http://127.0.0.1:9", pacing=Pacing.off())
METHODS: dict[str, Any] = {
    **{f"{name}.{verb}": getattr(getattr(CLIENT, name), verb) for name in NAMES for verb in VERBS},
    **{f"unified.{verb}": getattr(CLIENT.unified("crm", "contacts"), verb) for verb in VERBS[:6]},
    **{
        f"integrated_accounts.{verb}": getattr(CLIENT.integrated_accounts, verb)
        for verb in ("list", "get", "capabilities", "create_token")
    },
    "pull_resources": pull_resources,
}
# Where the arguments of one verb are described for the others too.
SHARED = [Resource.list.__doc__, CLIENT.interactions.plan.__doc__, CLIENT.interactions.pull.__doc__]


@pytest.mark.parametrize("name", METHODS)
def test_a_verb_spells_every_argument_with_type_and_documentation(name: str) -> None:
    method = METHODS[name]
    signature = inspect.signature(method)
    kinds = {each.kind for each in signature.parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    assert inspect.Parameter.VAR_POSITIONAL not in kinds
    assert signature.return_annotation is not inspect.Parameter.empty
    told = "\n".join(filter(None, [method.__doc__, *SHARED]))
    for each in signature.parameters.values():
        assert each.annotation is not inspect.Parameter.empty, each.name
        assert each.name in told, each.name


@pytest.mark.parametrize("name", METHODS)
def test_help_shows_the_method_by_its_own_name(name: str) -> None:
    method = METHODS[name]
    assert method.__name__ == name.rpartition(".")[2]
    assert method.__doc__
    assert "options" not in inspect.signature(method).parameters


@pytest.mark.parametrize("verb", ["plan", "pull", "pull_to"])
def test_an_unknown_argument_is_refused_at_once(verb: str) -> None:
    with pytest.raises(TypeError, match="nonsense"):
        getattr(CLIENT.interactions, verb)("out", nonsense=1)


def test_completion_of_the_client_shows_what_is_for_callers() -> None:
    shown = {name for name in dir(CLIENT) if not name.startswith("_")}
    assert shown == {
        *NAMES, "integrated_accounts", "unified", "stats", "with_options", "aclose", "base_url", "timeouts", "retry",
        "pacing", "max_body_bytes", "shared_budget",
    }  # fmt: skip
    assert set(dir(truto_ci_async.TrutoClient("token"))) == set(dir(CLIENT))
    assert "keyed" in dir(CLIENT.interactions)
    assert "keyed_pages" not in dir(CLIENT.interactions)  # the command line needs it


def arguments(thing: Any) -> set[str]:
    """The arguments of a function or class, and of the public methods of a class."""
    found = {*getattr(thing, "__struct_fields__", ())}
    with suppress(TypeError, ValueError):
        found |= {*inspect.signature(thing).parameters}
    if inspect.isclass(thing):
        methods = inspect.getmembers(thing, callable)
        found |= {each for name, method in methods if name[0] != "_" for each in arguments(method)}
    return found


# What a message says to pass to somebody else: to aiohttp, to Python's datetime, to dlt.
OTHERS = {"trust_env", "tzinfo", "refresh"}


def test_a_message_advises_only_arguments_that_there_are() -> None:
    things = [getattr(truto_ci_async, name) for name in truto_ci_async.__all__]
    things += [on_ray.pull_to, ray_data.dataset, dlt_source, RedisBudget, *METHODS.values()]
    known = OTHERS.union(*(arguments(thing) for thing in things))
    advised: dict[str, str] = {}
    for path in Path(truto_ci_async.__file__).parent.rglob("*.py"):
        if not {"sandbox", "cli", "export", "reports"} & {*path.parts}:
            for text in messages(path):
                is_repr = re.match(r"<|,|[A-Z]\w+\(|remote_data=", text)
                names = [] if is_repr or " " not in text else re.findall(r"(?<![\w\[?&'.-])([a-z]\w*)=", text)
                advised |= dict.fromkeys(names, text)
    assert len(advised) > 30
    assert {name: text for name, text in advised.items() if name not in known} == {}
