"""The sandbox on the network: the server, its connections, and how responses are sent or broken on the way.

What a response says is decided in `sandbox.service`, which never imports this folder. Start with `server` (`Sandbox`),
then `connections` and `response_writer`.
"""
