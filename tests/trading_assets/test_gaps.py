"""What `trading repair` makes of a collector that does not answer as one does."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from resources import checkpoints
from resources.home import Home
from resources.rocksdb import control_socket
from resources.settings import load_settings
from resources.stores import Stores
from trading_assets.cli.gaps import CollectorSilent, repair


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    stores = Stores(Home(tmp_path), load_settings(tmp_path, {}), ExitStack())
    stores.home.rocksdb_dir.mkdir(parents=True)
    return stores


@contextmanager
def answering(stores: Stores, answer: Callable[[socket.socket], None]) -> Iterator[None]:
    """Let one question be answered on the control socket of a home's journal."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(control_socket(stores.home.rocksdb_dir)))
        server.listen()

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(100)
                answer(client)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


@pytest.mark.parametrize("said", [b"", b'{"repaired": 1, "sym', b"error unknown command\n"])
def test_a_collector_that_ends_before_it_has_answered_is_named_with_what_to_do(stores: Stores, said: bytes) -> None:
    with answering(stores, lambda client: client.sendall(said)), pytest.raises(CollectorSilent) as caught:
        repair(stores, quiet=True)
    assert "trading repair" in caught.value.hint


def test_a_collector_that_is_too_busy_to_answer_is_named_with_what_to_do(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "CONTROL_TIMEOUT_S", 0.1)
    with answering(stores, lambda _: time.sleep(0.5)), pytest.raises(CollectorSilent) as caught:
        repair(stores, quiet=True)
    assert "0.1 s" in caught.value.message and "trading status" in caught.value.hint
