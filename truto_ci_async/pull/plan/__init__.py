"""Says what a pull requests: which accounts, over which windows, with which filters.

Start with `plan`: `Plan`, which is frozen and stored with the output. `resolve` makes one from a caller's options, with
the help of `accounts` (lists and files), `discovery` (what to say if no account is found) and `bounds` (windows). A
plan is resolved once: "now" is read a single time and relative times become absolute, so a pull that is killed and
restarted sends the same requests.

Nothing here requests rows. Progress is kept in `pull.checkpoint`; the queries themselves are made in `_wire`.
"""
