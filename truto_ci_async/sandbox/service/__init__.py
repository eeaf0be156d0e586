"""Truto as the sandbox knows it: a function from a request to a response. No sockets, nothing awaits.

How a response reaches the client, or fails to, is the business of `sandbox.http`. Start reading at `api`.
"""
