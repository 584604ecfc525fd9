"""Doors, unix sockets, and messages that carry descriptors."""

import contextlib
import errno
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kythera.ground.sockets import (
    DESCRIPTORS_MAX,
    PortInUse,
    _door_error,
    address_of,
    close_all,
    format_address,
    listen_tcp,
    listen_unix,
    parse_address,
    receive_message,
    send_message,
)
from kythera.model.errors import SetupError


@given(st.sampled_from(["127.0.0.1", "::1", "localhost", "10.0.0.1", "::"]), st.integers(0, 65535))
def test_an_address_is_read_as_it_was_written(host: str, port: int) -> None:
    """Goal: there and back. Method: any host and port."""
    assert parse_address(format_address(host, port)) == (host, port)


@given(st.text(max_size=20))
def test_any_text_is_an_address_or_a_setup_error(text: str) -> None:
    """Goal: nothing typed makes a traceback. Method: any text."""
    with contextlib.suppress(SetupError):
        host, port = parse_address(text)
        assert host
        assert 0 <= port <= 65535


@pytest.mark.parametrize("text", ["8080", ":80", "a:", "a:b", "::1:80", "1.2.3.4:65536", "a:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    """Goal: no guess. Method: what people type."""
    with pytest.raises(SetupError):
        parse_address(text)


def test_a_taken_port_is_an_error_with_a_remedy() -> None:
    """Goal: the operator knows which option to change. Method: listen twice."""
    with (
        listen_tcp("127.0.0.1:0") as first,
        pytest.raises(PortInUse, match=r"in use by another program.*--http HOST:PORT"),
    ):
        listen_tcp(address_of(first), option="--http")


@pytest.mark.parametrize(
    ("number", "text"),
    [(errno.EACCES, "may not listen.*above 1023"), (errno.EADDRNOTAVAIL, "this machine")],
)
def test_a_door_that_cannot_be_opened_says_what_to_do(number: int, text: str) -> None:
    """Goal: privileged ports and foreign addresses. Method: the errors the kernel gives."""
    error = _door_error(OSError(number, os.strerror(number)), "10.0.0.1:80", "--http")
    with pytest.raises(SetupError, match=text):
        raise error


def test_a_stale_unix_socket_is_replaced_and_is_private(tmp_path: Path) -> None:
    """Goal: a killed platform's file is no obstacle. Method: listen, forget to unlink, again."""
    path = tmp_path / "x.sock"
    listen_unix(path).close()
    with listen_unix(path):
        assert path.stat().st_mode & 0o777 == 0o600
        with socket.socket(socket.AF_UNIX) as visitor:
            visitor.connect(str(path))


@given(st.binary(min_size=1, max_size=5000), st.integers(0, DESCRIPTORS_MAX))
def test_a_message_arrives_whole_with_its_descriptors(data: bytes, count: int) -> None:
    """Goal: descriptors and bytes travel together. Method: any size and number of them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        send_message(ours, data, [ours.fileno()] * count)
        received, descriptors = receive_message(theirs)
        close_all(descriptors)
    assert received == data
    assert len(descriptors) == count


def test_the_end_of_a_connection_is_an_empty_message() -> None:
    """Goal: the end is told from silence. Method: nothing yet, then closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        theirs.setblocking(False)
        with ours, pytest.raises(BlockingIOError):
            receive_message(theirs)
        assert receive_message(theirs) == (b"", [])
