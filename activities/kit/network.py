"""Where requests may go: public addresses, and the private hosts that the operator has listed."""

import asyncio
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import httpcore

from activities.kit.errors import refused
from models.settings import settings

_NAT64 = ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Return whether an IP address is public: not private, loopback, link-local, multicast or reserved.

    An IPv6 address that stands for an IPv4 address is as public as that one.
    """
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or (IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else ip)
    return ip.is_global and not ip.is_multicast


async def addresses(host: str, port: int) -> list[str]:
    """Return the addresses of a host that may be connected to.

    Raise ``refused`` if it has private ones only and ``HENGDAN_PRIVATE_HOSTS`` does not list it, and ``OSError`` if it
    has none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    resolved = list(dict.fromkeys(str(each[4][0]) for each in found))
    if host.lower() in settings().private_hosts:
        return resolved
    allowed = [each for each in resolved if is_public(each)]
    if not allowed:
        raise refused("error.private_address", "private_address", host=host)
    return allowed


async def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket connected to a host. Raise ``refused`` and ``OSError`` as ``addresses`` does."""
    failure = OSError(f"{host} has no address")
    for address in await addresses(host, port):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connection, (address, port))
        except OSError as error:
            connection.close()
            failure = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise failure


class AllowedAddresses(httpcore.AnyIOBackend):
    """Connects to the address that was checked, so that a name cannot resolve to another one in between."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception = httpcore.ConnectError("no address")
        try:
            allowed = await addresses(host, port)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from None
        for address in allowed:
            try:
                return await super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure
