"""The owner's clients over mutual TLS, with certificates that end while they ask."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from rich.console import Console

from core.errors import PeerUnavailable
from core.rpc.errors import RemoteRefusedError
from core.rpc.identity import create_identity, install_certificate, load_identity
from orchestrator.certificates import DevelopmentCA
from parties.data_owner.answers import Answers, joined
from parties.data_owner.asynchronous import open_async_client
from parties.data_owner.bulk import predict_many
from parties.data_owner.client import open_client
from parties.data_owner.inference import Pixels
from tests.partitioned.proxy import Network, network_to
from tests.soak.recorded import require_recorded
from tests.soak.site import Site, open_site

pytestmark = pytest.mark.slow

# Long enough to connect with on a machine that stands still for seconds.
_SHORT_S: Final = 20.0
_AN_HOUR_S: Final = 3600.0
_BATCHES: Final = 16


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with open_site(folder, Console(quiet=True)) as opened:
        yield opened


@pytest.fixture
def folder(site: Site, tmp_path: Path) -> Path:
    """A copy of an owner's folder, with its key in it."""
    return Path(shutil.copytree(site.calm[0].folder, tmp_path / "owner"))


def certify(site: Site, folder: Path, lifetime_s: float) -> None:
    """Give the owner a fresh certificate, as whoever renews it would."""
    authority = DevelopmentCA.load(site.workspace.root / "ca")
    owner = site.workspace.owner(site.calm[0].name)
    request = create_identity(folder, owner)
    signed = authority.sign(request, owner, lifetime_s / 3600)
    install_certificate(folder, signed, authority.ca_pem)


@contextmanager
def between(site: Site, folder: Path) -> Iterator[Network]:
    """Have the owner reach its inference server through a network of ours."""
    with network_to(*site.address) as network:
        path = folder / "settings.json"
        settings = json.loads(path.read_text())
        host, port = network.listener.getsockname()
        settings["inference_server"]["address"] = f"{host}:{port}"
        path.write_text(json.dumps(settings))
        yield network


def wait_until_expired(folder: Path, certificate: bytes) -> None:
    """Until the certificate that a client began with is over."""
    identity = load_identity(folder)
    assert certificate == identity.certificate
    left_s = (identity.expires_at - datetime.now(UTC)).total_seconds()
    time.sleep(max(0.0, left_s) + 0.1)


def require_right(site: Site, *answers: Answers) -> None:
    for each in answers:
        assert list(site.classes[: len(each.top)]) == list(each.top)
    require_recorded(site, [one for each in answers for one in each.receipts])


def test_many_questions_of_one_event_loop_are_answered_rightly_and_recorded(
    site: Site, folder: Path
) -> None:
    async def ask() -> list[Answers]:
        async with open_async_client(folder) as client:
            asked = [client.predict(site.pixels[: 1 + n]) for n in range(16)]
            return await asyncio.gather(*asked)

    answers = asyncio.run(ask())

    assert [1 + n for n in range(16)] == [len(each.top) for each in answers]
    require_right(site, *answers)


def batches(site: Site) -> Iterator[Pixels]:
    return (site.pixels[at : at + 4] for at in range(0, _BATCHES * 4, 4))


async def joined_from(answers: AsyncIterator[Answers]) -> Answers:
    return joined([each async for each in answers])


def test_many_streams_of_one_event_loop_are_answered_in_order_and_recorded(
    site: Site, folder: Path
) -> None:
    async def ask() -> list[Answers]:
        async with open_async_client(folder) as client:
            streams = [client.predict_many(batches(site)) for _ in range(3)]
            return await asyncio.gather(*map(joined_from, streams))

    answers = asyncio.run(ask())

    assert [4 * _BATCHES] * 3 == [len(each.top) for each in answers]
    require_right(site, *answers)


def test_a_connection_that_breaks_under_a_stream_costs_no_answer(
    site: Site, folder: Path
) -> None:
    """What was recorded and lost is asked again, recorded again, and counted once."""

    async def later(network: Network) -> AsyncIterator[Answers]:
        async with open_async_client(folder) as client:
            async for number, each in _counted(client.predict_many(batches(site))):
                if number == 3:
                    network.break_off()
                yield each

    def at_once(network: Network) -> Iterator[Answers]:
        with open_client(folder) as client:
            for number, each in enumerate(predict_many(client, batches(site))):
                if number == 3:
                    network.break_off()
                yield each

    with between(site, folder) as network:
        blocking = joined(list(at_once(network)))
        of_a_loop = asyncio.run(joined_from(later(network)))

    assert len(blocking.top) == len(of_a_loop.top) == 4 * _BATCHES
    require_right(site, blocking, of_a_loop)


async def _counted(
    answers: AsyncIterator[Answers],
) -> AsyncIterator[tuple[int, Answers]]:
    number = 0
    async for each in answers:
        yield number, each
        number += 1


def test_an_event_loops_question_that_is_cancelled_leaves_the_client_usable(
    site: Site, folder: Path
) -> None:
    async def ask() -> Answers:
        async with open_async_client(folder) as client:
            await client.predict(site.pixels[:1])
            given_up = asyncio.create_task(client.predict(site.pixels[:300]))
            await asyncio.sleep(0)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            return await client.predict(site.pixels[:2])

    require_right(site, asyncio.run(ask()))


def test_a_certificate_that_ends_is_followed_by_the_next_and_no_question_fails(
    site: Site, folder: Path
) -> None:
    """Then every connection breaks: a new one needs a certificate that is valid."""
    certify(site, folder, _SHORT_S)
    with between(site, folder) as network, open_client(folder) as client:
        first = client.predict(site.pixels[:4])
        ended = folder.with_name("ended")
        shutil.copytree(folder, ended)
        certify(site, folder, _AN_HOUR_S)
        meanwhile = [client.predict(site.pixels[:4]) for _ in range(3)]
        wait_until_expired(ended, load_identity(ended).certificate)
        network.break_off()
        after = client.predict(site.pixels[:4])

        require_right(site, first, *meanwhile, after)


def test_a_client_of_an_event_loop_goes_over_to_the_next_certificate_too(
    site: Site, folder: Path
) -> None:
    certify(site, folder, _SHORT_S)

    async def ask(network: Network) -> list[Answers]:
        async with open_async_client(folder) as client:
            answers = [await client.predict(site.pixels[:4])]
            ended = folder.with_name("ended")
            shutil.copytree(folder, ended)
            certify(site, folder, _AN_HOUR_S)
            answers.append(await client.predict(site.pixels[:4]))
            await asyncio.to_thread(
                wait_until_expired, ended, load_identity(ended).certificate
            )
            network.break_off()
            return [*answers, await client.predict(site.pixels[:4])]

    with between(site, folder) as network:
        require_right(site, *asyncio.run(ask(network)))


def test_a_certificate_that_nobody_renews_is_good_for_no_new_connection(
    site: Site, folder: Path
) -> None:
    """So the two tests above can fail."""
    certify(site, folder, _SHORT_S)
    with ExitStack() as stack:
        network = stack.enter_context(between(site, folder))
        client = stack.enter_context(open_client(folder))
        client.predict(site.pixels[:1])
        wait_until_expired(folder, load_identity(folder).certificate)
        network.break_off()
        # Of a connection that is not broken yet, the orchestrator says what is wrong.
        with pytest.raises((PeerUnavailable, RemoteRefusedError)):
            client.ask(client.encrypt(site.pixels[:1]), client.use())
