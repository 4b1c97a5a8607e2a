"""An S3 object store in a process of its own, by moto; tests that want one are skipped where moto or s3fs is missing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from urllib.request import Request, urlopen

import pytest

PROGRAM = """
import sys
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""
KEY = "anyone"


@contextmanager
def object_store() -> Iterator[str]:
    """Its address, for as long as the context lasts."""
    for package in ("moto", "flask", "s3fs"):
        if find_spec(package) is None:
            pytest.skip(f"no {package} is installed")
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.communicate(timeout=30)


@pytest.fixture(scope="session")
def objects() -> Iterator[str]:
    """The address of an object store with an empty bucket ``night``; a module that imports it has it."""
    with object_store() as address:
        put(address, "night")
        yield address


def credentials(address: str) -> dict[str, str]:
    """Environment of a user of the store."""
    keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": "anything", "AWS_DEFAULT_REGION": "us-east-1"}
    return {"AWS_ENDPOINT_URL": address, "no_proxy": "127.0.0.1", **keys}


def put(address: str, place: str, data: bytes = b"", **headers: str) -> None:
    """Make a bucket, or an object in one."""
    headers["Authorization"] = f"AWS4-HMAC-SHA256 Credential={KEY}/20260101/us-east-1/s3/aws4_request"
    headers["Content-Type"] = "application/octet-stream"
    urlopen(Request(f"{address}/{place}", data, headers, method="PUT")).close()
