"""Checks base URLs and proxies, and finds the proxy that the environment names."""

from __future__ import annotations

import os
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit
from urllib.request import getproxies, getproxies_environment, proxy_bypass

from yarl import URL

from truto_ci_async._http.credentials import Secret, hidden
from truto_ci_async.errors import ConfigurationError

# A mistyped URL with one of these characters may contain a password. The second is read as the first.
_PASSWORD_MARKS = ("@", "\uff20", "\ufe6b", "%40")
_NOT_A_PROXY = "the proxy is not a URL with a host, such as http://proxy:3128"


def checked_base_url(base_url: str) -> str:
    """Return ``base_url`` without its trailing slash.

    :raises ConfigurationError: not an http or https URL with a host, or one with a query, fragment or password.
    """
    if "?" in base_url or "#" in base_url or any(mark in base_url for mark in _PASSWORD_MARKS):
        # It may hold a password, so the message does not quote it.
        raise ConfigurationError(
            "base_url may only have a scheme, host, port and path, such as https://api.truto.one"
        )
    if not _is_base_url(base_url):
        raise ConfigurationError(
            f"base_url {str.__str__(base_url)!r} is not an http or https URL such as https://api.truto.one"
        )
    return str(base_url).rstrip("/")


def _is_base_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        # An international name or a space would have to be encoded first.
        is_encoded = text.isascii() and text.isprintable() and " " not in text
        return usable and is_encoded and URL(text, encoded=True).absolute
    except ValueError:
        return False


def checked_proxy(proxy: str) -> str:
    """Return ``proxy`` as a URL for aiohttp.

    :raises ConfigurationError: not an http or https proxy. The message does not quote it: it may hold a password.
    """
    # Tracebacks can show the variables of this function.
    proxy = Secret(proxy if "://" in proxy else f"http://{proxy}")
    scheme = _scheme_of_proxy(proxy)
    if scheme is None:
        raise ConfigurationError(_NOT_A_PROXY)
    if scheme not in {"http", "https"}:
        raise ConfigurationError(
            f"the proxy must be an http or https URL, not {scheme!r} (is it from HTTPS_PROXY or ALL_PROXY?)"
        )
    return proxy


def _scheme_of_proxy(text: str) -> str | None:
    try:
        parts = urlsplit(text)
        usable = bool(parts.hostname) and parts.port != 0 and URL(text).absolute
    except ValueError:
        return None
    return parts.scheme if usable or parts.scheme not in {"http", "https"} else None


def environment_proxy(base_url: str) -> str | None:
    """Return the proxy that the environment names for ``base_url`` (HTTPS_PROXY, NO_PROXY, …), if any.

    NO_PROXY holds names and addresses as urllib reads them, and networks such as ``10.0.0.0/8`` or ``fd00::/8``, for a
    ``base_url`` whose host is an address: names are not looked up.

    This uses urllib because aiohttp's ``trust_env`` also reads ``.netrc``, where an entry for the host breaks every
    request that carries a bearer token.
    """
    proxy = hidden(_named_proxy(base_url))
    return None if proxy is None else checked_proxy(proxy)


def _named_proxy(base_url: str) -> str | None:
    # urllib decodes the whole environment twice, which is nearly all the time it takes to make a client.
    if getproxies is getproxies_environment and "_proxy" not in "\n".join(os.environ).lower():
        return None
    parts = urlsplit(base_url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc) or _is_in_no_proxy_network(parts.hostname or ""):
        return None
    return proxy


def _is_in_no_proxy_network(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    for entry in getproxies_environment().get("no", "").split(","):
        try:
            network = ip_network(entry.strip().strip("[]"), strict=False)
        except ValueError:  # a name
            continue
        if address in network:
            return True
    return False
