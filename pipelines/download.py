"""Open a web address, and give up soon where there is no network."""

from __future__ import annotations  # HTTPResponse is known to type checkers only

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from http.client import HTTPResponse

# Without a network the user is to hear of it within 5 seconds, imports included.
CONNECT_SECONDS = 2
STALL_SECONDS = 30  # without a byte, once a download runs


def open_url(url: str) -> HTTPResponse:
    """Return an open response, to be read and closed.

    The address is opened in a thread, because no timeout applies to looking up a name.

    Raises:
        OSError: within CONNECT_SECONDS where nobody answers; or as urllib.request.urlopen.
    """
    import urllib.request  # slow to import, and only needed where data is missing

    result: list[HTTPResponse | Exception] = []

    def work() -> None:
        try:
            result.append(urllib.request.urlopen(url, timeout=STALL_SECONDS))
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if not result:
        raise OSError(f"no answer in {CONNECT_SECONDS} s")
    response = result[0]
    if isinstance(response, Exception):
        raise response
    return response
