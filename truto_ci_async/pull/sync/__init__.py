"""Incremental syncs: which windows of an account are asked, given those that were read completely before.

``windows`` is the rule, and awaits nothing: the days, weeks or months of a time zone, what is known to be complete, and
what is due. ``options`` checks the arguments of a sync, ``plan`` applies the rule to many accounts, and ``answered``
compares the windows that were answered with those that were asked. Read them in this order.

What a store has to do for a sync is in ``pull/stores/base``; ``pull/stores/syncing`` joins both.
"""
