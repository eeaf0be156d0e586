"""A budget in Redis or Valkey, for any number of processes that use one token."""

from __future__ import annotations

import asyncio
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from truto_ci_async import ConfigurationError, Grant, MissingExtraError, Rate

if TYPE_CHECKING:
    from redis.asyncio import Redis as _Redis

PREFIX: Final = "truto-ci"
# A slot is kept for so much longer than the window, since requests take unequal time to arrive. The first one of a
# connection takes longest.
SPARE_SECONDS: Final = 0.4
KEPT_SECONDS: Final = 86_400  # for so long after the last request a new one need not start slowly
# Share of the token's limit that is granted at once while the time before is unknown.
FIRST_BURST: Final = 0.02
CONNECTIONS: Final = 32
TIMEOUT: Final = 1.0  # seconds for one command; whoever waits for it may have given up before

# All that is known is in one hash, so it is there or gone as a whole, and lies on one node of a cluster. The grants of
# the last window are a queue: fields 0, 1, 2, ... with "<ms> <count> <account>". Two heads go through it, one for each
# limit, since their windows may differ; behind both, entries are deleted. ``used <account>`` has the account's sum.
#
# ``run`` is the server's run id. It differs after a restart and after a failover, and is missing once the key was
# evicted or flushed: what was sent before is then unknown. So is it once the clock has gone back. The hash begins
# again, as if both limits had been used up evenly in the window before, so slots come free at the steady rate. Those of
# the token that nobody takes are lost but for a small burst, since clients did without the budget while it was away.
SCRIPT: Final = """
local key, n, account = KEYS[1], tonumber(ARGV[1]), ARGV[2]
local limits = {token = tonumber(ARGV[3]), account = tonumber(ARGV[5])}
local slots = {token = tonumber(ARGV[4]), account = tonumber(ARGV[6])}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known, info = pcall(redis.call, 'INFO', 'server')
local run = known and string.match(info, 'run_id:(%w+)') or '-'

local names = {'run', 'since', 'last', 'tail', 'head token', 'head account', 'sum', 'lost'}
local state = {}
for index, value in ipairs(redis.call('HMGET', key, unpack(names))) do
  state[names[index]] = index == 1 and value or tonumber(value or nil)
end
if state.run ~= run or not state.last or now < state.last then
  redis.call('DEL', key)
  state = {run = run, since = now, tail = 0, ['head token'] = 0, ['head account'] = 0, sum = 0, lost = 0}
end

local function entry(index)
  local at, count, name = string.match(redis.call('HGET', key, index), '^(%d+) (%d+) (.*)$')
  return tonumber(at), tonumber(count), name
end

local oldest = math.min(state['head token'], state['head account'])
for _, level in ipairs({'token', 'account'}) do
  local head = state['head ' .. level]
  while head < state.tail do
    local at, count, name = entry(head)
    if at + slots[level] > now then break end
    if level == 'token' then
      state.sum = state.sum - count
    elseif name ~= '' and redis.call('HINCRBY', key, 'used ' .. name, -count) <= 0 then
      redis.call('HDEL', key, 'used ' .. name)
    end
    head = head + 1
  end
  state['head ' .. level] = head
end
for index = oldest, math.min(state['head token'], state['head account']) - 1 do
  redis.call('HDEL', key, index)
end

local function unknown(level)
  return math.max(0, 1 - (now - state.since) / slots[level])
end

local function left(level, used)
  local free = limits[level] * (1 - unknown(level)) - used
  if level == 'token' and unknown(level) > 0 then
    local surplus = free - state.lost - math.max(1, limits.token * tonumber(ARGV[8]))
    state.lost = state.lost + math.max(0, surplus)
    free = free - state.lost
  end
  return math.floor(free + 1e-6)
end

local function wait(level)
  local most = unknown(level) > 0 and slots[level] / limits[level] or slots[level]
  for index = state['head ' .. level], state.tail - 1 do
    local at, _, name = entry(index)
    if level == 'token' or name == account then return math.min(most, at + slots[level] - now) end
  end
  return most
end

local level = 'token'
local granted = math.min(n, left('token', state.sum))
if granted > 0 and account ~= '' then
  level = 'account'
  granted = math.min(granted, left('account', tonumber(redis.call('HGET', key, 'used ' .. account) or 0)))
end
if granted > 0 then
  redis.call('HSET', key, state.tail, string.format('%.0f %d %s', now, granted, account))
  state.tail = state.tail + 1
  state.sum = state.sum + granted
  if account ~= '' then redis.call('HINCRBY', key, 'used ' .. account, granted) end
end
state.last = now
local fields = {'run', run}
for name, value in pairs(state) do
  if name ~= 'run' then
    fields[#fields + 1] = name
    fields[#fields + 1] = string.format(name == 'lost' and '%.6f' or '%.0f', value)
  end
end
redis.call('HSET', key, unpack(fields))
redis.call('EXPIRE', key, ARGV[7])
if granted > 0 then return {granted, 0, level} end
return {0, math.ceil(wait(level)), level}
"""


