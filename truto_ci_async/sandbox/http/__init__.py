"""The sandbox on the network: the listening server, its connections, and how responses are written or broken.

What a response says is decided in `sandbox.service`, which this folder imports and which never imports this folder.
Start reading at `server`.
"""
