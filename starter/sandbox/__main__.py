"""``python -m starter.sandbox --port N``: serves the sandbox on loopback."""

import argparse

import uvicorn

from starter.sandbox.app import create_app

parser = argparse.ArgumentParser(prog="starter.sandbox", description=__doc__)
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=8090)
arguments = parser.parse_args()
uvicorn.run(create_app(), host=arguments.host, port=arguments.port, log_level="warning", access_log=False)
