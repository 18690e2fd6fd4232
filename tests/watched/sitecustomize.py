"""Notes every compiled library that a process loads: in which thread, and beside which others.

Python imports this by itself where this folder is on its path, so that child processes, which
find the folder in their environment too, are watched as well.
"""

import json
import os
import sys
import threading


def _watch(path):
    main = threading.main_thread()

    def note(event, arguments):
        if event == "import" and arguments[1] is not None:
            name = arguments[0]
        elif event == "ctypes.dlopen" and arguments[0] is not None:
            name = f"dlopen {arguments[0]}"
        else:
            return
        own = threading.get_ident()
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        beside = [
            {"name": names.get(ident, "?"), "stack": _describe(frame)}
            for ident, frame in sys._current_frames().items()
            if ident != own
        ]
        line = {
            "process": sys.orig_argv[1:4],
            "module": name,
            "thread": "main" if own == main.ident else names.get(own, "?"),
            "stack": _describe(sys._getframe()),
            "beside": beside,
        }
        # One write to a file that is opened to append: several processes do so at once.
        os.write(file, (json.dumps(line) + "\n").encode())

    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    sys.addaudithook(note)


def _describe(frame):
    """Says where a thread is: the modules and functions that it is in, innermost first."""
    found = []
    while frame is not None:
        found.append(f"{frame.f_globals.get('__name__')}.{frame.f_code.co_name}")
        frame = frame.f_back
    return found


if "WATCHED_IMPORTS" in os.environ:
    _watch(os.environ["WATCHED_IMPORTS"])