class RedisBudget:
    """The limits of one token, kept in Redis or Valkey for all processes that use it.

        async with RedisBudget("redis://localhost:6379/0") as budget:
            async with TrutoClient(shared_budget=budget) as truto:
                ...

    Give every process the same ``name`` and the same rates. Times are those of the server, so the clocks of your hosts
    need not agree. Everything is in one key, ``truto-ci:{name}``. When the server was restarted, has failed over, or
    has evicted the key, what was sent before is unknown: requests then go out at the steady rate for one window, in
    place of a burst. While the server is away, see ``SharedBudget``.

    ``url``         ``redis://``, ``rediss://`` (TLS) or ``unix://``, as redis-py takes it; ``valkey://`` is the same.
    ``name``        one for each token. It is part of the key, so take a name and not the token itself.
    ``token``       the rate of the token.
    ``account``     the rate of each integrated account.
    ``safe_share``  share of the token's rate that each process uses while the server is away: 1 / (number of
                    processes), if you know it.

    :raises ConfigurationError: a URL or a value that cannot work.
    :raises MissingExtraError: redis-py is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "default",
        token: Rate = Rate(500, 10.0),
        account: Rate = Rate(50, 10.0),
        safe_share: float = 0.1,
    ) -> None:
        try:
            from redis.asyncio import Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError:
            raise MissingExtraError("redis", "redis") from None
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"name must be text that is not empty, got {name!r}")
        for given in (token, account):
            if not isinstance(given, Rate):
                raise ConfigurationError(
                    f"token and account must each be a Rate(limit, window), got {given!r}"
                )
        is_share = isinstance(safe_share, int | float) and not isinstance(safe_share, bool)
        if not is_share or not 0 < safe_share <= 1:
            raise ConfigurationError(f"safe_share must be a number above 0 and at most 1, got {safe_share!r}")
        self.safe_share = safe_share
        self._url = url.replace("valkey", "redis", 1) if str(url).startswith("valkey") else url
        self._open = partial(
            Redis.from_url,  # pyright: ignore[reportUnknownMemberType] - redis-py's **kwargs
            max_connections=CONNECTIONS,
            socket_timeout=TIMEOUT,
            socket_connect_timeout=TIMEOUT,
            retry=Retry(NoBackoff(), 1),  # the server may have closed an idle connection
        )
        self._key = f"{PREFIX}:{{{name}}}"
        milliseconds = (round((rate.window + SPARE_SECONDS) * 1000) for rate in (token, account))
        token_slot, account_slot = milliseconds
        self._limits = [token.limit, token_slot, account.limit, account_slot, KEPT_SECONDS, FIRST_BURST]
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running = set[asyncio.Future[Any]]()
        try:
            self._connect()
        except (ValueError, TypeError, AttributeError):
            # Without the cause: its message may hold the URL, and that a password.
            raise ConfigurationError(
                "url must be redis://HOST:PORT/DATABASE, or rediss:// or unix://"
            ) from None

    def _connect(self) -> None:
        self._redis: _Redis = self._open(self._url)
        self._script = self._redis.register_script(SCRIPT)

    async def take(self, n: int, account: str | None) -> Grant:
        """Grant up to ``n`` requests: see ``SharedBudget``.

        :raises redis.exceptions.RedisError: the server is away, or refuses the script.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None:  # connections belong to the loop they were opened in
                self._connect()
            self._loop = loop
        # A task of its own: redis-py can lose a cancellation that meets a command half-way.
        command = asyncio.ensure_future(
            self._script(keys=[self._key], args=[n, account or "", *self._limits])
        )
        self._running.add(command)
        command.add_done_callback(self._ended)
        granted, wait, level = await asyncio.shield(command)
        return Grant(granted, wait / 1000, "token" if level == b"token" else "account")

    def _ended(self, command: asyncio.Future[Any]) -> None:
        self._running.discard(command)
        if not command.cancelled():
            command.exception()  # seen, even if nobody waits for it any more

    async def aclose(self) -> None:
        """Close the connections. The next ``take`` opens new ones."""
        if self._running:
            await asyncio.wait(self._running)
        await self._redis.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<RedisBudget {self._key}>"
