"""The server process: one FastAPI app with the API and the Gradio page, behind one gate, on one port."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType

import psutil
import uvicorn
from fastapi import FastAPI
from fastapi.responses import Response

from modules.frontends.api import errors, native
from modules.frontends.api.gate import LOOPBACK, MAX_BODY, Gate, SubPath
from modules.frontends.desk import FrontDesk
from modules.frontends.ui.gradio_import import without_stubs
from modules.schema.errors import NotFound
from modules.schema.version import NAME, VERSION

DEFAULT_PORT = 7860
PORTS_TRIED = 100
EXIT_PORT_IN_USE = 3

# Gradio and the hub library report home unless told not to, before they are imported.
SILENCE = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
}
STATIC_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def build_app(
    service: FrontDesk,
    *,
    hosts: Iterable[str] | None = LOOPBACK,
    subpath: str = "",
    max_body: int = MAX_BODY,
    users: Iterable[tuple[str, str]] = (),
) -> FastAPI:
    """The whole app over one service. `hosts` are the names it answers to (None = any); `subpath` as behind a proxy;
    `users` the (name, password) pairs it lets in (none = no login)."""
    os.environ.update(SILENCE)
    # Gradio takes most of a second to import, and must find SILENCE set.
    with without_stubs():
        import gradio

    from modules.frontends.ui.app import build_blocks, head, static_files
    from modules.frontends.ui.theme import make_theme

    root = "/" + subpath.strip("/") if subpath.strip("/") else ""
    # FastAPI's own pages of documentation fetch their scripts from elsewhere.
    app = FastAPI(title=NAME, version=VERSION, docs_url=None, redoc_url=None)
    errors.install(app)
    # Before the mount, which takes every address that is still free.
    app.state.streams = native.Streams()
    app.include_router(native.make_router(service, app.state.streams))
    files = static_files()

    @app.get("/easel/{name}", include_in_schema=False)
    def static(name: str) -> Response:
        if name not in files:
            raise NotFound(f"There is no file {name!r}.")
        media = STATIC_TYPES[os.path.splitext(name)[1]]
        return Response(files[name], media_type=media, headers={"Cache-Control": "public, max-age=31536000, immutable"})

    gradio.mount_gradio_app(
        app,
        build_blocks(service),
        "/",
        theme=make_theme(),
        head=head(files),
        root_path=root or None,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        show_error=True,
        enable_monitoring=False,
        max_file_size=max_body,
    )
    # The last one added is the outermost.
    app.add_middleware(Gate, hosts=hosts, max_body=max_body, users=tuple(users))
    if root:
        app.add_middleware(SubPath, root=root)
    return app


def open_port(host: str, port: int | None) -> socket.socket:
    """A listening socket on the port asked for, or on the first free one from 7860. OSError where there is none."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    last = OSError("no port was tried")
    tried = [port] if port is not None else list(range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED))
    for candidate in tried:
        found = socket.socket(family, socket.SOCK_STREAM)
        # Elsewhere a port still in TIME_WAIT would count as taken; on Windows the option would share a port in use.
        if os.name != "nt":
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, candidate))
            found.listen(2048)
            return found
        except OSError as error:
            found.close()
            last = error
    raise last


def process_age() -> float:
    """Seconds since this process was started."""
    try:
        started = int(Path("/proc/self/stat").read_text("ascii", "replace").rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        # Elsewhere than on Linux; there it would be off by up to a second, the boot time being a whole number.
        return time.time() - psutil.Process().create_time()


def run(
    service: FrontDesk,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    subpath: str = "",
    listen: bool = False,
    users: Iterable[tuple[str, str]] = (),
    say: Callable[[str], None] = print,
    when_ready: Callable[[str], None] | None = None,
) -> int:
    """Serve until interrupted; the exit code. `listen` also answers to names other than this machine's own.

    Without `port` the first free one from 7860 is taken, and said. `when_ready(url)` is called once the page answers.
    """
    if listen and host == "127.0.0.1":
        host = "0.0.0.0"
    try:
        bound = open_port(host, port)
    except OSError as error:
        wanted = f"Port {port}" if port is not None else f"Every port from {DEFAULT_PORT}"
        reason = error.strerror or error
        print(f"{wanted} on {host} cannot be used ({reason}); choose another with --port.", file=sys.stderr)
        return EXIT_PORT_IN_USE
    taken = bound.getsockname()[1]
    if port is None and taken != DEFAULT_PORT:
        say(f"Port {DEFAULT_PORT} is in use; {NAME} takes {taken}.")
    for sentence in service.warnings:
        say(sentence)
    users = tuple(users)
    if host not in LOOPBACK and not users:
        say("Everybody on this network can use Easel; let in only whom you know with --gradio-auth name:password.")
    app = build_app(service, hosts=None if listen else LOOPBACK | {host}, subpath=subpath, users=users)
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{taken}" + (f"/{subpath.strip('/')}/" if subpath.strip("/") else "")

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            say(f"{NAME} is ready: {url} (page up in {process_age():.1f} s)")
            if when_ready:
                when_ready(url)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            # Impatience changes nothing: the end takes a second at most, and a forced one ends in tracebacks.
            if not self.should_exit:
                super().handle_exit(sig, frame)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.state.streams.close()
            await super().shutdown(sockets)

    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, lifespan="on")
    try:
        Server(config).run([bound])
    except KeyboardInterrupt:
        pass
    finally:
        bound.close()
    return 0
