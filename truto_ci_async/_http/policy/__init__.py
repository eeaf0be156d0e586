"""When to send a request, and what to do when it fails: retries, pacing, and noticing that the service is down.

These are rules, not I/O: callers pass in the time, headers and random numbers. In reading order: `retry` decides
whether and when a failed request is sent again; `headers` reads `Retry-After` and `ratelimit-*`; `rate_windows` counts
one limit; `rate_limiter` decides who may send next within all of them, with `token_blame` for 429s that do not say
whose limit they met; `admission` makes requests wait for their turn; `shared_budget` is the protocol of a budget of
several processes, which `budget_gate` asks, and `memory_budget` keeps one for an engine to serve; `circuit_breaker`
holds back a pull while the service is down.

Not here: the attempt loop that applies the rules (`_http.base_client`), and deadlines of connections and bodies
(`_http.transport`).
"""
