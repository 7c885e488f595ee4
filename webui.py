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
    from modules.schema.errors import EaselError
    from modules.schema.folders import Folders
    from modules.service.generation import GenerationService

    def open_page(url: str) -> None:
        import webbrowser

        webbrowser.open(url)

    try:
        service = GenerationService(
            Folders(**options.paths.for_schema()),
            from_flags={"precision": options.precision} if options.precision else None,
        )
    except EaselError as error:
        print(error.message, file=sys.stderr)
        return 1
    try:
        return serve.run(
            service,
            host=options.host,
            port=options.port,
            subpath=options.flags["subpath"] or "",
            listen=options.flags["listen"],
            users=options.users,
            when_ready=open_page if options.flags["autolaunch"] else None,
        )
    finally:
        service.close()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
