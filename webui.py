"""Easel: `python webui.py [flags]`. Makes its own environment, then starts; `--help` lists the flags."""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - this file must be understood by the Pythons it turns away
    sys.exit(
        "Easel needs Python 3.10 or newer; this is %d.%d (%s). Set PYTHON to a newer one (and delete the venv folder "  # noqa: UP031
        "if this one made it)." % (sys.version_info[0], sys.version_info[1], sys.executable)
    )


def main() -> int:
    """Environment and flags first, with nothing but the standard library; the program after. Returns the exit code."""
    from pathlib import Path

    from modules.bootstrap.start import prepare

    options = prepare(sys.argv[1:], Path(__file__).resolve().parent)

    # The packages exist only now. What is built is built here, once, and handed on as arguments.
    from modules.frontends import serve
    from modules.frontends.api.gate import Origins
    from modules.frontends.api.tunnel import open_tunnel
    from modules.schema.errors import EaselError
    from modules.schema.folders import Folders
    from modules.service.freezing import Freeze
    from modules.service.generation import MOST_WAITING, SHARED_MOST_WAITING, GenerationService
    from modules.service.startup import Startup
    from modules.service.sysinfo import dump
    from modules.service.worker import log_to_terminal

    flags = options.flags
    startup = Startup(print if flags["log_startup"] else None)
    startup.done("environment and imports")
    if flags["dump_sysinfo"]:
        return dump(Path.cwd(), flags, options.paths.settings_file, options.paths.state)

    def open_page(url: str) -> None:
        import webbrowser

        webbrowser.open(url)

    log_to_terminal()
    try:
        service = GenerationService(
            Folders(**options.paths.for_schema(), checkpoint=options.checkpoint),
            from_flags=options.settings,
            webhooks=options.flags["webhook"],
            most_waiting=MOST_WAITING if options.is_local else SHARED_MOST_WAITING,
            freeze=Freeze.of(options.flags, options.extension_access),
        )
    except EaselError as error:
        print(error.message, file=sys.stderr)
        return 1
    startup.done("settings, queue and lists of models")
    try:
        code = serve.run(
            service,
            host=options.host,
            port=options.port,
            first_port=options.first_port,
            subpath=flags["subpath"] or "",
            listen=flags["listen"],
            users=options.users,
            api_users=options.api_users,
            host_names=flags["host_name"],
            origins=Origins(frozenset(options.origins), options.origins_pattern),
            state=options.paths.state,
            page=not flags["nowebui"],
            api=flags["api"] or flags["nowebui"],
            api_stop=flags["api_server_stop"],
            api_log=flags["api_log"],
            flags=options.shown_flags(),
            certificate=options.certificate,
            keep_alive=flags["timeout_keep_alive"],
            tunnel=open_tunnel if flags["share"] else None,
            when_ready=open_page if flags["autolaunch"] and not flags["nowebui"] else None,
            startup=startup,
        )
    finally:
        service.close()
    if code == serve.EXIT_RESTART:
        again = [sys.executable, *sys.argv]
        if sys.platform == "win32":  # there execv leaves the terminal to the shell
            import subprocess

            return subprocess.call(again)
        import os

        os.execv(sys.executable, again)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
