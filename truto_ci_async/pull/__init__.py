"""Pulls the pages of many accounts, in a way that can be killed at any time without losing or doubling a row.

``engine`` is the public face: it opens and closes everything and serves the consumers. ``workers`` decides which
account is asked when, ``account_pull`` asks one account, ``account_state`` is how far that has come, ``handover``
passes its pages on, and ``commits`` makes durable what the consumers have finished. Read them in this order.
``row_fingerprints`` is there for windows that are restarted, ``report`` for limits and results; ``shard`` joins a pull
and a sink.

What differs between resources is in ``walks``. ``transcript_pull`` asks for the transcript of each meeting,
``window_check`` finds rows of providers that ignore the window, and ``positions`` is what is stored of either.

``plan/`` says what is requested, ``checkpoint/`` stores progress, and ``stores/`` keeps rows and progress together or
adapts a checkpoint and a sink to that. Sinks live in ``truto_ci_async.sinks``, walking
pages in ``truto_ci_async.pagination``, and retries and pacing below that in ``truto_ci_async._http``.
"""
