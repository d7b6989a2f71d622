"""On the path of a run, kills it with SIGKILL at the moment that KILL_AT names: a regular expression that the target of a
rename matches. All that counts appears by a rename, so that any moment between two of them is like one of these; the
renamed file or folder is still missing. A stage takes its engine along.
"""

import os
import re
import signal
import sys


def kill_at(event, arguments):
    if event == "os.rename" and re.search(os.environ["KILL_AT"], os.fspath(arguments[1])):
        if "components" in sys.orig_argv:
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


if os.environ.get("KILL_AT"):
    sys.addaudithook(kill_at)
