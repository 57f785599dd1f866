"""Which files of a folder are opened, by whatever library: the kernel tells (inotify)."""

import ctypes
import os
import struct
from pathlib import Path

_IN_OPEN, _IN_ISDIR = 0x20, 0x40000000
_EVENT = struct.Struct("iIII")


class Opened:
    """Watches folders and those below them from now on."""

    def __init__(self, *folders: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK)
        self._places = {}
        for folder in folders:
            for place, _, _ in os.walk(folder):
                watch = libc.inotify_add_watch(self._fd, os.fsencode(place), _IN_OPEN)
                assert watch >= 0, os.strerror(ctypes.get_errno())
                self._places[watch] = Path(place)

    def files(self) -> set[Path]:
        """Those that were opened since; ends the watch."""
        opened = set()
        try:
            while data := os.read(self._fd, 1 << 16):
                at = 0
                while at < len(data):
                    watch, mask, _, length = _EVENT.unpack_from(data, at)
                    at += _EVENT.size
                    name = data[at : at + length].rstrip(b"\0").decode()
                    at += length
                    if name and not mask & _IN_ISDIR:
                        opened.add(self._places[watch] / name)
        except BlockingIOError:
            pass
        os.close(self._fd)
        return opened
