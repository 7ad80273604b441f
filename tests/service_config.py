"""Restarts a server under a client that has `proto/service-config.json` and one that has not.

The client with it sees no error; the other shows that there were errors to see.
Usage: service_config.py PROGRAM
"""

import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading

import grpc

CONFIG = pathlib.Path(__file__).parent.parent / "proto" / "service-config.json"
PUBLISH = "/hookwire.v1.EventService/PublishEvent"
# Calls of each client before the restart and after it.
CALLS = 50


def field(number, content):
    """A length-delimited field of a protobuf message, shorter than 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


# PublishEventRequest { event { event_type, payload { json } } }
EVENT = field(1, field(2, b"user.created") + field(3, field(2, b"{}")))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    def __init__(self, program, folder):
        self.port = free_port()
        self.command = [program, "dev", "--port", str(self.port), "--data-dir", folder + "/data"]
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in self.process.stdout:
            if line.startswith("Hookwire is ready"):
                return
        raise SystemExit("the server did not start")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


class Client(threading.Thread):
    """Publishes one event after the other, until told that the server is back."""

    def __init__(self, port, options):
        super().__init__(daemon=True)
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=options)
        self.warm, self.back = threading.Event(), threading.Event()
        self.errors = []

    def run(self):
        publish = self.channel.unary_unary(PUBLISH)
        done = after = 0
        while after < CALLS:
            returned = self.back.is_set()
            try:
                publish(EVENT)
                done += 1
                after += returned
            except grpc.RpcError as error:
                self.errors.append(error.code().name)
            if done == CALLS:
                self.warm.set()


def main(program):
    with tempfile.TemporaryDirectory() as folder:
        server = Server(program, folder)
        plain = Client(server.port, [])
        retrying = Client(server.port, [("grpc.service_config", CONFIG.read_text(encoding="utf-8"))])
        clients = [plain, retrying]
        try:
            for client in clients:
                client.start()
            for client in clients:
                assert client.warm.wait(60), "the client does not get its first calls answered"
            server.stop()
            server.start()
            for client in clients:
                client.back.set()
            for client in clients:
                client.join(60)
                assert not client.is_alive(), "the client does not come back"
        finally:
            server.process.kill()
    print(f"errors without the service config: {len(plain.errors)}, with it: {len(retrying.errors)}")
    if retrying.errors or not plain.errors:
        print(f"with it: {retrying.errors}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
