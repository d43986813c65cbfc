"""Types at a program on a pseudo-terminal.

usage: shell.py PROGRAM ARGS...; on standard input a JSON list of steps: {"type": TEXT}, {"wait": SECONDS}, {"columns": NUMBER} of the
terminal, or {"expect": TEXT}, which waits until TEXT comes after what was expected before. Prints what the program printed; ends with
its status, or with 99 if something expected did not come.
"""

import fcntl, json, os, pty, select, struct, sys, termios, time

steps = json.load(sys.stdin)
child, terminal = pty.fork()
if child == 0:
    os.execv(sys.argv[1], sys.argv[1:])
screen, seen, status = "", 0, None


def resize(columns):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))


def read(seconds):
    """Takes in what comes within this time; whether anything may still come."""
    global screen
    if not select.select([terminal], [], [], seconds)[0]:
        return True
    try:
        data = os.read(terminal, 65536)
    except OSError:  # The other end is closed.
        data = b""
    screen += data.decode(errors="replace")
    return bool(data)


def fail(what):
    sys.stdout.write(f"{screen}\n*** {what}\n")
    if status is None:
        os.kill(child, 9)
    sys.exit(99)


resize(120)
for step in steps:
    if "columns" in step:
        resize(step["columns"])
    elif "type" in step:
        os.write(terminal, step["type"].encode())
    elif "wait" in step:
        end = time.monotonic() + step["wait"]
        while time.monotonic() < end:
            read(0.05)
    else:
        end = time.monotonic() + 60
        while (at := screen.find(step["expect"], seen)) < 0:
            if time.monotonic() > end or not read(0.1):
                fail(f"{step['expect']!r} did not come")
        seen = at + len(step["expect"])
# It may end between a look at its terminal and a look at itself, so what the terminal says then is still to be read.
while read(0.1):
    if status is None:
        ended, of_ended = os.waitpid(child, os.WNOHANG)
        if ended:
            status, end = of_ended, time.monotonic() + 10
    elif time.monotonic() > end:
        fail("it ended without closing its terminal")
if status is None:
    status = os.waitpid(child, 0)[1]
sys.stdout.write(screen)
sys.exit(os.waitstatus_to_exitcode(status))
