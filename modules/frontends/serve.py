"""The server process: one FastAPI app with the API and the Gradio page, behind one gate, on one port."""

from __future__ import annotations

import os
import socket
import ssl
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI
from fastapi.responses import Response

from modules.frontends.api import (
    cards,
    controlnet,
    errors,
    history,
    internal,
    logins,
    memory,
    models,
    native,
    queue,
    sdapi,
)
from modules.frontends.api.gate import LOOPBACK, MAX_BODY, Gate, Origins, Rate, SubPath
from modules.frontends.api.log import Timed
from modules.frontends.api.logins import Logins, made_login
from modules.frontends.api.patience import Impatient
from modules.frontends.desk import FrontDesk
from modules.frontends.ui.gradio_import import without_stubs
from modules.schema.errors import NotFound
from modules.schema.version import NAME, VERSION
from modules.service.startup import Startup

DEFAULT_PORT = 7860
PORTS_TRIED = 100
EXIT_BAD_FLAGS = 2
EXIT_PORT_IN_USE = 3
EXIT_RESTART = 75
"""The API asked for a restart; whoever called `run` starts the program again."""
SHARED_MAX_BODY = 32 * 2**20
SHARED_PER_MINUTE = 300

# Gradio and the hub library report home unless told not to, before they are imported.
SILENCE = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
}
STATIC_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Sharing:
    """How a server is reached, and by whom. The defaults are those of a program on one's own machine.

    `hosts`: names it answers to; `any_address`: numeric addresses too. `origins`: other sites that may call it.
    `max_body` in bytes. `per_minute`: requests that change something, of each user. `shared`: others than the owner
    reach it. `learned`: names found out after the start (a tunnel's).
    """

    hosts: frozenset[str] = LOOPBACK
    any_address: bool = False
    logins: Logins = field(default_factory=Logins)
    origins: Origins = field(default_factory=Origins)
    subpath: str = ""
    max_body: int = MAX_BODY
    per_minute: int | None = None
    shared: bool = False
    learned: set[str] = field(default_factory=set)


def build_app(
    service: FrontDesk,
    sharing: Sharing | None = None,
    *,
    page: bool = True,
    api: bool = True,
    flags: Mapping[str, Any] | None = None,
    stop: sdapi.Stop | None = None,
    log_calls: Callable[[str], None] | None = None,
    startup: Startup | None = None,
) -> FastAPI:
    """The whole app over one service: the native routes and /internal always, `page` and `api` (/sdapi/v1) if wanted.

    `flags`: what /cmd-flags tells; `stop`: see `sdapi.make_router`; `log_calls` gets a line for each call of the API;
    `startup` is what /internal/profile-startup tells.
    """
    os.environ.update(SILENCE)
    sharing = sharing or Sharing()
    root = "/" + sharing.subpath.strip("/") if sharing.subpath.strip("/") else ""
    # FastAPI's own pages of documentation fetch their scripts from elsewhere.
    app = FastAPI(title=NAME, version=VERSION, docs_url=None, redoc_url=None, responses=errors.RESPONSES)
    errors.install(app)
    # Before the mount, which takes every address that is still free.
    app.state.desk = service
    app.state.streams = native.Streams()
    app.include_router(native.make_router(service, app.state.streams))
    app.include_router(memory.make_memory_router())
    app.include_router(models.make_models_router(service, may_write=not sharing.shared))
    app.include_router(cards.make_cards_router(may_write=not sharing.shared))
    app.include_router(history.make_router(may_import=not sharing.shared))
    app.include_router(queue.make_router(app.state.streams))
    tasks, told = sdapi.Tasks(), flags or {}
    app.include_router(internal.make_router(tasks, told, startup or Startup()))
    if api:
        app.include_router(sdapi.make_router(app.state.streams, tasks, flags=told, stop=stop, shared=sharing.shared))
        app.include_router(controlnet.make_controlnet_router())
    if sharing.logins.asks(api=True):
        app.openapi = lambda: _with_login(FastAPI.openapi(app))
    uploads = _add_page(app, service, root, sharing, flags or {}) if page else None
    # The last one added is the outermost.
    app.add_middleware(Timed, say=log_calls)
    app.add_middleware(
        Gate,
        hosts=sharing.hosts,
        any_address=sharing.any_address,
        learned=sharing.learned,
        max_body=sharing.max_body,
        logins=sharing.logins,
        origins=sharing.origins,
        rate=Rate(sharing.per_minute),
        uploads=uploads,
    )
    if root:
        app.add_middleware(SubPath, root=root)
    return app


