"""TLS: with an authority it works; what is wrong with a certificate is one clear error."""

from __future__ import annotations

import asyncio
import datetime
import random
import ssl
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme

from channels_mpx import LinkRefused, MultiplexedChannelLayer, backoff, link
from channels_mpx.backoff import delays
from channels_mpx.options import Options
from tests.helpers import eventually
from tests.layers import QUICK, is_active, open_layer, receive
from tests.proxy import Proxy
from tests.servers import HOST, Certificates, RedisServer

MakeRedis = Callable[..., RedisServer]
Issue = Callable[..., Certificates]

EXPIRED = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)


@pytest.fixture
def issue(tmp_path: Path) -> Issue:
    """A function that issues certificates; all but a stranger's are of one authority."""
    ours = trustme.CA()
    ours.cert_pem.write_to_path(tmp_path / "ca.pem")

    def issue(*names: str, is_strange: bool = False, **how: Any) -> Certificates:
        authority = trustme.CA() if is_strange else ours
        issued = authority.issue_cert(*names, **how)
        base = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        files = Certificates(
            base.with_suffix(".pem"), base.with_suffix(".key"), tmp_path / "ca.pem"
        )
        issued.cert_chain_pems[0].write_to_path(files.cert)
        issued.private_key_pem.write_to_path(files.key)
        return files

    return issue


async def works(layer: MultiplexedChannelLayer) -> None:
    """Fail unless messages pass."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_send("room", {"data": b"x" * 2**20})
    assert len((await receive(layer, channel))["data"]) == 2**20


async def refused(hosts: Any, why: str) -> None:
    """Fail unless the first verb is refused, not at its deadline, for one reason in plain words."""
    async with open_layer(hosts, timeout=3600) as layer:
        with pytest.raises(LinkRefused) as caught:
            await layer.new_channel()
    assert caught.value.reason.startswith("TLS: ")
    assert why in caught.value.reason


async def test_good_certificate_works(make_redis: MakeRedis, issue: Issue) -> None:
    """The control of all that follows: with our authority everything works, also after a loss."""
    server = make_redis(tls=issue(HOST, "localhost"))
    async with open_layer(server, **QUICK) as layer:
        await works(layer)
        server.restart()
        await eventually(lambda: layer.statistics().connection.epoch == 2 and is_active(layer))
        await works(layer)


@pytest.mark.parametrize(
    ("names", "how", "why"),
    [
        ((HOST,), {"not_after": EXPIRED}, "certificate has expired"),
        (("example.org",), {}, f"certificate is not valid for '{HOST}'"),
        ((HOST,), {"is_strange": True}, "unable to get local issuer certificate"),
    ],
    ids=["expired", "wrong host", "unknown authority"],
)
async def test_bad_certificate_is_refused(
    make_redis: MakeRedis, issue: Issue, names: tuple[str, ...], how: dict[str, Any], why: str
) -> None:
    """A certificate that does not hold is one clear error, at once, with a URL and with a dict."""
    server = make_redis(tls=issue(*names, **how))
    assert server.tls is not None
    await refused(server.url, why)
    arguments = {"ssl": True, "ssl_ca_certs": str(server.tls.ca)}
    await refused({"host": HOST, "port": server.port, **arguments}, why)


async def test_unchecked_certificate_is_taken(make_redis: MakeRedis, issue: Issue) -> None:
    """The control: with the check switched off, by the user, any certificate will do."""
    server = make_redis(tls=issue("example.org", not_after=EXPIRED))
    host = {"host": HOST, "port": server.port, "ssl": True, "ssl_cert_reqs": "none"}
    async with open_layer(host) as layer:
        await works(layer)


async def test_host_name_is_not_checked_if_one_says_so(make_redis: MakeRedis, issue: Issue) -> None:
    """The same for the name alone: a tunnel, for instance, has another one."""
    server = make_redis(tls=issue("example.org"))
    async with open_layer(f"{server.url}&ssl_check_hostname=false") as layer:
        await works(layer)


def test_host_name_is_checked_by_any_version_of_redis_py() -> None:
    """It is we who ask for it: older versions check the certificate only."""
    for given, is_asked in (
        ({}, True),
        ({"ssl_cert_reqs": "required"}, True),
        ({"ssl_cert_reqs": "none"}, None),
        ({"ssl_cert_reqs": None}, None),
        ({"ssl_cert_reqs": ssl.CERT_NONE}, None),
        ({"ssl_check_hostname": False}, False),
    ):
        arguments: dict[str, Any] = dict(given)
        link._check_host_name(arguments)
        assert arguments.get("ssl_check_hostname") is is_asked


def returns(outage: float) -> list[float]:
    """Return when each of 100 processes dials first after an outage that began for all at once."""
    options, times = Options(), []
    for _ in range(100):
        pauses, now = delays(options.reconnect_delay, options.max_reconnect_delay), 0.0
        while now < outage:
            now += next(pauses)
        times.append(now - outage)
    return sorted(times)


@pytest.mark.parametrize("is_protected", [True, False])
@pytest.mark.parametrize("outage", [2.0, 10.0, 60.0])
def test_handshakes_are_spread_when_a_server_comes_back(
    monkeypatch: pytest.MonkeyPatch, outage: float, is_protected: bool
) -> None:
    """Who has lost the server together does not come back together: a handshake is work for it.

    100 processes come within the second in which all must be active again, and are spread over most
    of it: no tenth of a second sees more than a third of them. The control: without the random part
    of the pauses they all come at once.
    """
    if is_protected:
        dice = random.Random(f"handshakes {outage}")
        monkeypatch.setattr(backoff, "random", dice)
    else:
        monkeypatch.setattr(backoff, "random", SimpleNamespace(uniform=lambda least, most: most))
    times = returns(outage)
    spread = times[-1] - times[0]
    most = max(sum(start <= other < start + 0.1 for other in times) for start in times)
    print(f"after {outage} s: within {spread:.2f} s, at most {most} of 100 within 0.1 s")
    assert (spread > 0.6 and most < 34) is is_protected
    assert times[-1] <= 1.0


async def test_client_certificates_are_used(make_redis: MakeRedis, issue: Issue) -> None:
    """A server that asks for our certificate gets it; without one, or with a stranger's, it refuses."""
    server = make_redis(tls=issue(HOST), config=["tls-auth-clients yes"])
    ours, strange = issue("client@example.org"), issue("client@example.org", is_strange=True)

    def url(files: Certificates) -> str:
        return f"{server.url}&ssl_certfile={files.cert}&ssl_keyfile={files.key}"

    async with open_layer(url(ours)) as layer:
        await works(layer)
    await refused(server.url, "certificate required")
    await refused(url(strange), "unknown ca")


async def test_certificate_that_expires_later_does_not_spin(
    make_redis: MakeRedis, issue: Issue
) -> None:
    """A server that comes back with a bad certificate is asked ever more rarely, and not given up."""
    good, bad = issue(HOST), issue(HOST, not_after=EXPIRED)
    server = make_redis(tls=good)
    async with (
        Proxy(server.host, server.port) as proxy,
        open_layer(server.url_for(port=proxy.port), **QUICK) as layer,
    ):
        await layer.new_channel()
        server.kill()
        server.tls = bad
        server.start()
        before = proxy.accepted
        await eventually(
            lambda: (
                layer.statistics().connection.last_error
                == "TLS: this process does not trust its certificate: certificate has expired"
            )
        )
        await asyncio.sleep(1.0)  # the time itself is what is tested: the attempts of a second
        assert 4 <= proxy.accepted - before <= 12
        server.kill()
        server.tls = good
        server.start()
        await eventually(lambda: is_active(layer))
