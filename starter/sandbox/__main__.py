"""``python -m starter.sandbox --port N``: serves the sandbox on loopback; ``--fd N`` on an inherited socket."""

import argparse
import socket

import uvicorn

from starter.sandbox.app import create_app

parser = argparse.ArgumentParser(prog="starter.sandbox", description=__doc__)
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=8090)
parser.add_argument("--fd", type=int)
arguments = parser.parse_args()
config = uvicorn.Config(
    create_app(),
    host=arguments.host,
    port=arguments.port,
    log_level="warning",
    access_log=False,
    timeout_graceful_shutdown=1,
)
uvicorn.Server(config).run(None if arguments.fd is None else [socket.socket(fileno=arguments.fd)])