def _with_login(schema: dict[str, Any]) -> dict[str, Any]:
    """The documentation, with the login that every route asks for."""
    schema.setdefault("components", {})["securitySchemes"] = {"login": {"type": "http", "scheme": "basic"}}
    schema["security"] = [{"login": []}]
    return schema


def _add_page(app: FastAPI, service: FrontDesk, root: str, sharing: Sharing, flags: Mapping[str, Any]) -> Path:
    """The Gradio page and its files; the folder that uploads through it lie in."""
    # Gradio takes most of a second to import, and must find SILENCE set.
    with without_stubs():
        import gradio

    from modules.frontends.ui.app import build_blocks, head, static_files
    from modules.frontends.ui.editor import make_router as make_editor_router
    from modules.frontends.ui.routes import make_router
    from modules.frontends.ui.tabs_routes import make_tabs_router
    from modules.frontends.ui.theme import ThemeInAddress, make_theme

    files = static_files()
    app.include_router(make_router(flags, sharing.shared))
    app.include_router(make_tabs_router(sharing.shared))
    app.include_router(make_editor_router())

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
        max_file_size=sharing.max_body,
    )
    theme = flags.get("theme")
    app.add_middleware(ThemeInAddress, theme=theme if theme in ("light", "dark") else None)
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")


def open_port(host: str, port: int | None, first: int | None = None) -> socket.socket:
    """A listening socket on the port asked for, or on the first free one from `first` (7860). OSError without one."""
    first = first or DEFAULT_PORT
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    last = OSError("no port was tried")
    tried = [port] if port is not None else list(range(first, first + PORTS_TRIED))
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


