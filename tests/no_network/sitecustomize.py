"""With this folder on PYTHONPATH, Python and whatever Python it starts reach this machine and no other."""

import sys

WHERE = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
}
HERE = (None, "", "localhost", "::1")


def refuse(event, arguments):
    """Stop what asks for another machine, or for its address, before it is done."""
    if event not in WHERE:
        return
    host = arguments[WHERE[event]]
    if event.startswith(("socket.connect", "socket.send")):
        host = host[0] if isinstance(host, tuple) else None  # a path is a socket of this machine
    host = host.decode() if isinstance(host, bytes) else host
    if host not in HERE and not host.startswith("127."):
        raise OSError(f"no network in this run: something asked for {host}. The course must do without.")


sys.addaudithook(refuse)