def run(
    service: FrontDesk,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    first_port: int = DEFAULT_PORT,
    subpath: str = "",
    listen: bool = False,
    users: Iterable[tuple[str, str]] = (),
    api_users: Iterable[tuple[str, str]] = (),
    host_names: Iterable[str] = (),
    origins: Origins | None = None,
    state: Path | None = None,
    page: bool = True,
    api: bool = False,
    api_stop: bool = False,
    api_log: bool = False,
    flags: Mapping[str, Any] | None = None,
    certificate: tuple[str, str] | None = None,
    keep_alive: int = 30,
    tunnel: Callable[[int], str] | None = None,
    say: Callable[[str], None] = print,
    when_ready: Callable[[str], None] | None = None,
    startup: Startup | None = None,
) -> int:
    """Serve until interrupted; the exit code. `listen` also answers to others than this machine.

    Without `port` the first free one from `first_port` is taken, and said. A server that others reach asks for a login:
    one of `users`, else one of `api_users`, else one that is made and kept in the folder `state`. `host_names`: further
    names it is called by. `certificate`: files of the certificate and its key. `tunnel(port)` opens a public address.
    `when_ready(url)` is called once the page answers; `startup` is told what was done until then.
    """
    startup = startup or Startup()
    if listen and host == "127.0.0.1":
        host = "0.0.0.0"
    secure = None
    if certificate is not None:
        try:
            secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            secure.load_cert_chain(*certificate)
        except (OSError, ssl.SSLError) as error:
            print(f"The certificate cannot be used ({error}); see --tls-certfile and --tls-keyfile.", file=sys.stderr)
            return EXIT_BAD_FLAGS
    try:
        bound = open_port(host, port, first_port)
    except OSError as error:
        wanted = f"Port {port}" if port is not None else f"Every port from {first_port}"
        reason = error.strerror or error
        print(f"{wanted} on {host} cannot be used ({reason}); choose another with --port.", file=sys.stderr)
        return EXIT_PORT_IN_USE
    taken = bound.getsockname()[1]
    if port is None and taken != first_port:
        say(f"Port {first_port} is in use; {NAME} takes {taken}.")
    for sentence in service.warnings:
        say(sentence)
    sharing = share(host, listen or tunnel is not None, subpath, users, api_users, host_names, origins, state, say)
    if sharing.shared and secure is None:
        say("Passwords and pictures travel unencrypted; --tls-certfile and --tls-keyfile change that.")

    how: list[str] = []

    def stop(wanted: str) -> bool:
        how.append(wanted)
        server.should_exit = True
        return True

    app = build_app(
        service,
        sharing,
        page=page,
        api=api,
        flags=flags,
        stop=stop if api_stop else None,
        log_calls=say if api_log else None,
        startup=startup,
    )
    startup.done("page" if page else "API")
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    url = f"http{'s' if secure else ''}://{shown}:{taken}"
    url += f"/{subpath.strip('/')}/" if subpath.strip("/") else ""

    def dig(tunnel: Callable[[int], str]) -> None:
        try:
            public = tunnel(taken)
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            say(f"No public address could be had ({reason}); Easel goes on without one.")
            return
        sharing.learned.add((urlsplit(public).hostname or "").lower())
        say(f"Public address: {public} (everybody with a login may use it; the tunnel's owner sees what passes)")

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            startup.done("listening")
            say(f"{NAME} is ready: {url} (page up in {startup.total:.1f} s)")
            if tunnel:
                threading.Thread(target=dig, args=(tunnel,), name="tunnel", daemon=True).start()
            if when_ready:
                when_ready(url)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            # Impatience changes nothing: the end takes a second at most, and a forced one ends in tracebacks.
            if not self.should_exit:
                super().handle_exit(sig, frame)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.state.streams.close()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        log_level="warning",
        timeout_graceful_shutdown=1,
        lifespan="on",
        timeout_keep_alive=keep_alive,
        http=Impatient,
        ssl_context_factory=(lambda _config, _make: secure) if secure else None,
        server_header=False,
        # A caller through a tunnel or proxy could write there whatever hides it from the count of wrong passwords.
        proxy_headers=False,
    )
    server = Server(config)
    try:
        server.run([bound])
    except KeyboardInterrupt:
        pass
    finally:
        bound.close()
    return EXIT_RESTART if how[-1:] == ["restart"] else 0


def share(
    host: str,
    listen: bool,
    subpath: str,
    users: Iterable[tuple[str, str]],
    api_users: Iterable[tuple[str, str]],
    host_names: Iterable[str],
    origins: Origins | None,
    state: Path | None,
    say: Callable[[str], None],
) -> Sharing:
    """Who may come in, by which names. A password that had to be made is said, this once."""
    users, api_users = tuple(users), tuple(api_users)
    shared = listen or host not in LOOPBACK
    kept = None
    if shared and not users and api_users:
        users = api_users  # there is no page for everybody on a network
    if shared and not users:
        kept, password = made_login(state or Path(tempfile.mkdtemp(prefix="easel-")))
        if password:
            say(f"Others need a login now: name {kept.name}, password {password} (shown this once; keep it).")
        else:
            say(
                f"Others log in as {kept.name} with the password that was shown at the first start; delete "
                f"{logins.FILE} in {state} for a new one, or choose your own with --gradio-auth name:password."
            )
    names = {name.lower() for name in host_names}
    if shared:
        names |= {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local", host.lower()}
    return Sharing(
        hosts=LOOPBACK | names,
        any_address=shared,
        logins=Logins(users, api_users, kept),
        origins=origins or Origins(),
        subpath=subpath,
        max_body=SHARED_MAX_BODY if shared else MAX_BODY,
        per_minute=SHARED_PER_MINUTE if shared else None,
        shared=shared,
    )
